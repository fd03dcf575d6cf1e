"""Generators keyed by position."""

from __future__ import annotations

import hashlib

import pytest
import torch

from monai_plan.utils import generator_for, uniform_at


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


def splitmix64(seed: int, purpose: str, position: tuple[int, ...]) -> float:
    """Another implementation of ``uniform_at``, in Python's integers."""
    state = int.from_bytes(hashlib.blake2b(repr((seed, purpose)).encode(), digest_size=8).digest(), "little")
    for coordinate in position:
        state = (state + (coordinate + 1) * 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return (state >> 11) / 2**53


@pytest.mark.parametrize("position", [(), (0,), (3, 0, 7), (2**40, 5, 2**62), (0, 0, 0, 0)])
def test_uniform_draws_are_the_same_on_any_machine(position):
    assert uniform_at(9, "a", *position).item() == splitmix64(9, "a", position)


def test_uniform_draws_of_many_places_are_those_of_each():
    indices, epochs = torch.arange(1000), torch.arange(1000) % 7
    draws = uniform_at(9, "a", indices, 4, epochs)
    assert draws.dtype == torch.float64 and draws.shape == (1000,)
    assert draws.tolist() == [splitmix64(9, "a", (i, 4, e)) for i, e in zip(range(1000), epochs.tolist(), strict=True)]


def test_uniform_draws_fill_the_interval_whatever_varies():
    rows = [
        torch.stack([uniform_at(0, "a", *(torch.arange(4096) if k == axis else 5 for k in range(3)))])[0]
        for axis in range(3)
    ]
    rows += [uniform_at(seed, purpose, torch.arange(4096)) for seed, purpose in ((0, "a"), (1, "a"), (0, "b"))]
    expected = (torch.arange(4096) + 0.5) / 4096
    for row in rows:
        assert (row.sort().values - expected).abs().max() < 0.03 and row.min() >= 0 and row.max() < 1
    assert (torch.corrcoef(torch.stack(rows)) - torch.eye(6)).abs().max() < 0.08
