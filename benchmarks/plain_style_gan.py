"""StyleGAN2-ADA's generator and discriminator computed plainly: the baseline of gan.py.

Written from the papers' description (Karras et al., CVPR 2020 and NeurIPS 2020) for this comparison, in the published
layout: float32, NCHW, every resampling as zero insertion, padding and a filter. In training the activations are
scaled before and after each convolution; in evaluation every sample has weights of its own and the batch runs as one
grouped convolution. The functions take the weights of our networks, so that both sides compute the same numbers.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from monai_plan.networks.layers import EqualizedConv2d, EqualizedLinear, ModulatedConv2d, ToImage
from monai_plan.networks.nets import StyleDiscriminator, StyleGenerator
from monai_plan.networks.nets.style_generator import MappingNetwork

__all__ = ["plain_discriminate", "plain_generate"]


def _filter(
    x: torch.Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0), gain: float = 1
) -> torch.Tensor:
    """Zero insertion, padding, the [1, 3, 3, 1] filter on every channel, decimation."""
    batch, channels, height, width = x.shape
    x = F.pad(x.reshape(batch, channels, height, 1, width, 1), [0, up - 1, 0, 0, 0, up - 1])
    x = F.pad(x.reshape(batch, channels, height * up, width * up), [*pad, *pad])
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device) / 8
    kernel = (torch.outer(taps, taps) * gain).expand(channels, 1, 4, 4)
    return F.conv2d(x, kernel, groups=channels)[:, :, ::down, ::down]


def _activate(x: torch.Tensor, bias: torch.Tensor, clamp: float | None, gain: float = 1.0) -> torch.Tensor:
    x = F.leaky_relu(x + bias[:, None, None], 0.2) * (math.sqrt(2.0) * gain)
    return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)


def _linear(layer: EqualizedLinear, x: torch.Tensor) -> torch.Tensor:
    x = x @ (layer.weight * layer.weight_gain).t() + layer.bias * layer.bias_gain
    return F.leaky_relu(x, 0.2) * math.sqrt(2.0) if layer.activate else x


def _mapping(network: MappingNetwork, z: torch.Tensor | None, labels: torch.Tensor) -> torch.Tensor:
    one_hot = F.one_hot(labels, network.embed.weight.shape[1]).float()
    parts = [_linear(network.embed, one_hot)] if z is None else [z, _linear(network.embed, one_hot)]
    x = torch.cat([part * (part.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt() for part in parts], dim=1)
    for layer in network.layers:
        x = _linear(layer, x)
    return x


def _modulated(
    x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, up: int, demodulate: bool, training: bool
) -> torch.Tensor:
    batch, outputs = len(x), len(weight)
    weights = weight[None] * styles[:, None, :, None, None]
    scale = (weights.square().sum(dim=[2, 3, 4]) + 1e-8).rsqrt() if demodulate else styles.new_ones(batch, outputs)
    if training:  # scale the activations, not the weights
        x, groups = x * styles[:, :, None, None], 1
    else:
        x, groups = x.reshape(1, -1, *x.shape[2:]), batch
        weight = (weights * scale[:, :, None, None, None]).flatten(0, 1)
    if up == 1:
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=groups)
    else:
        weight = weight.reshape(groups, outputs, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
        x = _filter(F.conv_transpose2d(x, weight, stride=2, groups=groups), pad=(1, 1), gain=4)
    return x * scale[:, :, None, None] if training else x.reshape(batch, outputs, *x.shape[2:])


def _style_layer(
    layer: ModulatedConv2d, x: torch.Tensor, w: torch.Tensor, noise: str, rng: torch.Generator | None, training: bool
) -> torch.Tensor:
    x = _modulated(x, layer.weight, _linear(layer.affine, w), layer.up, demodulate=True, training=training)
    drawn = layer.noise_const
    if noise == "random":
        drawn = torch.randn(len(x), 1, layer.size, layer.size, device=x.device, generator=rng)
    return _activate(x + drawn * layer.noise_strength, layer.bias, layer.clamp)


def _to_image(layer: ToImage, x: torch.Tensor, w: torch.Tensor, training: bool) -> torch.Tensor:
    styles = _linear(layer.affine, w) * layer.weight_gain
    image = _modulated(x, layer.weight, styles, up=1, demodulate=False, training=training) + layer.bias[:, None, None]
    return image if layer.clamp is None else image.clamp(-layer.clamp, layer.clamp)


def plain_generate(
    generator: StyleGenerator,
    z: torch.Tensor,
    labels: torch.Tensor,
    noise: str = "random",
    rng: torch.Generator | None = None,
) -> torch.Tensor:
    """What ``generator(z, labels, noise=noise, rng=rng)`` computes; in training or evaluation mode as it is."""
    w, training = _mapping(generator.mapping, z, labels), generator.training
    x, image = generator.blocks[0].const.repeat(len(z), 1, 1, 1), None
    for block in generator.blocks:
        if block.up is not None:
            x = _style_layer(block.up, x, w, noise, rng, training)
        x = _style_layer(block.conv, x, w, noise, rng, training)
        part = _to_image(block.to_image, x, w, training)
        image = part if image is None else _filter(image, up=2, pad=(2, 1), gain=4) + part
    return image


def _conv(layer: EqualizedConv2d, x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
    weight = layer.weight * layer.weight_gain
    kernel = weight.shape[-1]
    if layer.down == 2:
        down = 2 if kernel == 1 else 1
        x = F.conv2d(_filter(x, down=down, pad=(kernel // 2 + 1,) * 2), weight, stride=2 // down)
    else:
        x = F.conv2d(x, weight, padding=kernel // 2)
    return _activate(x, layer.bias, layer.clamp, gain) if layer.activate else x * gain


def plain_discriminate(discriminator: StyleDiscriminator, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What ``discriminator(images, labels)`` computes."""
    x, gain = _conv(discriminator.from_image, images), math.sqrt(0.5)
    for block in discriminator.blocks:
        x = _conv(block.skip, x, gain) + _conv(block.conv1, _conv(block.conv0, x), gain)
    batch, channels, height, width = x.shape
    group = min(discriminator.group_size, batch)
    grouped = x.reshape(group, -1, channels, height, width)
    deviation = (grouped.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=[1, 2, 3])
    deviation = deviation.reshape(-1, 1, 1, 1).repeat(group, 1, height, width)
    x = _conv(discriminator.conv, torch.cat([x, deviation], dim=1))
    x = _linear(discriminator.out, _linear(discriminator.dense, x.flatten(1)))
    return (x * _mapping(discriminator.mapping, None, labels)).sum(dim=1) / math.sqrt(x.shape[1])
