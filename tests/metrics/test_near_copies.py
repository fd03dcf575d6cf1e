"""Near copies by hand; few are found among many, and smooth images are not called copies."""

from __future__ import annotations

import pytest
import torch
from attack_worlds import column, patients, world

from monai_plan.metrics import near_copies


def count(synthetic, points, real, seed=0, **options):
    return near_copies(torch.cdist(synthetic, points), torch.cdist(points, points), real, seed, "euclidean", **options)


def test_by_hand():
    """Held out 101, 203, 310 and 450 have a member at 1, 3, 10 and 50: 0.3 of them have one within 3.

    Of five synthetic images, 102 lies within 3 of members 100 and of held-out 101, 97 and 399 within 3 of a member, 448
    within 3 of a held-out patient, 600 of nobody.
    """
    points = column(100, 200, 300, 400, 101, 203, 310, 450)
    result = count(column(102, 97, 399, 448, 600), points, patients(4, 4), quantile=0.3)
    assert result.details["threshold"] == 3 and result.details["quantile"] == 0.5
    assert result.details["share"] == pytest.approx(3 / 5) and result.control == pytest.approx(2 / 5)
    assert result.value == pytest.approx(1 / 5) and result.baseline == 0
    assert (result.details["near"], result.details["patients"]) == (3, 2)
    assert result.details["smallest_distance"] == {"training": 1, "held_out": 1}


def test_fewer_held_out_patients_by_hand():
    """Four members, two held out, one synthetic image in ten near each of three of them: members' 0.2, held-out 0.1.

    Galleries of two would hold the member in one half: 0.1, and so the share grows twofold with the gallery. So four
    held-out patients would have 0.2.
    """
    points = column(100, 200, 300, 400, 501, 430)
    synthetic = column(100, 200, 501, 1, 2, 3, 4, 5, 6, 7)
    result = count(synthetic, points, patients(4, 2))
    assert result.details["threshold"] == 30
    assert result.details["share"] == pytest.approx(0.2) and result.control == pytest.approx(0.2)


def test_every_copy_counts_whoever_was_copied():
    """Three times as many members as held out: 20 copies of four patients among 200 images."""
    synthetic, points, real = world(0, members=90, held_out=30, synthetic=200)
    without = count(synthetic, points, real)
    synthetic[:20] = points[torch.arange(20) % 4] + 0.01 * synthetic[:20]
    result = count(synthetic, points, real)
    assert result.value - without.value == pytest.approx(0.1, abs=0.02)
    assert result.details["near"] >= 20 and result.details["patients"] >= 4
    assert result.details["smallest_distance"]["training"] < 0.05 < result.details["smallest_distance"]["held_out"]
    assert result.interval[1] > 0.05  # no release of four copied patients keeps such a limit


@pytest.mark.parametrize("images", [1, 3])
def test_a_release_of_copies_is_found(images):
    result = count(*world(0, images=images, synthetic=120, leak=True))
    assert result.details["share"] == 1 and result.interval[0] > 0.6


@pytest.mark.parametrize("rough", [0.0, 1.0, 3.0])
def test_nothing_is_found_where_nothing_leaks(rough):
    """Real images may have a roughness that the synthetic ones lack, which are then near to everybody."""
    misses, values = 0, []
    for seed in range(20):
        synthetic, points, real = world(seed, members=48, held_out=16, synthetic=60)
        noise = torch.randn(len(points), 100, generator=torch.Generator().manual_seed(seed)) * rough / 10
        points = torch.cat([points, noise], dim=1)
        synthetic = torch.cat([synthetic, torch.zeros(60, 100)], dim=1)
        result = count(synthetic, points, real, seed)
        values.append(result.value)
        misses += not result.interval[0] <= 0 <= result.interval[1]
    assert misses <= 4  # P(more) = 0.003 at 95 % coverage
    assert sum(values) / len(values) == pytest.approx(0, abs=0.06)
    if rough == 3:
        assert result.details["share"] > 0.8


def test_no_near_image_at_all_leaves_an_honest_interval():
    """Wilson's upper end for 0 of 100."""
    result = count(1e6 + torch.arange(100.0)[:, None], column(*range(16)).float(), patients(8, 8))
    upper = pytest.approx(1.96**2 / (100 + 1.96**2), rel=1e-3)
    assert result.value == 0 and result.interval[1] == upper and -result.interval[0] == upper
    assert result.resolvable >= result.interval[1]


def test_replayed_by_seed():
    data = world(1)
    assert count(*data, seed=5).as_dict() == count(*data, seed=5).as_dict()


@pytest.mark.parametrize("quantile", [0, 1, -0.1])
def test_bad_quantile_is_refused(quantile):
    with pytest.raises(ValueError, match=f"quantile is {quantile}"):
        count(*world(0), quantile=quantile)
