"""k-same anchors: what inversion and grouping cost, and what is left of accuracy and gained in distance by k.

The table has, for each k, sets of images made from the same inverted training images:

- ``centroid``: the image of each group's centroid. ``style-aligned``: of the centroid after k-SALSA's local style
  alignment. As few images as there are groups.
- ``spread``: of the centroids drawn apart until they vary as patients do (``spread_centroids``).
- ``centroid + walk``, ``spread + walk``: accepted points of guided walks between these.

The inverted images and the guide are those of the stages invert and walk (``latents_file`` and ``guide_file`` of the
bundle's config, in ``--private_dir``). Beside these rows stand ``random + walk`` (walks between random latents, no k)
and ``real`` (the training images themselves).
For each: number of images available and used, distance to the nearest training image and, with galleries of equal size,
to members and to other patients, KID to the validation images, and classifiers by seed, all with equally many draws.

    python benchmarks/k_same.py --dataset_dir DIR --datalist FILE --models_dir DIR --private_dir DIR --json k_same.json
    python benchmarks/k_same.py --quick --json k_same.json       phantoms, shipped weights, few rows
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import about, add_bundle_options, render, seconds
from image_sets import ImageSets, accepted_points

from monai_plan.latent import (
    AnchorSet,
    Grouping,
    Inversion,
    InvertedImages,
    LatentPrior,
    NetworkMaps,
    PatientLatents,
    WalkPlanner,
    align_to_groups,
    fit_encoder,
    group_centroids,
    group_cost,
    group_patients,
    invert_batch,
    latents_by_patient,
    spread_centroids,
    steps_for,
    walk_guided,
)
from monai_plan.networks.nets import LatentGuide
from monai_plan.utils import machine_name, write_json

KS = (2, 5, 12, 20)
SIZES = (1_000, 10_000, 100_000)
WIDTH = 128
"""Of the latents that are grouped for time."""

Made = tuple[torch.Tensor, torch.Tensor, int]
"""Images, labels, and how many images there were to choose from."""


def grouping_time(count: int, k: int) -> dict[str, float]:
    """Seconds, cost and peak memory of grouping Gaussian latents of two classes, in this process."""
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(count, WIDTH, generator=rng)
    patients = PatientLatents(latents, torch.arange(count) % 2, tuple(f"patient {row}" for row in range(count)))
    found: dict[str, float] = {}
    groupings: list[Grouping] = []
    for method in ("constrained", "greedy"):
        group = partial(group_patients, patients, k, method)
        found[f"seconds_{method}"] = seconds(lambda group=group: groupings.append(group()), torch.device("cpu"))
        found[f"cost_{method}"] = group_cost(groupings[-1], patients)
        found[f"peak_gib_{method}"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found


def grouping_table(sizes: tuple[int, ...], k: int) -> dict[str, dict[str, float]]:
    """The same for several sizes, each in a process of its own, so that memory does not add up."""
    table = {}
    for count in sizes:
        command = f"import json, k_same; print(json.dumps(k_same.grouping_time({count}, {k})))"
        done = subprocess.run(
            [sys.executable, "-c", command], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
        table[str(count)] = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"grouping {count:>7} latents, k = {k}: {table[str(count)]}", flush=True)
    return table


class KSame:
    """Anchors of several k from one inversion, and sets of images made from them."""

    def __init__(self, sets: ImageSets, options: argparse.Namespace) -> None:
        self.sets, self.options = sets, options
        self.generator = sets.steering.generator
        self.prior = LatentPrior.fit(self.generator).to(sets.device)
        inverted = InvertedImages.load(sets.config.get_parsed_content("latents_file"))
        self.inversion: dict[str, Any] = self._inversion_time() if options.timed else {}
        for split in sorted(set(inverted.splits)):
            errors = inverted.of_split(split).errors_by_patient()
            self.inversion[split] = {name: float(values.mean()) for name, values in errors.items()}
        self.patients = latents_by_patient(inverted, self.generator)
        self.groupings = {k: group_patients(self.patients, k) for k in options.ks}
        self.guide = LatentGuide.load(sets.config.get_parsed_content("guide_file")).to(sets.device).eval()

    def _inversion_time(self) -> dict[str, float]:
        """What inverting a batch costs, and how near it comes, with an encoder trained here."""
        options, real = self.options, self.sets.real["training"]
        encoder = fit_encoder(self.generator, options.encoder_iterations)
        found: list[Inversion] = []
        batch = (real.images[: options.timed], real.labels[: options.timed])
        work = partial(invert_batch, *batch, self.generator, self.sets.features, encoder, self.prior)
        took = seconds(lambda: found.append(work()), self.sets.device)
        return {
            "seconds_per_inversion": took / len(batch[0]),
            "steps_mean": float(found[0].steps.float().mean()),
            "perceptual_error_timed": float(found[0].perceptual_error.mean()),
        }

    def of_anchors(self, anchors: AnchorSet) -> Made:
        """The anchors' own images."""
        return render(self.generator, anchors.latents), anchors.labels, len(anchors)

    def of_walks(self, anchors: AnchorSet | None) -> Made:
        """Accepted points of walks between anchors, in equal shares of the classes."""
        options, sets = self.options, self.sets
        per_class = options.images // 2
        planner = WalkPlanner(
            walk=partial(walk_guided, guide=self.guide, prior=self.prior, prior_weight=3.0, progress=False),
            steering=sets.steering,
            gate=sets.gate,
            anchors=anchors,
            anchors_per_class=2 * options.pairs,
            pairs_per_class=options.pairs,
            steps=steps_for(anchors, options.pairs, math.ceil(1.25 * per_class)),
            label_network=sets.steering.label_network,
            kind="private",
            seed=options.seed,
        )
        walks = planner()
        latents, labels = accepted_points(walks, per_class, seed=0)
        return render(self.generator, latents), labels, int(walks.verified.sum())

    def style_aligned(self, grouping: Grouping) -> AnchorSet:
        """Centroids after local style alignment to the real images of their groups."""
        maps = NetworkMaps(self.sets.steering.label_network, ("layer1", "layer2", "layer3"))
        splits, load = (self.sets.config.get_parsed_content(name) for name in ("splits", "load_image"))
        centroids = group_centroids(grouping, self.patients)
        return align_to_groups(centroids, grouping, splits["training"], load, self.generator, maps, progress=False)

    def rows(self) -> dict[str, Callable[[], Made]]:
        """How each row's images are made."""
        rows: dict[str, Callable[[], Made]] = {}
        if not self.options.quick:
            real = self.sets.real["training"]
            rows["real"] = lambda: (real.images, real.labels, len(real.images))
            rows["random + walk"] = lambda: self.of_walks(None)
        for k, grouping in self.groupings.items():
            anchors = group_centroids(grouping, self.patients)
            rows[f"k = {k}: centroid"] = partial(self.of_anchors, anchors)
            rows[f"k = {k}: style-aligned"] = lambda grouping=grouping: self.of_anchors(self.style_aligned(grouping))
            rows[f"k = {k}: centroid + walk"] = partial(self.of_walks, anchors)
            spread = spread_centroids(anchors, self.patients)
            rows[f"k = {k}: spread"] = partial(self.of_anchors, spread)
            rows[f"k = {k}: spread + walk"] = partial(self.of_walks, spread)
        return rows

    def smallest(self) -> dict[str, int]:
        """The smallest group by k."""
        return {str(k): min(len(group.patients) for group in of.groups) for k, of in self.groupings.items()}


def measure(k_same: KSame, options: argparse.Namespace, record: dict[str, Any]) -> None:
    """Fill in the table row by row, saving after each."""
    print(
        f"{'row':<24} {'images':>12} {'distance':>9} {'members':>8} {'others':>8} {'gate':>7} {'KID':>9}  test accuracy"
    )
    for name, make in k_same.rows().items():
        if options.rows and not any(part in name for part in options.rows):
            continue
        images, labels, available = make()
        row = {"available": available, **k_same.sets.measure(images, labels)}
        record["rows"][name] = row
        print(
            f"{name:<24} {available:>6} {row['images']:>5} {row['distance_mean']:>9.4f} "
            f"{row['distance_members']:>8.4f} {row['distance_others']:>8.4f} {row['gate_distance_mean']:>7.3f} "
            f"{row['kid']:>9.4g}  {row.get('accuracy_testing', math.nan):.3f} "
            f"({row.get('accuracy_testing_sd') or math.nan:.3f}), AUROC {row.get('auroc_testing', math.nan):.3f} "
            f"({row.get('auroc_testing_sd') or math.nan:.3f})",
            flush=True,
        )
        with_walks = [record["rows"].get(f"k = {k}: centroid + walk") for k in (2, 12)]
        if all(with_walks):
            record["images_ratio_k12_vs_k2"] = with_walks[1]["available"] / with_walks[0]["available"]
        if options.json:
            write_json(options.json, record)


def main() -> None:
    """Measure, print tables, write JSON after every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images, walks at two k, one classifier")
    parser.add_argument("--json", type=Path, help="write the figures here")
    add_bundle_options(parser)
    parser.add_argument("--extractor_weights", default="", help="SqueezeNet for KID (default: a random network)")
    parser.add_argument("--encoder_iterations", type=int, default=1000)
    parser.add_argument("--timed", type=int, default=64, help="images inverted for time; 0 for none")
    parser.add_argument("--images", type=int, default=2048, help="of a row with walks")
    parser.add_argument("--draws", type=int, default=2048, help="images drawn in an epoch of a classifier")
    parser.add_argument("--pairs", type=int, default=128, help="of each class, where there are so many")
    parser.add_argument("--epochs", type=int, default=8, help="of a classifier")
    parser.add_argument("--ks", type=int, nargs="+", default=list(KS))
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES), help="latents grouped for time")
    parser.add_argument("--rows", nargs="+", default=[], help="only rows whose name holds one of these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4], help="of classifiers; none: no classifier"
    )
    options = parser.parse_args()
    if options.quick:
        options.images, options.draws, options.pairs, options.epochs, options.seeds = 128, 128, 16, 1, [0]
        options.encoder_iterations, options.timed, options.ks, options.sizes = 20, 8, [2, 12], [1_000, 10_000]
        options.rows = ["k = 2: centroid + walk", "k = 12:"]
    record: dict[str, Any] = {"rows": {}, "grouping": grouping_table(tuple(options.sizes), 12)}
    record["grouping_seconds"] = {size: row["seconds_constrained"] for size, row in record["grouping"].items()}
    sets = ImageSets(options)
    print(f"{machine_name(sets.device)}; torch {torch.__version__}; distance: {sets.distance}")
    k_same = KSame(sets, options)
    record |= {"smallest_group": k_same.smallest(), "inversion": k_same.inversion, **about(sets.device)}
    if "seconds_per_inversion" in k_same.inversion:
        record["seconds_per_inversion"] = k_same.inversion["seconds_per_inversion"]
    print(f"smallest group by k: {record['smallest_group']}; inversion: {k_same.inversion}", flush=True)
    kept = ("images", "draws", "pairs", "epochs", "seed", "seeds", "timed", "encoder_iterations")
    record |= {name: getattr(options, name) for name in kept}
    record["dataset"] = Path(options.dataset_dir).name or "embedded phantoms"
    record["distance"] = sets.distance
    if options.json:
        write_json(options.json, record)
    measure(k_same, options, record)


if __name__ == "__main__":
    main()
