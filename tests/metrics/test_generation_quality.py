"""A generator's scores by hand, and against the libraries of others."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec

import pytest
import torch
from monai.metrics.fid import get_fid_score
from torch import nn

from monai_plan.metrics import (
    GenerationQuality,
    density_and_coverage,
    frechet_distance,
    generation_quality,
    kernel_distance,
    precision_and_recall,
)
from monai_plan.utils import import_torchvision

if find_spec("torch_fidelity") is None:
    pytest.skip("torch-fidelity is not installed", allow_module_level=True)
import_torchvision()


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


def test_kernel_distance_by_hand():
    """(ab + 1)^3: within {0, 1} 1, within {0, 2} 1, across 1, 1, 1, 27; 1 + 1 - 2 * 30 / 4 = -13; of {0, 1}, {1, 3}:
    1 + 4^3 - 2 * (1 + 1 + 2^3 + 4^3) / 4 = 28."""
    assert kernel_distance(column(0, 1), column(0, 2)) == pytest.approx(1 + 1 - 2 * (1 + 1 + 1 + 27) / 4)
    assert kernel_distance(column(0, 1), column(1, 3)) == pytest.approx(28)


def test_kernel_distance_equals_torch_fidelity_at_equal_sizes(monkeypatch):
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = normal(0, 40, 16), normal(1, 40, 16) + 0.3
    theirs = kid_features_to_metric(x.double(), y.double(), kid_subsets=1, kid_subset_size=40, verbose=False)
    assert kernel_distance(x, y) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    monkeypatch.setattr(generation_quality, "ROWS_AT_ONCE", 7)
    assert kernel_distance(x, y) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)


def test_kernel_distance_is_unbiased_at_any_two_sizes():
    values = torch.tensor([kernel_distance(normal(i, 8, 4), normal(1000 + i, 31, 4)) for i in range(400)])
    assert abs(values.mean()) < 3 * values.std() / 20 and (values < 0).any()


def test_frechet_distance_by_hand():
    """(Difference of means)^2 + (difference of deviations)^2 = 3^2 + (3 - 1)^2 * 2, and a second feature that is 0."""
    x, y = (nn.functional.pad(values, (0, 1)) for values in (column(-1, 1), column(0, 6)))
    assert frechet_distance(x, y) == pytest.approx(9 + (3 - 1) ** 2 * 2)


def test_frechet_distance_of_large_features():
    """The root of a product of covariances is rounded; what is tolerated must grow with the features."""
    x, y = (1e3 * torch.randn(count, 256, generator=torch.Generator().manual_seed(count)) for count in (60, 20))
    assert frechet_distance(x, y) == pytest.approx(1e6 * frechet_distance(x / 1e3, y / 1e3), rel=1e-4)


@pytest.mark.parametrize("collapsed", [False, True])
def test_frechet_distance_is_monais_with_fewer_images_than_features(collapsed):
    x, y = normal(0, 12, 64).repeat(2, 1) if collapsed else normal(0, 24, 64), normal(1, 20, 64) * 1.2 + 0.1
    assert frechet_distance(x, y) == pytest.approx(float(get_fid_score(x, y)), rel=1e-5)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_precision_and_recall_by_hand():
    """Balls to the first neighbour: real 0 +- 1, 1 +- 1, 10 +- 9; generated 0.5 +- 0.6, 1.1 +- 0.6, 30 +- 28.9."""
    precision, recall = precision_and_recall(column(0.5, 1.1, 30), column(0, 1, 10), neighbours=1)
    assert precision == pytest.approx(2 / 3)  # 30 lies in none
    assert recall == pytest.approx(1)  # 10 lies in the ball of the far 30: why coverage is read beside it


def test_density_and_coverage_by_hand():
    """Balls as above: 0.5 lies in 2, 1.1 in 2, 30 in none: 4 / 3; the real ball of 10 holds 1.1."""
    density, coverage = density_and_coverage(column(0.5, 1.1, 30), column(0, 1, 10), neighbours=1)
    assert density == pytest.approx(4 / 3) and coverage == 1
    density, coverage = density_and_coverage(column(0.5, 0.6, 0.7), column(0, 1, 10, 11), neighbours=1)
    assert density == pytest.approx(2) and coverage == pytest.approx(1 / 2)


def test_neighbours_equal_those_of_prdc(monkeypatch):
    prdc = pytest.importorskip("prdc")
    generated, real = normal(0, 60, 6) * 0.8 + 0.2, normal(1, 45, 6)
    for k in (3, 5):
        theirs = prdc.compute_prdc(real.double().numpy(), generated.double().numpy(), k)
        assert precision_and_recall(generated, real, k) == pytest.approx((theirs["precision"], theirs["recall"]))
        expected = pytest.approx((theirs["density"], theirs["coverage"]))
        assert density_and_coverage(generated, real, k) == expected
        monkeypatch.setattr(generation_quality, "ROWS_AT_ONCE", 7)
        assert density_and_coverage(generated, real, k) == expected


def test_coverage_of_alike_distributions_is_what_its_docstring_says():
    real, generated, k = 20, 8, 5
    rows = [density_and_coverage(normal(i, generated, 3), normal(1000 + i, real, 3), k) for i in range(300)]
    density, coverage = torch.tensor(rows).mean(dim=0).tolist()
    expected = 1 - math.prod((real - i) / (generated + real - i) for i in range(1, k + 1))
    assert coverage == pytest.approx(expected, abs=0.02) and density == pytest.approx(1, abs=0.06)


class Pixels(nn.Module):
    name = "pixels"

    def forward(self, images):
        return images.flatten(1)


def images_of(seed: int, count: int, mean: float = 0.0, spread: float = 0.2) -> torch.Tensor:
    return (mean + spread * normal(seed, count, 1, 4, 4)).clamp(-1, 1)


TRAINING, TRAINING_LABELS = images_of(0, 36), [0] * 24 + [1] * 8 + [7] * 4
HELD_OUT, HELD_OUT_LABELS = images_of(1, 12), [0] * 8 + [1] * 3 + [7]


def quality(**options) -> GenerationQuality:
    return GenerationQuality(Pixels(), TRAINING, TRAINING_LABELS, HELD_OUT, HELD_OUT_LABELS, **options)


def test_each_figure_is_of_the_right_images():
    images, labels = images_of(2, 50, mean=0.1), torch.tensor([0] * 25 + [1] * 20 + [7] * 5)
    figures = quality(num_images=50)(images, labels)
    rows, training, held_out = images.flatten(1), TRAINING.flatten(1), HELD_OUT.flatten(1)
    compared = rows[torch.randperm(50, generator=generation_quality.generator_for(0, "images compared"))[:36]]
    assert figures["kid"] == pytest.approx(kernel_distance(compared, held_out))
    assert figures["fid"] == pytest.approx(frechet_distance(compared, held_out))
    assert figures["kid_training"] == pytest.approx(kernel_distance(compared, training))
    assert figures["fid_training"] == pytest.approx(frechet_distance(compared, training))
    assert (figures["precision"], figures["recall"]) == precision_and_recall(rows, training)
    assert (figures["density"], figures["coverage"]) == density_and_coverage(rows, training)
    assert figures["recall_0"] == precision_and_recall(rows[:25], training[:24])[1]
    assert figures["coverage_1"] == density_and_coverage(rows[25:45], training[24:32])[1]
    assert "recall_7" not in figures and "coverage_7" not in figures  # 4 training images
    for label in (0, 1, 7):
        real, generated = TRAINING[torch.tensor(TRAINING_LABELS) == label], images[labels == label]
        assert figures[f"intensity_mean_drift_{label}"] == pytest.approx(
            float(generated.mean() - real.mean()), abs=1e-6
        )
        drift = float(generated.std(correction=0) - real.std(correction=0))
        assert figures[f"intensity_std_drift_{label}"] == pytest.approx(drift, abs=1e-6)
    assert all(isinstance(value, float) and math.isfinite(value) for value in figures.values())


def test_intensity_drift_by_hand():
    """Training pixels -0.5 and 0.5: mean 0, deviation 0.5. Generated 0 and 0.5: mean 0.25, deviation 0.25."""
    training, generated = torch.full((8, 1, 2, 2), 0.5), torch.full((8, 1, 2, 2), 0.5)
    training[:, :, 0], generated[:, :, 0] = -0.5, 0.0
    measure = GenerationQuality(Pixels(), training, [3] * 8, training[:2], [3] * 2)
    figures = measure(generated, [3] * 8)
    assert figures["intensity_mean_drift_3"] == 0.25 and figures["intensity_std_drift_3"] == -0.25


def test_floors_compare_as_many_images_by_the_same_estimators():
    measure = quality(num_images=20)
    as_if_generated = measure(TRAINING, TRAINING_LABELS)
    assert measure.floors["floor_kid"] == pytest.approx(as_if_generated["kid"])
    assert measure.floors["floor_fid"] == pytest.approx(as_if_generated["fid"])
    assert measure.floors["floor_precision"] == precision_and_recall(HELD_OUT.flatten(1), TRAINING.flatten(1))[0]
    assert measure.floors["floor_density"] == density_and_coverage(HELD_OUT.flatten(1), TRAINING.flatten(1))[0]
    assert measure.description["n_compared"] == 20 and quality().description["n_compared"] == 36
    # fewer images, more bias: why the number counts
    assert measure.floors["floor_fid"] > quality().floors["floor_fid"]


def test_good_images_lie_at_the_floor_and_bad_ones_above():
    measure = quality()
    good, bad = (measure(images, [0] * 72) for images in (images_of(3, 72), images_of(3, 72, 0.2, 0.3)))
    assert good["fid"] < 1.2 * measure.floors["floor_fid"] < bad["fid"]
    assert abs(good["kid"]) < bad["kid"] and good["precision"] > bad["precision"]
    copies = measure(TRAINING, TRAINING_LABELS)
    assert copies["memorisation_score"] == 1 and copies["memorisation_p"] < 0.05
    assert good["memorisation_score"] < 0.5 < good["precision"]
    assert copies["nearest_training"] < copies["nearest_held_out"]


def test_patients_reach_the_memorisation_test():
    figures = quality()(TRAINING, TRAINING_LABELS)
    grouped = quality(training_groups=["a", "b"] * 18, held_out_groups=["c"] * 12)(TRAINING, TRAINING_LABELS)
    assert figures["memorisation_score"] == grouped["memorisation_score"] == 1
    assert figures["memorisation_p"] < 0.01 < grouped["memorisation_p"]  # one patient of three is little evidence


def test_description_goes_into_a_record_and_nothing_moves_the_global_state():
    state = torch.get_rng_state()
    measure = quality()
    figures = measure(images_of(4, 40), [0] * 40)
    assert figures == measure(images_of(4, 40), [0] * 40)
    assert torch.equal(state, torch.get_rng_state())
    assert json.loads(json.dumps(measure.description)) == {
        "extractor": "pixels",
        "n_training": 36,
        "n_held_out": 12,
        "n_compared": 36,
        "n_training_by_class": {"0": 24, "1": 8, "7": 4},
        "n_held_out_by_class": {"0": 8, "1": 3, "7": 1},
    }


def test_batches_change_nothing():
    assert torch.equal(quality(batch_size=5).training, quality().training)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (TRAINING[:20], [0] * 20, "20 generated images are too few, 36 are needed.*num_images"),
        (TRAINING, [0] * 35, r"labels \(35,\)"),
        (TRAINING[:, :, :2], [0] * 36, r"as in training, \(1, 4, 4\)"),
        (TRAINING * 4, [0] * 36, r"must lie in \[-1, 1\]"),
        (TRAINING * torch.nan, [0] * 36, "NaN"),
    ],
)
def test_wrong_images_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        quality()(images, labels)


def test_wrong_splits_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="5 training images are too few, 6"):
        GenerationQuality(Pixels(), TRAINING[:5], [0] * 5, HELD_OUT, HELD_OUT_LABELS)
    with pytest.raises(ValueError, match="1 held-out images are too few"):
        GenerationQuality(Pixels(), TRAINING, TRAINING_LABELS, HELD_OUT[:1], [0])
    with pytest.raises(ValueError, match="num_images is 3"):
        quality(num_images=3)
    monkeypatch.setattr(generation_quality, "optional_import", lambda name: (None, False))
    with pytest.raises(ImportError, match=r"monai_plan\[quality\]"):
        quality()
