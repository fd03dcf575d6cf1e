"""Datalists of fundus phantoms: both eyes of a patient in one split, five grades everywhere, plain JSON."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest
from monai.data import Dataset

from monai_plan.data import fundus_datalist, phantom_datalist, read_splits
from monai_plan.transforms import FundusSpec, RenderFundusd
from monai_plan.utils import class_of_patient

SPLITS = ("training", "validation", "testing")


def grades_by_patient(items: list[dict]) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    for item in items:
        grades[item["patient_id"]][item["eye"]] = item["label"]
    return grades


@pytest.mark.parametrize(
    ("patients_per_class", "fractions", "expected"),
    [(120, (0.7, 0.1, 0.2), (84, 12, 24)), (10, (0.7, 0.1, 0.2), (7, 1, 2)), (4, (0.5, 0.0, 0.5), (2, 0, 2))],
)
def test_counts_and_stratification(patients_per_class, fractions, expected):
    datalist = fundus_datalist(0, patients_per_class, fractions)
    assert tuple(datalist) == SPLITS
    for split, patients in zip(SPLITS, expected, strict=True):
        assert len(datalist[split]) == 5 * patients * 2
        classes = [class_of_patient(grades.values()) for grades in grades_by_patient(datalist[split]).values()]
        assert [classes.count(grade) for grade in range(5)] == [patients] * 5


def test_a_patient_lies_in_one_split_with_both_eyes():
    datalist = fundus_datalist(seed=1, patients_per_class=30)
    owners = [set(grades_by_patient(datalist[split])) for split in SPLITS]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 150
    for split in SPLITS:
        assert all(tuple(grades) == ("left", "right") for grades in grades_by_patient(datalist[split]).values())


def test_some_eyes_are_one_grade_better_than_the_other():
    datalist = fundus_datalist(patients_per_class=200, fractions=(1, 0, 0))
    apart = [abs(grades["left"] - grades["right"]) for grades in grades_by_patient(datalist["training"]).values()]
    assert set(apart) == {0, 1}
    assert 0.08 < sum(apart) / len(apart) < 0.16  # 15 % of four of the five classes: 12 %
    better = [grades["left"] < grades["right"] for grades in grades_by_patient(datalist["training"]).values()]
    assert 0.3 < sum(better) / sum(apart) < 0.7


def test_items_are_plain_and_agree_with_their_spec():
    datalist = fundus_datalist(seed=5, patients_per_class=10)
    assert json.loads(json.dumps(datalist)) == datalist
    for item in datalist["training"]:
        spec = FundusSpec.parse(item["image"])
        assert list(item) == ["image", "label", "patient_id", "group_id", "eye"]
        assert (spec.seed, spec.eye, spec.label) == (5, item["eye"], item["label"])
        assert item["patient_id"] == item["group_id"] == f"fundus-5-{spec.patient:05d}"


def test_deterministic_and_keyed_by_seed():
    assert fundus_datalist(seed=2, patients_per_class=10) == fundus_datalist(seed=2, patients_per_class=10)
    first, second = (fundus_datalist(seed=seed, patients_per_class=10)["testing"] for seed in (0, 1))
    assert {item["patient_id"] for item in first}.isdisjoint(item["patient_id"] for item in second)


def test_works_in_a_monai_dataset():
    items = fundus_datalist(patients_per_class=10)["validation"]
    pictures = Dataset(items, RenderFundusd("image", image_size=32))
    assert [tuple(item["image"].shape) for item in pictures] == [(3, 32, 32)] * 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"patients_per_class": 0}, "patients_per_class=0"),
        ({"patients_per_class": True}, "patients_per_class=True"),
        ({"fractions": (0.7, 0.3)}, "three shares"),
        ({"patients_per_class": 3}, "gives no patient to 'validation'. Take at least 10 patients"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        fundus_datalist(**arguments)


@pytest.mark.parametrize(
    ("arguments", "labels", "expected"),
    [
        ({}, ["normal", "tuberculosis"], phantom_datalist(patients_per_class=10)),
        ({"kind": "chest"}, ["normal", "tuberculosis"], phantom_datalist(patients_per_class=10)),
        (
            {"kind": "fundus"},
            ["no retinopathy", "mild", "moderate", "severe", "proliferative"],
            fundus_datalist(patients_per_class=10),
        ),
    ],
)
def test_read_splits_makes_the_kind_asked_for(arguments, labels, expected):
    splits = read_splits(None, num_classes=len(labels), patients_per_class=10, **arguments)
    assert splits["num_classes"] == len(labels)
    assert splits["labels"] == {str(number): name for number, name in enumerate(labels)}
    assert {split: splits[split] for split in SPLITS} == expected


def test_read_splits_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match="kind='retina': phantoms are 'chest' or 'fundus'"):
        read_splits(None, kind="retina")


def test_read_splits_refuses_networks_for_other_classes():
    with pytest.raises(ValueError, match="num_classes is 2, and the phantoms have 5 classes"):
        read_splits(None, num_classes=2, kind="fundus")
