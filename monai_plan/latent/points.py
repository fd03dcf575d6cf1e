"""What holds for labelled latents of any kind, anchors and walks alike."""

from __future__ import annotations

import torch

__all__ = ["check_labelled_points"]


def check_labelled_points(name: str, points: torch.Tensor, labels: torch.Tensor) -> None:
    """Refuse latents that are not finite float32 with one int64 label a row.

    Args:
        name: what the latents are called in the error.
        points: latents, any shape with the rows first.
        labels: shape [rows], int64, >= 0.

    Raises:
        ValueError: dtype, shape or value is wrong.
    """
    if points.dtype != torch.float32 or labels.dtype != torch.int64:
        raise ValueError(
            f"{name} must be float32 with int64 labels, got {points.dtype} and {labels.dtype}; "
            "convert them with .float() and .long()"
        )
    if labels.shape != points.shape[:1]:
        raise ValueError(f"{name} {tuple(points.shape)} need one label a row, got labels {tuple(labels.shape)}")
    if not torch.isfinite(points).all():
        raise ValueError(f"{name} hold NaN or infinite values; the stage that made them diverged, run it again")
    if labels.numel() and int(labels.min()) < 0:
        raise ValueError(f"labels of {name} must be >= 0, got {int(labels.min())}; unlabelled images cannot be anchors")
