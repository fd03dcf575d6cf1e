"""Names of published StyleGAN2-ADA state dicts to ours, so that existing generators can be brought along."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from monai_plan.networks.nets.style_generator import StyleGenerator, channels_at

__all__ = ["discriminator_state_from_published", "generator_from_published", "generator_state_from_published"]

_PREFIXES = ("G_ema.", "G.")


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


def generator_from_published(state: Mapping[str, torch.Tensor], clamp: float | None = None) -> StyleGenerator:
    """Build a generator with the sizes that a published state dict implies, and load it.

    Args:
        state: names as published, all of them possibly behind ``G.`` or ``G_ema.``; other entries are left out then.
        clamp: ``conv_clamp`` of the published network, which no weight tells: 256 in networks trained with half
            precision, ``None`` in others.

    Raises:
        ValueError: the weights are not those of a class-conditional StyleGAN2-ADA generator with skip connections.
    """
    prefix = next((prefix for prefix in _PREFIXES if any(name.startswith(prefix) for name in state)), "")
    state = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
    sizes = sorted(
        int(found[1]) for name in state if (found := re.fullmatch(r"synthesis\.b(\d+)\.torgb\.weight", name))
    )
    needed = ("mapping.embed.weight", "mapping.fc0.weight", "synthesis.b4.const", "synthesis.b4.torgb.affine.weight")
    if missing := [name for name in needed if name not in state]:
        raise ValueError(
            f"the weights lack {', '.join(missing)}, so they are not those of a class-conditional StyleGAN2-ADA "
            f"generator (found, for example: {', '.join(sorted(state)[:3])}). Unconditional networks have no classes "
            "to walk in; export the module 'G_ema' of a network trained with labels"
        )
    w_dim, num_classes = state["mapping.embed.weight"].shape
    widths = {size: state[f"synthesis.b{size}.torgb.weight"].shape[1] for size in sizes}
    channel_max, channel_base = max(widths.values()), widths[sizes[-1]] * sizes[-1]
    if any(width != channels_at(size, channel_base, channel_max) for size, width in widths.items()):
        raise ValueError(f"the feature maps {widths} (by resolution) follow no channel_base and channel_max")
    generator = StyleGenerator(
        image_size=sizes[-1],
        channels=state["synthesis.b4.torgb.weight"].shape[0],
        num_classes=num_classes,
        z_dim=state["mapping.fc0.weight"].shape[1] - w_dim,
        w_dim=w_dim,
        mapping_layers=sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", name)) for name in state),
        channel_base=channel_base,
        channel_max=channel_max,
        clamp=clamp,
    )
    try:
        generator.load_state_dict(generator_state_from_published(state))
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit the generator that their sizes imply ({error})") from error
    return generator
