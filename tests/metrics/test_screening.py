"""Shares and distances by hand; copies are found, and where nothing leaks the interval says so."""

from __future__ import annotations

import pytest
import torch
from attack_worlds import column, patients, world

from monai_plan.metrics import screening


def screen(synthetic, points, real, seed=0):
    return screening(torch.cdist(synthetic, points), torch.cdist(points, points), real, seed, "euclidean")


def test_by_hand_of_equal_sides():
    """Members 0 and 10, held out 2 and 30; nearest: 0, then a tie of 0 and 2, then 2."""
    result = screen(column(0.5, 1, 3), column(0, 10, 2, 30), patients(2, 2))
    assert result.value == pytest.approx(0.5) and result.details["mml_training"] == pytest.approx((0.5 + 1 + 3) / 3)
    assert result.details["mml_held_out"] == pytest.approx((1.5 + 1 + 1) / 3)
    assert result.details["mml_reference"] == pytest.approx((2 + 20) / 2)
    assert result.details["smallest_distance"] == {"training": 0.5, "held_out": 1.0}
    # nearest over second nearest member: 0.5 / 9.5, 1 / 9, 3 / 7
    assert result.details["nndr"]["training"] == pytest.approx(1 / 9)
    assert result.details["dcr"]["training"]["0.5"] == pytest.approx(1.0)


def test_galleries_are_equal():
    """Two of three members are drawn: the copied one is there in two galleries of three; else 5 or 9 beats 100."""
    result = screen(column(1, 1), column(1, 99, 98, 5, 9), patients(3, 2))
    assert result.value == pytest.approx(2 / 3)
    mirrored = screen(column(1, 1), column(5, 9, 1, 99, 98), patients(2, 3))
    assert mirrored.value == pytest.approx(1 / 3) and mirrored.details["gallery_patients"] == 2


def test_a_patients_images_count_once():
    """Sixteen images of each of few patients: copies of one held-out patient hit a single patient's images."""
    released, points, real = world(0, members=10, held_out=10, images=4, synthetic=20)
    result = screen(released, points, real)
    assert (result.n, result.n_control) == (10, 10) and result.resolvable > 0.15


@pytest.mark.parametrize("images", [1, 3])
def test_copies_are_found_and_members_are_alike(images):
    result = screen(*world(0, images=images, leak=True))
    assert result.interval[0] > 0.6 and result.interval[1] <= 1
    assert result.control_interval[0] <= 0.5 <= result.control_interval[1]
    assert result.details["attainable"] == pytest.approx(result.value, abs=0.05)  # it is a release of copies
    assert result.details["mml_training"] < result.details["mml_held_out"]


def test_nothing_is_found_where_nothing_leaks():
    results = [screen(*world(seed, members=24, held_out=12, synthetic=40), seed=seed) for seed in range(20)]
    for intervals in ([r.interval for r in results], [r.control_interval for r in results]):
        assert sum(not low <= 0.5 <= high for low, high in intervals) <= 4  # P(more) = 0.003 at 95 % coverage


def test_the_control_is_one_half_of_the_members_against_the_other():
    """Two members: one against the other, who has none of the images or all of them."""
    controls = {screen(column(1, 1), column(1, 50, 5, 9), patients(2, 2), seed=seed).control for seed in range(10)}
    assert controls == {0.0, 1.0}  # a mean over many halves would be 0.5


def test_attainable_by_hand():
    """Two of three members are drawn, so a copy counts in two galleries of three; else a held-out patient is nearer."""
    result = screen(column(7), column(0, 100, 200, 1, 101, 201), patients(3, 3))
    assert result.details["attainable"] == 1
    result = screen(column(7), column(0, 100, 200, 0.5, 150), patients(3, 2))
    # the other two members: 100 has the held-out 150 at 50, 200 too, members at 100; 0 has 0.5
    assert result.details["attainable"] == pytest.approx(2 / 3)


def test_an_entirely_separate_release_has_a_valid_interval():
    result = screen(column(*range(0, 8)), column(*range(0, 8), *range(1000, 1008)), patients(8, 8))
    assert result.value == 1 and 0.4 < result.interval[0] < 1 and result.interval[1] == 1


def test_replayed_by_seed():
    data = world(1)
    assert screen(*data, seed=5).as_dict() == screen(*data, seed=5).as_dict() != screen(*data, seed=6).as_dict()
