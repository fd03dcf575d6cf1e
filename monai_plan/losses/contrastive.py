"""Contrastive loss on two stacked views, in the shape in which MONAI's trainers call a loss."""

from __future__ import annotations

import torch
from monai.losses import ContrastiveLoss
from torch import nn

__all__ = ["TwoViewContrastiveLoss"]


class TwoViewContrastiveLoss(nn.Module):
    """MONAI's ``ContrastiveLoss`` (Chen et al., SimCLR, ICML 2020) for one batch that holds two views of each image.

    Args:
        temperature: > 0; smaller values push near neighbours apart harder.

    Raises:
        ValueError: ``temperature`` <= 0.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {temperature}; 0.1 to 0.5 are usual")
        self.loss = ContrastiveLoss(temperature=temperature)

    def forward(self, pred: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        """The mean loss of a batch.

        Args:
            pred: embeddings [2B, E], B >= 2: rows 0 .. B-1 are first views, rows B .. 2B-1 the second views of the same
                images in the same order.
            target: ignored; there because ``monai.engines.SupervisedTrainer`` passes one.

        Raises:
            ValueError: ``pred`` is not [2B, E] with B >= 2.
        """
        if pred.ndim != 2 or len(pred) % 2 or len(pred) < 4:
            raise ValueError(
                f"two stacked views [2B, E] with B >= 2 expected, got {tuple(pred.shape)}; stack them with "
                "torch.cat([first, second]) and drop a last batch of one image"
            )
        first, second = pred.float().chunk(2)
        return self.loss(first, second)
