"""Private randomness keyed by position, so that every draw can be replayed from its coordinates.

Nothing here touches the global random state.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

__all__ = ["generator_for", "uniform_at"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # splitmix64: Steele, Lea and Flood, OOPSLA 2014
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def generator_for(seed: int, *position: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh generator for one place in a run, e.g. ``generator_for(seed, rank, epoch, index)``.

    Equal arguments give equal streams on any machine; different ones give independent streams. MONAI's
    ``set_determinism`` gives every rank the same torch noise, hence the explicit rank.

    Args:
        seed: the run's seed.
        position: coordinates within the run (rank, epoch, index, the name of a purpose, …).
        device: where the generator draws.
    """
    generator = torch.Generator(device=device)
    generator.manual_seed(_digest(seed, *position) & (2**63 - 1))
    return generator


def uniform_at(seed: int, purpose: str, *position: int | torch.Tensor) -> torch.Tensor:
    """One uniform draw for each of many places in a run, e.g. ``uniform_at(seed, "crop", epoch, indices)``.

    Much cheaper than a :func:`generator_for` each. Equal arguments give equal draws on any machine, whatever other
    places are asked for in the same call.

    Args:
        seed: the run's seed.
        purpose: keeps draws of different kinds apart.
        position: coordinates within the run: integers, or integer tensors on the CPU, broadcast.

    Returns:
        float64 on the CPU, [0, 1), of the coordinates' broadcast shape.
    """
    state = np.asarray(_digest(seed, purpose), dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64
        for coordinate in position:
            state = state + (np.asarray(coordinate).astype(np.uint64) + np.uint64(1)) * _GOLDEN
            for shift, factor in _MIX:
                state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
            state = state ^ (state >> np.uint64(31))
    return torch.as_tensor((state >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _digest(*key: int | str) -> int:
    """64 bits of a hash of ``(seed, ...)``."""
    key = (int(key[0]), *key[1:])
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")
