"""Centroids drawn apart again: averaging k latents leaves a k-th of their variance, and images that are all alike."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from monai_plan.latent.anchors import AnchorSet
from monai_plan.latent.prior import LatentPrior, gaussianised, ungaussianised

__all__ = ["spread_anchors"]

SAME_PLACE = 1e-9
"""Mean energy about the class's mean below which anchors differ by rounding only; that of centroids is about 1 / k."""


def spread_anchors(anchors: AnchorSet, prior: LatentPrior, energy: float = 1.0) -> AnchorSet:
    """Scale each class's anchors about their mean, until they are on the average as likely as the generator's samples.

    In Gaussianised W (see :class:`~monai_plan.latent.LatentPrior`) the mean of k latents keeps about a k-th of their
    variance, so centroids lie where the generator was hardly trained to render, in a small neighbourhood of the class's
    mean image. One factor a class, >= 1, is found such that their mean energy is ``energy``; it is 1 where they have
    more, and for a class with a single anchor. An anchor remains a function of its group's centroid and of the mean of
    the class, in which all members of the group weigh the same; each weighs ``factor / k`` instead of ``1 / k``, so
    what comes of it needs the gate's verdict as any walk does.

    Args:
        anchors: of k-same, e.g. from :func:`~monai_plan.latent.group_centroids`.
        prior: of their generator.
        energy: the mean energy wanted, > 0; 1 is that of samples.

    Returns:
        Anchors of the same order, on the same device; ``meta["spread"]`` has the factors by class.

    Raises:
        ValueError: ``energy`` is out of range, or the prior is of another generator.
    """
    if not 0 < energy < math.inf:
        raise ValueError(f"energy must be above 0 and finite, got {energy}; 1 is that of the generator's samples")
    prior = prior.to(anchors.latents.device)
    v = gaussianised(anchors.latents)
    factors = {}
    for label in anchors.labels.unique().tolist():
        members = anchors.labels == label
        centre = v[members].mean(dim=0)
        apart = v[members] - centre
        # the mean energy of centre + f * apart is that of the centre + f^2 * mean |apart|^2, as apart has mean 0
        room = energy - prior.energy(ungaussianised(centre)[None], torch.tensor([label], device=v.device))[0]
        own = (apart @ prior.whitening).square().sum(dim=1).mean()
        factor = float((room / own).clamp_min(1).sqrt()) if own > SAME_PLACE else 1.0
        v[members] = centre + factor * apart
        factors[str(label)] = factor
    return replace(anchors, latents=ungaussianised(v), meta={**anchors.meta, "spread": factors})
