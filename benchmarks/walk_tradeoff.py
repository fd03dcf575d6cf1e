"""Accuracy against distance as the walk's weights vary, beside sample-and-gate, the curve to beat.

Every row is a set of equally many images, in equal shares of the classes, of one generator; each image was accepted by
the gate and given its class by the label network. Rows:

- ``sampled <share>``: random latents; of those accepted, that share with the largest distance in the gate's embedding.
- ``line``: points of straight lines between random anchors, of many lines (``--pairs``).
- ``walk <weight>``: points of guided walks, by the weight of the normalised identity term.
- ``walk <weight> prior``: the same with the Gaussianised-W prior.
- ``open-set <weight>``: the same with the open-set identity term, if ``--likeness_file`` is given.

For each: distance to the nearest training image (LPIPS, if weights are given; the gate's embedding), KID to the
validation images, and a classifier trained on the set and judged on the validation, test and training images. Only the
test figures are of images that neither chose an epoch nor trained the generator; the training images give the steadier
comparison between rows, because there are more of them.

    python benchmarks/walk_tradeoff.py --dataset_dir DIR --datalist FILE --models_dir DIR --json tradeoff.json
    python benchmarks/walk_tradeoff.py --quick --json tradeoff.json        phantoms, shipped weights, four rows
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import about, add_bundle_options, render
from image_sets import DRAWN_AT_ONCE, ImageSets

from monai_plan.latent import (
    AnchorPairs,
    LatentPrior,
    PrivacyGate,
    fit_guide,
    open_set_steering,
    pair_anchors,
    random_anchors,
    walk_guided,
    walk_linear,
)
from monai_plan.utils import generator_for, machine_name, write_json

SHARES = (1.0, 0.5, 0.25, 0.1)
WEIGHTS = (0.0, 0.3, 1.0, 3.0, 10.0)


def sampled(setting: ImageSets, share: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Images [N, C, H, W], labels [N] and the accepted share of random latents, the farthest of them kept."""
    per_class = setting.options.images // 2
    wanted, images, labels, made, passed = round(per_class / share), [], [], 0, 0
    for label in range(2):
        kept: list[torch.Tensor] = []
        number = 0
        while sum(map(len, kept)) < wanted:
            latents = random_anchors(setting.steering.generator, 256, seed=10_000 + 97 * number).latents
            latents = latents[256 * label : 256 * (label + 1)]
            good = setting.passing(latents, torch.full((256,), label))
            made, passed, number = made + 256, passed + int(good.sum()), number + 1
            kept.append(latents[good])
        pictures = render(setting.steering.generator, torch.cat(kept)[:wanted])
        distances = torch.cat([setting.gate.distances(part).cpu() for part in pictures.split(DRAWN_AT_ONCE)])
        images.append(pictures[distances.topk(per_class).indices])
        labels.append(torch.full((per_class,), label))
    return torch.cat(images), torch.cat(labels), passed / made


def walked(setting: ImageSets, points: torch.Tensor, pairs: AnchorPairs) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The same of the inner points of walks, drawn at random from those accepted."""
    per_class, images, found = setting.options.images // 2, [], []
    labels = pairs.labels.repeat_interleave(points.shape[1] - 2)
    order = torch.randperm(len(labels), generator=generator_for(0, "points looked at"))
    looked_at = torch.cat([order[labels[order] == label][: 2 * per_class] for label in range(2)])
    latents, labels = points[:, 1:-1].flatten(0, 1)[looked_at], labels[looked_at]
    good = setting.passing(latents, labels)
    for label in range(2):
        rows = (good & (labels == label)).nonzero()[:, 0]
        if len(rows) < per_class:
            raise ValueError(f"class {label} has {len(rows)} accepted points, and {per_class} are needed: more pairs")
        chosen = rows[:per_class]
        images.append(render(setting.steering.generator, latents[chosen]))
        found.append(labels[chosen])
    return torch.cat(images), torch.cat(found), float(good.float().mean())


def rows_of(setting: ImageSets) -> dict[str, Callable[[], tuple[torch.Tensor, torch.Tensor, float]]]:
    """How each row's images are made."""
    options = setting.options
    anchors = random_anchors(setting.steering.generator, 2 * options.pairs, seed=options.seed)
    pairs = pair_anchors(anchors, options.pairs, seed=options.seed)
    steps, quiet = options.steps, {"progress": False}
    rows: dict[str, Callable[[], tuple[torch.Tensor, torch.Tensor, float]]] = {
        f"sampled {share:g}": lambda share=share: sampled(setting, share) for share in options.shares
    }
    rows["line"] = lambda: walked(setting, walk_linear(pairs, steps), pairs)
    prior = LatentPrior.fit(setting.steering.generator).to(setting.device)
    sides = {"walk": setting.steering}
    if options.likeness_file:
        likeness = PrivacyGate.load(options.likeness_file).to(setting.device)
        sides["open-set"] = open_set_steering(setting.steering.generator, likeness, setting.steering.label_network)
    for name, steering in sides.items():
        fitted = fit_guide(steering, options.guide_latents, options.guide_iterations, seed=options.seed, steps=steps)
        setting.options.guides[name] = fitted.record()
        print(name, "guide:", fitted.along_walks, flush=True)

        def walk(weight: float, with_prior: bool, steering=steering, guide=fitted.guide) -> Any:
            points = walk_guided(
                pairs, steps, steering, guide, prior if with_prior else None, identity_weight=weight, **quiet
            )
            return walked(setting, points, pairs)

        for weight in options.weights:
            rows[f"{name} {weight:g}"] = lambda weight=weight, walk=walk: walk(weight, False)
            rows[f"{name} {weight:g} prior"] = lambda weight=weight, walk=walk: walk(weight, True)
    return rows


def main() -> None:
    """Measure, print a table, write JSON after every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four rows, few images, one classifier")
    parser.add_argument("--json", type=Path, help="write the figures here")
    add_bundle_options(parser)
    parser.add_argument("--likeness_file", default="", help="a second gate that steers the open-set rows")
    parser.add_argument("--extractor_weights", default="", help="SqueezeNet for KID (default: a random network)")
    parser.add_argument("--images", type=int, default=2048, help="of a row")
    parser.add_argument("--pairs", type=int, default=1024, help="of each class")
    parser.add_argument("--steps", type=int, default=34, help="points of a path")
    parser.add_argument("--epochs", type=int, default=8, help="of a classifier")
    parser.add_argument("--guide_latents", type=int, default=8192)
    parser.add_argument("--guide_iterations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4], help="classifiers of a row")
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS, help="of the identity term")
    parser.add_argument("--rows", nargs="*", default=[], help="only these rows, e.g. line 'walk 1'")
    options = parser.parse_args()
    options.shares, options.guides = SHARES, {}
    if options.quick:
        options.images, options.pairs, options.steps, options.epochs, options.seeds = 256, 32, 34, 2, [0]
        options.guide_latents, options.guide_iterations, options.shares, options.weights = 512, 200, (1.0,), (1.0,)
    options.draws = options.images
    setting = ImageSets(options)
    print(f"{machine_name(setting.device)}; torch {torch.__version__}; distance: {setting.distance}")
    print(
        f"{'row':<20} {'accepted':>8} {'distance':>9} {'5 %':>7} {'gate':>7} {'KID':>9}  "
        f"AUROC on {', '.join(setting.real)}",
        flush=True,
    )
    record: dict[str, Any] = {}
    for name, make in rows_of(setting).items():
        if options.rows and name not in options.rows:
            continue
        images, labels, accepted = make()
        row = {"accepted": accepted, **setting.measure(images, labels)}
        record[name] = row
        print(
            f"{name:<20} {accepted:>8.3f} {row['distance_mean']:>9.4f} {row['distance_5_percent']:>7.4f} "
            f"{row['gate_distance_mean']:>7.4f} {row['kid']:>9.5f}  "
            + ", ".join(f"{row.get(f'auroc_{split}', math.nan):.3f}" for split in setting.real)
            + f"; accuracy on test {row.get('accuracy_testing', math.nan):.3f}",
            flush=True,
        )
        if options.json:
            kept = (
                "images",
                "pairs",
                "steps",
                "epochs",
                "guide_latents",
                "guide_iterations",
                "seed",
                "seeds",
                "guides",
            )
            settings = {name: getattr(options, name) for name in kept}
            settings["dataset"] = Path(options.dataset_dir).name or "embedded phantoms"
            settings["distance"] = setting.distance
            write_json(options.json, {"rows": record, **settings, **about(setting.device)})


if __name__ == "__main__":
    main()
