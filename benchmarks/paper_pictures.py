"""Pictures of the paper's table: samples of each row, a walk beside its line, accuracy against distance."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from image_sets import ImageSets
from paper_rows import Made

from monai_plan.latent import WalkSet
from monai_plan.report import write_sample_grids, write_walk_figure
from monai_plan.report.canvas import blank_figure
from monai_plan.utils import atomic_path

TITLES = {
    "gate_only": "sample + gate",
    "linear": "lines",
    "plan_published": "walk as published",
    "plan": "walk, ours",
    "plan_amortised": "walk, amortised",
}


def write_pictures(
    options: argparse.Namespace,
    sets: ImageSets,
    drawn: Iterable[str],
    images: Callable[[str], Made],
    rows: Mapping[str, dict[str, Any]],
) -> None:
    """``samples_<row>.png`` of the synthetic rows, ``walk_beside_line.png`` and ``plane.png`` in ``options.pictures``.

    No picture of real images is drawn: they are others' to show.
    """
    folder = Path(options.pictures)
    folder.mkdir(parents=True, exist_ok=True)
    classes = int(sets.config.get_parsed_content("num_classes"))
    for name in sorted(drawn):
        row = images(name)
        write_sample_grids({name: [{"image": row.images, "label": row.labels}]}, folder, classes)
    walks = [Path(options.work, f"{name}.walks.safetensors") for name in ("linear", "plan")]
    if all(path.is_file() for path in walks):
        line, walk = map(WalkSet.load, walks)
        gallery = sets.real["training"].images
        write_walk_figure(line, walk, sets.steering.generator, gallery, sets.features, folder, sets.distance)
    write_plane(rows, sets.distance, folder / "plane.png")


def write_plane(rows: Mapping[str, dict[str, Any]], distance: str, path: Path) -> None:
    """Test accuracy of each row, with its interval, over the distance to the nearest training image.

    The real row stands at the distance of its images from one another.
    """
    figure = blank_figure(8.0, 5.0, "the table")
    axes = figure.add_subplot()
    for name, row in rows.items():
        low, high = row["accuracy_interval_95"]
        mean = row["accuracy_mean"]
        marker = "s" if name == "real" else "^" if name.endswith(("teacher", "mixup")) else "o"
        axes.errorbar(
            row["mml_train"], mean, [[max(0, mean - low)], [max(0, high - mean)]], fmt=marker, capsize=2, alpha=0.8
        )
        plain, plus, taught = name.partition("+")
        axes.annotate(
            TITLES.get(plain, plain) + plus + taught, (row["mml_train"], mean), (4, 4), textcoords="offset points"
        )
    axes.set(
        xlabel=f"mean {distance} to the nearest training image", ylabel="test accuracy, 95 % over patients and seeds"
    )
    axes.grid(alpha=0.3)
    with atomic_path(path) as partial:
        figure.savefig(partial)
