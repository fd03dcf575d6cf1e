"""Verified points are exactly those whose image passes; counts add up; the ends never do."""

import pytest
import torch
from fakes import FakeGenerator, classifier
from torch import nn

from monai_plan.latent import PrivacyGate, verify_walks


class FirstPixels(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :3]


@pytest.fixture
def walk():
    generator = FakeGenerator().train()
    points = torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        images = (1.5 * torch.tanh(points @ generator.weight.T)).clamp(-1, 1).view(24, 1, 4, 4)
    gate = PrivacyGate(FirstPixels(), torch.tensor([[1.0, 0, 0], [0, -1.0, 0]]), threshold=0.9)
    return generator, points, torch.tensor([0, 1, 0, 1]), gate, images


@pytest.mark.parametrize("with_class", [False, True])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_verified_equals_direct_judgement(walk, with_class, batch_size):
    generator, points, labels, gate, images = walk
    network = classifier(2, 3) if with_class else None
    walks = verify_walks(points, labels, generator, gate, network, batch_size, kind="linear", meta={"seed": 7})
    passed = (gate.distances(images) >= gate.threshold).view(4, 6)
    expected = passed.clone()
    if network is not None:
        expected &= network.eval()(images).argmax(1).view(4, 6) == labels.unsqueeze(1)
    expected[:, 0] = expected[:, -1] = False
    counts = walks.meta["counts"]
    assert torch.equal(walks.verified, expected) and torch.equal(walks.points, points)
    assert 0 < counts["verified"] < counts["inner"] == 16
    assert counts["gate_rejected"] + counts["class_rejected"] + counts["verified"] == 16
    assert counts["verified"] == int(walks.verified.sum()) and (counts["class_rejected"] > 0) == with_class
    assert (walks.kind, walks.meta["seed"], gate.accepted + gate.rejected) == ("linear", 7, 16)
    assert generator.training and generator.weight.grad is None


def test_wrong_input_is_refused(walk):
    generator, points, labels, gate, _ = walk
    with pytest.raises(ValueError, match="NaN"):
        verify_walks(points * torch.nan, labels, generator, gate)
    with pytest.raises(ValueError, match="label 5 and the label network 2 classes"):
        verify_walks(points, labels + 4, generator, gate, classifier(2, 3))
    with pytest.raises(ValueError, match="batch_size"):
        verify_walks(points, labels, generator, gate, batch_size=0)


def test_verdicts_do_not_follow_the_callers_autocast(walk):
    generator, points, labels, gate, _ = walk
    label_network, seen = classifier(2, 2), []
    for network in (generator, label_network):
        network.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    generator.synthesize = lambda w, noise, inner=generator.synthesize: (
        seen.append(torch.is_autocast_enabled("cpu")) or inner(w, noise)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        verify_walks(points, labels, generator, gate, label_network)
    assert seen == [False, False]
