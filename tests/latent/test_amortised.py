"""The spline's algebra by hand; the amortised walker learns a rule from solved paths and proposes valid ones."""

import pytest
import torch
from fakes import FakeGenerator
from scipy.interpolate import CubicSpline

from monai_plan.latent import (
    AnchorPairs,
    WalkSteering,
    fit_walk_network,
    pair_anchors,
    random_anchors,
    train_walk_network,
    walk_amortised,
    walk_linear,
)
from monai_plan.latent.spline import spline_basis, spline_offsets
from monai_plan.networks.nets import WalkNetwork


def make_pairs(count, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return AnchorPairs(*(torch.randn(count, 4, generator=rng) for _ in range(2)), torch.arange(count) % 2)


def bent(pairs, steps):
    """Lines that bulge along the first axis, upwards for class 1 and downwards for class 0, more for longer lines."""
    points = walk_linear(pairs, steps)
    arch = torch.sin(torch.linspace(0, torch.pi, steps))
    height = (2 * pairs.labels - 1) * (pairs.end - pairs.start).norm(dim=1)
    points[:, 1:-1, 0] += 0.2 * (height[:, None] * arch)[:, 1:-1]
    return points


def test_basis_is_the_natural_spline_and_the_identity_when_full():
    torch.testing.assert_close(spline_basis(7, 5), torch.eye(7))
    values = torch.tensor([0.0, 2.0, -1.0, 3.0])
    knots = [0.0, 10 / 3, 20 / 3, 10.0]
    expected = torch.tensor(CubicSpline(knots, values.numpy(), bc_type="natural")(range(11))).float()
    torch.testing.assert_close(spline_basis(11, 2) @ values, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(spline_basis(11, 2).sum(dim=1), torch.ones(11))


def test_offsets_are_recovered():
    pairs = make_pairs(3)
    offsets = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(5))
    points = walk_linear(pairs, 16) + spline_basis(16, 4)[:, 1:-1] @ offsets
    torch.testing.assert_close(spline_offsets(points, 4), offsets, atol=1e-4, rtol=0)


def test_learns_a_rule_and_applies_it_to_new_pairs_with_another_number_of_points():
    state = torch.get_rng_state()
    solved = make_pairs(400)
    network = train_walk_network(bent(solved, 20), solved.labels, 2, control_points=4, iterations=500, progress=False)
    assert torch.equal(state, torch.get_rng_state()) and not network.training
    fresh = make_pairs(50, seed=9)
    proposed, wanted, line = walk_amortised(fresh, 31, None, network), bent(fresh, 31), walk_linear(fresh, 31)
    assert (proposed - wanted).square().mean() < 0.1 * (line - wanted).square().mean()
    assert torch.equal(proposed[:, 0], fresh.start) and torch.equal(proposed[:, -1], fresh.end)
    assert not proposed.requires_grad


def test_backwards_is_the_same_path():
    network, pairs = WalkNetwork(4, 2, 3), make_pairs(5)
    back = AnchorPairs(pairs.end, pairs.start, pairs.labels)
    forth = walk_amortised(pairs, 9, None, network)
    torch.testing.assert_close(forth.flip(1), walk_amortised(back, 9, None, network), atol=1e-5, rtol=1e-5)
    assert (forth - walk_linear(pairs, 9)).abs().max() > 1e-3  # an untrained one bends, too


def test_file_keeps_the_network(tmp_path):
    network, pairs = WalkNetwork(4, 2, 3, width=16, depth=1), make_pairs(5)
    network.standardise(pairs.start, torch.full((2, 3, 4), 7.0))
    loaded = WalkNetwork.load(network.save(tmp_path / "walker.safetensors"))
    assert torch.equal(walk_amortised(pairs, 9, None, network), walk_amortised(pairs, 9, None, loaded))


def test_refuses():
    pairs, network = make_pairs(4), WalkNetwork(4, 2, 3)
    with pytest.raises(ValueError, match="steps to at least 5"):
        walk_amortised(pairs, 4, None, network)
    with pytest.raises(ValueError, match="knows 1 classes"):
        walk_amortised(pairs, 9, None, WalkNetwork(4, 1, 3))
    with pytest.raises(ValueError, match="control points"):
        train_walk_network(bent(pairs, 5), pairs.labels, 2, control_points=4)
    with pytest.raises(ValueError, match="iterations"):
        train_walk_network(bent(pairs, 9), pairs.labels, 2, control_points=4, iterations=0)
    with pytest.raises(ValueError, match="at least 1"):
        WalkNetwork(4, 0)


def test_solves_then_learns():
    steering = WalkSteering(FakeGenerator(), None, None)
    seen = []

    def solver(pairs, steps, given):
        seen.append((len(pairs), steps, given))
        return bent(pairs, steps)

    network = fit_walk_network(solver, steering, 20, 200, control_points=4, seed=2, iterations=300, progress=False)
    assert seen == [(400, 20, steering)] and network.config["control_points"] == 4
    pairs = pair_anchors(random_anchors(steering.generator, 20, seed=2), 20, seed=2)
    proposed, wanted, line = walk_amortised(pairs, 20, steering, network), bent(pairs, 20), walk_linear(pairs, 20)
    assert (proposed - wanted).square().mean() < 0.3 * (line - wanted).square().mean()
