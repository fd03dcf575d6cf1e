"""Safety: near-copies of patients planted along the line between two of them never leave, whatever steered the walk.

The generator renders two 'patients' at its ends and, on the way between them, two more that nobody told the guide of.
"""

import pytest
import torch
from torch import nn

from monai_plan.data import PrivacyWalkDataset, PrivacyWalkSampler
from monai_plan.latent import (
    AnchorPairs,
    PrivacyGate,
    WalkSteering,
    fit_guide,
    repair_walks,
    verify_walks,
    walk_guided,
)

AT = (0.3, 0.6)
"""Where on the line the copies lie."""
THRESHOLD = 0.25


class Planted(nn.Module):
    """The image is the latent, unit length; w[0] runs from one inverted patient to the other."""

    z_dim = w_dim = 4
    num_classes, channels, image_size = 1, 1, 2

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def map_latents(self, z, labels, truncation=1.0):
        return z * torch.tensor([1.0, 0.3, 0.3, 0.3])

    def synthesize(self, w, noise="const", rng=None):
        turn = w[:, :1]
        image = torch.cat([turn.sin(), turn.cos(), w[:, 1:3]], dim=1)
        return (self.scale * image / image.norm(dim=1, keepdim=True)).view(-1, 1, 2, 2)


class Indifferent(nn.Module):
    """A label network of one opinion."""

    def forward(self, images):
        return torch.stack([images.flatten(1)[:, 0] * 0 + 5, images.flatten(1)[:, 0] * 0], dim=1)


def patients(generator, places):
    w = torch.zeros(len(places), 4)
    w[:, 0] = torch.tensor(places)
    return generator.synthesize(w).detach().flatten(1)


def likeness(known):
    """``L_id`` of images to the patients that the steering knows of: nearest similarity, far above the rest at once."""
    return lambda outputs: (outputs @ known.T).amax(dim=1).clamp_min(0)


@pytest.fixture(scope="module")
def found():
    generator = Planted()
    pairs = AnchorPairs(torch.tensor([[-1.5, 0, 0, 0]]), torch.tensor([[1.5, 0, 0, 0]]), torch.tensor([0]))
    planted = [-1.5 + 3 * share for share in AT]
    gallery = patients(generator, [-1.5, 1.5, *planted])
    gate = PrivacyGate(nn.Flatten(), gallery, THRESHOLD)
    # the identity network never saw the planted ones: a guide cannot know of them
    steering = WalkSteering(generator, nn.Flatten(), Indifferent(), likeness(gallery[:2]))
    options = {"identity_weight": 1.0, "progress": False}
    guide = fit_guide(steering, 800, 300, rounds=1, paths_per_class=4, steps=20, walk_options=options).guide
    points = walk_guided(pairs, 20, steering, guide, **options)
    return generator, gate, steering, pairs, points


def test_the_guide_alone_would_let_some_through(found):
    """Without this, the tests below could not fail."""
    generator, gate, _, _, points = found
    inner = generator.synthesize(points[0, 1:-1]).detach()
    assert (gate.distances(inner) < THRESHOLD).sum() >= 3


def test_verification_rejects_them_and_repair_never_shows_one(found):
    generator, gate, steering, pairs, points = found
    walks = verify_walks(points, pairs.labels, generator, gate)
    assert 0 < walks.verified.sum() < 18
    for shown in (walks, repair_walks(walks, steering, gate)):
        images = generator.synthesize(shown.points[shown.verified]).detach()
        assert (gate.distances(images) >= THRESHOLD).all()


@pytest.mark.parametrize("has_gate", [True, False])
def test_the_sampler_emits_none(found, has_gate):
    generator, gate, _, pairs, points = found
    walks = verify_walks(points, pairs.labels, generator, gate)
    loader = PrivacyWalkSampler(PrivacyWalkDataset(walks, 200), generator, gate if has_gate else None, batch_size=20)
    images = torch.cat([batch["image"] for batch in loader])
    assert len(images) == 200 and (gate.distances(images) >= THRESHOLD).all()


def test_never_verified_walks_are_judged_image_by_image(found):
    """Places between points, where nobody has looked before."""
    generator, gate, _, pairs, points = found
    walks = verify_walks(points, pairs.labels, generator, PrivacyGate(nn.Flatten(), gate.gallery, 0.0))
    loader = PrivacyWalkSampler(PrivacyWalkDataset(walks, 300), generator, gate, batch_size=30)
    images = torch.cat([batch["image"] for batch in loader])
    assert (gate.distances(images) >= THRESHOLD).all() and loader.counts["rejected"] > 30
