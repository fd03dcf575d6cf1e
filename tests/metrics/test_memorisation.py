"""Memorisation by hand, and calibrated where there is none."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binom

from monai_plan.metrics.memorisation import memorisation_test


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_by_hand():
    """Nearest images: 0 -> 0, 1.1 -> 1, 4.6 -> 5, 9 -> 10; training are 0, 1, 5, held out is 10."""
    result = memorisation_test(column(0, 1.1, 4.6, 9), column(0, 1, 5), column(10))
    assert (result.share, result.expected, result.score) == (0.75, 0.75, 0.0)
    # galleries of one image: mean over 0, 1 and 5 of the mean distance of the four samples
    assert result.nearest_training == pytest.approx((14.7 / 4 + 12.7 / 4 + (5 + 3.9 + 0.4 + 4) / 4) / 3)
    assert result.nearest_held_out == pytest.approx((10 + 8.9 + 5.4 + 1) / 4)
    # every image has one hit, so every split has the same excess
    assert result.p_value == 1.0


@pytest.mark.parametrize(("samples", "score", "p_value"), [((0, 0, 0), 1.0, 1 / 2), ((9, 9, 9), -1.0, 1.0)])
def test_two_images_leave_little_to_say(samples, score, p_value):
    result = memorisation_test(column(*samples), column(0), column(9), permutations=4000)
    assert result.score == score and result.p_value == pytest.approx(p_value, abs=0.04)


def test_copies_of_training_images():
    training, held_out = normal(0, 60, 8), normal(1, 20, 8)
    result = memorisation_test(training.repeat(3, 1) + 0.01 * normal(2, 180, 8), training, held_out)
    assert result.share == 1 and result.expected == 0.75 and result.score == 1
    assert result.p_value == pytest.approx(1 / 1001)
    assert result.nearest_training < result.nearest_held_out
    mirrored = memorisation_test(held_out, training, held_out)
    assert mirrored.score == -3 and mirrored.p_value == 1  # (0 - 0.75) / 0.25


def test_half_copies_score_one_half():
    training, held_out = column(*range(0, 100)), column(*range(1000, 1100))
    result = memorisation_test(torch.cat([training, training, training, held_out]), training, held_out)
    assert result.score == pytest.approx(0.5) and result.p_value < 0.01


@pytest.mark.parametrize("images_per_patient", [1, 4])
def test_no_more_false_alarms_than_promised(images_per_patient):
    """Samples, training and held-out patients from one distribution, some images hubs of high density."""
    alarms, repetitions, level = 0, 200, 0.05
    patients = {"training": 24, "held_out": 12}
    for repetition in range(repetitions):
        rng = torch.Generator().manual_seed(repetition)
        rows, groups = {}, {}
        for split, count in patients.items():
            centre = torch.randn(count, 1, 3, generator=rng)
            visits = centre + 0.2 * torch.randn(count, images_per_patient, 3, generator=rng)
            rows[split] = visits.reshape(-1, 3)
            groups[split] = [f"{split} {i // images_per_patient}" for i in range(len(rows[split]))]
        samples = 0.7 * torch.randn(60, 3, generator=rng)
        result = memorisation_test(
            samples,
            rows["training"],
            rows["held_out"],
            groups["training"],
            groups["held_out"],
            permutations=99,
            seed=repetition,
        )
        alarms += result.p_value <= level
    low, high = binom.interval(0.999, repetitions, level)
    assert low <= alarms <= high


def test_images_of_a_patient_are_not_independent_evidence():
    """All samples sit at one patient with 20 images; he is a training patient in 3 of 4 splits."""
    training = torch.cat([column(*(i / 100 for i in range(20))), column(50, 51)])
    groups = ["a"] * 20 + ["b", "c"]
    samples, held_out = column(*(i / 100 for i in range(20))), column(60)
    result = memorisation_test(samples, training, held_out, groups, ["d"], permutations=4000)
    assert result.share == 1 and result.p_value == pytest.approx(3 / 4, abs=0.04)


def test_unequal_patients_do_not_raise_the_excess():
    """A patient with many images takes many hits; each image takes one, so nothing is in excess."""
    real = column(*range(12))
    result = memorisation_test(real, real[:10], real[10:], torch.tensor([0] * 8 + [1, 2]), torch.tensor([3, 4]))
    assert result.score == 0 and result.p_value == 1


def test_equal_images_in_both_splits_favour_neither():
    same = normal(0, 40, 4)
    result = memorisation_test(same.repeat(5, 1), same, same)
    assert 0.3 < result.share < 0.7 and result.p_value > 0.01
    assert result.nearest_training == result.nearest_held_out == 0


def test_a_seed_gives_the_same_figures_and_leaves_the_global_state():
    state = torch.get_rng_state()
    arguments = normal(0, 30, 4), normal(1, 20, 4), normal(2, 7, 4)
    assert memorisation_test(*arguments, seed=3) == memorisation_test(*arguments, seed=3)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": torch.zeros(0, 1)}, "held_out must be at least one row"),
        ({"samples": column(float("nan"))}, "samples must be .* finite"),
        ({"training": torch.zeros(3)}, r"training must be .* \(3,\)"),
        ({"training_groups": ["a", "b"]}, "held_out_groups has no entries for 1 images"),
        ({"training_groups": ["a"], "held_out_groups": ["b"]}, "training_groups has 1 entries for 2 images"),
        ({"training_groups": [1, 2], "held_out_groups": [2]}, "^1 patients are in both splits; then"),
    ],
)
def test_wrong_input_is_refused(changes, message):
    arguments = {"samples": column(0), "training": column(0, 1), "held_out": column(2)}
    with pytest.raises(ValueError, match=message):
        memorisation_test(**{**arguments, **changes})
