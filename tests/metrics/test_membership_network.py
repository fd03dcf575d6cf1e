"""The attacker network finds what a classifier gives away, and nothing where there is nothing."""

from __future__ import annotations

import math

import pytest
import torch
from attack_worlds import patients

from monai_plan.metrics import accuracy_interval, classifier_outputs, membership_network


def test_outputs_by_hand():
    outputs = classifier_outputs(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([1, 0]))
    assert outputs[0].tolist() == pytest.approx([0.5, 0.5, math.log(2), math.log(2)])
    assert outputs[1].tolist() == pytest.approx([1, 0, 0, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([[0.5, 0.6]], [0], "sum to 1.1"),
        ([[0.5, 0.5]], [2], "labels 2 .. 2 for 2 classes"),
        ([[0.5, 0.5]], [0, 1], r"labels \(2,\)"),
        ([[1.5, -0.5]], [0], "must be >= 0"),
    ],
)
def test_bad_answers_are_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        classifier_outputs(torch.tensor(probabilities), torch.tensor(labels))


@pytest.mark.parametrize("images", [1, 2])
def test_overfitted_answers_are_found(images):
    """Members' answers are sure, others' are not; 4 members to a held-out patient do not tilt the votes."""
    pytest.importorskip("sklearn")
    real = patients(40, 10, images)
    logits = torch.randn(len(real), generator=torch.Generator().manual_seed(0)) + torch.where(real.member, 4.0, 0.0)
    answers = torch.stack([logits.sigmoid(), 1 - logits.sigmoid()], dim=1)
    result = membership_network(classifier_outputs(answers, torch.zeros(len(real), dtype=torch.int64)), real, seed=0)
    assert result.interval[0] > 0.65 and result.details["true_negative_rate"] > 0.6
    assert result.control_interval[0] < 0.5 < result.control_interval[1]


def test_nothing_is_found_in_chance():
    """Wilson's for independent patients missed 0.5 in 15 % of such audits."""
    pytest.importorskip("sklearn")
    results = []
    for seed in range(8):
        outputs = torch.randn(18, 2, generator=torch.Generator().manual_seed(seed))
        results.append(membership_network(outputs, patients(12, 6), seed=seed, folds=3))
    assert results[-1] == membership_network(outputs, patients(12, 6), seed=7, folds=3)
    for intervals in ([r.interval for r in results], [r.control_interval for r in results]):
        assert sum(not low <= 0.5 <= high for low, high in intervals) <= 2  # P(more) = 0.006
    right = [12 * result.control for result in results]  # of six patients and six others, in a single draw
    assert len(set(right)) > 3 and right == pytest.approx([round(number) for number in right])


def test_interval_by_hand():
    """All right, in two folds: three patients that share networks are worth one; (40 and 10) / 3."""
    pytest.importorskip("sklearn")
    real = patients(40, 10)
    result = membership_network(torch.where(real.member, 1.0, -1.0)[:, None], real, seed=0, folds=2)
    missing = [1 - accuracy_interval(count / 3, count / 3)[0] for count in (40, 10)]
    assert result.value == 1 and result.interval == (pytest.approx(1 - math.hypot(*missing) / 2), 1)


def test_too_few_patients_for_the_folds():
    with pytest.raises(ValueError, match="5 folds of 9 members' and 20 held-out patients"):
        membership_network(torch.zeros(29, 2), patients(9, 20), seed=0)
