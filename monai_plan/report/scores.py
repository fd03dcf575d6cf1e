"""Accuracy and AUROC on a test set, with the 95 % interval that its size leaves open."""

from __future__ import annotations

import torch

__all__ = ["accuracy_interval", "auroc_with_interval"]

Z_95 = 1.959964


def accuracy_interval(correct: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson, JASA 1927).

    Args:
        correct: successes, 0 .. ``count``.
        count: trials, >= 1.
    """
    share, z2 = correct / count, Z_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 / (1 + z2 / count) * (share * (1 - share) / count + z2 / (4 * count**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def auroc_with_interval(probabilities: torch.Tensor, labels: torch.Tensor) -> tuple[float, tuple[float, float] | None]:
    """One-vs-rest AUROC averaged over the classes, with its 95 % interval.

    The variance is that of DeLong et al. (Biometrics 1988) from the placement values; for more than two classes an
    image's placements in all one-vs-rest comparisons are summed before the variance within its class is taken. Ties
    count one half.

    Args:
        probabilities: scores, float, shape [N, K], K >= 2.
        labels: classes 0 .. K - 1, int64, shape [N].

    Returns:
        The AUROC and the interval, cut to 0 .. 1; ``None`` where a class has a single image, and where the classes are
        separated entirely (the variance is then 0, which tells nothing).

    Raises:
        ValueError: a class has no image, or a label is out of range.
    """
    classes = probabilities.shape[1]
    counts = torch.bincount(labels, minlength=classes)
    if len(counts) != classes or (counts == 0).any():
        raise ValueError(
            f"AUROC needs test images of each of the network's {classes} classes, the labels have {counts.tolist()}; "
            "check the split, or the number of the network's outputs"
        )
    influence = torch.zeros(len(labels), dtype=torch.float64)
    total = 0.0
    for wanted in range(classes):
        inside = labels == wanted
        positive, negative = (probabilities[rows, wanted].double().contiguous() for rows in (inside, ~inside))
        above = _share_below(positive, negative)
        total += float(above.mean())
        influence[inside] += above
        influence[~inside] += (1 - _share_below(negative, positive)) * counts[labels[~inside]] / len(negative)
    auroc = total / classes
    variance = sum(float(influence[labels == c].var()) / int(counts[c]) for c in range(classes)) / classes**2
    if int(counts.min()) < 2 or variance == 0:
        return auroc, None
    half = Z_95 * variance**0.5
    return auroc, (max(0.0, auroc - half), min(1.0, auroc + half))


def _share_below(values: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """For each value the share of ``others`` below it, ties counting one half."""
    ordered = others.sort().values
    below, up_to = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (below + up_to).double() / (2 * len(others))
