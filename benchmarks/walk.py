"""Seconds and arithmetic per accepted image: the released code's schedule and our walks on the same networks and pairs.

The networks are the bundle's (phantoms, 64 px, shipped weights) or those of ``--models_dir``. The baseline is a plain
implementation, written for this file, of the schedule of the paper's released code: one pair at a time, chunks of 4
points, every network with its weights' gradients on, float32, 500 Adam iterations. Ours are ``walk_private`` (the same
walk, batched), ``walk_guided`` in image space, ``walk_guided`` with a latent guide, and ``walk_amortised``, all with
the published weights of the terms. Every side's points are then verified in image space, and ours repaired; that time
counts. The loss is the published one, computed by the true networks. Guide and walker are trained once for a
generator: their seconds are reported, not charged to the images. ``floor`` is one generator forward and one gate
embedding an image.

    python benchmarks/walk.py --json walk.json
    python benchmarks/walk.py --quick --json walk.json      the slow sides by 2 iterations, no losses of theirs
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import about, machine
from monai.bundle import ConfigParser
from torch.utils.flop_counter import FlopCounterMode

from monai_plan.data import stack_images
from monai_plan.latent import (
    AnchorPairs,
    WalkSteering,
    ask_networks,
    guide_latents,
    judge_guide,
    pair_anchors,
    random_anchors,
    repair_walks,
    train_guide,
    train_walk_network,
    verify_walks,
    walk_amortised,
    walk_guided,
    walk_linear,
    walk_private,
)
from monai_plan.latent.walks import chunk_shares
from monai_plan.losses import identity_uniformity, label_agreement, spring_energy
from monai_plan.metrics import load_perceptual_features, nearest_distances
from monai_plan.utils import write_json

CONFIGS = Path(__file__).resolve().parent.parent / "bundles" / "plan_tb" / "configs"
PAPER_ITERATIONS = 500


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


def published_loss(points: torch.Tensor, labels: torch.Tensor, steering: WalkSteering) -> torch.Tensor:
    """The paper's loss of each path [P], by the true networks in image space."""
    answers = ask_networks(points[:, 1:-1].flatten(0, 1), steering)
    terms = 0.1 * identity_uniformity(answers.identity)
    terms = terms + label_agreement(answers.label, labels.repeat_interleave(points.shape[1] - 2).to(terms.device))
    shares = chunk_shares(points.shape[1] - 2).to(terms.device)
    return spring_energy(points) + (terms.view(len(points), -1) * shares).sum(dim=1).to(points.device)


class Bench:
    """Networks, pairs, gate and training images, and how a side is timed and judged."""

    def __init__(self, options: argparse.Namespace) -> None:
        config = ConfigParser()
        config.read_config([str(CONFIGS / "train.json"), str(CONFIGS / "walk.json")])
        overrides = {"dataset_dir": options.dataset_dir, "datalist": options.datalist, "models_dir": options.models_dir}
        config.update({"bundle_root": str(CONFIGS.parent), **{name: v for name, v in overrides.items() if v}})
        self.options = options
        self.steering: WalkSteering = config.get_parsed_content("walk#steering")
        self.gate = config.get_parsed_content("gate")
        self.device = next(self.steering.generator.parameters()).device
        anchors = random_anchors(self.steering.generator, 2 * options.pairs, seed=options.seed)
        per_class = max(1, options.pairs // len(anchors.labels.unique()))
        self.pairs = pair_anchors(anchors, per_class, seed=options.seed)
        chosen = torch.linspace(0, len(self.pairs) - 1, options.released_pairs).round().long()
        self.few = AnchorPairs(self.pairs.start[chosen], self.pairs.end[chosen], self.pairs.labels[chosen])
        self.features, self.distance = load_perceptual_features(options.lpips_weights or None, self.gate.embedder)
        items = config.get_parsed_content("splits")["training"]
        load = config.get_parsed_content("load_image")
        self.training = stack_images([load(item) for item in items]).images

    def timed(self, call: Callable[[], Any]) -> tuple[Any, float]:
        """The result of a call and its wall time."""
        begin = time.perf_counter()
        result = call()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return result, time.perf_counter() - begin

    def judge(
        self, walk: Callable[[AnchorPairs], torch.Tensor], pairs: AnchorPairs, repair: bool, factor: float = 1.0
    ) -> dict[str, Any]:
        """Walk, verify, repair; seconds, arithmetic (of the walk on few pairs), loss and distance."""
        points, walking = self.timed(lambda: walk(pairs))

        def check() -> Any:
            found = verify_walks(points, pairs.labels, self.steering.generator, self.gate)
            return repair_walks(found, self.steering, self.gate) if repair else found

        walks, checking = self.timed(check)
        with FlopCounterMode(display=False) as counter:
            walk(self.few)
        counts = walks.meta["counts"]
        images, gflop = max(1, counts["verified"]), counter.get_total_flops() * factor / 1e9
        record = {
            "paths": len(pairs),
            "seconds_walking": walking * factor,
            "seconds_checking": checking,
            "seconds_per_accepted_image": (walking * factor + checking) / images,
            "gflop_per_accepted_image": gflop / len(self.few) / (images / len(pairs)),
            "accepted_fraction": counts["verified"] / counts["inner"],
            "counts": counts,
        }
        if factor == 1.0:
            losses = published_loss(walks.points, walks.labels, self.steering)
            pictures = self.render(walks.points[walks.verified])
            distances = nearest_distances(pictures, self.training, self.features)
            record |= {
                "loss_mean": float(losses.mean()),
                "loss_worst": float(losses.max()),
                "losses": losses.tolist(),
                "distance_mean": float(distances.mean()),
                "distance_least": float(distances.min()),
            }
        return record

    @torch.no_grad()
    def render(self, latents: torch.Tensor) -> torch.Tensor:
        """Images of latents, clamped, on the CPU."""
        parts = latents.to(self.device).split(64)
        return torch.cat([self.steering.generator.synthesize(part, noise="const").clamp(-1, 1).cpu() for part in parts])

    def floor(self) -> float:
        """Seconds of one generator forward and one gate embedding, per image."""
        latents = walk_linear(self.pairs, self.options.steps)[:, 1:-1].flatten(0, 1)[:256]

        @torch.no_grad()
        def once() -> None:
            for part in latents.to(self.device).split(32):
                images = self.steering.generator.synthesize(part, noise="const").clamp(-1, 1)
                self.gate.embedder(images)

        once()
        return min(self.timed(once)[1] for _ in range(3)) / len(latents)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All sides on the same networks and pairs."""
    bench = Bench(options)
    steering, steps = bench.steering, options.steps
    published = {"balance": "published", "control_points": options.control_points, "progress": False}

    def learn() -> Any:
        latents = guide_latents(steering.generator, options.guide_latents, seed=options.seed)
        answers = ask_networks(latents, steering)
        guide = train_guide(answers, steering, iterations=options.guide_iterations, seed=options.seed, progress=False)
        found = walk_guided(bench.pairs, steps, steering, guide, **published)
        along = found[:, 1:-1:4].flatten(0, 1)
        return train_guide(
            answers + ask_networks(along, steering),
            steering,
            guide,
            iterations=options.guide_iterations // 2,
            seed=options.seed + 1,
            progress=False,
        )

    guide, guide_seconds = bench.timed(learn)
    unseen = guide_latents(steering.generator, 512, seed=options.seed + 10)
    report = judge_guide(guide, ask_networks(unseen, steering), steering)

    def imitate() -> Any:
        anchors = random_anchors(steering.generator, 128, seed=options.seed + 20)
        solved = pair_anchors(anchors, 512, seed=options.seed + 20)
        paths = walk_guided(solved, steps, steering, guide, **published)
        classes = max(1, int(steering.generator.num_classes))
        return train_walk_network(paths, solved.labels, classes, options.control_points, progress=False)

    walker, walker_seconds = bench.timed(imitate)
    iterations = 2 if options.quick else PAPER_ITERATIONS
    slow = PAPER_ITERATIONS / iterations
    sides: dict[str, dict[str, Any]] = {
        "released_schedule": bench.judge(
            lambda pairs: released_schedule(pairs, steps, steering, iterations), bench.few, False, slow
        ),
        "private": bench.judge(
            lambda pairs: walk_private(pairs, steps, steering, iterations=iterations, progress=False),
            *(bench.few, True, slow),
        ),
        "guided_image_space": bench.judge(
            lambda pairs: walk_guided(pairs, steps, steering, points_per_chunk=96, **published), bench.few, True
        ),
        "guided_latent": bench.judge(
            lambda pairs: walk_guided(pairs, steps, steering, guide, **published), bench.pairs, True
        ),
        "amortised": bench.judge(lambda pairs: walk_amortised(pairs, steps, steering, walker), bench.pairs, True),
        "line": bench.judge(lambda pairs: walk_linear(pairs, steps), bench.pairs, False),
    }
    same = bench.judge(lambda pairs: walk_guided(pairs, steps, steering, guide, **published), bench.few, True)
    floor, released, best = bench.floor(), sides["released_schedule"], sides["guided_latent"]
    record = {
        "speedup_vs_released_schedule": released["seconds_per_accepted_image"] / best["seconds_per_accepted_image"],
        "accepted_fraction": best["accepted_fraction"],
        "times_the_floor": {name: side["seconds_per_accepted_image"] / floor for name, side in sides.items()},
        "floor_seconds_per_image": floor,
        "sides": sides,
        "guided_latent_on_the_released_pairs": same,
        "guide": {"seconds": guide_seconds, **asdict(report)},
        "walker": {"seconds": walker_seconds},
        "distance": bench.distance,
    }
    if not options.quick:
        record |= {
            "loss_ratio_mean": same["loss_mean"] / released["loss_mean"],
            "loss_ratio_worst": same["loss_worst"] / released["loss_worst"],
            "min_distance_ratio": same["distance_least"] / released["distance_least"],
        }
    return record


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the slow sides by 2 iterations: no losses of theirs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--models_dir", default="", help="networks and gate (default: the bundle's)")
    parser.add_argument("--dataset_dir", default="", help="their training images (default: the embedded phantoms)")
    parser.add_argument("--datalist", default="", help="their split")
    parser.add_argument("--lpips_weights", default="", help="for LPIPS distances (default: the gate's embedding)")
    parser.add_argument("--steps", type=int, default=50, help="points of a path")
    parser.add_argument("--pairs", type=int, default=48, help="pairs that our fast sides walk at once")
    parser.add_argument("--released_pairs", type=int, default=2, help="pairs of them that the slow sides walk")
    parser.add_argument("--control_points", type=int, default=12)
    parser.add_argument("--guide_latents", type=int, default=8192)
    parser.add_argument("--guide_iterations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.quick:
        options.guide_latents, options.guide_iterations, options.pairs = 512, 200, 8
    record = run(options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # the bundle's choice
    print(f"{machine(device)}; torch {torch.__version__}; {options.steps} points a path")
    columns = f"{'s/image':>9} {'x floor':>8} {'GFLOP':>9} {'accepted':>9} {'loss':>8} {'worst':>8} {'least d':>8}"
    print(f"{'side':<20} {columns}")
    for name, side in record["sides"].items():
        rest = [side.get(key, float("nan")) for key in ("loss_mean", "loss_worst", "distance_least")]
        print(
            f"{name:<20} {side['seconds_per_accepted_image']:>9.4f} {record['times_the_floor'][name]:>8.1f} "
            f"{side['gflop_per_accepted_image']:>9.2f} {side['accepted_fraction']:>9.3f} "
            + " ".join(f"{value:>8.3f}" for value in rest)
        )
    print("guide:", {name: round(value, 3) for name, value in record["guide"].items()})
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        settings["models_dir"] = Path(options.models_dir).name or "the bundle's"
        settings["dataset_dir"] = Path(options.dataset_dir).name or "embedded phantoms"
        settings.pop("datalist"), settings.pop("lpips_weights")
        write_json(options.json, {**record, **settings, **about(device)})


if __name__ == "__main__":
    main()
