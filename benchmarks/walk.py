"""Seconds and arithmetic per accepted image: the released code's schedule and our walks on the same networks and pairs.

The networks are the bundle's (phantoms, 64 px, shipped weights), those of ``--models_dir``, or untrained ones of
``--untrained SIZE`` pixels (times and arithmetic only). The baseline is a plain implementation, written for this file,
of the schedule of the paper's released code: one pair at a time, chunks of 4 points, every network with its weights'
gradients on, float32, 500 Adam iterations. It is timed over few iterations, which all cost the same, and its time
multiplied; its result is that of ``walk_private``, the same arithmetic in large batches, whose 500 iterations are run
in full (``schedule_loss_ratio``: the losses of both after the timed iterations, over each other). Ours are
``walk_private`` itself, ``walk_guided`` in image space, with a latent guide, with a guide and refinements in image
space, and ``walk_amortised``, all with the published weights of the terms. Every side's points are then verified in
image space by gate and label network, and ours repaired; that time counts. The loss is the published one, by the true
networks. Loss and distance ratios are before repair.
Guide and walker are trained once for a generator: their seconds are reported, not charged to the images.
``floor`` is one generator forward and one gate embedding an image.

    python benchmarks/walk.py --json walk.json
    python benchmarks/walk.py --quick --json walk.json          few iterations of the slow sides, no losses of theirs
    python benchmarks/walk.py --untrained 128 --json walk.json
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import about, add_bundle_options, bundle_config, render, seconds
from monai.networks.nets import ResNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from monai_plan.data import stack_images
from monai_plan.latent import (
    AnchorPairs,
    PrivacyGate,
    WalkSet,
    WalkSteering,
    ask_networks,
    fit_guide,
    fit_walk_network,
    pair_anchors,
    random_anchors,
    repair_walks,
    verify_walks,
    walk_amortised,
    walk_guided,
    walk_linear,
    walk_private,
)
from monai_plan.latent.walks import chunk_shares
from monai_plan.losses import identity_uniformity, label_agreement, spring_energy
from monai_plan.metrics import load_perceptual_features, nearest_distances
from monai_plan.networks.nets import IdentityEmbedder, StyleGenerator
from monai_plan.utils import machine_name, write_json

PAPER_ITERATIONS = 500
ROUNDS = 5
MAIN = "guided_refined"
"""The side that the ratios are of."""


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
        self.options = options
        self.training: torch.Tensor | None = None
        if options.untrained:
            self._make_untrained(options.untrained)
        else:
            self._load(options)
        for network in (self.steering.generator, self.steering.identity_network, self.steering.label_network):
            network.eval()  # batch norms must not learn from what is timed
        self.device = next(self.steering.generator.parameters()).device
        anchors = random_anchors(self.steering.generator, 2 * options.pairs, seed=options.seed)
        per_class = max(1, options.pairs // len(anchors.labels.unique()))
        self.pairs = pair_anchors(anchors, per_class, seed=options.seed)
        chosen = torch.linspace(0, len(self.pairs) - 1, options.released_pairs).round().long()
        self.few = AnchorPairs(self.pairs.start[chosen], self.pairs.end[chosen], self.pairs.labels[chosen])

    def _load(self, options: argparse.Namespace) -> None:
        config = bundle_config(options)
        self.steering: WalkSteering = config.get_parsed_content("walk#steering")
        self.gate = config.get_parsed_content("gate")
        self.label_network: nn.Module | None = self.steering.label_network
        self.features, self.distance = load_perceptual_features(options.lpips_weights or None, self.gate.embedder)
        items = config.get_parsed_content("splits")["training"]
        load = config.get_parsed_content("load_image")
        self.training = stack_images([load(item) for item in items]).images

    def _make_untrained(self, size: int) -> None:
        torch.manual_seed(self.options.seed)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        generator = StyleGenerator(size, channel_base=16 * size, channel_max=128).to(device)

        def classifier(classes: int) -> nn.Module:
            widths = [24, 48, 96, 192]
            return ResNet(
                "basic", [1] * 4, widths, spatial_dims=2, n_input_channels=1, conv1_t_stride=2, num_classes=classes
            ).to(device)

        self.steering = WalkSteering(generator, classifier(300), classifier(2))
        self.gate = PrivacyGate(IdentityEmbedder(), torch.randn(366, 128), 0.0).to(device)
        self.label_network, self.distance = None, "none"

    def timed(self, call: Callable[[], Any]) -> tuple[Any, float]:
        """The result of a call and its wall time."""
        found: list[Any] = []
        return found, seconds(lambda: found.append(call()), self.device)

    def judge(
        self,
        walk: Callable[[AnchorPairs], torch.Tensor],
        pairs: AnchorPairs,
        repair: bool = True,
        factor: float = 1.0,
        counted: tuple[Callable[[AnchorPairs], torch.Tensor], float] | None = None,
    ) -> dict[str, Any]:
        """Walk, verify, repair: seconds, arithmetic, loss and distance.

        Args:
            walk: the side.
            pairs: what it walks.
            repair: failing points.
            factor: of time and arithmetic, where ``walk`` runs a part of its iterations; no loss and distance then, and
                all its images count as accepted.
            counted: a shorter walk whose arithmetic is counted, and by how much the side's is more; ``None``: ``walk``.
        """
        (points,), walking = self.timed(lambda: walk(pairs))
        (walks,), checking = self.timed(lambda: self.check(points, pairs, repair))
        short, more = counted or (walk, factor)
        with FlopCounterMode(display=False) as of_walk:
            short_points = short(self.few)
        with FlopCounterMode(display=False) as of_check:
            few = self.check(points[: len(self.few)] if pairs is self.few else short_points, self.few, repair)
        counts = walks.meta["counts"]
        flop = of_walk.get_total_flops() * more + of_check.get_total_flops()
        kept = "verified" if factor == 1.0 else "inner"
        images, few_images = max(1, counts[kept]), max(1, few.meta["counts"][kept])
        record = {
            "paths": len(pairs),
            "seconds_walking": walking * factor,
            "seconds_checking": checking,
            "seconds_per_accepted_image": (walking * factor + checking) / images,
            "gflop_per_accepted_image": flop / 1e9 / few_images,
            "accepted_fraction": images / counts["inner"],
            "counts": counts,
        }
        if factor == 1.0 and self.training is not None:
            record |= self.quality(walks)
        return record

    def check(self, points: torch.Tensor, pairs: AnchorPairs, repair: bool) -> WalkSet:
        """The verdict on every point, and what repair makes of it."""
        walks = verify_walks(points, pairs.labels, self.steering.generator, self.gate, self.label_network)
        return repair_walks(walks, self.steering, self.gate, self.label_network) if repair else walks

    def quality(self, walks: WalkSet) -> dict[str, Any]:
        """Published loss of the paths, and distance of the accepted images to the training images."""
        losses = published_loss(walks.points, walks.labels, self.steering)
        pictures = render(self.steering.generator, walks.points[walks.verified])
        distances = nearest_distances(pictures, self.training, self.features)
        return {
            "loss_mean": float(losses.mean()),
            "loss_worst": float(losses.max()),
            "losses": losses.tolist(),
            "distance_mean": float(distances.mean()),
            "distance_least": float(distances.min()),
        }

    def floor(self) -> float:
        """Seconds of one generator forward and one gate embedding, per image."""
        latents = walk_linear(self.pairs, self.options.steps)[:, 1:-1].flatten(0, 1)[:256]

        @torch.no_grad()
        def once() -> None:
            for part in latents.to(self.device).split(32):
                images = self.steering.generator.synthesize(part, noise="const").clamp(-1, 1)
                self.gate.embedder(images)

        once()
        return min(seconds(once, self.device) for _ in range(3)) / len(latents)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All sides on the same networks and pairs."""
    bench = Bench(options)
    steering, steps = bench.steering, options.steps
    settings: dict[str, Any] = {"balance": "published", "control_points": options.control_points, "progress": False}
    if options.untrained:
        settings["tolerance"] = 0.0  # no early stop: where losses mean nothing, all steps are taken
    (fitted,), guide_seconds = bench.timed(
        lambda: fit_guide(
            steering,
            options.guide_latents,
            options.guide_iterations,
            rounds=options.guide_rounds,
            steps=steps,
            seed=options.seed,
            progress=False,
            walk_options=settings,
        )
    )

    solver = functools.partial(walk_guided, guide=fitted.guide, **settings)
    (walker,), walker_seconds = bench.timed(
        lambda: fit_walk_network(
            solver, steering, steps, control_points=options.control_points, seed=options.seed, progress=False
        )
    )
    refined = {**settings, "refinements": options.refinements}
    walks: dict[str, Callable[[AnchorPairs], torch.Tensor]] = {
        "guided_image_space": lambda pairs: walk_guided(pairs, steps, steering, **settings),
        "guided_latent": lambda pairs: walk_guided(pairs, steps, steering, fitted.guide, **settings),
        "guided_refined": lambda pairs: walk_guided(pairs, steps, steering, fitted.guide, **refined),
        "amortised": lambda pairs: walk_amortised(pairs, steps, steering, walker),
        "line": lambda pairs: walk_linear(pairs, steps),
    }
    timed = options.timed_iterations
    released = bench.judge(
        lambda pairs: released_schedule(pairs, steps, steering, timed), bench.few, False, PAPER_ITERATIONS / timed
    )
    floor = bench.floor()
    sides: dict[str, dict[str, Any]] = {"released_schedule": released}
    record: dict[str, Any] = {
        "floor_seconds_per_image": floor,
        "sides": sides,
        "guide": {"seconds": guide_seconds, **fitted.record()},
        "walker": {"seconds": walker_seconds},
        "distance": bench.distance,
    }
    part = timed if options.quick or options.untrained else PAPER_ITERATIONS
    sides["private"] = bench.judge(
        lambda pairs: walk_private(pairs, steps, steering, iterations=part, progress=False),
        *(bench.few, False, PAPER_ITERATIONS / part),
        counted=(
            lambda pairs: walk_private(pairs, steps, steering, iterations=2, progress=False),
            PAPER_ITERATIONS / 2,
        ),
    )
    for name, walk in walks.items():
        sides[name] = bench.judge(walk, bench.few if name == "guided_image_space" else bench.pairs, name != "line")
    if part == PAPER_ITERATIONS:  # the same walk: the same images are accepted
        accepted = released["accepted_fraction"] = sides["private"]["accepted_fraction"]
        released["seconds_per_accepted_image"] /= accepted
        released["gflop_per_accepted_image"] /= accepted
    record["accepted_fraction"] = sides[MAIN]["accepted_fraction"]
    record["speedup_by_round"] = by_round(bench, walks[MAIN], released["accepted_fraction"])
    record["speedup_vs_released_schedule"] = statistics.median(record["speedup_by_round"])
    record["times_the_floor"] = {name: side["seconds_per_accepted_image"] / floor for name, side in sides.items()}
    saved = released["seconds_per_accepted_image"] - sides[MAIN]["seconds_per_accepted_image"]
    record["guide"]["images_until_it_pays"] = guide_seconds / saved
    if part == PAPER_ITERATIONS:
        both = [
            published_loss(walk(bench.few), bench.few.labels, steering).mean()
            for walk in (
                lambda pairs: released_schedule(pairs, steps, steering, timed),
                lambda pairs: walk_private(pairs, steps, steering, iterations=timed, progress=False),
            )
        ]
        record["schedule_loss_ratio"] = float(both[0] / both[1])
        same = {name: bench.quality(bench.check(walk(bench.few), bench.few, False)) for name, walk in walks.items()}
        record["on_the_released_pairs"] = same
        for key, figure in (("loss_ratio_mean", "loss_mean"), ("loss_ratio_worst", "loss_worst")):
            record[key] = same[MAIN][figure] / sides["private"][figure]
        record["min_distance_ratio"] = same[MAIN]["distance_least"] / sides["private"]["distance_least"]
    return record


def by_round(bench: Bench, walk: Callable[[AnchorPairs], torch.Tensor], released_accepted: float) -> list[float]:
    """Released schedule over ``walk`` with its check, seconds per accepted image on the same pairs, taking turns."""
    options, ratios = bench.options, []
    for _ in range(1 if options.quick else ROUNDS):
        iterations = min(2, options.timed_iterations)
        _, theirs = bench.timed(lambda n=iterations: released_schedule(bench.few, options.steps, bench.steering, n))
        (walks,), ours = bench.timed(lambda: bench.check(walk(bench.few), bench.few, True))
        counts = walks.meta["counts"]
        theirs *= PAPER_ITERATIONS / iterations / (counts["inner"] * released_accepted)
        ratios.append(theirs / (ours / max(1, counts["verified"])))
    return ratios


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the slow sides by 2 iterations: no losses of theirs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    add_bundle_options(parser)
    parser.add_argument("--steps", type=int, default=50, help="points of a path")
    parser.add_argument("--pairs", type=int, default=48, help="pairs that our fast sides walk at once")
    parser.add_argument("--released_pairs", type=int, default=2, help="pairs of them that the slow sides walk")
    parser.add_argument("--timed_iterations", type=int, default=10, help="of the released schedule")
    parser.add_argument("--untrained", type=int, default=0, help="pixels of untrained networks; nothing stops early")
    parser.add_argument("--refinements", type=int, default=12)
    parser.add_argument("--guide_rounds", type=int, default=3)
    parser.add_argument("--control_points", type=int, default=10)
    parser.add_argument("--guide_latents", type=int, default=8192)
    parser.add_argument("--guide_iterations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.quick:
        options.guide_latents, options.guide_iterations, options.guide_rounds, options.pairs = 512, 200, 0, 4
        options.released_pairs, options.timed_iterations = 1, 1
    record = run(options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # the bundle's choice
    print(f"{machine_name(device)}; torch {torch.__version__}; {options.steps} points a path")
    columns = f"{'s/image':>9} {'x floor':>8} {'GFLOP':>9} {'accepted':>9} {'loss':>8} {'worst':>8} {'least d':>8}"
    print(f"{'side':<20} {columns}")
    for name, side in record["sides"].items():
        rest = [side.get(key, float("nan")) for key in ("loss_mean", "loss_worst", "distance_least")]
        print(
            f"{name:<20} {side['seconds_per_accepted_image']:>9.4f} {record['times_the_floor'][name]:>8.1f} "
            f"{side['gflop_per_accepted_image']:>9.2f} {side['accepted_fraction']:>9.3f} "
            + " ".join(f"{value:>8.3f}" for value in rest)
        )
    print("guide along its walks:", {k: round(v, 3) for k, v in record["guide"]["along_walks"].items()})
    print({name: value for name, value in record.items() if isinstance(value, float)})
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        settings["models_dir"] = Path(options.models_dir).name or "the bundle's"
        settings["dataset_dir"] = Path(options.dataset_dir).name or ("none" if options.untrained else "phantoms")
        settings.pop("datalist"), settings.pop("lpips_weights")
        write_json(options.json, {**record, **settings, **about(device)})


if __name__ == "__main__":
    main()
