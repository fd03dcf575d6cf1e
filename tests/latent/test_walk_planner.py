"""One call from nothing to verified walks; the same epoch, the same walks."""

import copy
import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from fakes import FakeGenerator, classifier
from torch import nn

from monai_plan.latent import AnchorSet, PrivacyGate, WalkPlanner, WalkSteering, steps_for, walk_guided, walk_linear


def make_planner(**options):
    generator = FakeGenerator()
    rng = torch.Generator().manual_seed(0)
    patients = generator.eval().synthesize(torch.randn(9, 6, generator=rng)).detach()
    settings = {
        "walk": walk_linear,
        "steering": WalkSteering(generator, classifier(5, 1), classifier(2, 2)),
        "gate": PrivacyGate(nn.Flatten(), patients.flatten(1), 0.9),
        "pairs_per_class": 4,
        "anchors_per_class": 5,
        "steps": 7,
        "kind": "private",
    }
    return WalkPlanner(**{**settings, **options})


def test_epochs_differ_and_repeat():
    planner = make_planner(seed=3)
    state = torch.get_rng_state()
    first, again, second = planner(), planner(0), planner(1)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.points, again.points) and torch.equal(first.verified, again.verified)
    assert not torch.equal(first.points, second.points)
    assert first.labels.tolist() == second.labels.tolist() == [0] * 4 + [1] * 4
    assert first.points.shape == (8, 7, 6) and first.kind == "private"
    counts = first.meta["counts"]
    assert 0 < counts["verified"] < counts["inner"] == 40 and "repaired" not in counts
    assert set(first.meta["coverage"]) == {"0", "1"}


def test_given_anchors_stay():
    anchors = AnchorSet(torch.eye(6), torch.tensor([0, 0, 0, 1, 1, 1]), "k_same")
    planner = make_planner(anchors=anchors, pairs_per_class=2)
    for epoch in range(2):
        ends = planner(epoch).points[:, [0, -1]].flatten(0, 1)
        assert all(any(torch.equal(end, anchor) for anchor in anchors.latents) for end in ends)


def test_neighbours_make_shorter_walks():
    lengths = [
        (walks.points[:, -1] - walks.points[:, 0]).norm(dim=1).mean()
        for walks in (make_planner(anchors_per_class=30, pairing=pairing)() for pairing in ("random", "neighbours"))
    ]
    assert lengths[1] < 0.9 * lengths[0]


def test_class_is_asked_for_and_failing_points_are_repaired():
    gate_only, both = make_planner(), make_planner(label_network=classifier(2, 2))
    assert gate_only().meta["counts"]["class_rejected"] == 0 < both().meta["counts"]["class_rejected"]
    repaired = make_planner(label_network=classifier(2, 2), repair_attempts=10)()
    assert repaired.meta["counts"]["repaired"] > 0
    assert repaired.verified.sum() == both().verified.sum() + repaired.meta["counts"]["repaired"]


def test_any_walk_and_extra_meta():
    walk = functools.partial(walk_guided, progress=False, iterations=20)
    walks = make_planner(walk=walk, kind="guided", meta={"about": 7})()
    assert walks.kind == "guided" and walks.meta["about"] == 7
    assert not torch.equal(walks.points, make_planner()().points)


def test_plans_of_two_threads_are_those_of_one():
    """Neither switches a network of the other's back to training in mid-plan."""
    planner, label_network = make_planner(), classifier(2, 2)
    for network in (planner.steering.identity_network, label_network):
        network.train()
    planner = dataclasses.replace(planner, label_network=label_network, walk=short_walk)
    before = [value.clone() for value in label_network.state_dict().values()]
    alone = [planner(epoch) for epoch in range(6)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(planner, range(6)))
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.points, other.points) and torch.equal(one.verified, other.verified)
    assert all(torch.equal(a, b) for a, b in zip(before, label_network.state_dict().values(), strict=True))
    assert not label_network.training and not planner.steering.generator.weight.requires_grad


def short_walk(pairs, steps, steering):
    return walk_guided(pairs, steps, steering, progress=False, iterations=5)


def test_the_gate_does_not_steer():
    embedder = nn.Sequential(nn.Flatten(), nn.Linear(16, 8))
    gate = PrivacyGate(embedder, torch.randn(5, 8), 0.1)
    for identity in (embedder, copy.deepcopy(embedder)):
        with pytest.raises(ValueError, match="also steers"):
            make_planner(steering=WalkSteering(FakeGenerator(), identity, classifier(2, 2)), gate=gate)


def test_no_anchors_are_not_replaced():
    with pytest.raises(ValueError, match="anchors"):
        make_planner(anchors=AnchorSet(torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64), "k_same"))()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairing": "all"}, "neighbours"),
        ({"repair_attempts": -1}, "repair_attempts"),
        ({"anchors_per_class": 2}, "pairs_per_class=1"),
        ({"anchors_per_class": 12, "pairs_per_class": 61, "pairing": "neighbours"}, "pairs_per_class=60"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        make_planner(**options)


def k_same_anchors(*counts):
    labels = torch.tensor([label for label, count in enumerate(counts) for _ in range(count)])
    ids = [3 * row + 1 for row in range(len(labels))]
    latents = torch.randn(len(labels), 6, generator=torch.Generator().manual_seed(0))
    return AnchorSet(latents, labels, "k_same", {"k": 12, "ids": ids})


@pytest.mark.parametrize("pairing", ["random", "neighbours"])
def test_walks_between_k_same_anchors_say_so(pairing):
    anchors = k_same_anchors(5, 2)
    walks = make_planner(anchors=anchors, pairing=pairing, pairs_per_class=4)()
    assert walks.labels.tolist() == [0, 0, 0, 0, 1], "two anchors make a single pair"
    assert walks.meta["k"] == 12 and walks.meta["spread"] is False
    latents = dict(zip(anchors.meta["ids"], anchors.latents, strict=True))
    for points, pair in zip(walks.points, walks.meta["pairs"], strict=True):
        assert torch.equal(points[[0, -1]], torch.stack([latents[end] for end in pair]))
    assert "pairs" not in make_planner()().meta


@pytest.mark.parametrize(
    ("counts", "pairs", "points", "steps"),
    [
        ((3, 2), 4, 12, 2 + 6),  # three pairs and one: 24 points on four paths
        ((30, 30), 4, 12, 2 + 3),
        (None, 4, 13, 2 + 4),
    ],
)
def test_fewer_anchors_mean_longer_paths(counts, pairs, points, steps):
    assert steps_for(None if counts is None else k_same_anchors(*counts), pairs, points) == steps


def test_a_single_anchor_makes_no_walk():
    with pytest.raises(ValueError, match="class 1 has a single anchor"):
        steps_for(k_same_anchors(4, 1), 4, 12)
    with pytest.raises(ValueError, match="class 1 has a single anchor"):
        make_planner(anchors=k_same_anchors(4, 1))
    with pytest.raises(ValueError, match="points_per_class must be >= 1"):
        steps_for(None, 4, 0)
