"""``prepare_batch`` functions that augment whole batches on the device, whatever loader they come from.

Real and synthetic batches thus get the same augmentation, and a loader can be swapped without touching transforms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.engines import default_prepare_batch

from monai_plan.utils import generator_for

__all__ = ["AugmentedPrepareBatch", "TwoViewPrepareBatch"]


class AugmentedPrepareBatch:
    """MONAI's default ``prepare_batch`` followed by augmentation of the images.

    Args:
        augment: ``(images [B, C, H, W], rng) -> images``, e.g. :class:`~monai_plan.networks.layers.AugmentPipe`.
        seed: of the augmentation; every batch draws from (seed, number of the batch).
    """

    def __init__(self, augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor], seed: int = 0) -> None:
        self.augment = augment
        self.seed = seed
        self._batches = 0

    def _next_rng(self) -> torch.Generator:
        self._batches += 1
        return generator_for(self.seed, "augmented batch", self._batches)

    @torch.no_grad()
    def __call__(
        self, batchdata: dict[str, torch.Tensor], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, Any]:
        """A batch with ``image`` and ``label`` gives (images, labels) on ``device``."""
        images, labels = default_prepare_batch(batchdata, device, non_blocking, **kwargs)[:2]
        return self.augment(images.as_subclass(torch.Tensor), self._next_rng()), labels


class TwoViewPrepareBatch(AugmentedPrepareBatch):
    """Two differently augmented views of every image, stacked to [2B, C, H, W], for contrastive training."""

    @torch.no_grad()
    def __call__(
        self, batchdata: dict[str, torch.Tensor], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, Any]:
        """A batch with ``image`` and ``label`` gives (both views, labels) on ``device``."""
        images, labels = default_prepare_batch(batchdata, device, non_blocking, **kwargs)[:2]
        images = images.as_subclass(torch.Tensor)
        return torch.cat([self.augment(images, self._next_rng()) for _ in range(2)]), labels
