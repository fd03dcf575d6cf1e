"""The encoder: from an image to where inversion should begin in W."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_plan.networks.nets.narrow_resnet import narrow_resnet
from monai_plan.networks.nets.saved_network import SavedNetwork

__all__ = ["LatentEncoder"]


class LatentEncoder(SavedNetwork):
    """MONAI's 2D ResNet from images to latents. Train it with :func:`monai_plan.latent.fit_encoder`.

    Args:
        w_dim: size of w.
        channels: image channels.
        layers: basic blocks of each of the four stages.
        block_inplanes: channels of each of the four stages.

    Raises:
        ValueError: a size is below 1, or there are not four stages.
    """

    schema = "latent_encoder"
    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(
        self,
        w_dim: int,
        channels: int = 1,
        layers: Sequence[int] = (1, 1, 1, 1),
        block_inplanes: Sequence[int] = (32, 64, 128, 256),
    ) -> None:
        super().__init__()
        sizes = (w_dim, channels, *layers, *block_inplanes)
        if len(layers) != 4 or len(block_inplanes) != 4 or min(sizes) < 1:
            raise ValueError(
                f"w_dim, channels, and layers and widths of four stages must be at least 1, got {w_dim}, {channels}, "
                f"{list(layers)} and {list(block_inplanes)}"
            )
        self.config = {
            "w_dim": w_dim,
            "channels": channels,
            "layers": list(layers),
            "block_inplanes": list(block_inplanes),
        }
        self.register_buffer("mean", torch.zeros(w_dim))
        self.register_buffer("deviation", torch.ones(w_dim))
        self.network = narrow_resnet(channels, w_dim, layers, block_inplanes)

    @torch.no_grad()
    def standardise(self, latents: torch.Tensor) -> None:
        """Set the outputs' mean and deviation from latents [N, w_dim], N >= 2, on any device, before training."""
        self.mean.copy_(latents.mean(dim=0))
        self.deviation.copy_(latents.std(dim=0).clamp_min(1e-6))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] in [-1, 1] -> latents [B, w_dim]."""
        return self.mean + self.deviation * self.network(images)
