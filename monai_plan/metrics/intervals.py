"""95 % intervals of shares, of AUROCs and of what is made of two shares."""

from __future__ import annotations

import torch
from scipy.stats import beta

__all__ = [
    "accuracy_interval",
    "auroc_with_interval",
    "clopper_pearson",
    "difference_interval",
    "kappa_with_interval",
    "separation_with_interval",
]

Z_95 = 1.959964


def accuracy_interval(correct: float, count: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson, JASA 1927).

    Args:
        correct: successes, 0 .. ``count``; fractions (means over a patient's images) are taken too.
        count: trials, > 0; fractions where trials are not independent.
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


def clopper_pearson(successes: float, count: int) -> tuple[float, float]:
    """The exact 95 % interval of a share (Clopper and Pearson, Biometrika 1934), never too short.

    Args:
        successes: 0 .. ``count``; halves (of ties) are taken by the same formula.
        count: trials, >= 1.

    Raises:
        ValueError: there are no trials, or more successes than trials.
    """
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(f"{successes} successes in {count} trials; give at least one trial, and successes within it")
    low = float(beta.ppf(0.025, successes, count - successes + 1)) if successes > 0 else 0.0
    high = float(beta.ppf(0.975, successes + 1, count - successes)) if successes < count else 1.0
    return low, high


def difference_interval(successes: float, count: int, others: float, other_count: int) -> tuple[float, float]:
    """95 % interval of a share minus another, from Wilson's of both (Newcombe, Statistics in Medicine 1998, no. 10).

    Args:
        successes: of the first group, 0 .. ``count``.
        count: its size, >= 1.
        others: successes of the second group, 0 .. ``other_count``.
        other_count: its size, >= 1.

    Returns:
        Bounds within -1 .. 1.
    """
    first, second = successes / count, others / other_count
    (low, high), (other_low, other_high) = accuracy_interval(successes, count), accuracy_interval(others, other_count)
    below = ((first - low) ** 2 + (other_high - second) ** 2) ** 0.5
    above = ((high - first) ** 2 + (second - other_low) ** 2) ** 0.5
    return max(-1.0, first - second - below), min(1.0, first - second + above)


def kappa_with_interval(confusion: torch.Tensor) -> tuple[float, tuple[float, float] | None]:
    """Cohen's kappa with quadratic weights, and its 95 % interval.

    Of K classes ordered by number, an answer d classes off the true one counts ``1 - (d / (K - 1))^2`` (Cohen,
    Psychological Bulletin 1968); with two classes that is the plain kappa. The interval is that of large samples
    (Fleiss, Cohen and Everitt, Psychological Bulletin 1969).

    Args:
        confusion: counts, shape [K, K], K >= 2, of two true classes or more (rows).

    Returns:
        Kappa, 1 where all answers are right and 0 where they tell no more than the classes' shares do, and the
        interval, cut to -1 .. 1; ``None`` where the variance is 0 (all answers right, or all the same), which tells
        nothing.
    """
    shares = confusion.double() / confusion.sum()
    numbers = torch.arange(len(shares), dtype=torch.float64)
    weights = 1 - ((numbers[:, None] - numbers) / (len(shares) - 1)) ** 2
    true, answered = shares.sum(dim=1), shares.sum(dim=0)
    agreed, by_chance = float((weights * shares).sum()), float(true @ weights @ answered)
    of_margins = (weights @ answered)[:, None] + (true @ weights)[None, :]
    terms = (shares * (weights * (1 - by_chance) - of_margins * (1 - agreed)) ** 2).sum()
    variance = float(terms - (agreed * by_chance - 2 * by_chance + agreed) ** 2) / float(confusion.sum())
    kappa = (agreed - by_chance) / (1 - by_chance)
    if variance <= 1e-15:
        return kappa, None
    half = Z_95 * variance**0.5 / (1 - by_chance) ** 2
    return kappa, (max(-1.0, kappa - half), min(1.0, kappa + half))


def separation_with_interval(positive: torch.Tensor, negative: torch.Tensor) -> tuple[float, tuple[float, float]]:
    """AUROC of one group's scores over another's, always with a 95 % interval.

    DeLong's (:func:`auroc_with_interval`). Where its variance is 0 or unknown (groups separated entirely, scores all
    alike, one score a group) it tells nothing; then Clopper and Pearson's for as many trials as the smaller group has
    scores. That is valid, if wide: the groups can be laid out as so many independent pairs, each of which is in order
    with a probability equal to the AUROC.

    Args:
        positive: scores, float, shape [A], A >= 1.
        negative: scores, float, shape [B], B >= 1.

    Raises:
        ValueError: a group is empty or a score is not a number.
    """
    scores = torch.cat([positive, negative]).double()
    if not len(positive) or not len(negative) or scores.isnan().any():
        raise ValueError(
            f"{len(positive)} and {len(negative)} scores, {int(scores.isnan().sum())} of them not numbers; give at "
            "least one score a group, and check what made them"
        )
    labels = (torch.arange(len(scores)) < len(positive)).long()
    auroc, interval = auroc_with_interval(torch.stack([-scores, scores], dim=1), labels)
    if interval is None:
        pairs = min(len(positive), len(negative))
        interval = clopper_pearson(auroc * pairs, pairs)
    return auroc, interval


def _share_below(values: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """For each value the share of ``others`` below it, ties counting one half."""
    ordered = others.sort().values
    below, up_to = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (below + up_to).double() / (2 * len(others))
