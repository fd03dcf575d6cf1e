"""One call from nothing to verified walks; the same epoch, the same walks."""

import functools

import pytest
import torch
from fakes import FakeGenerator, classifier
from torch import nn

from monai_plan.latent import AnchorSet, PrivacyGate, WalkPlanner, WalkSteering, walk_guided, walk_linear


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairing": "all"}, "neighbours"),
        ({"repair_attempts": -1}, "repair_attempts"),
        ({"anchors_per_class": 2}, "pairs_per_class=1"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        make_planner(**options)
