"""Class-conditional style-based generator (StyleGAN2, Karras et al., CVPR 2020; conditioning as in StyleGAN2-ADA)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_plan.networks.layers.equalized import EqualizedLinear
from monai_plan.networks.layers.modulated_conv import ModulatedConv2d, ToImage
from monai_plan.networks.layers.resample import upsample
from monai_plan.networks.nets.saved_network import SavedNetwork

__all__ = ["MappingNetwork", "StyleGenerator", "channels_at", "resolutions"]


def resolutions(image_size: int) -> list[int]:
    """4, 8, … up to ``image_size``.

    Raises:
        ValueError: ``image_size`` is no power of two of at least 8.
    """
    if image_size < 8 or image_size & (image_size - 1):
        raise ValueError(f"image_size is {image_size}; it must be a power of two from 8 up, e.g. 64, 128 or 256")
    return [1 << power for power in range(2, image_size.bit_length())]


def channels_at(size: int, channel_base: int, channel_max: int) -> int:
    """Feature maps at a resolution: ``channel_base / size``, at most ``channel_max``.

    Raises:
        ValueError: there would be none.
    """
    width = min(channel_base // size, channel_max)
    if width < 1:
        raise ValueError(
            f"channel_base {channel_base} and channel_max {channel_max} leave no feature maps at {size} x {size} "
            f"pixels; give a channel_base of at least {size} (1024 is small, 16384 is StyleGAN2-ADA's at 256)"
        )
    return width


def _unit_second_moment(x: torch.Tensor) -> torch.Tensor:
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class MappingNetwork(nn.Module):
    """Latent z and one-hot label to the style latent w.

    Args:
        z_dim: size of z; 0 for the label-only mapping of a discriminator.
        num_classes: size of the one-hot label; 0 for none.
        w_dim: size of w.
        layers: fully connected layers.
    """

    def __init__(self, z_dim: int, num_classes: int, w_dim: int, layers: int) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.embed = EqualizedLinear(num_classes, w_dim) if num_classes else None
        width = z_dim + (w_dim if num_classes else 0)
        self.layers = nn.ModuleList(
            EqualizedLinear(width if i == 0 else w_dim, w_dim, lr_multiplier=0.01, activate=True) for i in range(layers)
        )

    def forward(self, z: torch.Tensor | None, one_hot: torch.Tensor | None) -> torch.Tensor:
        """``z`` [B, z_dim] (or ``None``) and ``one_hot`` [B, num_classes] (or ``None``) give w [B, w_dim]."""
        parts = []
        if z is not None and self.z_dim:
            parts.append(_unit_second_moment(z.float()))
        if self.embed is not None and one_hot is not None:
            parts.append(_unit_second_moment(self.embed(one_hot.float())))
        x = torch.cat(parts, dim=1)
        for layer in self.layers:
            x = layer(x)
        return x


class _SynthesisBlock(nn.Module):
    """One resolution: convolutions in feature space and the skip to the image."""

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, size: int, channels: int, clamp: float | None
    ) -> None:
        super().__init__()
        self.up = None if in_channels == 0 else ModulatedConv2d(in_channels, out_channels, w_dim, size, 2, clamp)
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, size, size))
        self.conv = ModulatedConv2d(out_channels, out_channels, w_dim, size, 1, clamp)
        self.to_image = ToImage(out_channels, channels, w_dim, clamp)

    @property
    def styles(self) -> int:
        """How many w vectors the block consumes (its to_image shares the next block's first)."""
        return 1 if self.up is None else 2

    def forward(
        self,
        x: torch.Tensor | None,
        image: torch.Tensor | None,
        ws: list[torch.Tensor],
        noise: str,
        rng: torch.Generator | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.up is None:
            x = self.const.expand(ws[0].shape[0], *self.const.shape)
            x = x.contiguous(memory_format=torch.channels_last)
        else:
            x = self.up(x, ws[0], noise, rng)
        x = self.conv(x, ws[-2], noise, rng)
        part = self.to_image(x, ws[-1]).float()
        return x, part if image is None else upsample(image) + part


class StyleGenerator(SavedNetwork):
    """Latent z and label to an image, by way of w; the skip ("input/output skips") architecture.

    Args:
        image_size: height and width, a power of two from 8 up.
        channels: image channels (1 grey, 3 RGB).
        num_classes: number of labels (at least 1).
        z_dim: size of the input latent.
        w_dim: size of the style latent, the space of the walks.
        mapping_layers: fully connected layers from z to w.
        channel_base: feature maps at a resolution r are ``channel_base / r`` ...
        channel_max: ... but at most this many.
        clamp: bound of the activations for half precision, or ``None``.

    Raises:
        ValueError: a size that cannot be.
    """

    schema = "style_generator"
    w_avg: torch.Tensor

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 1,
        num_classes: int = 2,
        z_dim: int = 128,
        w_dim: int = 128,
        mapping_layers: int = 2,
        channel_base: int = 2048,
        channel_max: int = 128,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1 or channels < 1:
            raise ValueError(f"num_classes is {num_classes} and channels {channels}; both must be at least 1")
        self.config = {
            "image_size": image_size,
            "channels": channels,
            "num_classes": num_classes,
            "z_dim": z_dim,
            "w_dim": w_dim,
            "mapping_layers": mapping_layers,
            "channel_base": channel_base,
            "channel_max": channel_max,
            "clamp": clamp,
        }
        self.image_size, self.channels, self.num_classes = image_size, channels, num_classes
        self.z_dim, self.w_dim = z_dim, w_dim
        self.mapping = MappingNetwork(z_dim, num_classes, w_dim, mapping_layers)
        sizes = resolutions(image_size)
        widths = [0] + [channels_at(size, channel_base, channel_max) for size in sizes]
        blocks = [
            _SynthesisBlock(widths[i], widths[i + 1], w_dim, size, channels, clamp) for i, size in enumerate(sizes)
        ]
        self.blocks = nn.ModuleList(blocks)
        self._styles = [block.styles for block in blocks]
        self.num_ws = sum(self._styles) + 1
        self.register_buffer("w_avg", torch.zeros(w_dim))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def map_latents(self, z: torch.Tensor, labels: torch.Tensor, truncation: float = 1.0) -> torch.Tensor:
        """z [B, z_dim] and labels int64 [B] to w [B, w_dim]; ``truncation`` psi < 1 pulls w towards its mean."""
        w = self.mapping(z, F.one_hot(labels.long(), self.num_classes))
        return w if truncation == 1.0 else torch.lerp(self.w_avg, w, truncation)

    def synthesize(self, w: torch.Tensor, noise: str = "const", rng: torch.Generator | None = None) -> torch.Tensor:
        """Render style latents.

        Args:
            w: [B, w_dim] (one vector for every layer) or [B, num_ws, w_dim].
            noise: "const" (the same at every call), "random" or "none".
            rng: where random noise is drawn from, on ``w``'s device.

        Returns:
            [B, channels, image_size, image_size], about [-1, 1], not clamped.
        """
        ws = w.unsqueeze(1).expand(-1, self.num_ws, -1) if w.ndim == 2 else w
        if ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(
                f"w has shape {tuple(w.shape)}; this generator takes [B, {self.w_dim}] or [B, {self.num_ws}, "
                f"{self.w_dim}]. The latents may belong to another generator"
            )
        per_layer = list(ws.unbind(dim=1))
        x: Any = None
        image: Any = None
        first = 0
        for block, styles in zip(self.blocks, self._styles, strict=True):
            x, image = block(x, image, per_layer[first : first + styles + 1], noise, rng)
            first += styles
        return image

    def forward(
        self,
        z: torch.Tensor,
        labels: torch.Tensor,
        truncation: float = 1.0,
        noise: str = "random",
        rng: torch.Generator | None = None,
    ) -> torch.Tensor:
        """z [B, z_dim] and labels int64 [B] to images [B, channels, image_size, image_size]."""
        return self.synthesize(self.map_latents(z, labels, truncation), noise, rng)
