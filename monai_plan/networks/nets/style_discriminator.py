"""Class-conditional residual discriminator (StyleGAN2; projection by a mapped label as in StyleGAN2-ADA)."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_plan.networks.layers.equalized import EqualizedConv2d, EqualizedLinear
from monai_plan.networks.nets.saved_network import SavedNetwork
from monai_plan.networks.nets.style_generator import MappingNetwork, channels_at, resolutions

__all__ = ["StyleDiscriminator", "minibatch_deviation"]


def minibatch_deviation(x: torch.Tensor, group_size: int) -> torch.Tensor:
    """Append one channel: the deviation over groups of the batch, averaged over features and pixels.

    ``x`` is [B, C, H, W]; the result [B, C + 1, H, W]. A batch that ``group_size`` does not divide uses the largest
    group that does, so that short last batches work (Karras et al., ICLR 2018, section 3).
    """
    batch, _, height, width = x.shape
    group = next(size for size in range(min(group_size, batch), 0, -1) if batch % size == 0)
    grouped = x.float().reshape(group, batch // group, -1)
    deviation = (grouped.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=1)
    channel = deviation.repeat(group)[:, None, None, None].expand(-1, 1, height, width)
    return torch.cat([x, channel.to(x.dtype)], dim=1)


class _ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, clamp: float | None) -> None:
        super().__init__()
        self.conv0 = EqualizedConv2d(in_channels, in_channels, 3, clamp=clamp)
        self.conv1 = EqualizedConv2d(in_channels, out_channels, 3, down=2, clamp=clamp)
        self.skip = EqualizedConv2d(in_channels, out_channels, 1, bias=False, activate=False, down=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gain = math.sqrt(0.5)
        return self.skip(x, gain) + self.conv1(self.conv0(x), gain)


class StyleDiscriminator(SavedNetwork):
    """Image and label to a realness logit.

    Args:
        image_size: height and width, a power of two from 8 up.
        channels: image channels.
        num_classes: number of labels (at least 1).
        channel_base: feature maps at a resolution r are ``channel_base / r`` ...
        channel_max: ... but at most this many.
        mapping_layers: fully connected layers of the label's mapping.
        group_size: images a group of the minibatch deviation.
        clamp: bound of the activations for half precision, or ``None``.
    """

    schema = "style_discriminator"

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 1,
        num_classes: int = 2,
        channel_base: int = 2048,
        channel_max: int = 128,
        mapping_layers: int = 8,
        group_size: int = 4,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.config = {
            "image_size": image_size,
            "channels": channels,
            "num_classes": num_classes,
            "channel_base": channel_base,
            "channel_max": channel_max,
            "mapping_layers": mapping_layers,
            "group_size": group_size,
            "clamp": clamp,
        }
        sizes = resolutions(image_size)[:0:-1]
        widths = [channels_at(size, channel_base, channel_max) for size in sizes]
        last = channels_at(4, channel_base, channel_max)
        self.num_classes = num_classes
        self.group_size = group_size
        self.from_image = EqualizedConv2d(channels, widths[0], 1, clamp=clamp)
        self.blocks = nn.ModuleList(
            _ResidualBlock(width, following, clamp)
            for width, following in zip(widths, [*widths[1:], last], strict=True)
        )
        self.conv = EqualizedConv2d(last + 1, last, 3, clamp=clamp)
        self.dense = EqualizedLinear(last * 16, last, activate=True)
        self.out = EqualizedLinear(last, last)
        self.mapping = MappingNetwork(0, num_classes, last, mapping_layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Images [B, channels, S, S] in [-1, 1] and labels int64 [B] give logits [B]."""
        x = self.from_image(images)
        for block in self.blocks:
            x = block(x)
        x = self.conv(minibatch_deviation(x, self.group_size))
        x = self.out(self.dense(x.flatten(1).float()))
        label = self.mapping(None, F.one_hot(labels.long(), self.num_classes))
        return (x.float() * label.float()).sum(dim=1) / math.sqrt(x.shape[1])
