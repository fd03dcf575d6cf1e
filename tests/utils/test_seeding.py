"""Generators keyed by position."""

from __future__ import annotations

import pytest
import torch

from monai_plan.utils import generator_for


def draw(*position) -> torch.Tensor:
    return torch.randn(8, generator=generator_for(*position))


@pytest.mark.parametrize("position", [(0,), (7, 0, 3), (7, "walk", 12), (-1, 2**70)])
def test_equal_arguments_equal_streams(position):
    assert torch.equal(draw(*position), draw(*position))


def test_different_arguments_different_streams():
    positions = [(s, r, e) for s in range(4) for r in range(4) for e in range(4)]
    positions += [(0,), (0, 0), (0, 0, 0, 0), (0, "0"), (0, "a"), (0, "a", 0), (12, 3), (1, 23)]
    first = {generator_for(*position).initial_seed() for position in positions}
    assert len(first) == len(positions)


def test_streams_of_neighbours_are_uncorrelated():
    table = torch.stack([torch.randn(4096, generator=generator_for(0, index)) for index in range(8)])
    off_diagonal = torch.corrcoef(table) - torch.eye(8)
    assert off_diagonal.abs().max() < 0.08


def test_the_streams_are_the_same_on_any_machine():
    assert generator_for(0, "a", 1).initial_seed() == 6708188889104813609


def test_the_global_state_is_untouched():
    before = torch.get_rng_state()
    draw(0, 1)
    assert torch.equal(before, torch.get_rng_state())


def test_a_tensor_like_seed_is_an_integer():
    assert torch.equal(draw(torch.tensor(5)), draw(5))
