"""Finished walks: their points, their class, and which points may be shown."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from monai_plan.latent.points import check_labelled_points
from monai_plan.utils import load_tensors, save_tensors

__all__ = ["WalkSet"]


@dataclass(frozen=True)
class WalkSet:
    """P paths of T points in W.

    Attributes:
        points: float32, shape [P, T, D], both ends included, T >= 3.
        labels: the class of each path, int64, shape [P].
        verified: bool, shape [P, T]: the point's image, with constant noise, passed the gate and, if one was asked, the
            label network agreed with the class. The ends are never verified: no term of the loss protects them.
        kind: how the inner points were found, e.g. ``"private"`` or ``"linear"``.
        meta: plain JSON values (seeds, counts, hashes); never patients' names or ids.

    Raises:
        ValueError: a shape, dtype or value is wrong, or an end is marked as verified.
    """

    points: torch.Tensor
    labels: torch.Tensor
    verified: torch.Tensor
    kind: str
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.points.ndim != 3 or self.points.shape[1] < 3:
            raise ValueError(f"walks must be [P, T, D] with T >= 3, got {tuple(self.points.shape)}")
        check_labelled_points("walks", self.points, self.labels)
        if self.verified.dtype != torch.bool or self.verified.shape != self.points.shape[:2]:
            raise ValueError(
                f"verified must be bool {tuple(self.points.shape[:2])}, got {self.verified.dtype} "
                f"{tuple(self.verified.shape)}"
            )
        if self.verified[:, 0].any() or self.verified[:, -1].any():
            raise ValueError("the ends of a walk are unprotected anchors and cannot be verified; set them to False")

    def __len__(self) -> int:
        return len(self.points)

    def save(self, path: str | os.PathLike) -> Path:
        """Write the walks as tensors only (schema ``walk_set``)."""
        tensors = {"points": self.points, "labels": self.labels, "verified": self.verified}
        return save_tensors(path, tensors, schema="walk_set", meta={"kind": self.kind, "meta": self.meta})

    @classmethod
    def load(cls, path: str | os.PathLike) -> WalkSet:
        """Read a file of :meth:`save`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is broken or of another kind.
        """
        kinds = {"kind": str, "meta": dict}
        names = ("points", "labels", "verified")
        tensors, header = load_tensors(path, "walk_set", names=names, meta_kinds=kinds)
        return cls(tensors["points"], tensors["labels"], tensors["verified"], header["kind"], header["meta"])
