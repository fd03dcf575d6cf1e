"""The amortised walker: a network that proposes a whole path in one forward pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from monai_plan.networks.nets.saved_network import SavedNetwork

__all__ = ["WalkNetwork"]


class WalkNetwork(SavedNetwork):
    """From two ends and their class to how far the control points of the path leave the straight line.

    The path from b to a is the path from a to b backwards: both directions are computed and averaged. Train it with
    :func:`monai_plan.latent.train_walk_network`.

    Args:
        w_dim: size of w.
        num_classes: classes.
        control_points: inner points that it proposes.
        width: hidden units.
        depth: residual layers, >= 1.
    """

    schema = "walk_network"
    mean: torch.Tensor
    deviation: torch.Tensor
    offset_scale: torch.Tensor

    def __init__(self, w_dim: int, num_classes: int, control_points: int = 8, width: int = 256, depth: int = 2) -> None:
        super().__init__()
        if min(w_dim, num_classes, control_points, width, depth) < 1:
            raise ValueError(
                f"all sizes must be at least 1, got w_dim {w_dim}, num_classes {num_classes}, control_points "
                f"{control_points}, width {width} and depth {depth}"
            )
        self.config = {
            "w_dim": w_dim,
            "num_classes": num_classes,
            "control_points": control_points,
            "width": width,
            "depth": depth,
        }
        self.register_buffer("mean", torch.zeros(w_dim))
        self.register_buffer("deviation", torch.ones(w_dim))
        self.register_buffer("offset_scale", torch.ones(()))
        self.first = nn.Linear(2 * w_dim + num_classes, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(depth)
        )
        self.last = nn.Sequential(nn.SiLU(), nn.Linear(width, control_points * w_dim))

    @torch.no_grad()
    def standardise(self, ends: torch.Tensor, offsets: torch.Tensor) -> None:
        """Set the scales from ends [N, w_dim] and offsets [P, K, w_dim] before training."""
        self.mean.copy_(ends.mean(dim=0))
        self.deviation.copy_(ends.std(dim=0).clamp_min(1e-6))
        self.offset_scale.copy_(offsets.square().mean().sqrt().clamp_min(1e-6))

    def forward(self, start: torch.Tensor, end: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """``start`` and ``end`` [P, w_dim], ``labels`` int64 [P] -> offsets of the control points [P, K, w_dim]."""
        return (self._one_way(start, end, labels) + self._one_way(end, start, labels).flip(1)) / 2

    def _one_way(self, start: torch.Tensor, end: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        one_hot = F.one_hot(labels, self.config["num_classes"]).to(start)
        ends = [(point - self.mean) / self.deviation for point in (start, end)]
        x = self.first(torch.cat([*ends, one_hot], dim=1))
        for layer in self.layers:
            x = x + layer(x)
        offsets = self.last(x).unflatten(1, (self.config["control_points"], self.config["w_dim"]))
        return offsets * self.offset_scale
