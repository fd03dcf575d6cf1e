"""What a classifier's probabilities on a test set are worth: one row of the audit's utility table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.utils import optional_import

from monai_plan.metrics.intervals import auroc_with_interval, kappa_with_interval

__all__ = ["classification_figures"]

_BINS = 10
_LEAST = 10  # images of a subgroup from which it is named and figures are given
_SMALLER = "smaller groups"


def classification_figures(
    probabilities: torch.Tensor, labels: torch.Tensor, groups: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Accuracy, AUROC, recall, kappa, calibration and subgroups.

    Args:
        probabilities: float, shape [N, K], K >= 2; rows sum to 1.
        labels: true classes 0 .. K - 1, int64, shape [N]; every class occurs.
        groups: by name (``"sex"``), each image's group (N of them, ``"F"``).

    Returns:
        Plain JSON values: ``n``, ``accuracy``, ``auroc`` and ``auroc_interval_95`` (one against the rest, mean over
        classes; the interval is ``None`` where the classes are separated entirely), ``recall`` (by class), ``kappa``
        and ``kappa_interval_95`` (Cohen's; more than two classes are taken for ordered by number, with quadratic
        weights, see :func:`~monai_plan.metrics.kappa_with_interval`), ``calibration_error`` (of the predicted class'
        probability, in 10 bins of equal counts), ``brier`` (mean squared error, summed over the classes, halved for
        two: 0 .. 1 and 0 .. 2), ``confusion`` (rows are true classes) and ``subgroups``: for each group ``n``,
        ``accuracy`` and ``auroc`` (``None`` where it lacks a class). Groups of fewer than 10 images are not named, as a
        rare age may be a single person's; ``"smaller groups"`` has the number ``n`` of all their images, and nothing
        else.

    Raises:
        ValueError: shapes differ, rows are no probabilities, a class has no image, or a group's length is wrong.
        OptionalImportError: scikit-learn is not installed.
    """
    count = len(labels)
    sums = probabilities.sum(dim=-1)
    if probabilities.ndim != 2 or len(probabilities) != count or not bool(((sums - 1).abs() < 1e-3).all()):
        raise ValueError(
            f"probabilities {tuple(probabilities.shape)} for {count} labels, rows that sum to "
            f"{sums.flatten()[:1].tolist()} and so on; give the softmax of the outputs, [N, K], one row for each label"
        )
    for name, members in (groups or {}).items():
        if len(members) != count:
            raise ValueError(f"group '{name}' has {len(members)} entries for {count} images; give one for each image")
    hint = "install the extra: pip install 'monai_plan[bundle]'"
    confusion_matrix, _ = optional_import("sklearn.metrics", name="confusion_matrix", descriptor=hint)
    probabilities, labels = probabilities.double().cpu(), labels.cpu()
    classes = probabilities.shape[1]
    auroc, interval = auroc_with_interval(probabilities, labels)
    predicted = probabilities.argmax(dim=1)
    truth, guess = labels.numpy(), predicted.numpy()
    confusion = confusion_matrix(truth, guess, labels=range(classes))
    kappa, of_kappa = kappa_with_interval(torch.from_numpy(confusion))
    squared = (probabilities - torch.nn.functional.one_hot(labels, classes)).square().sum(dim=1).mean()
    return {
        "n": count,
        "accuracy": float((predicted == labels).double().mean()),
        "auroc": auroc,
        "auroc_interval_95": None if interval is None else list(interval),
        "recall": (confusion.diagonal() / confusion.sum(axis=1)).tolist(),
        "kappa": kappa,
        "kappa_interval_95": None if of_kappa is None else list(of_kappa),
        "calibration_error": _calibration_error(probabilities, predicted == labels),
        "brier": float(squared) / (2 if classes == 2 else 1),
        "confusion": confusion.tolist(),
        "subgroups": {name: _by_group(probabilities, labels, members) for name, members in (groups or {}).items()},
    }


def _calibration_error(probabilities: torch.Tensor, right: torch.Tensor) -> float:
    """Mean over bins of |share of right answers - mean confidence| (Naeini et al., AAAI 2015), bins of equal counts.

    Our own: neither MONAI nor scikit-learn has it.
    """
    confidence, order = probabilities.amax(dim=1).sort(stable=True)
    gaps = [
        (float(part_right.double().mean() - part.mean()), len(part))
        for part, part_right in zip(confidence.tensor_split(_BINS), right[order].tensor_split(_BINS), strict=True)
        if len(part)
    ]
    return sum(abs(gap) * size for gap, size in gaps) / len(right)


def _by_group(probabilities: torch.Tensor, labels: torch.Tensor, members: Sequence[str]) -> dict[str, dict[str, Any]]:
    figures: dict[str, dict[str, Any]] = {}
    counts = Counter(members)
    for group in sorted(group for group, count in counts.items() if count >= _LEAST):
        rows = torch.tensor([member == group for member in members])
        inside, truth = probabilities[rows], labels[rows]
        complete = len(truth.unique()) == probabilities.shape[1]
        figures[str(group)] = {
            "n": len(truth),
            "accuracy": float((inside.argmax(dim=1) == truth).double().mean()),
            "auroc": auroc_with_interval(inside, truth)[0] if complete else None,
        }
    smaller = sum(count for count in counts.values() if count < _LEAST)
    if smaller:
        figures[_SMALLER] = {"n": smaller}
    return figures
