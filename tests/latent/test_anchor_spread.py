"""Centroids drawn apart: the energy that is reached, what stays where it was, refusals."""

import math
from dataclasses import replace

import pytest
import torch

from monai_plan.latent import AnchorSet, LatentPrior, gaussianised, spread_anchors, ungaussianised
from monai_plan.networks.nets import StyleGenerator

# energy x^2 + 4 y^2 of the deviation from (0, 0) in class 0, and from (1, -1) in class 1
PRIOR = LatentPrior(torch.tensor([[0.0, 0.0], [1.0, -1.0]]), torch.diag(torch.tensor([1.0, 2.0])), torch.tensor(0.5))


def anchors_at(*points, labels=None, **meta):
    """Anchors at points of V."""
    latents = ungaussianised(torch.tensor(points, dtype=torch.float32))
    return AnchorSet(latents, torch.tensor(labels or [0] * len(points)), "k_same", meta)


def energies(anchors, prior=PRIOR):
    return prior.energy(anchors.latents, anchors.labels)


def test_ungaussianised_is_the_way_back():
    v = torch.tensor([[-2.0, -1e-3, 0.0, 0.3, 40.0]])
    torch.testing.assert_close(gaussianised(ungaussianised(v)), v)
    w = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ungaussianised(gaussianised(w)), w)
    assert ungaussianised(torch.tensor([1.0, -1.0])).tolist() == pytest.approx([math.sqrt(2), -0.2 * math.sqrt(2)])


def test_by_hand():
    # centre (0.5, 0) with energy 0.25, which leaves 0.75; the anchors lie 0.1 and 0.1 y apart: 0.01 + 4 * 0.01
    anchors = anchors_at((0.6, 0.1), (0.4, -0.1))
    spread = spread_anchors(anchors, PRIOR)
    factor = math.sqrt(0.75 / 0.05)
    expected = torch.tensor([[0.5 + 0.1 * factor, 0.1 * factor], [0.5 - 0.1 * factor, -0.1 * factor]])
    torch.testing.assert_close(gaussianised(spread.latents), expected)
    assert spread.meta["spread"] == {"0": pytest.approx(factor)}
    assert float(energies(spread).mean()) == pytest.approx(1)
    assert float(energies(spread_anchors(anchors, PRIOR, energy=4)).mean()) == pytest.approx(4)


def centroids(generator, k, groups):
    """Means of k samples each, classes in turn."""
    rng = torch.Generator().manual_seed(3)
    labels = torch.arange(groups) % 2
    with torch.no_grad():
        z = torch.randn(groups * k, generator.z_dim, generator=rng)
        w = generator.map_latents(z, labels.repeat_interleave(k))
    return AnchorSet(w.view(groups, k, -1).mean(dim=1), labels, "k_same", {"k": k, "ids": list(range(groups))})


def test_centroids_of_samples_become_as_likely_as_samples():
    generator = StyleGenerator(8, 1, 2, z_dim=32, w_dim=32, channel_base=32, channel_max=8)
    prior = LatentPrior.fit(generator, samples=2048)
    anchors = centroids(generator, 8, 40)
    before = anchors.latents.clone()
    spread = spread_anchors(anchors, prior)
    assert torch.equal(anchors.latents, before)
    assert torch.equal(spread.labels, anchors.labels) and spread.origin == "k_same"
    assert {name: spread.meta[name] for name in ("k", "ids")} == anchors.meta
    for label in (0, 1):
        of = anchors.labels == label
        assert float(energies(anchors, prior)[of].mean()) < 0.5
        assert float(energies(spread, prior)[of].mean()) == pytest.approx(1, abs=1e-4)
        v, wide = gaussianised(anchors.latents[of]), gaussianised(spread.latents[of])
        torch.testing.assert_close(wide.mean(dim=0), v.mean(dim=0))
        # each moved straight away from the mean, all by the factor that is told: the order is kept
        factor = spread.meta["spread"][str(label)]
        assert factor > 1.3
        torch.testing.assert_close(wide - wide.mean(dim=0), factor * (v - v.mean(dim=0)), atol=1e-5, rtol=1e-4)


def test_what_is_far_apart_already_stays():
    anchors = anchors_at((2.0, 0.0), (-2.0, 0.0), (3.0, -1.0), (3.0 + 1e-3, -1.0), labels=[0, 0, 1, 1])
    spread = spread_anchors(anchors, PRIOR)  # class 0 lies apart, class 1 is near itself but its mean has energy 4
    torch.testing.assert_close(spread.latents, anchors.latents)
    assert spread.meta["spread"] == {"0": 1.0, "1": 1.0}


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_one_anchor_or_equal_ones_have_no_direction_to_go(count):
    point = (0.123456789, -0.0987654321)  # of three or more, the mean is not the point itself: rounding
    spread = spread_anchors(anchors_at(*[point] * count), PRIOR)
    torch.testing.assert_close(gaussianised(spread.latents), torch.tensor([point] * count))
    assert spread.meta["spread"] == {"0": 1.0}


def test_classes_do_not_mix():
    anchors = anchors_at((0.1, 0.0), (1.1, -1.0), (-0.1, 0.0), (0.9, -1.0), (1.0, -1.3), labels=[0, 1, 0, 1, 1])
    both = spread_anchors(anchors, PRIOR)
    alone = spread_anchors(replace(anchors, latents=anchors.latents[::2][:2], labels=anchors.labels[::2][:2]), PRIOR)
    torch.testing.assert_close(both.latents[[0, 2]], alone.latents)
    assert both.meta["spread"]["0"] == alone.meta["spread"]["0"] == pytest.approx(10)


@pytest.mark.parametrize(
    "call, words",
    [
        *((lambda e=e: spread_anchors(anchors_at((0, 0)), PRIOR, energy=e), "energy must") for e in (0, -1, math.nan)),
        (lambda: spread_anchors(anchors_at((0, 0)), PRIOR, energy=math.inf), "finite, got inf"),
        (lambda: spread_anchors(anchors_at((0, 0, 0), (1, 0, 0)), PRIOR), "another generator"),
        (lambda: spread_anchors(anchors_at((0, 0), labels=[2]), PRIOR), "but the prior has 2 class"),
    ],
)
def test_refuses(call, words):
    with pytest.raises(ValueError, match=words):
        call()
