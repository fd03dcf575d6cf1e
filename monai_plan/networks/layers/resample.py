"""Low-pass filtering with the binomial kernel [1, 3, 3, 1] for alias-free resampling (StyleGAN2, appendix B)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["blur", "upsample"]

_TAPS = (1.0, 3.0, 3.0, 1.0)


def _kernel(like: torch.Tensor, gain: float) -> torch.Tensor:
    taps = torch.tensor(_TAPS, dtype=like.dtype, device=like.device)
    square = torch.outer(taps, taps)
    return (square * (gain / square.sum())).expand(like.shape[1], 1, 4, 4)


def blur(x: torch.Tensor, padding: tuple[int, int], gain: float = 1.0, stride: int = 1) -> torch.Tensor:
    """Filter each channel of ``x`` [B, C, H, W] with the normalised 4x4 binomial kernel times ``gain``.

    ``padding`` is (before, after), the same on both axes.
    """
    before, after = padding
    if before != after:
        x = F.pad(x, (before, after, before, after))
        before = 0
    return F.conv2d(x, _kernel(x, gain), padding=before, stride=stride, groups=x.shape[1])


def upsample(x: torch.Tensor) -> torch.Tensor:
    """Double the size of ``x`` [B, C, H, W] (zero insertion, then the low-pass filter)."""
    return F.conv_transpose2d(x, _kernel(x, 4.0), stride=2, padding=1, groups=x.shape[1])
