"""Chances by counting, and spreads against what theory says of a mean."""

from __future__ import annotations

import pytest
import torch
from attack_worlds import patients

from monai_plan.metrics import (
    chance_of_any,
    chance_of_one,
    half_sample_spread,
    permutation_spread,
    require_distances,
)


def test_chances_by_counting():
    """Two of four patients: six galleries; one patient is in three of them, two are both in one and none in one."""
    assert chance_of_any(4, 2).tolist() == pytest.approx([0, 1 / 2, 5 / 6, 1, 1])
    assert chance_of_one(4, 2).tolist() == pytest.approx([0, 1 / 2, 4 / 6, 1 / 2, 0])
    assert chance_of_any(3, 3).tolist() == [0, 1, 1, 1] and chance_of_one(3, 3).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("spread", [half_sample_spread, permutation_spread])
def test_spread_of_a_difference_of_means(spread):
    real = patients(60, 30)
    values = torch.randn(90, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def difference(members: torch.Tensor, held_out: torch.Tensor) -> torch.Tensor:
        return values[members].mean() - values[held_out].mean()

    expected = (values[:60].var() / 60 + values[60:].var() / 30).sqrt()
    assert float(spread(difference, *real.groups, seed=0, draws=1000)) == pytest.approx(float(expected), rel=0.1)


@pytest.mark.parametrize(
    ("name", "matrix", "message"),
    [
        ("to_real", torch.ones(3, 5), r"to_real has the shape \(3, 5\), for 4 real images"),
        ("to_real", torch.ones(0, 4), r"\(0, 4\)"),
        ("among_real", torch.ones(3, 4), "one row for each real image"),
        ("to_real", torch.full((2, 4), torch.nan), "8 infinite or undefined"),
        ("to_real", torch.full((2, 4), -1.0), "8 negative"),
        ("to_real", torch.ones(2, 4, dtype=torch.int64), "int64"),
    ],
)
def test_bad_distances_are_refused(name, matrix, message):
    with pytest.raises(ValueError, match=message):
        require_distances(patients(2, 2), **{name: matrix})
