"""Private random generators keyed by position, so that every draw can be replayed from its coordinates.

Nothing here touches the global random state.
"""

from __future__ import annotations

import hashlib

import torch

__all__ = ["generator_for"]


def generator_for(seed: int, *position: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh generator for one place in a run, e.g. ``generator_for(seed, rank, epoch, index)``.

    Equal arguments give equal streams on any machine; different ones give independent streams. MONAI's
    ``set_determinism`` gives every rank the same torch noise, hence the explicit rank.

    Args:
        seed: the run's seed.
        position: coordinates within the run (rank, epoch, index, the name of a purpose, …).
        device: where the generator draws.
    """
    digest = hashlib.blake2b(repr((int(seed), *position)).encode(), digest_size=8).digest()
    generator = torch.Generator(device=device)
    generator.manual_seed(int.from_bytes(digest, "little") & (2**63 - 1))
    return generator
