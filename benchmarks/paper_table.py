"""The paper's table for one data set, from one trained generator: accuracy, privacy, image quality and cost by row.

Rows (the same generator, gate and label network for all; every synthetic image was accepted by gate and label network,
except those of bare centroids, which k-same would release as they are):

- ``real``: the training images. ``gate_only``: random latents, sampled and gated, no walk.
- ``linear``: straight lines between random anchors. ``plan_published``: the paper's walk (its weights, 50 points, 500
  iterations) between the first few of the same pairs. ``plan``: the bundle's guided walk between the same pairs.
  ``plan_amortised``: one forward pass of a network trained on such walks. ``linear_few`` and ``plan_few``: lines and
  guided walks between the very pairs of ``plan_published``, with as many points, because those are few for their cost.
- ``k5``, ``k12``: centroids of at least so many patients; ``k5_walk``, ``k12_walk``: guided walks between them.
Classifiers of ``plan``, ``plan_amortised`` and ``k*_walk`` are trained as the bundle does it: with the answers of
several networks that were trained on real images as soft labels (``TaughtPrepareBatch``); those of all other rows, as
in the papers, with hard labels. To tell the two apart, ``<row>+teacher`` and ``<row>-teacher`` train on a row's images
with soft and with hard labels, ``<row>+mixup`` with hard labels blended like the images. ``<row>+long`` trains
for twice the epochs (recipe_search.py). (The bundle's own table has
the walk between centroids of k patients under the name ``plan``, here ``k12_walk``, and soft labels for lines, too.)

Columns: accuracy, AUROC and, for grades, quadratic kappa on the test split, of five classifiers a row, each trained
with the bundle's settings, its epoch chosen on the validation split; classes are drawn as often as in the training
split. Differences from reference rows are paired by test patient and seed; they hold for these images, teachers and
this generator, not for others that could have been drawn, and are not corrected for their number. ``mia``: balanced
accuracy of an attacker's network that reads a classifier's outputs; ``mia_distance``: AUROC of the distance to the
nearest synthetic image; both with interval (the mean of the classifiers' interval ends) and control. Mean distance to
the nearest training image, held-out image (``mml_holdout``) and training image of as many (``mml_members``). KID, FID
and coverage against the test split, of as many images as there are training images, in their classes' shares; in the
row ``real`` the floors (training against test images); none for rows of fewer images. Cost of an accepted image.

Every cell is a JSON of its own in ``--work``; what is there, made from the same files, config and images, is not made
again. Keep that folder, and the pictures of ``k5`` and ``k12``, where the patients' data may be.

    python benchmarks/paper_table.py --dataset_dir DIR --datalist FILE --models_dir DIR --private_dir DIR \\
        --lpips_weights SQUEEZENET --work DIR --json paper_table.json --pictures DIR
    python benchmarks/paper_table.py --quick --json paper_table.json          phantoms, shipped weights, few rows
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import about, add_bundle_options
from paper_cells import SETTINGS, PaperTable, plain
from paper_pictures import write_pictures

from monai_plan.utils import machine_name, write_json

ROWS = ("real", "gate_only", "linear", "plan_published", "plan", "plan_amortised")
ABLATIONS = (
    *("linear+teacher", "gate_only+teacher", "plan-teacher", "plan+mixup", "real+teacher"),
    *("linear_few", "plan_few-teacher"),
)
COLUMNS = {
    "accuracy_mean": "accuracy",
    "accuracy_sd": "sd",
    "auroc_mean": "AUROC",
    "kappa_mean": "kappa",
    "accuracy_p_vs_linear": "p linear",
    "accuracy_p_vs_gate_only": "p gated",
    "mia": "MIA",
    "mia_low": "low",
    "mia_high": "high",
    "mia_distance": "MIA dist",
    "mml_train": "mmL",
    "mml_members": "members",
    "mml_holdout": "others",
    "kid": "KID",
    "fid": "FID",
    "seconds_per_image": "s/image",
    "images": "images",
}


def print_table(rows: dict[str, dict[str, Any]]) -> None:
    """One line a row."""
    print(f"{'row':<18}" + "".join(f"{title:>10}" for title in COLUMNS.values()))
    for name, row in rows.items():
        values = [row.get(column) for column in COLUMNS]
        print(f"{name:<18}" + "".join(f"{'-' if v is None else format(v, '.4g'):>10}" for v in values), flush=True)


def main() -> None:
    """Make what is missing, print the table, write JSON after every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows, images and seeds")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--work", type=Path, help="folder of the cells (default: a temporary one)")
    parser.add_argument("--pictures", type=Path, help="write sample grids, a walk and the plane here")
    add_bundle_options(parser)
    parser.add_argument("--extractor_weights", default="", help="SqueezeNet for KID (default: a random network)")
    parser.add_argument("--rows", nargs="+", default=[], help="only these, e.g. real linear plan plan-teacher")
    parser.add_argument("--ks", type=int, nargs="*", default=[5, 12])
    parser.add_argument("--images", type=int, default=2048, help="of a synthetic row, at most")
    parser.add_argument("--pairs", type=int, default=128, help="of each class")
    parser.add_argument("--steps", type=int, default=14, help="points of a path, both ends included")
    parser.add_argument("--published_pairs", type=int, default=6, help="of each class, for the paper's walk")
    parser.add_argument("--published_steps", type=int, default=50)
    parser.add_argument("--published_iterations", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=10, help="of a classifier")
    parser.add_argument("--draws", type=int, default=2048, help="images of an epoch")
    parser.add_argument("--teachers", type=int, default=3)
    parser.add_argument("--patience", type=int, default=20, help="blocks of 256 samples without any accepted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="of a row's classifiers")
    options = parser.parse_args()
    if options.teachers < 1:
        parser.error(f"--teachers {options.teachers}: one or more; for hard labels take the rows <row>-teacher")
    if options.quick:
        options.images, options.pairs, options.epochs, options.draws, options.seeds = 128, 12, 1, 128, [0, 1]
        options.teachers, options.ks = 1, [12]
        options.rows = options.rows or ["real", "gate_only", "linear", "linear+teacher", "plan", "k12", "k12_walk"]
    synthetic = [*ROWS[1:], *(f"k{k}{walk}" for k in options.ks for walk in ("", "_walk"))]
    options.rows = options.rows or ["real", *synthetic, *ABLATIONS]
    with tempfile.TemporaryDirectory() as folder:
        options.work = options.work or Path(folder)
        options.work.mkdir(parents=True, exist_ok=True)
        run(options)


def run(options: argparse.Namespace) -> None:
    """The table of the rows asked for."""
    table = PaperTable(options)
    device = table.sets.device
    print(f"{machine_name(device)}; torch {torch.__version__}; distance: {table.sets.distance}", flush=True)
    record = {
        "dataset": Path(options.dataset_dir).name or "embedded phantoms",
        "distance": table.sets.distance,
        "patients": {name: len(set(patients)) for name, patients in table.patients.items()},
        "class_shares": table.shares.tolist(),
        "seeds": options.seeds,
        **{name: getattr(options, name) for name in SETTINGS},
        **about(device),
    }
    rows: dict[str, dict[str, Any]] = {}
    for name in options.rows:
        rows[name] = table.row(name)
        print(
            name,
            {column: rows[name].get(column) for column in ("accuracy_mean", "auroc_mean", "mml_train")},
            flush=True,
        )
        if options.json:
            write_json(options.json, {"rows": rows, **record})
    rows = {name: {**row, **table.compared(name)} for name, row in rows.items()}
    print_table(rows)
    if options.json:
        write_json(options.json, {"rows": rows, **record})
    drawn = [name for name in dict.fromkeys(map(plain, rows)) if name != "real"]
    if options.pictures and drawn:
        write_pictures(options, table.sets, drawn, table.images, rows)


if __name__ == "__main__":
    main()
