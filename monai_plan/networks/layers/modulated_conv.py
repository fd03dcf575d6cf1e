"""Weight-demodulated convolution, computed without per-sample weights.

StyleGAN2 (Karras et al., CVPR 2020, equations 1 and 3) scales the weights by each sample's style and normalises them.
Scaling the *input* by the style and the *output* by the demodulation coefficient is the same function, and it runs as
one ordinary convolution for the whole batch: no grouped convolution, which is slow on CPUs.
"""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_plan.networks.layers.equalized import LRELU_GAIN, EqualizedLinear, lrelu_
from monai_plan.networks.layers.resample import blur

__all__ = ["ModulatedConv2d", "ToImage"]


class ModulatedConv2d(nn.Module):
    """Modulate, 3x3 convolution, demodulate, noise, bias, leaky ReLU.

    Args:
        in_channels, out_channels: channels.
        w_dim: size of the style latent.
        size: height and width of the output.
        up: 1, or 2 to double the image.
        clamp: bound of the activations, or ``None``.
    """

    noise_const: torch.Tensor

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, size: int, up: int = 1, clamp: float | None = None
    ) -> None:
        super().__init__()
        self.affine = EqualizedLinear(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(size, size))
        self.up = up
        self.size = size
        self.clamp = clamp

    def forward(
        self, x: torch.Tensor, w: torch.Tensor, noise: str = "const", rng: torch.Generator | None = None
    ) -> torch.Tensor:
        """``x`` [B, C_in, H, W] and ``w`` [B, w_dim] give [B, C_out, size, size]; ``noise``: const, random or none."""
        with torch.autocast(w.device.type, enabled=False):  # squares of styles leave the range of float16
            styles = self.affine(w.to(self.weight.dtype))
            demodulation = (styles.square() @ self.weight.square().sum(dim=(2, 3)).t() + 1e-8).rsqrt()
        x = x * styles[:, :, None, None].to(x.dtype)
        if self.up == 1:
            x = F.conv2d(x, self.weight, padding=1)
        else:
            x = blur(F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2), padding=(1, 1), gain=4.0)
        scale = (demodulation * LRELU_GAIN)[:, :, None, None].to(x.dtype)
        x = x * scale if x.requires_grad else x.mul_(scale)
        shift = (self.bias * LRELU_GAIN)[:, None, None]
        strength = self.noise_strength * LRELU_GAIN
        if noise == "const":
            shift = shift + self.noise_const * strength
        elif noise == "random":
            drawn = torch.randn(x.shape[0], 1, self.size, self.size, device=x.device, generator=rng)
            x.add_((drawn * strength).to(x.dtype))
        elif noise != "none":
            raise ValueError(f"noise is '{noise}'; choose 'const' (replayable), 'random' or 'none'")
        x.add_(shift.to(x.dtype))
        return lrelu_(x, self.clamp)


class ToImage(nn.Module):
    """Modulated 1x1 convolution to image channels, without demodulation."""

    def __init__(self, in_channels: int, channels: int, w_dim: int, clamp: float | None = None) -> None:
        super().__init__()
        self.affine = EqualizedLinear(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.weight_gain = 1.0 / math.sqrt(in_channels)
        self.clamp = clamp

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        styles = self.affine(w) * self.weight_gain
        weights = styles[:, :, None] * self.weight[:, :, 0, 0].t()
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
        y = torch.baddbmm(self.bias.to(x.dtype), pixels, weights.to(x.dtype))
        y = y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)
