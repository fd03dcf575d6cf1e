"""Names of published StyleGAN2-ADA state dicts to ours, so that existing generators can be brought along."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

__all__ = ["discriminator_state_from_published", "generator_state_from_published"]


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
