"""What the package makes from fixed seeds, and a record of it to hold later versions against.

python tests/reliability/determinism_record.py      records tests/reliability/fixtures/determinism.json anew
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai
import numpy as np
import scipy
import torch
from torch import nn

import monai_plan as plan
from monai_plan.data import PrivacyWalkDataset, PrivacyWalkSampler, export_images, fundus_datalist, phantom_datalist
from monai_plan.data.canary_coins import plant_canaries
from monai_plan.data.grouped_split import split_units
from monai_plan.data.image_stream import ImageStream
from monai_plan.latent import (
    InversionOptions,
    LatentPrior,
    PrivacyGate,
    WalkPlanner,
    WalkSet,
    WalkSteering,
    invert_batch,
    pair_anchors,
    random_anchors,
    walk_guided,
    walk_private,
)
from monai_plan.networks.nets import LatentEncoder, StyleGenerator
from monai_plan.transforms import RenderFundus, RenderPhantom
from monai_plan.utils import generator_for, uniform_at, write_json
from monai_plan.utils.pseudonyms import pseudonym

BUNDLE = Path(plan.__file__).resolve().parent.parent / "bundles" / "plan_tb"
FIXTURE = Path(__file__).parent / "fixtures" / "determinism.json"
WEIGHTS = ("models/generator.safetensors", "models/walks_private.safetensors", "private/gate.safetensors")
SAMPLE = 96
"""Numbers kept of each measured tensor, for processors on which the bits differ."""


def same_on_every_machine() -> dict[str, Any]:
    """Draws, orders, splits and names: integers and text, or real numbers of integer arithmetic alone."""
    walks = shipped_walks()
    pool = PrivacyWalkDataset(walks, 64, seed=3).pool
    places = [
        pool.places(range(64), epoch, turn, attempt) for epoch, turn, attempt in [(0, 0, 0), (1, 0, 0), (1, 2, 3)]
    ]
    verified = pool.places(range(64), 1, verified_only=True)
    loader = PrivacyWalkSampler(PrivacyWalkDataset(walks, 64, seed=3), shipped_generator(), None, 16, True)
    orders = {}
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        orders[f"epoch {epoch}"] = list(loader.sampler)
    stream = ImageStream([0] * 5 + [1] * 11, balanced=True, seed=2)
    return {
        "integers of generator_for": torch.randint(2**31, (8,), generator=generator_for(7, 1, "purpose")).tolist(),
        "permutation of generator_for": torch.randperm(12, generator=generator_for(7, "order")).tolist(),
        "uniform_at": [value.hex() for value in uniform_at(7, "place", torch.arange(4), 1).tolist()],
        "places on walks": [[paths.tolist(), [at.hex() for at in where.tolist()]] for paths, where in places],
        "verified points in turn": [column.tolist() for column in verified],
        "orders of the sampler": orders,
        "order of training images": [stream.index_at(place) for place in range(24)],
        "split of patients": split_units([0, 0, 1] * 8, list(range(24)), (0.5, 0.25, 0.25), 4, ("a", "b")),
        "phantoms": phantom_datalist(patients_per_class=10, visits=2, seed=1),
        "phantoms of the fundus": fundus_datalist(patients_per_class=10, seed=1),
        "canaries": plant_canaries(phantom_datalist(patients_per_class=10, seed=1), 4, seed=5),
        "pseudonym": pseudonym("P0042", bytes(range(32))),
    }


@functools.cache
def shipped_walks() -> WalkSet:
    """Of the bundle plan_tb."""
    return WalkSet.load(BUNDLE / WEIGHTS[1])


@functools.cache
def shipped_generator() -> StyleGenerator:
    """The bundle's, 64 x 64 pixels."""
    return StyleGenerator.load(BUNDLE / WEIGHTS[0]).eval()


@functools.cache
def shipped_gate() -> PrivacyGate:
    """The bundle's."""
    return PrivacyGate.load(BUNDLE / WEIGHTS[2])


def sampler(batch_size: int = 8, images: int = 16, gate: bool = True, **options: Any) -> PrivacyWalkSampler:
    """The bundle's walks, generator and gate, as a data loader."""
    dataset = PrivacyWalkDataset(shipped_walks(), images, seed=11)
    return PrivacyWalkSampler(dataset, shipped_generator(), shipped_gate() if gate else None, batch_size, **options)


def epoch_of(loader: PrivacyWalkSampler, epoch: int = 1) -> dict[str, torch.Tensor]:
    """All batches of an epoch as one."""
    loader.set_epoch(epoch)
    batches = list(loader)
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def sampled_images() -> torch.Tensor:
    """Images of PrivacyWalkSampler with a gate."""
    return epoch_of(sampler())["image"]


def emitted_without_gate() -> torch.Tensor:
    """Images of PrivacyWalkSampler without a gate: verified points."""
    return epoch_of(sampler(images=8, gate=False))["image"]


def exported_pixels() -> torch.Tensor:
    """Pixels of the PNG files that `generate` writes, 8 bits."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        export_images(
            shipped_walks(), shipped_generator(), shipped_gate(), folder, 4, seed=11, batch_size=4, progress=False
        )
        files = sorted(Path(folder).rglob("*.png"))
        return torch.stack([torch.from_numpy(np.array(Image.open(file))) for file in files])


def phantoms() -> torch.Tensor:
    """Drawn radiographs."""
    items = phantom_datalist(patients_per_class=10, seed=1)["training"][:4]
    return torch.stack([torch.as_tensor(RenderPhantom(64)(item["image"])) for item in items])


def fundus_phantoms() -> torch.Tensor:
    """Drawn fundus photographs."""
    items = fundus_datalist(patients_per_class=10, seed=1)["training"][:2]
    return torch.stack([torch.as_tensor(RenderFundus(64)(item["image"])) for item in items])


def distances_to_training_patients() -> torch.Tensor:
    """What the gate's verdicts are made of."""
    return shipped_gate().distances(phantoms())


def tiny_networks() -> tuple[StyleGenerator, nn.Module, nn.Module]:
    """A generator of 16 x 16 pixels, and classifiers of its images: 5 patients, 2 classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = StyleGenerator(16, z_dim=8, w_dim=8, channel_base=64, channel_max=8)
        classifiers = [nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(16, count)) for count in (5, 2)]
    return generator.eval(), *classifiers


def planned_walks() -> WalkSet:
    """Anchors, pairs, guided walks, verdicts and repair."""
    generator, identity, label = tiny_networks()
    z = torch.randn(12, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        patients = generator.synthesize(generator.map_latents(z, torch.arange(12) % 2), noise="const")
    return WalkPlanner(
        walk=functools.partial(walk_guided, progress=False, iterations=8),
        steering=WalkSteering(generator, identity, label),
        gate=PrivacyGate(nn.Flatten(), patients.flatten(1), 0.01),
        pairs_per_class=3,
        anchors_per_class=4,
        steps=8,
        label_network=label,
        repair_attempts=2,
        kind="private",
        seed=4,
    )(epoch=1)


def published_walk() -> torch.Tensor:
    """A few steps of the paper's optimisation."""
    pairs = pair_anchors(random_anchors(tiny_networks()[0], 3, seed=2), 2, seed=2)
    return walk_private(pairs, 8, WalkSteering(*tiny_networks()), iterations=5, progress=False)


def inverted_latents() -> torch.Tensor:
    """Latents found for phantoms."""
    generator = tiny_networks()[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = LatentEncoder(8, block_inplanes=(4, 4, 8, 8))
    images = nn.functional.avg_pool2d(phantoms(), 4)
    options = InversionOptions(iterations=8)
    labels = torch.arange(len(images)) % 2
    return invert_batch(images, labels, generator, nn.Flatten(), encoder, LatentPrior.fit(generator), options).latents


MEASURED: dict[str, tuple[Callable[[], torch.Tensor], float]] = {
    "phantoms": (phantoms, 1e-4),
    "phantoms of the fundus": (fundus_phantoms, 1e-4),
    "images of the sampler": (sampled_images, 1e-3),
    "images of the sampler without a gate": (emitted_without_gate, 1e-3),
    "pixels of the export": (exported_pixels, 1.0),
    "distances of the gate": (distances_to_training_patients, 1e-3),
    "planned walks": (lambda: planned_walks().points, 1e-3),
    "verdicts on planned walks": (lambda: planned_walks().verified, 0.0),
    "published walk": (published_walk, 1e-3),
    "inverted latents": (inverted_latents, 1e-3),
}
"""What is made by floating-point arithmetic, and how far a sample of it may be from the record on other processors.

Thirty times the largest difference that was found between kernels for AVX-512, AVX2 and none of them (3e-5).
"""


def environment() -> dict[str, Any]:
    """What the bits depend on beside the package: versions, and the processor with its vector instructions."""
    info = Path("/proc/cpuinfo")
    fields = dict(re.findall(r"^(.+?)\s*: (.*)$", info.read_text(), re.M)) if info.is_file() else {}
    kinds = ("vendor_id", "cpu family", "model", "stepping", "cache size")
    vectors = sorted(flag for flag in fields.get("flags", "").split() if re.match(r"avx|amx|fma|f16c", flag))
    return {
        "torch": str(torch.__version__),
        "monai": monai.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": {**{kind: fields.get(kind, "") for kind in kinds}, "vectors": " ".join(vectors)},
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def digest(value: torch.Tensor) -> str:
    """SHA-256 of the bytes, with shape and type."""
    array = np.ascontiguousarray(value.detach().numpy())
    return hashlib.sha256(f"{array.shape} {array.dtype} ".encode() + array.tobytes()).hexdigest()


def sample(value: torch.Tensor) -> torch.Tensor:
    """At most ``SAMPLE`` of the numbers, evenly spread."""
    flat = value.detach().flatten().double()
    return flat[torch.linspace(0, len(flat) - 1, min(SAMPLE, len(flat))).long()]


def exact_figures() -> dict[str, Any]:
    """:func:`same_on_every_machine`, long entries by their hash and beginning."""

    def short(value: Any) -> Any:
        text = json.dumps(value, sort_keys=True)
        return value if len(text) < 300 else f"{hashlib.sha256(text.encode()).hexdigest()} {text[:60]}"

    return {name: short(json.loads(json.dumps(value))) for name, value in same_on_every_machine().items()}


def measured_figures() -> dict[str, dict[str, Any]]:
    """By name: hash of the bytes, and a sample rounded to what a reader can see."""
    figures = {}
    for name, (make, _) in MEASURED.items():
        value = make()
        figures[name] = {"sha256": digest(value), "sample": [round(number, 5) for number in sample(value).tolist()]}
    return figures


def weights() -> dict[str, str]:
    """The shipped files that pictures depend on."""
    return {name: hashlib.sha256((BUNDLE / name).read_bytes()).hexdigest() for name in WEIGHTS}


def main() -> None:
    torch.set_num_threads(1)
    record = {
        "version": plan.__version__,
        "environment": environment(),
        "weights": weights(),
        "exact": exact_figures(),
        "measured": measured_figures(),
    }
    print(write_json(FIXTURE, record))


if __name__ == "__main__":
    main()
