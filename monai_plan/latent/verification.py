"""Render finished walks and mark the points whose images may be shown."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from monai.networks.utils import eval_mode
from torch import nn

from monai_plan.latent.frozen import device_of
from monai_plan.latent.gate import PrivacyGate
from monai_plan.latent.rendering import render_and_judge
from monai_plan.latent.walk_set import WalkSet
from monai_plan.latent.walks import WalkSteering
from monai_plan.networks.nets import StyleGenerator
from monai_plan.utils import weights_digest

__all__ = ["Judge", "require_independent", "verify_walks"]

logger = logging.getLogger(__name__)


class Judge:
    """Renders latents with constant noise and judges each image: by the gate, and by the label network if there is one.

    Args:
        generator: what renders the points; only ``synthesize`` is used.
        gate: calibrated on another network than those that steered the walk.
        label_network: images -> logits [B, classes]; ``None`` leaves the class unchecked.
    """

    def __init__(self, generator: StyleGenerator, gate: PrivacyGate, label_network: nn.Module | None = None) -> None:
        self.generator = generator
        self.gate = gate
        self.label_network = label_network
        self.device = device_of(generator)

    @torch.no_grad()
    def __call__(self, latents: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [N, D] and their classes [N] -> accepted by the gate, of the right class: bool [N] each, on the CPU.

        Raises:
            ValueError: an image is not finite, or a label is out of the label network's range.
        """
        networks = [self.generator, *([] if self.label_network is None else [self.label_network])]
        with torch.autocast(self.device.type, enabled=False), eval_mode(*networks):
            images, finite, accepted = render_and_judge(self.generator, self.gate, latents.to(self.device))
            if not finite.all():
                raise ValueError("the generator made an image with NaN or infinite values; its weights may be damaged")
            if self.label_network is None:
                return accepted, torch.ones_like(accepted)
            logits = self.label_network(images)
            if int(labels.max()) >= logits.shape[1]:
                raise ValueError(
                    f"a walk has label {int(labels.max())} and the label network {logits.shape[1]} classes; it was "
                    "trained on another labelling"
                )
            return accepted, logits.argmax(dim=1).cpu() == labels.cpu()

    def require_same_generator(self, walks: WalkSet) -> None:
        """Refuse walks that another generator's images were verified of.

        Raises:
            ValueError: the digests differ.
        """
        if walks.meta.get("generator") != weights_digest(self.generator):
            raise ValueError(
                "the walks were verified with another generator (or never); a verdict holds for the images of one "
                "generator only. Run verify_walks with this one first"
            )


def require_independent(steering: WalkSteering, gate: PrivacyGate) -> None:
    """Refuse a gate that steers: following its gradient finds what it overlooks.

    Raises:
        ValueError: the gate's embedder is the identity network, or has its weights.
    """
    embedder, identity = getattr(gate, "embedder", None), steering.identity_network
    if embedder is None or not any(True for _ in embedder.parameters()):
        same = embedder is not None and embedder is identity
    else:
        same = weights_digest(embedder) == weights_digest(identity)
    if same:
        raise ValueError(
            "the gate's network also steers the walk, so its verdict would be worth nothing. Train a second one for "
            "the steering: the stage train_gate with another seed and gate_file"
        )


def verify_walks(
    points: torch.Tensor,
    labels: torch.Tensor,
    generator: StyleGenerator,
    gate: PrivacyGate,
    label_network: nn.Module | None = None,
    batch_size: int = 32,
    kind: str = "private",
    meta: Mapping[str, Any] | None = None,
) -> WalkSet:
    """Judge every inner point in image space, whatever made it.

    Each inner point is rendered with constant noise and clamped to [-1, 1]. It is verified where the gate accepts the
    image and, if ``label_network`` is given, its most likely class is the path's. The ends are never verified.

    Args:
        points: walks, float32, shape [P, T, D], both ends included, T >= 3.
        labels: the class of each walk, int64, shape [P].
        generator: what renders the points; only ``synthesize`` is used.
        gate: calibrated on another network than those that steered the walk.
        label_network: images -> logits [B, classes]; ``None`` leaves the class unchecked.
        batch_size: images rendered at once, >= 1.
        kind: how the points were found, kept in the result.
        meta: plain JSON values kept in the result.

    Returns:
        The walks on the CPU. ``meta["counts"]`` has ``inner``, ``gate_rejected``, ``class_rejected`` (accepted by the
        gate, but of another class) and ``verified``; they add up until points are repaired.
        ``meta["generator"]`` is the digest of the weights that were looked at: a verdict holds for no other generator.

    Raises:
        ValueError: a shape is wrong or a point is not finite; a label is out of the label network's range.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    points, labels = points.detach().cpu(), labels.cpu()
    verified = torch.zeros(points.shape[:2], dtype=torch.bool)
    walks = WalkSet(points, labels, verified, kind)  # refuses wrong input before anything is rendered
    latents, wanted = points[:, 1:-1].flatten(0, 1), labels.repeat_interleave(points.shape[1] - 2)
    accepted, agreed = torch.zeros(len(latents), dtype=torch.bool), torch.ones(len(latents), dtype=torch.bool)
    judge = Judge(generator, gate, label_network)
    for first in range(0, len(latents), batch_size):
        part = slice(first, first + batch_size)
        accepted[part], agreed[part] = judge(latents[part], wanted[part])
    passed = accepted & agreed
    verified[:, 1:-1] = passed.view(len(points), -1)
    counts = {
        "inner": len(latents),
        "gate_rejected": int((~accepted).sum()),
        "class_rejected": int((accepted & ~agreed).sum()),
        "verified": int(passed.sum()),
    }
    logger.info("verified %(verified)d of %(inner)d points: gate -%(gate_rejected)d, class -%(class_rejected)d", counts)
    return WalkSet(
        walks.points,
        walks.labels,
        verified,
        kind,
        {**dict(meta or {}), "counts": counts, "generator": weights_digest(generator)},
    )
