"""Pictures of the paper's table: samples of each row, a walk beside its line, accuracy against distance."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from image_sets import ImageSets
from paper_rows import Made

from monai_plan.latent import WalkSet
from monai_plan.report import write_walk_figure
from monai_plan.report.canvas import blank_figure
from monai_plan.utils import atomic_path, image_grid

TITLES = {
    "gate_only": "sample + gate",
    "linear": "lines",
    "plan_published": "walk as published",
    "linear_few": "lines, as few as published",
    "plan": "walk, ours",
    "plan_few": "walk, ours, as few",
    "plan_amortised": "walk, amortised",
    "k5": "centroids, k = 5",
    "k12": "centroids, k = 12",
    "k5_walk": "walk, k = 5",
    "k12_walk": "walk, k = 12",
}
SHOWN = 10
"""Images of a row in the picture of samples."""


def title(row: str) -> str:
    """A row's name for readers."""
    kinds = {"+long": ", twice the epochs", "+teacher": ", taught", "-teacher": ", hard labels"}
    for suffix, how in {**kinds, "+mixup": ", hard labels, mixup"}.items():
        if row.endswith(suffix):
            return title(row.removesuffix(suffix)) + how
    return TITLES.get(row, row)


def write_pictures(
    options: argparse.Namespace,
    sets: ImageSets,
    drawn: Sequence[str],
    images: Callable[[str], Made],
    rows: Mapping[str, dict[str, Any]],
) -> None:
    """``samples.png`` of the synthetic rows, ``walk_beside_line.png`` and ``plane.png`` in ``options.pictures``.

    No picture of real images is drawn: they are others' to show.
    """
    folder = Path(options.pictures)
    folder.mkdir(parents=True, exist_ok=True)
    classes = int(sets.config.get_parsed_content("num_classes"))
    write_samples({name: images(name) for name in drawn}, classes, folder / "samples.png")
    walks = [Path(options.work, f"{name}.walks.safetensors") for name in ("linear", "plan")]
    if all(path.is_file() for path in walks):
        line, walk = map(WalkSet.load, walks)
        gallery = sets.real["training"].images
        write_walk_figure(line, walk, sets.steering.generator, gallery, sets.features, folder, sets.distance)
    write_plane(rows, sets.distance, folder / "plane.png")


def write_samples(rows: Mapping[str, Made], classes: int, path: Path) -> None:
    """A strip of images a row: the first ones of each class in turn; white where a class has no more."""
    figure = blank_figure(9.0, 0.85 * len(rows), "samples")
    strips = figure.subplots(len(rows), squeeze=False)[:, 0]
    each = max(1, SHOWN // classes)
    for axes, (name, made) in zip(strips, rows.items(), strict=True):
        tiles = torch.ones(classes * each, *made.images.shape[1:])
        for label in range(classes):
            found = made.images[made.labels == label][:each]
            tiles[label * each : label * each + len(found)] = found
        axes.imshow(image_grid(tiles, columns=len(tiles)).expand(-1, -1, 3).numpy())
        axes.set_ylabel(title(name), rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    with atomic_path(path) as partial:
        figure.savefig(partial, bbox_inches="tight")


def write_plane(rows: Mapping[str, dict[str, Any]], distance: str, path: Path) -> None:
    """Test accuracy of each row, with its interval, over the distance to the nearest training image.

    The real row stands at the distance of its images from one another.
    """
    figure = blank_figure(9.0, 5.0, "the table")
    axes = figure.add_subplot()
    for number, (name, row) in enumerate(rows.items()):
        low, high = row["accuracy_interval_95"]
        mean = row["accuracy_mean"]
        reach = [[max(0, mean - low)], [max(0, high - mean)]]
        axes.errorbar(
            *(row["mml_train"], mean, reach),
            fmt="osD^vPX"[number // 10 * 3 + number % 3],
            color=f"C{number % 10}",
            capsize=2,
            alpha=0.8,
            label=title(name),
        )
    axes.set(
        xlabel=f"mean {distance} to the nearest training image", ylabel="test accuracy, 95 % over patients and seeds"
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    with atomic_path(path) as partial:
        figure.savefig(partial)
