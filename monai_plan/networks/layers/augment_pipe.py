"""Differentiable augmentation for discriminators that see few images (StyleGAN2-ADA, Karras et al., NeurIPS 2020).

Every transformation is applied to each image with probability ``p``. Applied to real and generated images alike and
with ``p`` well below one, it does not leak into the samples: see :class:`AugmentPipe`.
"""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

__all__ = ["AugmentPipe"]


class AugmentPipe(nn.Module):
    """Geometric (flip, shift, scale, rotation), intensity (brightness, contrast) and colour (hue, saturation) changes.

    Why nothing leaks (the paper's appendix C): a transformation turns the distribution of images x into the mixture
    (1 - p) x + p E[T x]. It can be undone, so that only equal distributions look equal after it, where 1 - p + p c > 0
    for the characteristic function c of its amount: c >= 0 for a mirror thrown by a coin and for normal amounts, hence
    p < 1; c >= -0.2173 (sin t / t) for uniform shifts and angles, hence p < 0.8215. The amounts are drawn one by one,
    so the whole can be undone where each can. Keep ``p`` at 0.8 or below, as
    :class:`~monai_plan.handlers.AdaptiveAugment` does. (What leaves the frame is lost to this argument.)

    An image for which nothing was drawn comes back bit by bit: with n amounts besides the mirror, that is a share
    (1 - p)^n (1 - p / 2) of the images, n = 7 for grey and 9 for RGB ones.

    Args:
        p: probability of each transformation, in [0, 1]; a buffer, so that it is saved and can be steered.
        flip: allow mirroring left and right.
        shift: largest shift as a fraction of the size.
        log_scale: deviation of the base-2 logarithm of the scale (and of the aspect ratio).
        angle: largest rotation, in radians.
        brightness: deviation of the added brightness, on the [-1, 1] scale.
        log_contrast: deviation of the base-2 logarithm of the contrast.
        hue: largest rotation of the colours about the grey axis, in radians; for images of three channels only.
        log_saturation: deviation of the base-2 logarithm of the saturation; for images of three channels only.
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
        hue: float = math.pi / 6,
        log_saturation: float = 0.4,
    ) -> None:
        super().__init__()
        self.register_buffer("p", torch.tensor(float(p)))
        self.flip = flip
        self.shift = shift
        self.log_scale = log_scale
        self.angle = angle
        self.brightness = brightness
        self.log_contrast = log_contrast
        self.hue = hue
        self.log_saturation = log_saturation

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
        colours = contrast[:, None, None]  # [B, 1, 1], or [B, 3, 3] for RGB
        if images.shape[1] == 3 and (self.hue or self.log_saturation):
            hue = where_applied(uniform(self.hue), 0.0)
            saturation = where_applied(torch.exp2(normal(self.log_saturation)), 1.0)
            colours = colours * _colour_matrix(hue, saturation)
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 coordinates are off by whole pixels
            moved = _move(images.float(), torch.stack(rows, dim=1))
            return _recolour(moved, colours, brightness).to(images.dtype)


def _move(images: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Resample the images [B, C, H, W] whose affine map in ``theta`` [B, 2, 3] (on the CPU) is not the identity."""
    moving = (theta != torch.eye(2, 3)).any(dim=2).any(dim=1).nonzero().flatten()
    if not len(moving):
        return images
    rows = moving.to(images.device)
    chosen = images[rows]
    grid = F.affine_grid(theta[moving].to(images.device), list(chosen.shape), align_corners=False)
    moved = F.grid_sample(chosen, grid, padding_mode="reflection", align_corners=False)
    return moved if len(moving) == len(images) else images.index_copy(0, rows, moved)


def _recolour(images: torch.Tensor, colours: torch.Tensor, brightness: torch.Tensor) -> torch.Tensor:
    """Multiply the channels of images [B, C, H, W] by ``colours`` ([B, 1, 1] or [B, C, C]); add ``brightness`` [B]."""
    colours, brightness = colours.to(images.device), brightness.to(images.device)[:, None, None]
    pixels = images.flatten(2)
    pixels = pixels * colours if colours.shape[1] == 1 else colours @ pixels
    return (pixels + brightness).unflatten(2, images.shape[2:])


def _colour_matrix(hue: torch.Tensor, saturation: torch.Tensor) -> torch.Tensor:
    """Rotate by ``hue`` [B] about the grey axis (Rodrigues) and scale by ``saturation`` [B] across it: [B, 3, 3]."""
    grey = torch.full((3, 3), 1 / 3)
    turn = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    cos, sin = ((saturation * f(hue))[:, None, None] for f in (torch.cos, torch.sin))
    return grey + cos * (torch.eye(3) - grey) + sin * turn
