"""The guide: a small network in W that answers as the identity and label networks would answer to a latent's image."""

from __future__ import annotations

import torch
from torch import nn

from monai_plan.networks.nets.saved_network import SavedNetwork

__all__ = ["LatentGuide"]


class LatentGuide(SavedNetwork):
    """A residual multilayer perceptron from w to two outputs. It steers walks and certifies nothing.

    One step through it costs about a ten-thousandth of a step through generator and classifiers at 256 px. Train it
    with :func:`monai_plan.latent.train_guide`.

    Args:
        w_dim: size of w.
        identity_size: width of the identity network's output: patients (logits), or an embedding's size.
        num_classes: classes of the label network.
        width: hidden units.
        depth: residual layers, >= 1.
    """

    schema = "latent_guide"
    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, w_dim: int, identity_size: int, num_classes: int, width: int = 256, depth: int = 3) -> None:
        super().__init__()
        if min(w_dim, identity_size, num_classes, width, depth) < 1:
            raise ValueError(
                f"all sizes must be at least 1, got w_dim {w_dim}, identity_size {identity_size}, num_classes "
                f"{num_classes}, width {width} and depth {depth}"
            )
        self.config = {
            "w_dim": w_dim,
            "identity_size": identity_size,
            "num_classes": num_classes,
            "width": width,
            "depth": depth,
        }
        self.register_buffer("mean", torch.zeros(w_dim))
        self.register_buffer("deviation", torch.ones(w_dim))
        self.first = nn.Linear(w_dim, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(depth)
        )
        self.last = nn.Sequential(nn.SiLU(), nn.Linear(width, identity_size + num_classes))

    @torch.no_grad()
    def standardise(self, latents: torch.Tensor) -> None:
        """Set the inputs' mean and deviation from latents [N, w_dim], N >= 2, before training."""
        self.mean.copy_(latents.mean(dim=0))
        self.deviation.copy_(latents.std(dim=0).clamp_min(1e-6))

    def forward(self, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [N, w_dim] -> identity output [N, identity_size] and label logits [N, num_classes]."""
        x = self.first((w - self.mean) / self.deviation)
        for layer in self.layers:
            x = x + layer(x)
        identity, label = self.last(x).split([self.config["identity_size"], self.config["num_classes"]], dim=1)
        return identity, label
