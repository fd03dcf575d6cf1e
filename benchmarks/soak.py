"""A long run of the sampler: memory, repeated images, and images that no verdict of the gate stands behind.

The generator, walks and gate are the bundle's, at 64 px, with two batches prepared ahead. The gate's verdicts are
written down by what stands between it and the sampler, which also refuses every sixteenth image that the gate accepts,
so that refilling is at work all the time. An image is known by the hash of its float32 pixels.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import CONFIGS

from monai_plan.data import PrivacyWalkDataset, PrivacyWalkSampler
from monai_plan.latent import PrivacyGate, WalkSet
from monai_plan.networks.nets import StyleGenerator

BATCH, BATCHES_PER_EPOCH, EPOCHS = 4, 1_000, 100
REFUSED_OF = 16
BUNDLE = CONFIGS.parent


def measure(quick: bool, folder: Path) -> dict[str, Any]:
    """The figures of one soak; nothing is written."""
    batches, epochs = (40, 4) if quick else (BATCHES_PER_EPOCH, EPOCHS)
    gate = VerdictBook(PrivacyGate.load(BUNDLE / "private" / "gate.safetensors"))
    images = batches * BATCH
    dataset = PrivacyWalkDataset(WalkSet.load(BUNDLE / "models" / "walks_private.safetensors"), images)
    sampler = PrivacyWalkSampler(
        dataset,
        StyleGenerator.load(BUNDLE / "models" / "generator.safetensors"),
        gate,
        batch_size=BATCH,
        shuffle=True,
        prefetch=2,
    )
    # written to at once: pages that are touched bit by bit would look like a leak
    hashes, draws = np.full((epochs, images), 1, np.uint64), np.full((epochs, images), 1, np.uint64)
    memory, unjudged = [], 0
    begun = time.monotonic()
    for epoch in range(epochs):
        gate.accepted.clear()
        hashes[epoch], draws[epoch] = one_pass(sampler, epoch)
        unjudged += sum(int(value) not in gate.accepted for value in hashes[epoch])
        memory.append(resident_mib())
        if not (epoch + 1) % 10:
            print(f"soak: epoch {epoch + 1} of {epochs}, {memory[-1]:.0f} MiB", flush=True)
    seconds = time.monotonic() - begun
    counts = dict(sampler.counts)
    replayed = all(np.array_equal(one_pass(sampler, epoch)[0], hashes[epoch]) for epoch in (0, epochs - 1))
    return {
        "soak_batches": batches * epochs,
        "soak_growth_mib": round(growth(memory), 2),
        "soak": {
            "images": int(hashes.size),
            "image_size": int(next(iter(sampler))["image"].shape[-1]),
            "seconds": round(seconds, 1),
            "memory_mib_by_epoch": [round(value, 2) for value in memory],
            "repeated_images": int(hashes.size - len(np.unique(hashes))),
            "repeated_draws": int(draws.size - len(np.unique(draws))),
            "replayed_epochs_equal": replayed,
            "emitted": counts["emitted"],
            "rejected": counts["rejected"],
            "emitted_without_verdict": unjudged,
        },
    }


def growth(memory: list[float]) -> float:
    """By how much memory grew after the first tenth of the epochs: the rise of the straight line through the rest.

    Single epochs differ by several MiB, for what was freed is given back to the system at times only.
    """
    settled = memory[max(1, len(memory) // 10) :]
    return float(np.polyfit(range(len(settled)), settled, 1)[0]) * len(settled)


def show(figures: dict[str, Any]) -> str:
    """A table."""
    soak = figures["soak"]
    rows = {
        "batches": f"{figures['soak_batches']:,} of {BATCH} images, {soak['image_size']} px, {soak['seconds']:,.0f} s",
        "growth of memory": f"{figures['soak_growth_mib']:+.2f} MiB, of {soak['memory_mib_by_epoch'][-1]:.0f} MiB",
        "images that occurred before": f"{soak['repeated_images']} (places, in float32: {soak['repeated_draws']})",
        "two epochs played again": "equal to the bit" if soak["replayed_epochs_equal"] else "NOT equal",
        "emitted without a verdict": f"{soak['emitted_without_verdict']} of {soak['emitted']:,}",
        "refused on the way": f"{soak['rejected']:,}",
    }
    return "\n".join(f"{name:<30}{value}" for name, value in rows.items())


class VerdictBook:
    """A gate that writes down what it accepted."""

    def __init__(self, gate: PrivacyGate) -> None:
        self.gate = gate
        self.accepted: set[int] = set()

    def accepts(self, images: torch.Tensor) -> torch.Tensor:
        """As the gate's, but for one of ``REFUSED_OF``."""
        found = hashes_of(images)
        verdicts = self.gate.accepts(images) & torch.tensor([value % REFUSED_OF != 0 for value in found])
        self.accepted.update(value for value, passed in zip(found, verdicts.tolist(), strict=True) if passed)
        return verdicts


def one_pass(sampler: PrivacyWalkSampler, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all images of an epoch, and of what they were drawn from, uint64 [images]."""
    sampler.set_epoch(epoch)
    images: list[int] = []
    draws = []
    for batch in sampler:
        images += hashes_of(batch["image"])
        draws.append((batch["path_id"].numpy() << 32) | batch["position"].numpy().view(np.int32))
    return np.array(images, np.uint64), np.concatenate(draws).astype(np.uint64)


def hashes_of(images: torch.Tensor) -> list[int]:
    """64 bits of each image [B, C, H, W]."""
    digests = (hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images.contiguous().numpy())
    return [int.from_bytes(digest, "big") for digest in digests]


def resident_mib() -> float:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
