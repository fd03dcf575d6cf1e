"""A narrow ResNet that maps images of one patient close together, for the gate and for distances."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from monai_plan.networks.nets.narrow_resnet import narrow_resnet
from monai_plan.networks.nets.saved_network import restored
from monai_plan.utils import load_tensors, save_tensors

__all__ = ["IdentityEmbedder"]


class IdentityEmbedder(nn.Module):
    """MONAI's 2D ResNet with a linear head, scaled to unit length.

    Train it with :class:`~monai_plan.losses.TwoViewContrastiveLoss` on two random views of each image.

    Args:
        channels: image channels.
        embedding_size: width E of the embedding.
        layers: basic blocks of each of the four stages.
        block_inplanes: channels of each of the four stages; ResNet-18 has (64, 128, 256, 512).
    """

    def __init__(
        self,
        channels: int = 1,
        embedding_size: int = 128,
        layers: Sequence[int] = (1, 1, 1, 1),
        block_inplanes: Sequence[int] = (32, 64, 128, 256),
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "channels": channels,
            "embedding_size": embedding_size,
            "layers": list(layers),
            "block_inplanes": list(block_inplanes),
        }
        self.network = narrow_resnet(channels, embedding_size, layers, block_inplanes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] in [-1, 1] -> embeddings of unit length [B, E]."""
        return F.normalize(self.network(images), dim=1)

    def save(self, path: str | os.PathLike) -> Path:
        """Write weights and constructor arguments as tensors only (schema ``identity_embedder``)."""
        return save_tensors(path, self.state_dict(), schema="identity_embedder", meta=self.arguments)

    @classmethod
    def load(cls, path: str | os.PathLike) -> IdentityEmbedder:
        """Read a file of :meth:`save`, in evaluation mode on the CPU.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is broken or of another kind.
        """
        tensors, arguments = load_tensors(path, schema="identity_embedder")
        return restored(cls, arguments, tensors, path).eval()
