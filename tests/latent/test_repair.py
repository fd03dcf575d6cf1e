"""Failing points are moved by the true networks and judged anew; nothing else changes."""

import pytest
import torch
from fakes import FakeGenerator, classifier
from torch import nn

from monai_plan.latent import AnchorPairs, WalkSteering, repair_walks, verify_walks, walk_linear


class BrightnessGate(nn.Module):
    """Accepts images whose mean is below a limit; counts what it sees."""

    def __init__(self, limit):
        super().__init__()
        self.limit, self.seen = limit, 0

    def accepts(self, images):
        assert not torch.is_grad_enabled()  # its gradient must not steer
        self.seen += len(images)
        return images.mean(dim=(1, 2, 3)) < self.limit


def bright_is_recognised(outputs):
    return outputs.mean(dim=1)


def make(limit=0.0, seed=0):
    rng = torch.Generator().manual_seed(seed)
    pairs = AnchorPairs(*(torch.randn(5, 6, generator=rng) for _ in range(2)), torch.arange(5) % 2)
    steering = WalkSteering(FakeGenerator(), nn.Flatten(), classifier(2, 2), bright_is_recognised)
    gate = BrightnessGate(limit)
    walks = verify_walks(walk_linear(pairs, 9), pairs.labels, steering.generator, gate)
    return walks, steering, gate


def test_points_pass_afterwards_and_the_rest_is_counted():
    walks, steering, gate = make()
    failing = int((~walks.verified[:, 1:-1]).sum())
    assert 5 < failing < 35  # or the test shows nothing
    repaired = repair_walks(walks, steering, gate, attempts=3, step=0.05, label_weight=0.0)
    counts = repaired.meta["counts"]
    assert counts["repaired"] > 0 and counts["repaired"] + counts["dropped"] == failing
    assert counts["verified"] == int(repaired.verified.sum()) == walks.meta["counts"]["verified"] + counts["repaired"]
    images = steering.generator.eval().synthesize(repaired.points[repaired.verified]).clamp(-1, 1)
    assert (images.mean(dim=(1, 2, 3)) < 0).all()
    untouched = walks.verified | ~repaired.verified
    assert torch.equal(repaired.points[untouched], walks.points[untouched]) and not repaired.verified[:, [0, -1]].any()
    further = repair_walks(walks, steering, gate, attempts=30, step=0.05, label_weight=0.0)
    assert further.meta["counts"]["dropped"] < counts["dropped"]


def test_the_class_is_asked_for_too():
    walks, steering, gate = make(limit=0.3)
    strict = verify_walks(walks.points, walks.labels, steering.generator, gate, steering.label_network)
    assert strict.meta["counts"]["class_rejected"] > 3
    repaired = repair_walks(strict, steering, gate, steering.label_network, attempts=10, identity_weight=0.2)
    assert repaired.meta["counts"]["repaired"] > 0
    passed = repaired.verified
    logits = steering.label_network.eval()(steering.generator.eval().synthesize(repaired.points[passed]).clamp(-1, 1))
    assert torch.equal(logits.argmax(dim=1), walks.labels[:, None].expand(passed.shape)[passed])


def test_nothing_to_do_costs_nothing():
    walks, steering, gate = make(limit=2.0)
    gate.seen = 0
    repaired = repair_walks(walks, steering, gate)
    assert gate.seen == 0 and torch.equal(repaired.points, walks.points)
    assert repaired.meta["counts"]["repaired"] == repaired.meta["counts"]["dropped"] == 0


def test_refuses():
    walks, steering, gate = make()
    with pytest.raises(ValueError, match="attempts"):
        repair_walks(walks, steering, gate, attempts=0)
    with torch.no_grad():
        steering.generator.weight.add_(1)
    with pytest.raises(ValueError, match="another generator"):
        repair_walks(walks, steering, gate)
