"""Names of published StyleGAN2-ADA state dicts to ours, so that existing generators can be brought along."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import torch

from monai_plan.networks.nets.saved_network import SavedNetwork
from monai_plan.networks.nets.style_discriminator import StyleDiscriminator
from monai_plan.networks.nets.style_generator import StyleGenerator, channels_at

__all__ = [
    "discriminator_from_published",
    "discriminator_state_from_published",
    "generator_from_published",
    "generator_state_from_published",
    "published_networks",
]

Network = TypeVar("Network", bound=SavedNetwork)

# by kind: the prefixes under which a file of several networks holds it, the best first, and a name that only it has
_KINDS = {
    "generator": (("G_ema.", "G.", ""), "synthesis.b4.const"),
    "discriminator": (("D.", ""), "b4.out.weight"),
}


def _rename(state: Mapping[str, torch.Tensor], rules: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in state.items():
        if name.endswith("resample_filter"):  # the binomial kernel is fixed in ours
            continue
        for pattern, replacement in rules:
            name, hits = re.subn(pattern, replacement, name)
            if hits:
                break
        renamed[name] = tensor
    return renamed


def generator_state_from_published(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Map a published generator's state dict to :class:`StyleGenerator`'s.

    Args:
        state: names as published (``mapping.fc0.weight``, ``synthesis.b8.conv0.weight``, …).
    """

    def block(match: re.Match) -> str:
        part = {"conv0": "up", "conv1": "conv", "torgb": "to_image"}[match[2]]
        return f"blocks.{int(match[1]).bit_length() - 3}.{part}."

    renamed = {}
    for name, tensor in _rename(
        state, [(r"^mapping\.fc(\d+)\.", r"mapping.layers.\1."), (r"^mapping\.w_avg$", "w_avg")]
    ).items():
        name = re.sub(r"^synthesis\.b(\d+)\.(conv0|conv1|torgb)\.", block, name)
        renamed[re.sub(r"^synthesis\.b4\.const$", "blocks.0.const", name)] = tensor
    return renamed


def discriminator_state_from_published(state: Mapping[str, torch.Tensor], image_size: int) -> dict[str, torch.Tensor]:
    """Map a published residual discriminator's state dict to :class:`StyleDiscriminator`'s.

    Args:
        state: names as published (``b32.conv0.weight``, ``b4.fc.weight``, …).
        image_size: the network's resolution.
    """
    top = image_size.bit_length() - 1
    rules = [
        (r"^mapping\.fc(\d+)\.", r"mapping.layers.\1."),
        (rf"^b{image_size}\.fromrgb\.", "from_image."),
        (r"^b4\.fc\.", "dense."),
        (r"^b4\.(conv|out)\.", r"\1."),
        *((rf"^b{1 << power}\.", f"blocks.{top - power}.") for power in range(3, top + 1)),
    ]
    return _rename(state, rules)


def published_networks(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Which networks a published state dict holds, told by its names: "generator", "discriminator", both or none."""
    return [kind for kind, (prefixes, mark) in _KINDS.items() if any(prefix + mark in state for prefix in prefixes)]


def generator_from_published(state: Mapping[str, torch.Tensor], clamp: float | None = None) -> StyleGenerator:
    """Build a generator with the sizes that a published state dict implies, and load it.

    Args:
        state: names as published, all of them possibly behind ``G.`` or ``G_ema.``; other entries are left out then.
        clamp: ``conv_clamp`` of the published network, which no weight tells: 256 in networks trained with half
            precision, ``None`` in others.

    Raises:
        ValueError: the weights are not those of a class-conditional StyleGAN2-ADA generator with skip connections.
    """
    state = _network_of(state, "generator")
    needed = ("mapping.embed.weight", "mapping.fc0.weight", "synthesis.b4.const", "synthesis.b4.torgb.affine.weight")
    _require(state, needed, "generator with the skip architecture", "G_ema")
    w_dim, num_classes = state["mapping.embed.weight"].shape
    widths = _by_size(state, r"synthesis\.b(\d+)\.torgb\.weight", axis=1)
    channel_base, channel_max = _channel_rule(widths)
    generator = StyleGenerator(
        image_size=max(widths),
        channels=state["synthesis.b4.torgb.weight"].shape[0],
        num_classes=num_classes,
        z_dim=state["mapping.fc0.weight"].shape[1] - w_dim,
        w_dim=w_dim,
        mapping_layers=_mapping_layers(state),
        channel_base=channel_base,
        channel_max=channel_max,
        clamp=clamp,
    )
    return _loaded(generator, generator_state_from_published(state))


def discriminator_from_published(
    state: Mapping[str, torch.Tensor], clamp: float | None = None, group_size: int = 4
) -> StyleDiscriminator:
    """Build a discriminator with the sizes that a published state dict implies, and load it.

    Args:
        state: names as published, all of them possibly behind ``D.``; other entries are left out then.
        clamp: see :func:`generator_from_published`.
        group_size: ``mbstd_group_size`` of the published network, which no weight tells either: 4 mostly.

    Raises:
        ValueError: the weights are not those of a class-conditional, residual StyleGAN2-ADA discriminator, or
            ``group_size`` is below 1.
    """
    if group_size < 1:
        raise ValueError(f"group_size is {group_size}; it must be at least 1, as the network was trained (4 mostly)")
    state = _network_of(state, "discriminator")
    needed = ("mapping.embed.weight", "b4.conv.weight", "b4.fc.weight", "b4.out.weight", "b8.skip.weight")
    _require(state, needed, "discriminator with the resnet architecture", "D")
    below = _by_size(state, r"b(\d+)\.conv1\.weight", axis=0)  # a block's output has half its size
    widths = {size // 2: width for size, width in below.items()}
    image_size = max(below)
    _require(state, (f"b{image_size}.fromrgb.weight",), "discriminator with the resnet architecture", "D")
    widths[image_size], channels = state[f"b{image_size}.fromrgb.weight"].shape[:2]
    channel_base, channel_max = _channel_rule(widths)
    discriminator = StyleDiscriminator(
        image_size=image_size,
        channels=channels,
        num_classes=state["mapping.embed.weight"].shape[1],
        channel_base=channel_base,
        channel_max=channel_max,
        mapping_layers=_mapping_layers(state),
        group_size=group_size,
        clamp=clamp,
    )
    return _loaded(discriminator, discriminator_state_from_published(state, image_size))


def _network_of(state: Mapping[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    """The entries of one network, without their prefix."""
    prefixes, _ = _KINDS[kind]
    prefix = next(prefix for prefix in prefixes if not prefix or any(name.startswith(prefix) for name in state))
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}


def _require(state: Mapping[str, torch.Tensor], needed: tuple[str, ...], what: str, module: str) -> None:
    missing = [name for name in needed if name not in state]
    if missing == ["mapping.embed.weight"]:
        raise ValueError(
            "the weights lack mapping.embed.weight: the network is unconditional, and only class-conditional ones can "
            "be used, because a walk stays in one class. Export a network that was trained with labels (--cond=1)"
        )
    if missing:
        raise ValueError(
            f"the weights lack {', '.join(missing)}, so they are not those of a class-conditional StyleGAN2-ADA {what} "
            f"(found, for example: {', '.join(sorted(state)[:3])}). Export the module '{module}' of such a network"
        )


def _by_size(state: Mapping[str, torch.Tensor], pattern: str, axis: int) -> dict[int, int]:
    """Resolution to the length of one axis, of the weights whose name matches, from the smallest resolution up."""
    found = {int(hit[1]): tensor.shape[axis] for name, tensor in state.items() if (hit := re.fullmatch(pattern, name))}
    return dict(sorted(found.items()))


def _channel_rule(widths: Mapping[int, int]) -> tuple[int, int]:
    """``channel_base`` and ``channel_max`` of feature maps by resolution."""
    channel_max, channel_base = max(widths.values()), widths[max(widths)] * max(widths)
    if any(width != channels_at(size, channel_base, channel_max) for size, width in widths.items()):
        raise ValueError(f"the feature maps {dict(widths)} (by resolution) follow no channel_base and channel_max")
    return channel_base, channel_max


def _mapping_layers(state: Mapping[str, torch.Tensor]) -> int:
    return sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", name)) for name in state)


def _loaded(network: Network, state: Mapping[str, torch.Tensor]) -> Network:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit the network that their sizes imply ({error})") from error
    return network
