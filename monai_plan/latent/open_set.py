"""Open-set steering: away from the most similar training patients, without a class for each of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.networks.utils import eval_mode
from torch import nn

from monai_plan.latent.anchors import random_anchors
from monai_plan.latent.frozen import device_of
from monai_plan.latent.gate import PrivacyGate
from monai_plan.latent.walks import WalkSteering
from monai_plan.losses.walk import identity_hinge
from monai_plan.networks.nets import StyleGenerator

__all__ = ["OpenSetIdentity", "open_set_steering", "usual_distance"]

SAMPLES = 256
"""Of each class, for :func:`usual_distance`."""


@dataclass(frozen=True)
class OpenSetIdentity:
    """``L_id`` of embeddings: :func:`~monai_plan.losses.identity_hinge` against a gallery.

    Attributes:
        gallery: embeddings of the training images, unit length, [M, E].
        limit: cosine similarity up to which a likeness is harmless.
        nearest: gallery rows that count for an image.
    """

    gallery: torch.Tensor
    limit: float
    nearest: int = 3

    def __call__(self, outputs: torch.Tensor) -> torch.Tensor:
        """Embeddings [N, E] of any length (a guide's are only nearly unit) -> [N]."""
        return identity_hinge(F.normalize(outputs, dim=1), self.gallery, self.limit, self.nearest)


def open_set_steering(
    generator: StyleGenerator,
    likeness: PrivacyGate,
    label_network: nn.Module,
    nearest: int = 3,
    distance: float | None = None,
) -> WalkSteering:
    """Steer by likeness to the nearest patients; a new patient adds rows to the gallery and nothing is trained again.

    Args:
        generator: what renders the points; the rest is moved to its device.
        likeness: embedder and gallery in the shape of a gate. It must be trained apart from the gate that judges the
            walk, because what steers must not certify.
        label_network: images -> logits [B, classes].
        nearest: gallery rows that count for an image, at most all.
        distance: of unit embeddings, up to which an image is pushed away, 0 < distance <= 2; ``None`` takes
            :func:`usual_distance`. (Unseen patients' distances are no good limit: most generated images lie beyond
            as they are.)

    Raises:
        ValueError: ``distance`` is out of range.
    """
    likeness = likeness.to(device_of(generator))
    if distance is None:
        distance = usual_distance(generator, likeness)
    if not 0 < distance <= 2:
        raise ValueError(f"distances of unit embeddings lie in 0 .. 2, got {distance}")
    gallery = likeness.gallery
    loss = OpenSetIdentity(gallery, 1 - distance**2 / 2, min(nearest, len(gallery)))
    return WalkSteering(generator, likeness.embedder, label_network, loss)


@torch.no_grad()
def usual_distance(generator: StyleGenerator, likeness: PrivacyGate, share: float = 0.95, seed: int = 0) -> float:
    """The distance to the nearest training image that ``share`` of the generator's own images fall short of.

    Args:
        generator: draws 256 images of each class.
        likeness: embedder and gallery.
        share: 0 .. 1.
        seed: of the draws; the global random state is not touched.
    """
    latents = random_anchors(generator, SAMPLES, seed).latents.to(device_of(generator))
    with eval_mode(generator):
        images = (generator.synthesize(part, noise="const").clamp(-1, 1) for part in latents.split(64))
        return float(torch.cat([likeness.distances(part) for part in images]).quantile(share))
