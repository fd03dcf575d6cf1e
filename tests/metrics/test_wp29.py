"""The three questions of WP29 by hand; leaks are found, and the population's knowledge is no leak."""

from __future__ import annotations

import pytest
import torch
from attack_worlds import column, patients, world

from monai_plan.metrics import difference_interval, inference, linkability, singling_out


def single(synthetic, points, real, seed=0, part=0.5):
    """With balls that reach half the way to the nearest other synthetic image, or another part of it."""
    among = torch.cdist(synthetic, synthetic).fill_diagonal_(torch.inf)
    return singling_out(torch.cdist(synthetic, points), part * among.amin(dim=1), real, seed)


def test_singling_out_by_hand():
    """Balls: 0 within 10, 10 within 10, 30 within 20, all open.

    Members 1 and 29: alone in all three. Held out 5 and 6: together in the first two, and not in the third.
    """
    result = single(column(0, 10, 30), column(1, 29, 5, 6), patients(2, 2), part=1)
    assert result.details["rate"] == 1.0 and result.control == 0.0 and result.value == 1.0
    assert result.details["naive"] == 0.5 and result.details["risk"] == 1.0
    assert result.details["attainable"] == 1.0 and result.details["median_radius"] == 10


def test_a_ball_is_open_and_its_radius_is_given():
    """Members at 1 and 2 of the synthetic image at 0: nobody, one and both lie strictly inside."""
    distances = torch.cdist(column(0, 0, 0), column(1, 2, 50, 60))
    result = singling_out(distances, torch.tensor([1.0, 2.0, 3.0]), patients(2, 2), seed=0)
    assert result.details["rate"] == pytest.approx(1 / 3) and result.control == 0


def test_copies_count_in_the_galleries_of_their_patient():
    """Two of four members are drawn; each ball holds nobody but whom it was copied from."""
    points = column(0, 10, 20, 30, 100, 110)
    result = single(points[:4], points, patients(4, 2))
    assert result.details["rate"] == result.details["attainable"] == pytest.approx(0.5)


def test_one_copy_of_each_patient_is_found():
    """Half of 300 synthetic images are copies of 150 patients, one each."""
    synthetic, points, real = world(0, members=150, held_out=150, synthetic=300)
    synthetic[:150] = points[:150] + 0.01 * synthetic[:150]
    result = single(synthetic, points, real)
    assert result.interval[0] > 0.35 and result.control < 0.1


def test_a_few_copies_are_singled_out():
    """One synthetic image in twenty is a copy."""
    synthetic, points, real = world(0, members=100, held_out=100, synthetic=600)
    synthetic[:30] = points[:30] + 0.01 * synthetic[:30]
    result = single(synthetic, points, real)
    assert result.interval[0] > 0.02 and result.value < 0.06


def test_linkability_by_hand():
    """Views of four patients' images; nearest synthetic image of each view: 0|0, 1|0, 1|1, 0|1."""
    a = torch.tensor([[0.1, 1], [1, 0.2], [1, 0.3], [0.2, 1]])
    b = torch.tensor([[0.1, 1], [0.2, 1], [1, 0.3], [1, 0.2]])
    result = linkability(a, b, patients(2, 2))
    assert (result.details["rate"], result.control, result.value) == (0.5, 0.5, 0.0)
    assert result.interval == difference_interval(1, 2, 1, 2) and result.details["naive"] == 0.5
    assert linkability(a, b, patients(2, 2), neighbours=2).details["rate"] == 1.0


def test_equally_near_images_are_taken_together():
    """Two synthetic images alike: whichever is listed first, both views find both."""
    a, b = torch.tensor([[0.1, 0.1, 1]] * 4), torch.tensor([[0.2, 0.2, 1]] * 4)
    assert linkability(a, b, patients(2, 2)).details["rate"] == 1.0


def test_copies_link_halves():
    synthetic, points, real = world(0, leak=True)
    views = [torch.cdist(points[:, part], synthetic[:, part]) for part in (slice(0, 2), slice(2, 5))]
    result = linkability(*views, real)
    assert result.interval[0] > 0.3 and result.details["risk"] > 0.5


def test_inference_by_hand():
    """A patient's images count as a mean: members 1/2 and 1, held out 0 and 1/2."""
    real = patients(2, 2, images=2)  # classes 0 0 1 1 0 0 1 1
    to_real = torch.tensor([[0.0, 1, 1, 1, 1, 1, 1, 0.5], [1, 0, 0, 0, 0, 0, 0, 0.5], [2.0] * 8])
    # nearest: class 0, 1 | 1, 1 | 1, 1 | 1, both
    result = inference(to_real, torch.tensor([0, 1, 1]), real)
    assert result.details["rate"] == 0.75 and result.control == pytest.approx((0 + (1 + 0.5) / 2) / 2)
    assert result.details["naive"] == 0.5  # class 1 is the most frequent one, one member of two has it
    assert result.interval == difference_interval(1.5, 2, 0.75, 2)


def test_what_the_population_teaches_is_no_leak():
    """The class is plain to see in the image: everyone's is inferred, members' no better."""
    synthetic, points, real = world(0, synthetic=200)
    points, synthetic = points.clone(), synthetic.clone()
    points[:, 0] = 10.0 * real.labels
    truth = torch.arange(200) % 2
    synthetic[:, 0] = 10.0 * truth
    result = inference(torch.cdist(synthetic, points), truth, real)
    assert result.details["rate"] == result.control == 1 and result.value == 0 and result.details["risk"] == 0
    assert result.interval[0] < 0 < result.interval[1]


def test_copied_labels_are_a_leak():
    """Classes have nothing to do with the images, but copies carry their patient's."""
    synthetic, points, real = world(0, leak=True)
    labels = real.labels[torch.arange(80) % 40]
    result = inference(torch.cdist(synthetic, points), labels, real)
    assert result.details["rate"] > 0.95 and result.interval[0] > 0


def test_nothing_is_found_where_nothing_leaks():
    misses = {"singling_out": 0, "linkability": 0, "inference": 0}
    for seed in range(20):
        synthetic, points, real = world(seed, members=24, held_out=12, synthetic=60)
        views = [torch.cdist(points[:, part], synthetic[:, part]) for part in (slice(0, 2), slice(2, 5))]
        to_real = torch.cdist(synthetic, points)
        found = [single(synthetic, points, real, seed), linkability(*views, real)]
        found.append(inference(to_real, (synthetic[:, 0] > 0).long(), real))
        for result in found:
            misses[result.name] += not result.interval[0] <= 0 <= result.interval[1]
    assert max(misses.values()) <= 4  # P(more) = 0.003 at 95 % coverage


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda: singling_out(torch.ones(3, 4), torch.ones(3, 3), patients(2, 2), 0), r"\(3, 3\) for 3 synthetic"),
        (lambda: singling_out(torch.ones(2, 4), column(1, -1)[:, 0], patients(2, 2), 0), "1 negative"),
        (lambda: singling_out(torch.ones(1, 4), torch.tensor([torch.inf]), patients(2, 2), 0), "1 infinite"),
        (lambda: linkability(torch.ones(4, 3), torch.ones(4, 2), patients(2, 2)), "3 and 2 synthetic images"),
        (lambda: linkability(torch.ones(4, 3), torch.ones(4, 3), patients(2, 2), 4), "neighbours is 4"),
        (lambda: inference(torch.ones(3, 4), torch.ones(2).long(), patients(2, 2)), r"\(2,\) for 3 synthetic"),
    ],
)
def test_bad_input_is_refused(attack, message):
    with pytest.raises(ValueError, match=message):
        attack()
