"""What synthetic batches cost: the sampler beside its bare generator, training on it beside training on real images.

Three measurements with networks of the bundle's size and random weights (the time does not depend on them); the gate
rejects about 1 % of the images. All sides of a measurement take turns in one run, batch by batch in 1 and 3, epoch by
epoch in 2. A round is a pass of each side; a ratio is the median of the rounds' ratios.

1. A pass of the sampler (drawing, rendering, judging, refilling, packing) against the generator's forward of as many
   batches, and against that with the gate's embedding of the images.
2. An epoch of training a small ResNet on the sampler, with and without batches prepared ahead by its thread, against
   one on as many images of a CacheDataset.
3. Time per image over the rows of the gate's gallery and the number of paths.

    python benchmarks/sampler.py --quick --json sampler.json
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from common import about, machine, seconds
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.networks.nets import ResNet

from monai_plan.data import PrivacyWalkDataset, PrivacyWalkSampler
from monai_plan.latent import PrivacyGate
from monai_plan.latent.walk_set import WalkSet
from monai_plan.networks.nets import IdentityEmbedder, StyleGenerator
from monai_plan.utils import write_json

SIZE, BATCH, POINTS = 64, 32, 50
GALLERY, PATHS, AHEAD = 366, 100, 2
REJECTED = 0.01
GALLERIES, PATH_NUMBERS = (10, 100, 1_000, 10_000), (1, 10, 100, 1_000)
TARGET = 1.25
"""Times the generator's forward."""
_END = object()


def make_walks(generator: StyleGenerator, paths: int) -> WalkSet:
    """Straight lines between random latents, classes in turn."""
    labels = torch.arange(paths) % 2
    device = generator.w_avg.device
    with torch.no_grad():
        z = torch.randn(2 * paths, generator.z_dim, device=device)
        start, end = generator.map_latents(z, labels.repeat(2).to(device)).cpu().view(2, paths, 1, -1)
    points = torch.lerp(start, end, torch.linspace(0, 1, POINTS).view(1, -1, 1))
    return WalkSet(points, labels, torch.zeros(paths, POINTS, dtype=torch.bool), "linear")


def random_gate(embedder: IdentityEmbedder, rows: int, device: torch.device) -> PrivacyGate:
    """A gate that rejects nothing."""
    return PrivacyGate(embedder, torch.randn(rows, embedder.arguments["embedding_size"]), 0.0).to(device)


def set_threshold(gate: PrivacyGate, walks: WalkSet, generator: StyleGenerator, device: torch.device) -> None:
    """Let the gate reject 1 % of the images between the walks' points."""
    loader = make_loader(walks, generator, gate, 16, device)
    distances = torch.cat([gate.distances(batch["image"]) for batch in loader])
    gate.threshold = float(distances.quantile(REJECTED))


def make_loader(
    walks: WalkSet,
    generator: StyleGenerator,
    gate: PrivacyGate,
    batches: int,
    device: torch.device,
    prefetch: int = 0,
) -> PrivacyWalkSampler:
    """A sampler of so many batches a pass."""
    dataset = PrivacyWalkDataset(walks, batches * BATCH)
    return PrivacyWalkSampler(
        dataset, generator, gate, batch_size=BATCH, shuffle=True, device=device, prefetch=prefetch
    )


def alternate(
    sides: Mapping[str, Callable[[], Iterable]], rounds: int, images: int, device: torch.device
) -> dict[str, list[float]]:
    """Milliseconds per image of each side and round; the sides take turns step by step, after one round unmeasured.

    Args:
        sides: each gives an iterable whose steps are timed; equally many steps.
        rounds: measured.
        images: of a side and round.
        device: waited for after each step.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        running = {name: iter(side()) for name, side in sides.items()}
        total = dict.fromkeys(sides, 0.0)
        while running:
            for name, steps in list(running.items()):
                is_over: list[bool] = []
                total[name] += seconds(lambda: is_over.append(next(steps, _END) is _END), device)  # noqa: B023
                if is_over[0]:
                    del running[name]
        for name in sides if number else ():
            times[name].append(round(1000 * total[name] / images, 4))
    return times


def ratio(times: Mapping[str, list[float]], side: str, base: str) -> float:
    """The median over the rounds of a side's time relative to another's in the same round."""
    return round(statistics.median(a / b for a, b in zip(times[side], times[base], strict=True)), 4)


def figures(times: Mapping[str, list[float]], base: str) -> dict[str, Any]:
    """Medians, their rate, and all rounds."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "milliseconds_per_image": medians,
        "images_per_second": {name: round(1000 / value, 1) for name, value in medians.items()},
        f"time_ratio_vs_{base}": {name: ratio(times, name, base) for name in times},
        "rounds_milliseconds_per_image": dict(times),
    }


def measure_batches(
    generator: StyleGenerator, gate: PrivacyGate, walks: WalkSet, arguments: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """The sampler against the bare forward passes."""
    latents = walks.points[torch.arange(BATCH) % len(walks), POINTS // 2].to(device)
    loader = make_loader(walks, generator, gate, arguments.batches, device)

    @torch.no_grad()
    def forward(judged: bool) -> Iterator[None]:
        for _ in range(arguments.batches):
            images = generator.synthesize(latents, noise="const")
            if judged:
                gate.embedder(images)
            yield

    sides: dict[str, Callable[[], Iterable]] = {
        "generator": lambda: forward(judged=False),
        "generator_and_embedding": lambda: forward(judged=True),
        "sampler": lambda: loader,
    }
    times = alternate(sides, arguments.rounds, arguments.batches * BATCH, device)
    return {
        **figures(times, "generator"),
        "time_ratio_vs_generator_and_embedding": ratio(times, "sampler", "generator_and_embedding"),
        "rejected_share": round(loader.counts["rejected"] / sum(loader.counts.values()), 4),
    }


def train_epoch(loader: Any, device: torch.device) -> Iterator[None]:
    """One epoch of the bundle's classifier with MONAI's trainer, as a single step."""
    network = ResNet(
        "basic", [1, 1, 1, 1], [24, 48, 96, 192], spatial_dims=2, n_input_channels=1, conv1_t_stride=2, num_classes=2
    ).to(device)
    SupervisedTrainer(
        device=device,
        max_epochs=1,
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=1e-3),
        loss_function=torch.nn.CrossEntropyLoss(),
        decollate=False,
    ).run()
    yield


def measure_training(
    generator: StyleGenerator, gate: PrivacyGate, walks: WalkSet, arguments: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """An epoch on synthetic images against one on cached ones."""
    images = arguments.batches * BATCH
    items = [{"image": torch.rand(1, SIZE, SIZE) * 2 - 1, "label": number % 2} for number in range(images)]
    real = DataLoader(CacheDataset(items, progress=False), batch_size=BATCH, shuffle=True, num_workers=0)
    synthetic = [make_loader(walks, generator, gate, arguments.batches, device, ahead) for ahead in (0, AHEAD)]
    sides: dict[str, Callable[[], Iterable]] = {
        "cached_real": lambda: train_epoch(real, device),
        "synthetic": lambda: train_epoch(synthetic[0], device),
        "synthetic_ahead": lambda: train_epoch(synthetic[1], device),
    }
    times = alternate(sides, arguments.rounds, images, device)
    seconds_each = {name: round(statistics.median(values) * images / 1000, 3) for name, values in times.items()}
    return {"images": images, "epoch_seconds": seconds_each, **figures(times, "cached_real")}


def growing_loaders(
    generator: StyleGenerator, batches: int, device: torch.device
) -> dict[str, dict[int, PrivacyWalkSampler]]:
    """Samplers over the rows of the gallery and over the number of paths."""
    embedder = IdentityEmbedder().to(device)
    walks, gate = make_walks(generator, PATHS), random_gate(embedder, GALLERY, device)
    return {
        "gallery_rows": {
            rows: make_loader(walks, generator, random_gate(embedder, rows, device), batches, device)
            for rows in GALLERIES
        },
        "paths": {n: make_loader(make_walks(generator, n), generator, gate, batches, device) for n in PATH_NUMBERS},
    }


def measure_growth(
    loaders: Mapping[int, PrivacyWalkSampler], arguments: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Time per image, and relative to the smallest."""
    sides = {str(number): lambda loader=loader: loader for number, loader in loaders.items()}
    images = len(next(iter(loaders.values()))) * BATCH
    return figures(alternate(sides, arguments.rounds, images, device), next(iter(sides)))


def show(title: str, measured: dict[str, Any]) -> dict[str, Any]:
    """Print a measurement's table; gives the measurement back."""
    ratios = next(value for name, value in measured.items() if name.startswith("time_ratio_vs_"))
    print(f"\n{title:<26} {'ms/image':>9} {'images/s':>9} {'ratio':>7}")
    for name, value in measured["milliseconds_per_image"].items():
        print(f"{name:<26} {value:>9.3f} {measured['images_per_second'][name]:>9.1f} {ratios[name]:>7.3f}", flush=True)
    return measured


def main() -> None:
    """Time, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, under two minutes")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batches", type=int, default=16, help="of a pass")
    parser.add_argument("--rounds", type=int, help="alternating rounds (default 7; quick 2)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 7)
    device = torch.device(arguments.device)
    torch.manual_seed(arguments.seed)
    generator = StyleGenerator(SIZE, channel_base=1024, channel_max=128).to(device).eval().requires_grad_(False)
    walks = make_walks(generator, PATHS)
    gate = random_gate(IdentityEmbedder(), GALLERY, device)
    set_threshold(gate, walks, generator, device)
    print(f"{machine(device)}; torch {torch.__version__}; {SIZE} x {SIZE} pixels, batches of {BATCH}")
    batches = show("a pass", measure_batches(generator, gate, walks, arguments, device))
    print(f"rejected {batches['rejected_share']:.1%} of the draws; target: at most {TARGET} times the generator")
    epoch = show("an epoch of training", measure_training(generator, gate, walks, arguments, device))
    loaders = growing_loaders(generator, 2 if arguments.quick else 8, device)
    record = {
        "time_ratio_vs_generator_forward": batches["time_ratio_vs_generator"]["sampler"],
        "images_per_second": batches["images_per_second"]["sampler"],
        "target": TARGET,
        "batches": batches,
        "epoch": epoch,
        "growth": {name: show(name, measure_growth(sides, arguments, device)) for name, sides in loaders.items()},
        "settings": {name: getattr(arguments, name) for name in ("batches", "rounds", "seed", "quick")},
        **about(device),
    }
    if arguments.json:
        write_json(arguments.json, record)


if __name__ == "__main__":
    main()
