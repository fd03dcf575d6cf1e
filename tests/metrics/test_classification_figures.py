"""Figures of a classifier by hand and against scikit-learn."""

from __future__ import annotations

import json

import pytest
import torch

from monai_plan.metrics import classification_figures

metrics = pytest.importorskip("sklearn.metrics")


def simulated(count: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(classes)
    labels = torch.arange(count) % classes
    return (torch.randn(count, classes, generator=rng) + torch.eye(classes)[labels]).softmax(1), labels


def test_two_classes_by_hand():
    """Answers 0, 0, 1, 1, 1 for classes 0, 0, 0, 1, 1."""
    ones = torch.tensor([0.1, 0.4, 0.6, 0.7, 0.8])
    row = classification_figures(torch.stack([1 - ones, ones], dim=1), torch.tensor([0, 0, 0, 1, 1]))
    assert row["confusion"] == [[2, 1], [0, 2]] and row["accuracy"] == 0.8
    assert row["recall"] == pytest.approx([2 / 3, 1]) and row["auroc"] == 1 and row["auroc_interval_95"] is None
    assert row["kappa"] == pytest.approx((0.8 - 12 / 25) / (1 - 12 / 25))
    assert row["brier"] == pytest.approx((0.01 + 0.16 + 0.36 + 0.09 + 0.04) / 5)
    # a bin for each image: confidences 0.9, 0.6, 0.6 (wrong), 0.7, 0.8
    assert row["calibration_error"] == pytest.approx((0.1 + 0.4 + 0.6 + 0.3 + 0.2) / 5)
    assert json.loads(json.dumps(row)) == row


@pytest.mark.parametrize("classes", [3, 5])
def test_against_scikit_learn(classes):
    probabilities, labels = simulated(200, classes)
    row = classification_figures(probabilities, labels)
    guess = probabilities.argmax(1)
    assert row["kappa"] == pytest.approx(metrics.cohen_kappa_score(labels, guess, weights="quadratic"))
    assert row["kappa_interval_95"][0] < row["kappa"] < row["kappa_interval_95"][1]
    assert row["accuracy"] == pytest.approx(metrics.accuracy_score(labels, guess))
    assert row["recall"] == pytest.approx(metrics.recall_score(labels, guess, average=None).tolist())
    binary, truth = simulated(200, 2)
    expected = metrics.brier_score_loss(truth, binary[:, 1])
    assert classification_figures(binary, truth)["brier"] == pytest.approx(expected, abs=1e-6)


def test_calibration_by_hand():
    """Twenty images said to be right with 0.75, half of them are: every bin of two is off by 0.25 on the whole."""
    probabilities = torch.tensor([[0.75, 0.25]]).expand(20, 2)
    row = classification_figures(probabilities, torch.arange(20) % 2)
    assert row["calibration_error"] == pytest.approx(0.25)
    assert row["kappa"] == 0


def test_subgroups():
    probabilities, labels = simulated(40, 2)
    groups = {
        "sex": ["F"] * 25 + ["M"] * 9 + ["X"] * 6,
        "view": ["AP" if label else "PA" for label in labels.tolist()],
        "age": ["93"] + ["40"] * 39,
    }
    row = classification_figures(probabilities, labels, groups)["subgroups"]
    assert set(row["sex"]) == {"F", "smaller groups"} and row["sex"]["smaller groups"] == {"n": 15}
    assert row["age"]["smaller groups"] == {"n": 1} and set(row["age"]) == {"40", "smaller groups"}
    assert row["sex"]["F"]["n"] == 25 and "smaller groups" not in row["view"]
    inside = classification_figures(probabilities[:25], labels[:25])
    assert row["sex"]["F"]["auroc"] == inside["auroc"] and row["sex"]["F"]["accuracy"] == inside["accuracy"]
    assert row["view"]["AP"]["auroc"] is None and row["view"]["AP"]["n"] == 20


@pytest.mark.parametrize(
    ("probabilities", "labels", "groups", "message"),
    [
        ([[0.5, 0.5]] * 2, [0], None, r"\(2, 2\) for 1 labels"),
        ([[3.0, 1.0]] * 2, [0, 1], None, "softmax"),
        ([[0.5, 0.5]] * 2, [0, 0], None, "each of the network's 2 classes"),
        ([[0.5, 0.5]] * 2, [0, 1], {"sex": ["F"]}, "group 'sex' has 1 entries for 2 images"),
    ],
)
def test_bad_input_is_refused(probabilities, labels, groups, message):
    with pytest.raises(ValueError, match=message):
        classification_figures(torch.tensor(probabilities), torch.tensor(labels), groups)
