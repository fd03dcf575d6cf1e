"""How well images invert, by split: patients that the generator has memorised invert better than others."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from monai_plan.metrics.intervals import auroc_with_interval
from monai_plan.report.canvas import blank_figure
from monai_plan.utils import atomic_path, write_json

__all__ = ["inversion_gap", "write_inversion_report"]

logger = logging.getLogger(__name__)

Errors = Mapping[str, torch.Tensor]


def inversion_gap(training: torch.Tensor, others: torch.Tensor) -> dict[str, Any]:
    """Whether training images invert better than images of other patients.

    Args:
        training: one error for each patient that the generator was trained on, shape [N].
        others: the same for other patients, shape [M].

    Returns:
        ``training`` and ``others`` (mean, deviation, count), and ``auroc`` with ``interval_95``: how often another
        patient has the larger error, 0.5 if nothing tells them apart. ``leak`` is true if the interval lies
        above 0.5: the generator then renders its training images better than it renders what it was not shown, which
        an attacker with the generator can use to tell members.
    """
    errors = torch.cat([training, others]).double()
    of_others = torch.cat([torch.zeros(len(training)), torch.ones(len(others))]).long()
    auroc, interval = auroc_with_interval(torch.stack([-errors, errors], dim=1), of_others)
    return {
        **{name: _summary(values) for name, values in (("training", training), ("others", others))},
        "auroc": auroc,
        "interval_95": interval,
        "leak": bool(interval and interval[0] > 0.5),
    }


def write_inversion_report(
    errors: Mapping[str, Errors], output_dir: str | os.PathLike, metric_name: str = "perceptual distance"
) -> dict[str, Any]:
    """Write ``inversion.json`` and ``inversion.png``: the errors of training images beside those of other patients.

    Args:
        errors: ``"training"`` and one other split, each error's name to its values, one for each patient; no names.
        output_dir: where both are written.
        metric_name: what the perceptual error is; "embedding" is of a network that knows the training images, so that
            a gap in it says nothing of the generator, and its ``leak`` is ``None``.

    Returns:
        Error's name to :func:`inversion_gap`, with ``split`` and ``metric``.

    Raises:
        ValueError: there is not exactly one split beside ``"training"``.
    """
    others = [name for name in errors if name != "training"]
    if "training" not in errors or len(others) != 1:
        raise ValueError(f"the errors of 'training' and of one other split are compared, got those of {sorted(errors)}")
    split = others[0]
    gaps = {name: inversion_gap(values, errors[split][name]) for name, values in errors["training"].items()}
    if metric_name == "embedding" and "perceptual" in gaps:
        gaps["perceptual"]["leak"] = None
    record = {"split": split, "metric": metric_name, **gaps}
    write_json(Path(output_dir) / "inversion.json", record)
    _draw(errors, split, gaps, Path(output_dir) / "inversion.png", metric_name)
    for name, gap in gaps.items():
        logger.info(
            "%s: training %.4f, %s %.4f, AUROC %.3f",
            name,
            gap["training"]["mean"],
            split,
            gap["others"]["mean"],
            gap["auroc"],
        )
        if gap["leak"]:
            logger.warning(
                "training images invert better than those of other patients (%s, AUROC %.3f, interval %.3f to %.3f): "
                "the generator may have memorised some. Look at the audit before anything is released",
                *(name, gap["auroc"], *gap["interval_95"]),
            )
    return record


def _summary(values: torch.Tensor) -> dict[str, Any]:
    deviation = float(values.std()) if len(values) > 1 else None
    return {"mean": float(values.mean()), "deviation": deviation, "count": len(values)}


def _draw(errors: Mapping[str, Errors], split: str, gaps: Mapping[str, Any], path: Path, metric_name: str) -> None:
    figure = blank_figure(5 * len(gaps), 3.5, "errors")
    titles = {"perceptual": metric_name, "pixel": "mean squared error of pixels"}
    for axes, (name, gap) in zip(figure.subplots(1, len(gaps), squeeze=False)[0], gaps.items(), strict=True):
        sets = [errors["training"][name].numpy(), errors[split][name].numpy()]
        labels = [f"training ({len(sets[0])} patients)", f"{split} ({len(sets[1])} patients)"]
        axes.hist(sets, bins=25, density=True, label=labels)
        axes.set(xlabel=titles.get(name, name), ylabel="density", title=f"AUROC {gap['auroc']:.2f}")
        axes.legend()
    with atomic_path(path) as partial:
        figure.savefig(partial)
