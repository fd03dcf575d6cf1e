"""``prepare_batch`` functions that augment whole batches on the device, whatever loader they come from.

Real and synthetic batches thus get the same augmentation, and a loader can be swapped without touching transforms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.engines import default_prepare_batch
from torch import nn

from monai_plan.utils import generator_for

__all__ = ["AugmentedPrepareBatch", "TaughtPrepareBatch", "TwoViewPrepareBatch"]


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


class TaughtPrepareBatch(AugmentedPrepareBatch):
    """Augmented images with soft labels: what trained networks say of each image as it is shown.

    The student sees the very views that its teachers answer for, and blends of two images, for which the teachers have
    an answer too (Beyer et al., CVPR 2022: knowledge distillation by function matching). Soft labels are what a loss
    such as ``torch.nn.CrossEntropyLoss`` takes in the place of class numbers.

    Args:
        augment: see :class:`AugmentedPrepareBatch`.
        teachers: images -> logits [B, K]; frozen and put into evaluation mode for good, and moved to where they are
            needed. One or more; their probabilities are averaged.
        mix: blend each image with another one of its batch, keeping 0.5 .. 1 of itself (mixup: Zhang et al., ICLR
            2018; the labels are the teachers' answers about the blend).
        seed: of augmentation and blends.

    Raises:
        ValueError: there is no teacher.
    """

    def __init__(
        self,
        augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor],
        teachers: Sequence[nn.Module],
        mix: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(augment, seed)
        if not teachers:
            raise ValueError("no teacher was given; give one network or more, or take AugmentedPrepareBatch")
        frozen = [teacher.eval().requires_grad_(False) for teacher in teachers]
        # a third less time for small networks on a CPU
        self.teachers = [teacher.to(memory_format=torch.channels_last) for teacher in frozen]  # type: ignore[call-overload]
        self.mix = mix

    @torch.no_grad()
    def __call__(
        self, batchdata: dict[str, torch.Tensor], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, Any]:
        """A batch with ``image`` gives (images, probabilities [B, K]) on ``device``; its labels are not read."""
        images, _ = super().__call__(batchdata, device, non_blocking, **kwargs)
        if self.mix:
            rng = self._next_rng()
            own = 0.5 + 0.5 * torch.rand(len(images), 1, 1, 1, generator=rng)
            partner = torch.randperm(len(images), generator=rng)
            images = torch.lerp(images[partner.to(images.device)], images, own.to(images))
        answers = [teacher.to(images.device)(images).softmax(dim=1) for teacher in self.teachers]
        return images, torch.stack(answers).mean(dim=0)
