"""Linear and convolution layers with equalised learning rate (Karras et al., ICLR 2018, section 4.1).

Weights are stored at unit variance and scaled in the forward pass, so that every layer learns at the same speed.
"""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_plan.networks.layers.resample import blur

__all__ = ["LRELU_GAIN", "LRELU_SLOPE", "EqualizedConv2d", "EqualizedLinear", "lrelu_"]


LRELU_GAIN = math.sqrt(2.0)  # keeps the second moment through the leaky ReLU
LRELU_SLOPE = 0.2  # of its negative half


def lrelu_(x: torch.Tensor, bound: float | None = None) -> torch.Tensor:
    """Leaky ReLU (slope ``LRELU_SLOPE``) of ``x``, which is overwritten; then clamped to +-``bound`` if given.

    Positive factors pass through it: callers scale weights and biases by ``LRELU_GAIN`` instead of the activations.
    """
    x = F.leaky_relu_(x, LRELU_SLOPE)
    return x if bound is None else x.clamp(-bound, bound)


class EqualizedLinear(nn.Module):
    """``y = x @ W.T * lr_multiplier / sqrt(in) + bias * lr_multiplier``, then a leaky ReLU if ``activate``.

    Args:
        in_features: size of the last axis of the input.
        out_features: size of the last axis of the output.
        bias_init: initial value of the effective bias.
        lr_multiplier: learning speed relative to the other layers (0.01 in mapping networks).
        activate: apply the leaky ReLU.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias_init: float = 0.0,
        lr_multiplier: float = 1.0,
        activate: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier
        self.activate = activate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gain = LRELU_GAIN if self.activate else 1.0
        y = F.linear(x, self.weight * (self.weight_gain * gain), self.bias * (self.bias_gain * gain))
        return lrelu_(y) if self.activate else y


class EqualizedConv2d(nn.Module):
    """Same-size or halving convolution with equalised learning rate; the halving one low-passes first.

    Args:
        in_channels, out_channels: channels.
        kernel_size: 1 or 3.
        bias: add a bias.
        activate: apply the leaky ReLU.
        down: 1, or 2 to halve the image.
        clamp: bound of the activations before the gain (needed in half precision), or ``None``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activate: bool = True,
        down: int = 1,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = 1.0 / math.sqrt(in_channels * kernel_size**2)
        self.activate = activate
        self.down = down
        self.clamp = clamp

    def forward(self, x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
        """``x`` is [B, C_in, H, W]; returns [B, C_out, H / down, W / down], scaled by ``gain``."""
        bound = None if self.clamp is None else self.clamp * gain
        gain = gain * LRELU_GAIN if self.activate else gain
        weight = self.weight * (self.weight_gain * gain)
        bias = None if self.bias is None else self.bias * gain
        kernel = weight.shape[-1]
        if kernel == 1:  # a matrix product, whose result is channels-last whatever the input
            x = x if self.down == 1 else blur(x, padding=(1, 1), stride=2)
            pixels = x.permute(0, 2, 3, 1)
            y = F.linear(pixels.flatten(0, 2), weight.flatten(1), bias)
            y = lrelu_(y, bound) if self.activate else y
            return y.unflatten(0, pixels.shape[:3]).permute(0, 3, 1, 2)
        if self.down == 1:
            y = F.conv2d(x, weight, bias, padding=1)
        else:
            y = F.conv2d(blur(x, padding=(2, 2)), weight, bias, stride=2)
        return lrelu_(y, bound) if self.activate else y
