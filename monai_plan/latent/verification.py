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
from monai_plan.latent.walk_set import WalkSet
from monai_plan.networks.nets import StyleGenerator
from monai_plan.utils import weights_digest

__all__ = ["verify_walks"]

logger = logging.getLogger(__name__)


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
        gate, but of another class) and ``verified``; they add up. ``meta["generator"]`` is the digest of the weights
        that were looked at: a verdict holds for no other generator.

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
    device = device_of(generator)
    with eval_mode(generator, *([] if label_network is None else [label_network])):
        for first in range(0, len(latents), batch_size):
            part = slice(first, first + batch_size)
            images = generator.synthesize(latents[part].to(device), noise="const").float()
            if not torch.isfinite(images).all():
                raise ValueError("the generator made an image with NaN or infinite values; its weights may be damaged")
            images = images.clamp(-1, 1)
            accepted[part] = gate.accepts(images).cpu()
            if label_network is not None:
                logits = label_network(images)
                if int(wanted.max()) >= logits.shape[1]:
                    raise ValueError(
                        f"a walk has label {int(wanted.max())} and the label network {logits.shape[1]} classes; it was "
                        "trained on another labelling"
                    )
                agreed[part] = logits.argmax(dim=1).cpu() == wanted[part]
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
