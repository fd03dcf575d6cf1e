"""What synthetic batches cost: the sampler beside its bare generator, training on it beside training on real images.

Three measurements with networks of the bundle's size and random weights (the time does not depend on them); the gate
rejects about 1 % of the images, and the inner points of the walks count as verified. All sides of a measurement take
turns in one run, batch by batch in 1 and 3, epoch by epoch in 2; another one begins in each round. A round is a pass of
each side; a ratio is the median of the rounds' ratios.

1. A pass of the sampler (drawing, rendering, judging, refilling, packing) against the generator's forward of as many
   batches, and against that with the gate's embedding of the images.
2. An epoch of training a small ResNet on the sampler, with and without batches prepared ahead by its thread, against
   one on as many images of a CacheDataset. On two sides the walks are planned anew for each epoch: straight lines of
   14 points, judged by the gate as verify_walks does. The side that prepares ahead plans the next epoch's while it
   trains; its step ends when training and plan are over.
3. Time per image over the rows of the gate's gallery and the number of paths.

    python benchmarks/sampler.py --quick --json sampler.json
"""

from __future__ import annotations

import argparse
import statistics
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from common import about, seconds
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.networks.nets import ResNet

from monai_plan.data import PrivacyWalkDataset, PrivacyWalkSampler
from monai_plan.latent import PrivacyGate
from monai_plan.latent.verification import verify_walks
from monai_plan.latent.walk_set import WalkSet
from monai_plan.networks.nets import IdentityEmbedder, StyleGenerator
from monai_plan.utils import generator_for, machine_name, write_json

SIZE, BATCH, POINTS, PLANNED_POINTS = 64, 32, 50, 14
GALLERY, PATHS, AHEAD = 366, 100, 2
REJECTED = 0.01
GALLERIES, PATH_NUMBERS = (10, 100, 1_000, 10_000), (1, 10, 100, 1_000)
TARGET = 1.25
"""Times the generator's forward."""
_END = object()


def lines(
    generator: StyleGenerator, paths: int, points: int, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points [P, T, D] of straight lines between random latents, and their classes in turn."""
    labels = torch.arange(paths) % 2
    device = generator.w_avg.device
    with torch.no_grad():
        z = torch.randn(2 * paths, generator.z_dim, generator=rng).to(device)
        start, end = generator.map_latents(z, labels.repeat(2).to(device)).cpu().view(2, paths, 1, -1)
    return torch.lerp(start, end, torch.linspace(0, 1, points).view(1, -1, 1)), labels


def make_walks(generator: StyleGenerator, paths: int, seed: int) -> WalkSet:
    """Straight lines whose inner points all count as verified."""
    points, labels = lines(generator, paths, POINTS, generator_for(seed, "benchmark's walks"))
    verified = torch.ones(paths, POINTS, dtype=torch.bool)
    verified[:, [0, -1]] = False
    return WalkSet(points, labels, verified, "linear")


class LinePlanner:
    """New straight lines for each epoch, judged by the gate; says when a plan is there."""

    def __init__(self, generator: StyleGenerator, gate: PrivacyGate, paths: int, seed: int) -> None:
        self.generator, self.gate, self.paths, self.seed = generator, gate, paths, seed
        self.latest = 0
        self.changed = threading.Condition()

    def __call__(self, epoch: int) -> WalkSet:
        rng = generator_for(self.seed, "benchmark's plans", epoch)
        try:
            points, labels = lines(self.generator, self.paths, PLANNED_POINTS, rng)
            return verify_walks(points, labels, self.generator, self.gate, batch_size=BATCH, kind="linear")
        finally:
            with self.changed:
                self.latest = epoch
                self.changed.notify_all()

    def wait(self, epoch: int) -> None:
        """Until the plan of ``epoch`` is over."""
        with self.changed:
            self.changed.wait_for(lambda: self.latest >= epoch)


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
    planner: LinePlanner | None = None,
) -> PrivacyWalkSampler:
    """A sampler of so many batches a pass."""
    dataset = PrivacyWalkDataset(walks, batches * BATCH, planner=planner)
    return PrivacyWalkSampler(
        dataset, generator, gate, batch_size=BATCH, shuffle=True, device=device, prefetch=prefetch
    )


def alternate(
    sides: Mapping[str, Callable[[], Iterable]], rounds: int, images: int, device: torch.device
) -> dict[str, list[float]]:
    """Milliseconds per image of each side and round; the sides take turns step by step, after one round unmeasured.

    Each round begins with another side, so that none always follows the same one.

    Args:
        sides: each gives an iterable whose steps are timed; equally many steps.
        rounds: measured.
        images: of a side and round.
        device: waited for after each step.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        names = list(sides)
        first = number % len(names)
        running = {name: iter(sides[name]()) for name in names[first:] + names[:first]}
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


class Training:
    """The bundle's classifier with MONAI's trainer on one loader, an epoch a step.

    Args:
        loader: gives the batches.
        device: of the network.
        plans_ahead: what plans the next epoch's walks meanwhile, and is waited for at the end of an epoch.
    """

    def __init__(self, loader: Any, device: torch.device, plans_ahead: LinePlanner | None = None) -> None:
        network = ResNet(
            "basic",
            [1, 1, 1, 1],
            [24, 48, 96, 192],
            spatial_dims=2,
            n_input_channels=1,
            conv1_t_stride=2,
            num_classes=2,
        ).to(device)
        self.trainer = SupervisedTrainer(
            device=device,
            max_epochs=0,
            train_data_loader=loader,
            network=network,
            optimizer=torch.optim.AdamW(network.parameters(), lr=1e-3),
            loss_function=torch.nn.CrossEntropyLoss(),
            decollate=False,
        )
        self.plans_ahead = plans_ahead

    def __call__(self) -> Iterator[None]:
        """The next epoch, as a single step."""
        self.trainer.state.max_epochs += 1
        self.trainer.run()
        assert self.trainer.state.epoch == self.trainer.state.max_epochs
        if self.plans_ahead is not None:
            self.plans_ahead.wait(self.trainer.state.epoch + 1)
        yield


def measure_training(
    generator: StyleGenerator, gate: PrivacyGate, walks: WalkSet, arguments: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """An epoch on synthetic images, of walks kept and planned anew, against one on cached ones."""
    images = arguments.batches * BATCH
    items = [{"image": torch.rand(1, SIZE, SIZE) * 2 - 1, "label": number % 2} for number in range(images)]
    real = DataLoader(CacheDataset(items, progress=False), batch_size=BATCH, shuffle=True, num_workers=0)
    sides: dict[str, Callable[[], Iterable]] = {"cached_real": Training(real, device)}
    for name, ahead in (("synthetic", 0), ("synthetic_ahead", AHEAD)):
        loader = make_loader(walks, generator, gate, arguments.batches, device, ahead)
        sides[name] = Training(loader, device)
        planner = LinePlanner(generator, gate, len(walks), arguments.seed)
        loader = make_loader(walks, generator, gate, arguments.batches, device, ahead, planner)
        sides[f"{name}_refreshed"] = Training(loader, device, planner if ahead else None)
    times = alternate(sides, arguments.rounds, images, device)
    seconds_each = {name: round(statistics.median(values) * images / 1000, 3) for name, values in times.items()}
    refresh = {
        name: [(a - b) * images / 1000 for a, b in zip(times[f"{name}_refreshed"], times[name], strict=True)]
        for name in ("synthetic", "synthetic_ahead")
    }
    return {
        "images": images,
        "epoch_seconds": seconds_each,
        "refresh_points": len(walks) * (PLANNED_POINTS - 2),
        "refresh_seconds": {name: round(statistics.median(values), 3) for name, values in refresh.items()},
        **figures(times, "cached_real"),
    }


def growing_loaders(
    generator: StyleGenerator, batches: int, seed: int, device: torch.device
) -> dict[str, dict[int, PrivacyWalkSampler]]:
    """Samplers over the rows of the gallery and over the number of paths."""
    embedder = IdentityEmbedder().to(device)
    walks, gate = make_walks(generator, PATHS, seed), random_gate(embedder, GALLERY, device)
    return {
        "gallery_rows": {
            rows: make_loader(walks, generator, random_gate(embedder, rows, device), batches, device)
            for rows in GALLERIES
        },
        "paths": {
            n: make_loader(make_walks(generator, n, seed), generator, gate, batches, device) for n in PATH_NUMBERS
        },
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
    parser.add_argument("--batches", type=int, help="of a pass (default 16; quick 4)")
    parser.add_argument("--paths", type=int, help=f"of the walks (default {PATHS}; quick 12)")
    parser.add_argument("--rounds", type=int, help="alternating rounds (default 7; quick 2)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 7)
    arguments.batches = arguments.batches or (4 if arguments.quick else 16)
    arguments.paths = arguments.paths or (12 if arguments.quick else PATHS)
    device = torch.device(arguments.device)
    torch.manual_seed(arguments.seed)
    generator = StyleGenerator(SIZE, channel_base=1024, channel_max=128).to(device).eval().requires_grad_(False)
    walks = make_walks(generator, arguments.paths, arguments.seed)
    gate = random_gate(IdentityEmbedder(), GALLERY, device)
    set_threshold(gate, walks, generator, device)
    print(f"{machine_name(device)}; torch {torch.__version__}; {SIZE} x {SIZE} pixels, batches of {BATCH}")
    batches = show("a pass", measure_batches(generator, gate, walks, arguments, device))
    print(f"rejected {batches['rejected_share']:.1%} of the draws; target: at most {TARGET} times the generator")
    epoch = show("an epoch of training", measure_training(generator, gate, walks, arguments, device))
    print(
        f"planning {arguments.paths} paths of {PLANNED_POINTS} points adds, seconds an epoch: "
        + ", ".join(f"{name} {value:.2f}" for name, value in epoch["refresh_seconds"].items())
    )
    loaders = growing_loaders(generator, 1 if arguments.quick else 8, arguments.seed, device)
    record = {
        "time_ratio_vs_generator_forward": batches["time_ratio_vs_generator"]["sampler"],
        "images_per_second": batches["images_per_second"]["sampler"],
        "target": TARGET,
        "batches": batches,
        "epoch": epoch,
        "growth": {name: show(name, measure_growth(sides, arguments, device)) for name, sides in loaders.items()},
        "settings": {name: getattr(arguments, name) for name in ("batches", "paths", "rounds", "seed", "quick")},
        **about(device),
    }
    if arguments.json:
        write_json(arguments.json, record)


if __name__ == "__main__":
    main()
