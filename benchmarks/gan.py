"""Images a second of training a generator and of sampling it, against a plain float32 computation of the same networks.

Both sides have the same weights, their outputs are compared first, and their rounds alternate in one run. A training
step is one step of the generator and one of the discriminator with Adam, without augmentation and penalties. ``ours``
runs in the half precision that the hardware has, if it has one. Beside the ratios: the arithmetic that a side gets done
a second and what a plain matrix product gets done on the same machine; and, each in a process of its own, the whole
recipe (trainer, augmentation, R1 and R2 every 8th step) with its peak of memory by size and batch.

    python benchmarks/gan.py --json FILE
    python benchmarks/gan.py --quick --json FILE
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from common import about, seconds
from ignite.engine import Events
from plain_style_gan import plain_discriminate, plain_generate
from torch.utils.flop_counter import FlopCounterMode

from monai_plan.engines import StyleGanTrainer
from monai_plan.losses import StyleGanObjective
from monai_plan.losses.style_gan import discriminator_logistic_loss, generator_logistic_loss
from monai_plan.networks.layers import AugmentPipe
from monai_plan.networks.nets import StyleDiscriminator, StyleGenerator
from monai_plan.utils import autocast_dtype, has_half_precision, machine_name, write_json

Networks = tuple[StyleGenerator, StyleDiscriminator]
Side = tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor], torch.dtype | None]

BATCHES = {64: (16, 32), 128: (8, 16), 256: (4, 8)}
"""By size: the batch that is timed, and a second one for the table of memory."""
LAST_CHANNELS = 32
"""Channels of the finest block; 128 at most in the others: 1.4 M + 1.6 M parameters at 64 px."""
TOLERANCE = 1e-3


def make_networks(size: int, device: torch.device, seed: int) -> Networks:
    """Untrained networks of the benchmark's width for one grey channel and two classes."""
    torch.manual_seed(seed)
    options = {"num_classes": 2, "channel_base": LAST_CHANNELS * size, "channel_max": 128}
    generator = StyleGenerator(size, 1, **options)
    for block in generator.blocks:
        for layer in (block.up, block.conv):
            if layer is not None:
                torch.nn.init.constant_(layer.noise_strength, 0.1)  # 0 at first: the noise would not be compared
    return generator.to(device), StyleDiscriminator(size, 1, mapping_layers=2, **options).to(device)


def make_sides(networks: Networks, device: torch.device, compiled: bool) -> dict[str, Side]:
    """Names to (generate, discriminate, autocast's dtype)."""
    generator, discriminator = networks
    sides: dict[str, Side] = {
        "plain": (
            lambda z, labels, **options: plain_generate(generator, z, labels, **options),
            lambda images, labels: plain_discriminate(discriminator, images, labels),
            None,
        ),
        "ours_fp32": (generator, discriminator, None),
    }
    if has_half_precision(device):
        sides["ours"] = (generator, discriminator, autocast_dtype(device))
    if compiled:
        dtype = autocast_dtype(device) if has_half_precision(device) else None
        sides["ours_compiled"] = (torch.compile(generator), torch.compile(discriminator), dtype)
    return sides


def require_equal(networks: Networks, sides: dict[str, Side], z: torch.Tensor, labels: torch.Tensor) -> float:
    """The largest difference between the plain and our float32 outputs, relative to their range; exits if too large."""
    (generate, discriminate, _), (plain_generator, plain_discriminator, _) = sides["ours_fp32"], sides["plain"]
    worst = 0.0
    with torch.no_grad():
        for training in (True, False):
            for network in networks:
                network.train(training)
            rngs = [torch.Generator(z.device).manual_seed(1) for _ in range(2)]
            ours, plain = (
                call(z, labels, noise="random", rng=rng)
                for call, rng in zip((generate, plain_generator), rngs, strict=True)
            )
            logits = discriminate(plain, labels), plain_discriminator(plain, labels)
            for one, other in ((ours, plain), logits):
                worst = max(worst, ((one - other).abs().max() / other.abs().max()).item())
    if not worst < TOLERANCE:
        raise SystemExit(
            f"the plain computation differs from ours by {worst:.1e} of its range: no comparison of speeds"
        )
    return worst


def train_step(side: Side, optimizers: tuple[torch.optim.Optimizer, ...], real: torch.Tensor, z: torch.Tensor) -> None:
    """One step of each network on one batch."""
    generate, discriminate, dtype = side
    labels = torch.arange(len(z), device=z.device) % 2
    for player, optimizer in enumerate(optimizers):
        other = optimizers[1 - player].param_groups[0]["params"]
        for parameter in other:
            parameter.requires_grad_(False)
        with torch.autocast(z.device.type, dtype, enabled=dtype is not None):
            fake = discriminate(generate(z, labels), labels)
            logits = None if player == 0 else discriminate(real, labels)
        loss = (
            generator_logistic_loss(fake.float())
            if logits is None
            else discriminator_logistic_loss(logits.float(), fake.float())
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        for parameter in other:
            parameter.requires_grad_(True)


@torch.no_grad()
def sample(side: Side, z: torch.Tensor) -> torch.Tensor:
    """One batch of samples."""
    generate, _, dtype = side
    with torch.autocast(z.device.type, dtype, enabled=dtype is not None):
        return generate(z, torch.arange(len(z), device=z.device) % 2)


def measure(size: int, rounds: int, device: torch.device, compiled: bool, seed: int) -> dict[str, Any]:
    """Alternating rounds of all sides at one size: images a second, ratios, arithmetic."""
    batch = BATCHES[size][0]
    networks = make_networks(size, device, seed)
    sides = make_sides(networks, device, compiled)
    optimizers = tuple(torch.optim.Adam(network.parameters(), 1e-5, betas=(0.0, 0.99)) for network in networks)
    real = torch.rand(batch, 1, size, size, device=device) * 2 - 1
    z = torch.randn(batch, networks[0].z_dim, device=device)
    difference = require_equal(networks, sides, z, torch.arange(batch, device=device) % 2)
    calls: dict[str, Callable[[Side], Any]] = {
        "train": lambda side: train_step(side, optimizers, real, z),
        "sample": lambda side: sample(side, z),
    }
    figures: dict[str, Any] = {"batch": batch, "largest_relative_difference": difference}
    figures["parameters"] = [sum(p.numel() for p in network.parameters()) for network in networks]
    best = "ours" if "ours" in sides else "ours_fp32"
    for kind, call in calls.items():
        for network in networks:
            network.train(kind == "train")
        with FlopCounterMode(display=False) as counter:
            call(sides["ours_fp32"])
        times: dict[str, list[float]] = {name: [] for name in sides}
        for side in sides.values():
            call(side)  # warm-up
        for _ in range(rounds if kind == "train" else 3 * rounds):
            for name, side in sides.items():
                times[name].append(seconds(partial(call, side), device))
        rates = {name: batch / statistics.median(values) for name, values in times.items()}
        figures[f"{kind}_img_per_s"] = rates
        figures[f"{kind}_speedup_vs_plain"] = rates[best] / rates["plain"]
        figures[f"{kind}_gflop_per_image"] = counter.get_total_flops() / batch / 1e9
    return figures


def matrix_product_gflops(device: torch.device, dtype: torch.dtype, side: int = 2048) -> float:
    """What the machine gets done in a large matrix product, in GFLOP/s: a ceiling for convolutions without tricks."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return 2 * side**3 / min(seconds(lambda: a @ b, device) for _ in range(5)) / 1e9


def peak_gib(device: torch.device) -> float:
    """The process's (the graphics card's) peak of memory so far, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def recipe(size: int, batch: int, device: torch.device, threads: int, seed: int) -> dict[str, float]:
    """Eight iterations of the trainer as the bundle sets it up, one with penalties; to be called in a fresh process."""
    torch.set_num_threads(threads)
    generator, discriminator = make_networks(size, device, seed)
    data = {"image": torch.rand(batch, 1, size, size) * 2 - 1, "label": torch.arange(batch) % 2}
    before = peak_gib(device)
    trainer = StyleGanTrainer(
        device=device,
        max_epochs=1,
        train_data_loader=[data] * 9,  # type: ignore[arg-type]
        generator=generator,
        discriminator=discriminator,
        g_optimizer=torch.optim.Adam(generator.parameters(), 1e-5, betas=(0.0, 0.99)),
        d_optimizer=torch.optim.Adam(discriminator.parameters(), 1e-5, betas=(0.0, 0.99)),
        augment=AugmentPipe(0.3).to(device),
        objective=StyleGanObjective(loss="relativistic", r1_gamma=0.2, r2_gamma=0.2, penalty_interval=8),
        seed=seed,
        amp=has_half_precision(device),
    )
    marks: list[float] = []

    @trainer.on(Events.ITERATION_COMPLETED)
    def mark() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    trainer.run()
    return {
        "img_per_s": batch * (len(marks) - 1) / (marks[-1] - marks[0]),
        "peak_gib": peak_gib(device),
        "peak_before_training_gib": before,
    }


def main() -> None:
    """Time, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 px only, two rounds, under two minutes")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, help="alternating rounds (default 7; quick 2)")
    parser.add_argument("--compile", action="store_true", help="time torch.compile'd networks, too")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 7)
    device = torch.device(options.device)
    batches = {64: BATCHES[64]} if options.quick else BATCHES
    sizes = {size: measure(size, rounds, device, options.compile, options.seed) for size in batches}
    dtype = autocast_dtype(device) if has_half_precision(device) else torch.float32
    ceilings = {str(kind): matrix_product_gflops(device, kind) for kind in {torch.float32, dtype}}
    recipes: dict[str, dict[str, dict[str, float]]] = {}
    for size, of_size in batches.items():
        for batch in of_size:
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                future = process.submit(recipe, size, batch, device, torch.get_num_threads(), options.seed)
                recipes.setdefault(str(size), {})[str(batch)] = future.result()

    print(f"{machine_name(device)}; torch {torch.__version__}; matrix products in GFLOP/s: {ceilings}")
    print(f"{'size':>5} {'batch':>5} {'side':<14} {'train img/s':>12} {'ratio':>6} {'sample img/s':>13} {'ratio':>6}")
    for size, figures in sizes.items():
        train, drawn = figures["train_img_per_s"], figures["sample_img_per_s"]
        for name in train:
            ratios = train[name] / train["plain"], drawn[name] / drawn["plain"]
            print(
                f"{size:>5} {figures['batch']:>5} {name:<14} {train[name]:>12.2f} {ratios[0]:>6.2f} "
                f"{drawn[name]:>13.1f} {ratios[1]:>6.2f}"
            )
    print(f"\nthe whole recipe\n{'size':>5} {'batch':>5} {'img/s':>8} {'peak GiB':>9} {'before training':>16}")
    for size_name, by_batch in recipes.items():
        for batch_name, run in by_batch.items():
            print(
                f"{size_name:>5} {batch_name:>5} {run['img_per_s']:>8.2f} {run['peak_gib']:>9.2f} "
                f"{run['peak_before_training_gib']:>16.2f}"
            )
    if options.json:
        record = {
            "train_speedup_vs_plain": min(figures["train_speedup_vs_plain"] for figures in sizes.values()),
            "sample_speedup_vs_plain": min(figures["sample_speedup_vs_plain"] for figures in sizes.values()),
            "sizes": {str(size): figures for size, figures in sizes.items()},
            "recipe": recipes,
            "matrix_product_gflops": ceilings,
            "rounds": rounds,
            "seed": options.seed,
            "quick": options.quick,
            **about(device),
        }
        write_json(options.json, record)


if __name__ == "__main__":
    main()
