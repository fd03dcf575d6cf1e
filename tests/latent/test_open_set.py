"""Open-set steering: the hinge on the nearest patients, and that a walk by it moves away from them."""

import pytest
import torch
from fakes import FakeGenerator, classifier
from torch import nn

from monai_plan.latent import (
    AnchorPairs,
    OpenSetIdentity,
    PrivacyGate,
    fit_guide,
    open_set_steering,
    random_anchors,
    usual_distance,
    walk_guided,
)
from monai_plan.latent.walks import walk_linear


def make(count=20):
    generator, embedder = FakeGenerator(), nn.Sequential(nn.Flatten())
    rng = torch.Generator().manual_seed(0)
    patients = generator.eval().synthesize(torch.randn(count, 6, generator=rng)).detach().clamp(-1, 1)
    return generator, PrivacyGate(embedder, patients.flatten(1), threshold=0.4), rng


def test_loss_by_hand():
    loss = OpenSetIdentity(torch.tensor([[1.0, 0], [0, 1]]), limit=0.5, nearest=1)
    outputs = torch.tensor([[2.0, 0], [3.0, 3.0], [-1.0, 0.0]])  # of any length
    torch.testing.assert_close(loss(outputs), torch.tensor([0.5, 0.5**0.5 - 0.5, 0.0]))


def test_limit_pushes_most_of_the_generators_images_or_is_given():
    generator, likeness, _ = make()
    state = torch.get_rng_state()
    steering = open_set_steering(generator, likeness, None)
    assert torch.equal(state, torch.get_rng_state()) and steering.identity_loss.nearest == 3
    images = generator.eval().synthesize(random_anchors(generator, 500, seed=9).latents).clamp(-1, 1)
    limit = (2 - 2 * steering.identity_loss.limit) ** 0.5
    assert limit == pytest.approx(usual_distance(generator, likeness))
    assert (likeness.distances(images) < limit).float().mean() == pytest.approx(0.95, abs=0.03)
    assert open_set_steering(generator, likeness, None, distance=2**0.5).identity_loss.limit == pytest.approx(0)
    one = PrivacyGate(nn.Flatten(), likeness.gallery[:1], 0.4)
    assert open_set_steering(generator, one, None).identity_loss.nearest == 1
    with pytest.raises(ValueError, match=r"0 \.\. 2"):
        open_set_steering(generator, likeness, None, distance=0.0)


@pytest.mark.parametrize("is_guided", [False, True])
def test_walk_moves_away_from_the_nearest_patients(is_guided):
    generator, likeness, rng = make()
    steering = open_set_steering(generator, likeness, classifier(2, 2), distance=2.0)
    pairs = AnchorPairs(*(torch.randn(6, 6, generator=rng) for _ in range(2)), torch.arange(6) % 2)
    options = {"identity_weight": 5.0, "progress": False}
    guide = None
    if is_guided:
        sizes = {"latents": 1000, "iterations": 400, "rounds": 2, "paths_per_class": 8, "steps": 12}
        guide = fit_guide(steering, **sizes, walk_options=options).guide
    points = walk_guided(pairs, 12, steering, guide, **options)

    def nearest(walks):
        return likeness.distances(generator.eval().synthesize(walks[:, 1:-1].flatten(0, 1)).clamp(-1, 1)).mean()

    assert nearest(points) > 1.15 * nearest(walk_linear(pairs, 12))
