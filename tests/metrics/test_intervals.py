"""Intervals against scipy, scikit-learn and figures worked out by hand."""

import pytest
import torch
from monai.metrics import compute_roc_auc
from monai.networks.utils import one_hot
from scipy.stats import binomtest

from monai_plan.metrics.intervals import (
    accuracy_interval,
    auroc_with_interval,
    clopper_pearson,
    difference_interval,
    kappa_with_interval,
    separation_with_interval,
)


@pytest.mark.parametrize("correct, count", [(0, 10), (5, 10), (85, 105), (10, 10)])
def test_accuracy_interval_is_wilsons(correct, count):
    expected = binomtest(correct, count).proportion_ci(method="wilson")
    assert accuracy_interval(correct, count) == pytest.approx((expected.low, expected.high), abs=1e-6)


def two_classes(scores):
    return torch.stack([1 - torch.tensor(scores), torch.tensor(scores)], dim=1)


@pytest.mark.parametrize(
    "scores, labels, expected",
    [
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),
        ([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1], 0.5),  # ties count one half
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 0.0),
    ],
)
def test_auroc_by_hand(scores, labels, expected):
    assert auroc_with_interval(two_classes(scores), torch.tensor(labels))[0] == pytest.approx(expected)


def test_interval_by_hand():
    """Positives 0.35, 0.8 stand above 1/2 and 1 of the negatives, negatives 0.1, 0.4 below 1 and 1/2 of the positives.

    Each sample variance is 1/8, so the variance of the AUROC 3/4 is 1/16 + 1/16 = 1/8.
    """
    _, interval = auroc_with_interval(two_classes([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
    assert interval == pytest.approx((0.75 - 1.959964 / 8**0.5, 1.0))


GRADES = [[30, 5, 3, 0, 0], [4, 2, 3, 0, 0], [2, 6, 20, 5, 1], [0, 0, 6, 9, 2], [0, 1, 2, 4, 8]]


@pytest.mark.parametrize("confusion", [[[20, 5], [10, 15]], [[9, 1, 0], [2, 5, 3], [0, 4, 6]], GRADES])
def test_kappa_by_scikit_learn_and_its_interval_by_the_delta_method(confusion):
    metrics = pytest.importorskip("sklearn.metrics")
    counts = torch.tensor(confusion)
    truth, answers = (counts.flatten().nonzero().flatten(), counts.flatten())
    cells = truth.repeat_interleave(answers[truth])
    kappa, interval = kappa_with_interval(counts)
    expected = metrics.cohen_kappa_score(cells // len(counts), cells % len(counts), weights="quadratic")
    assert kappa == pytest.approx(expected)

    def of_shares(shares):
        cost = (torch.arange(len(counts))[:, None] - torch.arange(len(counts))).double() ** 2
        return 1 - (cost * shares).sum() / (cost * shares.sum(dim=1)[:, None] * shares.sum(dim=0)).sum()

    shares = counts.double() / counts.sum()
    slope = torch.autograd.functional.jacobian(of_shares, shares)
    variance = ((slope**2 * shares).sum() - (slope * shares).sum() ** 2) / counts.sum()
    half = 1.959964 * float(variance) ** 0.5
    assert interval == pytest.approx((kappa - half, min(1, kappa + half)))


def test_kappa_by_hand():
    """Two of three classes in order, the last a class too low: agreement 11/12, by chance 3/4."""
    assert kappa_with_interval(torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 0]]))[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "confusion, kappa",
    [([[5, 0, 0], [0, 4, 0], [0, 0, 1]], 1), ([[0, 5, 0], [0, 4, 0], [0, 1, 0]], 0), ([[0, 3], [0, 7]], 0)],
)
def test_kappa_that_does_not_vary_has_no_interval(confusion, kappa):
    assert kappa_with_interval(torch.tensor(confusion)) == (pytest.approx(kappa), None)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_agrees_with_monai_and_covers(classes):
    rng = torch.Generator().manual_seed(classes)
    labels = torch.arange(60) % classes
    logits = torch.randn(60, classes, generator=rng) + 0.7 * torch.nn.functional.one_hot(labels, classes)
    auroc, interval = auroc_with_interval(logits.softmax(1), labels)
    expected = compute_roc_auc(logits.softmax(1), one_hot(labels[:, None], classes))
    assert auroc == pytest.approx(expected, abs=1e-6)
    assert interval[0] < auroc < interval[1]


def test_variance_of_three_classes_against_resampling():
    rng = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(400):
        labels = torch.arange(90) % 3
        logits = torch.randn(90, 3, generator=rng) + torch.nn.functional.one_hot(labels, 3)
        auroc, (low, high) = auroc_with_interval(logits.double(), labels)
        draws.append((auroc, (high - low) / (2 * 1.959964)))
    figures = torch.tensor(draws)
    assert figures[:, 1].mean().item() == pytest.approx(figures[:, 0].std().item(), rel=0.15)


def test_no_interval_for_separated_classes():
    assert auroc_with_interval(two_classes([0.1, 0.2, 0.8, 0.9]), torch.tensor([0, 0, 1, 1])) == (1.0, None)


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], [0, 2]])
def test_missing_class_is_refused(labels):
    with pytest.raises(ValueError, match="each of the network's 2 classes"):
        auroc_with_interval(two_classes([0.1, 0.9]), torch.tensor(labels))


@pytest.mark.parametrize("successes, count", [(0, 10), (5, 10), (85, 105), (10, 10)])
def test_clopper_pearson_is_scipys(successes, count):
    expected = binomtest(successes, count).proportion_ci(method="exact")
    assert clopper_pearson(successes, count) == pytest.approx((expected.low, expected.high))


def test_clopper_pearson_by_hand_and_of_halves():
    assert clopper_pearson(20, 20) == (pytest.approx(0.025 ** (1 / 20)), 1.0)
    low, high = clopper_pearson(2.5, 5)
    assert clopper_pearson(2, 5)[0] < low < clopper_pearson(3, 5)[0] and low + high == pytest.approx(1)


@pytest.mark.parametrize("successes, count", [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes, count):
    with pytest.raises(ValueError, match=f"{successes} successes in {count} trials"):
        clopper_pearson(successes, count)


@pytest.mark.parametrize(
    "counts, expected",  # Newcombe 1998, table II, method 10
    [((56, 70, 48, 80), (0.0524, 0.3339)), ((9, 10, 3, 10), (0.1705, 0.8090)), ((10, 10, 0, 10), (0.6075, 1.0))],
)
def test_difference_interval_is_newcombes(counts, expected):
    assert difference_interval(*counts) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "positive, negative, auroc, interval",
    [
        ([0.8, 0.9], [0.1, 0.2, 0.3], 1.0, (0.025 ** (1 / 2), 1.0)),  # two pairs, both in order
        ([0.1], [0.2, 0.3], 0.0, (0.0, 0.975)),
        ([0.5] * 4, [0.5] * 9, 0.5, clopper_pearson(2, 4)),
        ([0.35, 0.8], [0.1, 0.4], 0.75, (0.75 - 1.959964 / 8**0.5, 1.0)),
        ([float("inf"), 0.0], [-float("inf")], 1.0, (0.025, 1.0)),
    ],
)
def test_separation_always_has_an_interval(positive, negative, auroc, interval):
    found, bounds = separation_with_interval(torch.tensor(positive), torch.tensor(negative))
    assert found == pytest.approx(auroc) and bounds == pytest.approx(interval)


@pytest.mark.parametrize("positive", [[], [float("nan")]])
def test_scores_must_be_there(positive):
    with pytest.raises(ValueError, match="at least one score a group"):
        separation_with_interval(torch.tensor(positive), torch.tensor([0.5]))
