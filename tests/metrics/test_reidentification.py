"""Links by hand, copies found, no false alarms, and controls that say what the distance can do."""

from __future__ import annotations

import pytest
import torch
from attack_worlds import column, patients, world

from monai_plan.metrics import reidentification, separation_with_interval
from monai_plan.metrics.reidentification import _verification_auroc


def attack(synthetic, points, real, seed=0, **options):
    return reidentification(
        torch.cdist(synthetic, points), torch.cdist(points, points), real, seed, "euclidean", **options
    )


def test_by_hand():
    """Held out 0, 10, 13: nearest of the two others at 10, 3 and 3. Two thirds lie below 10, none below 3.

    Of four synthetic images, one lies within 3 of each member, one of held-out 0, one of nobody.
    """
    result = attack(column(101, 202, 1, 50), column(100, 200, 0, 10, 13), patients(2, 3), false_match=0.5)
    assert result.details["threshold"] == 3 and result.details["false_match"] == 0
    assert result.details["gallery_patients"] == 2 and result.details["rate"] == 0.5
    assert result.control == pytest.approx(1 / 4 * 2 / 3)  # the patient is in two galleries of three
    assert result.value == pytest.approx(1 / 2 - 1 / 6)
    assert result.details["verification_auroc"] is None and result.details["top_1"] is None


def test_the_false_match_rate_is_kept():
    """Nearest others of 0, 10, 13 at 10, 3, 3: at 0.7, two thirds lie below 10."""
    result = attack(column(1), column(100, 200, 300, 0, 10, 13), patients(3, 3), false_match=0.7)
    assert result.details["threshold"] == 10 and result.details["false_match"] == pytest.approx(2 / 3)


def test_positive_controls_by_hand():
    """Galleries of two: the image's own patient and one of the four others.

    Images of a patient are 1 apart, but for the third, who has 20 and 60: 20 has three patients nearer than 40, and 60
    has one. So it finds its own patient first in 1/4 and 3/4 of the galleries, and all others always.
    """
    points = column(0, 1, 10, 11, 20, 60, 30, 31, 1000, 1001)
    result = attack(column(5), points, patients(2, 3, images=2))
    assert result.details["top_1"]["n"] == 5
    assert result.details["top_1"]["rate"] == pytest.approx((4 + 1 / 2) / 5)
    # pairs 1 apart are nearer than all 40 of different patients, 40 apart is nearer than some of them
    line = [0, 1, 10, 11, 20, 60, 30, 31, 1000, 1001]
    nearer = sum(abs(line[i] - line[j]) < 40 for i in range(10) for j in range(i) if i // 2 != j // 2)
    assert result.details["verification_auroc"] == pytest.approx((4 + (40 - nearer) / 40) / 5)


@pytest.mark.parametrize("images", [1, 3])
def test_copies_are_linked(images):
    result = attack(*world(0, images=images, synthetic=120, leak=True))
    assert result.interval[0] > 0.1 and result.control < 0.15
    if images == 3:
        assert result.details["verification_auroc"] > 0.95 and result.details["top_1"]["rate"] > 0.8


def test_a_few_copies_are_linked():
    """One synthetic image in twenty is a copy, each of another patient; the others are images of strangers."""
    synthetic, points, real = world(0, members=40, held_out=40, images=2, synthetic=400)
    before = attack(synthetic[20:], points, real)
    synthetic[:20] = points[0:40:2] + 0.01 * synthetic[:20]
    assert attack(synthetic, points, real).value - before.value == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_attainable_is_what_copies_give(share):
    """All members copied exactly, or as many strangers besides, whom the network was trained on."""
    _, points, real = world(0, members=60, held_out=21, images=2)
    result = attack(points[real.member], points, real, members_share=share)
    assert result.details["attainable"] == pytest.approx(share * result.value)
    assert result.value == pytest.approx(20 / 60, abs=0.1)  # twenty of sixty are in a gallery


def test_the_auroc_of_pairs_by_chunks():
    points = torch.arange(40.0) ** 1.5 % 7
    distances, numbers = (points[:, None] - points).abs().round(), torch.arange(40) // 3
    first, second = torch.triu_indices(40, 40, offset=1)
    same = numbers[first] == numbers[second]
    pairs = -distances[first, second]
    expected = separation_with_interval(pairs[same], pairs[~same])[0]
    for rows in (1, 7, 64):
        assert _verification_auroc(distances, numbers, rows) == pytest.approx(expected)


def test_nothing_is_found_where_nothing_leaks():
    misses = 0
    for seed in range(20):
        low, high = attack(*world(seed, members=24, held_out=12, images=2, synthetic=40), seed=seed).interval
        misses += not low <= 0 <= high
    assert misses <= 4  # P(more) = 0.003 at 95 % coverage


def test_no_links_at_all_leave_an_honest_interval():
    result = attack(column(1e6, 2e6), column(*range(16)), patients(8, 8))
    assert result.value == 0 and result.interval[0] < -0.2 and result.interval[1] > 0.2
    assert result.control_interval[1] > 0.2


@pytest.mark.parametrize("false_match", [0, 1, -0.1])
def test_bad_false_match_is_refused(false_match):
    with pytest.raises(ValueError, match=f"false_match is {false_match}"):
        attack(*world(0), false_match=false_match)


@pytest.mark.parametrize("share", [0, 1.5])
def test_bad_share_of_the_members_is_refused(share):
    with pytest.raises(ValueError, match=f"members_share is {share}"):
        attack(*world(0), members_share=share)
