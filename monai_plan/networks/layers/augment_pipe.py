"""Differentiable augmentation for discriminators that see few images (StyleGAN2-ADA, Karras et al., NeurIPS 2020).

Every transformation is applied to each image with probability ``p``. Applied to real and generated images alike and
with ``p`` well below one, it does not leak into the samples.
"""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

__all__ = ["AugmentPipe"]


class AugmentPipe(nn.Module):
    """Geometric (flip, shift, scale, rotation) and intensity (brightness, contrast) augmentation.

    Args:
        p: probability of each transformation, in [0, 1]; a buffer, so that it is saved and can be steered.
        flip: allow mirroring left and right.
        shift: largest shift as a fraction of the size.
        log_scale: deviation of the base-2 logarithm of the scale (and of the aspect ratio).
        angle: largest rotation, in radians.
        brightness: deviation of the added brightness, on the [-1, 1] scale.
        log_contrast: deviation of the base-2 logarithm of the contrast.
    """

    p: torch.Tensor

    def __init__(
        self,
        p: float = 0.0,
        flip: bool = True,
        shift: float = 0.125,
        log_scale: float = 0.2,
        angle: float = math.pi / 6,
        brightness: float = 0.2,
        log_contrast: float = 0.4,
    ) -> None:
        super().__init__()
        self.register_buffer("p", torch.tensor(float(p)))
        self.flip = flip
        self.shift = shift
        self.log_scale = log_scale
        self.angle = angle
        self.brightness = brightness
        self.log_contrast = log_contrast

    def forward(self, images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Augment ``images`` [B, C, H, W] (range [-1, 1], dtype kept) with draws from ``rng`` (on the CPU)."""
        p = float(self.p)
        if p <= 0:
            return images
        batch = images.shape[0]

        def where_applied(values: torch.Tensor, neutral: float) -> torch.Tensor:
            applied = torch.rand(batch, generator=rng) < p
            return torch.where(applied, values, torch.full_like(values, neutral))

        def uniform(limit: float) -> torch.Tensor:
            return (torch.rand(batch, generator=rng) * 2 - 1) * limit

        def normal(deviation: float) -> torch.Tensor:
            return torch.randn(batch, generator=rng) * deviation

        mirrored = where_applied(torch.randint(0, 2, (batch,), generator=rng) * 2.0 - 1.0, 1.0)
        zoom = where_applied(torch.exp2(normal(self.log_scale)), 1.0)
        aspect = where_applied(torch.exp2(normal(self.log_scale)), 1.0)
        angle = where_applied(uniform(self.angle), 0.0)
        shift_x, shift_y = (where_applied(uniform(2 * self.shift), 0.0) for _ in range(2))
        brightness = where_applied(normal(self.brightness), 0.0)
        contrast = where_applied(torch.exp2(normal(self.log_contrast)), 1.0)

        scale_x = zoom * aspect * (mirrored if self.flip else 1.0)
        scale_y = zoom / aspect
        cos, sin = angle.cos(), angle.sin()
        rows = [
            torch.stack([cos * scale_x, -sin * scale_y, shift_x], 1),
            torch.stack([sin * scale_x, cos * scale_y, shift_y], 1),
        ]
        theta = torch.stack(rows, dim=1).to(images.device)
        contrast, brightness = (v.to(images.device)[:, None, None, None] for v in (contrast, brightness))
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 coordinates are off by whole pixels
            grid = F.affine_grid(theta, list(images.shape), align_corners=False)
            moved = F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)
        return (moved * contrast + brightness).to(images.dtype)
