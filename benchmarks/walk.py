"""Seconds per path of ``walk_private`` beside the released code's schedule, both in one run on the same networks.

The baseline is a plain implementation, written for this file, of the schedule of the paper's released code: one pair at
a time, chunks of 4 points, every network with its weights' gradients on, float32. All sides are timed for a few
iterations, in turn, and scaled to the 500 of the paper; the figure of a side is the median of its rounds. Networks have
random weights: the time does not depend on them. ``speedup_vs_released_schedule`` compares float32 with float32, and is
the smallest over the sizes; bfloat16 computes another walk (its distance is reported) and has its own key.

    python benchmarks/walk.py --quick --json walk.json
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from common import about, machine, seconds
from monai.networks.nets import resnet18

from monai_plan.latent import AnchorPairs, WalkSteering, pair_anchors, random_anchors, walk_private
from monai_plan.networks.nets import StyleGenerator
from monai_plan.utils import write_json

PAPER_ITERATIONS = 500
IDENTITIES = 365


def released_schedule(pairs: AnchorPairs, steps: int, steering: WalkSteering, iterations: int) -> torch.Tensor:
    """The walk of each pair by itself, as the schedule of the released code runs it."""
    device, walks = next(steering.generator.parameters()).device, []
    fraction = torch.linspace(0, 1, steps, device=device).unsqueeze(1)
    for start, end, label in zip(pairs.start.to(device), pairs.end.to(device), pairs.labels.tolist(), strict=True):
        inner = torch.lerp(start, end, fraction)[1:-1].clone().requires_grad_(True)
        adam = torch.optim.Adam([inner], lr=0.1, betas=(0.9, 0.999))
        for _ in range(iterations):
            adam.zero_grad()
            torch.cat([start[None], inner, end[None]]).diff(dim=0).square().sum().backward()
            for first in range(0, steps - 2, 4):
                images = steering.generator.synthesize(inner[first : first + 4], noise="const").clamp(-1, 1)
                log_q = F.log_softmax(steering.identity_network(images), dim=1)
                l_id = F.kl_div(log_q, torch.full_like(log_q, 1 / log_q.shape[1]), reduction="batchmean")
                labels = torch.full((len(images),), label, device=device)
                (0.1 * l_id + F.cross_entropy(steering.label_network(images), labels)).backward()
            adam.step()
        walks.append(torch.cat([start[None], inner.detach(), end[None]]))
    return torch.stack(walks)


def make_steering(size: int, seed: int, device: torch.device) -> WalkSteering:
    """Random networks of the sizes that two CPU cores can train."""
    torch.manual_seed(seed)
    generator = StyleGenerator(image_size=size, w_dim=128, channel_base=2048, channel_max=128)
    classifiers = [
        resnet18(spatial_dims=2, n_input_channels=1, num_classes=classes, conv1_t_stride=2)
        for classes in (IDENTITIES, 2)
    ]
    return WalkSteering(*(network.to(device).eval() for network in (generator, *classifiers)))


def measure(size: int, arguments: argparse.Namespace, device: torch.device) -> dict:
    """Interleaved rounds at one image size; seconds per path of 500 iterations."""
    steering = make_steering(size, arguments.seed, device)
    anchors = random_anchors(steering.generator, max(4, arguments.pairs), seed=arguments.seed)
    pairs = pair_anchors(anchors, arguments.pairs // 2, seed=arguments.seed)
    one = AnchorPairs(pairs.start[:1], pairs.end[:1], pairs.labels[:1])
    options = {"iterations": arguments.iterations, "points_per_chunk": arguments.points_per_chunk, "progress": False}

    def ours(amp_dtype: torch.dtype | None = None) -> torch.Tensor:
        return walk_private(pairs, arguments.steps, steering, amp_dtype=amp_dtype, **options)

    sides: dict[str, tuple[Callable[[], torch.Tensor], int]] = {
        "released_schedule": (lambda: released_schedule(one, arguments.steps, steering, arguments.iterations), 1),
        "ours_fp32": (ours, len(pairs)),
        "ours_bf16": (lambda: ours(torch.bfloat16), len(pairs)),
    }
    walks = {name: call()[:1].cpu() for name, (call, _) in sides.items()}  # the warm-up, too
    errors = {name: (walk - walks["released_schedule"]).abs() for name, walk in walks.items()}
    rounds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.rounds):
        for name, (call, paths) in sides.items():
            per_path = seconds(call, device) / paths * PAPER_ITERATIONS / arguments.iterations
            rounds[name].append(round(per_path, 3))
    median = {name: statistics.median(values) for name, values in rounds.items()}
    return {
        "seconds_per_path": median,
        "rounds": rounds,
        "speedup_fp32": round(median["released_schedule"] / median["ours_fp32"], 3),
        "speedup_bf16": round(median["released_schedule"] / median["ours_bf16"], 3),
        # Adam moves an element by 0.1 at first, whatever its gradient's size: rounding turns a few near-zero ones round
        "mean_difference_of_points": {name: error.mean().item() for name, error in errors.items()},
        "share_differing_by_0.001": {name: (error > 1e-3).float().mean().item() for name, error in errors.items()},
    }


def main() -> None:
    """Time, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="64x64 only, few iterations, under two minutes")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=50, help="points of a path")
    parser.add_argument("--pairs", type=int, default=4, help="pairs in one batch of ours (even)")
    parser.add_argument("--points_per_chunk", type=int, default=48)
    parser.add_argument("--iterations", type=int, help="timed iterations a call (default 3; quick 1)")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 5; quick 3)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.iterations = arguments.iterations or (1 if arguments.quick else 3)
    arguments.rounds = arguments.rounds or (3 if arguments.quick else 5)
    device = torch.device(arguments.device)
    sizes = {size: measure(size, arguments, device) for size in ((64,) if arguments.quick else (64, 128))}
    print(f"{machine(device)}; torch {torch.__version__}; {arguments.steps} points, {PAPER_ITERATIONS} iterations")
    print(f"{'size':>5} {'side':<18} {'s/path':>10} {'speed-up':>9}")
    for size, figures in sizes.items():
        for name, value in figures["seconds_per_path"].items():
            print(
                f"{size:>5} {name:<18} {value:>10.1f} {figures['seconds_per_path']['released_schedule'] / value:>9.2f}"
            )
    if arguments.json:
        settings = ("steps", "pairs", "points_per_chunk", "iterations", "rounds", "seed", "quick")
        record = {
            "speedup_vs_released_schedule": min(figures["speedup_fp32"] for figures in sizes.values()),
            "speedup_vs_released_schedule_bf16": min(figures["speedup_bf16"] for figures in sizes.values()),
            "sizes": {str(size): figures for size, figures in sizes.items()},
            **about(device),
            **{name: getattr(arguments, name) for name in settings},
        }
        write_json(arguments.json, record)


if __name__ == "__main__":
    main()
