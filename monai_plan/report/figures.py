"""Pictures for the end of a run: samples of each kind of images, and a walk beside the straight line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.networks.utils import eval_mode

from monai_plan.latent.frozen import device_of
from monai_plan.latent.walk_set import WalkSet
from monai_plan.metrics.nearest_lpips import nearest_distances
from monai_plan.report.canvas import blank_figure
from monai_plan.utils import PlanKeys, atomic_path, image_grid, save_png

__all__ = ["write_sample_grids", "write_walk_figure"]


def write_sample_grids(
    loaders: Mapping[str, Iterable[Mapping[str, Any]]],
    output_dir: str | os.PathLike,
    num_classes: int,
    per_class: int = 8,
) -> list[Path]:
    """Write ``samples_<row>.png`` for each loader: a line of pictures for each class, the first that it gives.

    A line stays white at its end where an epoch of the loader has fewer images of the class. The global random state,
    from which some loaders shuffle, is left as it was.

    Args:
        loaders: row's name to loader of dicts with ``image`` [B, 1 or 3, H, W] in [-1, 1] and ``label`` [B].
        output_dir: where the pictures are written.
        num_classes: classes, >= 1.
        per_class: pictures in a line, >= 1.

    Returns:
        The files written.

    Raises:
        ValueError: a loader gives no image of these classes.
    """
    files = []
    for row, loader in loaders.items():
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            sheet = _by_class(loader, num_classes, per_class)
        if sheet is None:
            raise ValueError(f"the loader of '{row}' gave no image of the classes 0 .. {num_classes - 1}")
        files.append(save_png(Path(output_dir) / f"samples_{row}.png", image_grid(sheet, per_class)))
    return files


def write_walk_figure(
    walks_line: WalkSet,
    walks_private: WalkSet,
    generator: Any,
    gallery_images: torch.Tensor | Iterable[Mapping[str, Any]],
    features: Callable[[torch.Tensor], torch.Tensor],
    output_dir: str | os.PathLike,
    metric_name: str = "distance",
    path: int = 0,
    steps_shown: int = 8,
) -> Path:
    """Write ``walk_beside_line.png``: pictures along the line and the walk, and their distances to real ones.

    Filled marks are verified points; the ends, framed in red, are never emitted. The path is the one asked for, by
    default the first, not one chosen for its looks.

    Args:
        walks_line: straight walks between the anchors.
        walks_private: private walks between the same anchors, with as many points.
        generator: a :class:`~monai_plan.networks.nets.StyleGenerator`.
        gallery_images: all real training images, range [-1, 1]: [M, C, H, W], or a loader of them.
        features: see :func:`~monai_plan.metrics.load_perceptual_features`.
        output_dir: where the picture is written.
        metric_name: the distance's name, for the axis.
        path: index of the path, 0 .. P - 1.
        steps_shown: pictures in a strip, ends included, >= 2; evenly spaced steps, all of a shorter path.

    Raises:
        ValueError: the walks are not between the same anchors, or ``path`` or ``steps_shown`` is out of range.
        ImportError: matplotlib is not installed.
    """
    _check_walks(walks_line, walks_private, path, steps_shown)
    steps_shown = min(steps_shown, walks_line.points.shape[1])
    walks = {"line": walks_line, "walk": walks_private}
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        gallery = gallery_images if isinstance(gallery_images, torch.Tensor) else _all_images(gallery_images)
    with eval_mode(generator):
        images = {
            name: generator.synthesize(walk.points[path].to(device_of(generator)), noise="const")
            .float()
            .clamp(-1, 1)
            .cpu()
            for name, walk in walks.items()
        }
    distances = nearest_distances(torch.cat(list(images.values())), gallery, features).split(walks_line.points.shape[1])
    figure = _draw(walks, images, dict(zip(walks, distances, strict=True)), path, steps_shown, metric_name)
    target = Path(output_dir) / "walk_beside_line.png"
    with atomic_path(target) as partial:
        figure.savefig(partial)
    return target


def _draw(
    walks: Mapping[str, WalkSet],
    images: Mapping[str, torch.Tensor],
    distances: Mapping[str, torch.Tensor],
    path: int,
    steps_shown: int,
    metric_name: str,
) -> Any:
    figure = blank_figure(1.25 * steps_shown + 0.5, 6.0, "walks")
    grid = figure.add_gridspec(3, steps_shown, height_ratios=(1, 1, 2))
    steps = walks["line"].points.shape[1]
    shown = torch.linspace(0, steps - 1, steps_shown).round().long().tolist()
    for line, name in enumerate(walks):
        for column, step in enumerate(shown):
            axes = figure.add_subplot(grid[line, column])
            axes.imshow(images[name][step].permute(1, 2, 0).squeeze(-1) / 2 + 0.5, cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[], title=f"step {step}" if line == 0 else "")
            if column == 0:
                axes.set_ylabel(name)
            if step in (0, steps - 1):
                axes.spines[:].set(color="tab:red", linewidth=2)
                axes.set_xlabel("never emitted", color="tab:red", fontsize="small")
    axes = figure.add_subplot(grid[2, :])
    for name, color in zip(walks, ("tab:orange", "tab:blue"), strict=True):
        verified = walks[name].verified[path]
        axes.plot(distances[name], color=color, label=name)
        axes.scatter(
            range(steps), distances[name], color=[color if ok else "white" for ok in verified], ec=color, zorder=3
        )
    for end in (0, steps - 1):
        axes.axvspan(end - 0.4, end + 0.4, color="tab:red", alpha=0.15, lw=0)
    axes.set(
        xlabel=f"step of path {path} (red: never emitted; filled: verified)",
        ylabel=f"{metric_name} to the nearest\ntraining image",
        ylim=(0, None),
    )
    axes.legend()
    return figure


def _check_walks(line: WalkSet, private: WalkSet, path: int, steps_shown: int) -> None:
    paths = len(line)
    if line.points.shape != private.points.shape or not torch.allclose(
        line.points[:, [0, -1]], private.points[:, [0, -1]]
    ):
        raise ValueError(
            f"line {tuple(line.points.shape)} and walk {tuple(private.points.shape)} do not join the same anchors; "
            "make both from the same pairs, with the same number of steps"
        )
    if not 0 <= path < paths or steps_shown < 2:
        raise ValueError(f"path must lie in 0 .. {paths - 1} and steps_shown be >= 2, got {path} and {steps_shown}")


def _by_class(loader: Iterable[Mapping[str, Any]], num_classes: int, per_class: int) -> torch.Tensor | None:
    """The first images of each class, [num_classes * per_class, C, H, W], white where there are too few."""
    found: list[list[torch.Tensor]] = [[] for _ in range(num_classes)]
    for batch in loader:
        labels = torch.as_tensor(batch[PlanKeys.LABEL]).flatten().long().tolist()
        for image, label in zip(_plain_images(batch), labels, strict=True):
            if 0 <= label < num_classes and len(found[label]) < per_class:
                found[label].append(image)
        if all(len(images) == per_class for images in found):
            break
    if not any(found):
        return None
    white = torch.ones_like(next(images[0] for images in found if images))
    return torch.stack([image for images in found for image in images + [white] * (per_class - len(images))])


def _all_images(loader: Iterable[Mapping[str, Any]]) -> torch.Tensor:
    return torch.cat([_plain_images(batch) for batch in loader])


def _plain_images(batch: Mapping[str, Any]) -> torch.Tensor:
    return torch.as_tensor(batch[PlanKeys.IMAGE]).as_subclass(torch.Tensor).float().cpu()
