"""Phantom datalists: whole patients in one split, both classes everywhere, plain JSON."""

from __future__ import annotations

import json

import pytest
from monai.data import Dataset

from monai_plan.data import phantom_datalist
from monai_plan.transforms import PhantomSpec, RenderPhantomd

SPLITS = ("training", "validation", "testing")


@pytest.mark.parametrize(
    ("patients_per_class", "visits", "fractions", "expected"),
    [
        (200, 3, (0.7, 0.1, 0.2), (140, 20, 40)),
        (10, 1, (0.7, 0.1, 0.2), (7, 1, 2)),
        (7, 2, (0.6, 0.2, 0.2), (4, 2, 1)),  # 4.2, 1.4, 1.4: the one left over goes to the first largest remainder
        (4, 1, (0.5, 0.0, 0.5), (2, 0, 2)),
        (1, 2, (0, 0, 1), (0, 0, 1)),
    ],
)
def test_counts_and_stratification(patients_per_class, visits, fractions, expected):
    datalist = phantom_datalist(0, patients_per_class, visits, fractions)
    assert tuple(datalist) == SPLITS
    for split, patients in zip(SPLITS, expected, strict=True):
        assert len(datalist[split]) == 2 * patients * visits
        for label in (0, 1):
            assert len({item["patient_id"] for item in datalist[split] if item["label"] == label}) == patients


def test_a_patient_lies_in_one_split_with_one_label_and_all_visits():
    datalist = phantom_datalist(seed=1, patients_per_class=30, visits=2)
    owners = [{item["patient_id"] for item in datalist[split]} for split in SPLITS]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 60
    by_patient: dict[str, list] = {}
    for split in SPLITS:
        for item in datalist[split]:
            by_patient.setdefault(item["patient_id"], []).append(item)
    for items in by_patient.values():
        assert [item["visit"] for item in items] == [0, 1]
        assert len({item["label"] for item in items}) == 1


def test_items_are_plain_and_agree_with_their_spec():
    datalist = phantom_datalist(seed=5, patients_per_class=10, visits=2)
    assert json.loads(json.dumps(datalist)) == datalist
    for item in datalist["training"]:
        spec = PhantomSpec.parse(item["image"])
        assert all(type(key) is str for key in item)
        assert (spec.seed, spec.visit, spec.label) == (5, item["visit"], item["label"])
        assert item["patient_id"] == item["group_id"] == f"phantom-5-{spec.patient:05d}"


def test_deterministic_and_keyed_by_seed():
    assert phantom_datalist(seed=2, patients_per_class=10) == phantom_datalist(seed=2, patients_per_class=10)
    first, second = (phantom_datalist(seed=seed, patients_per_class=10)["testing"] for seed in (0, 1))
    assert {item["patient_id"] for item in first}.isdisjoint(item["patient_id"] for item in second)


def test_works_in_a_monai_dataset():
    items = phantom_datalist(patients_per_class=10, visits=1)["validation"]
    batch = Dataset(items, RenderPhantomd("image", image_size=32))
    assert [tuple(item["image"].shape) for item in batch] == [(1, 32, 32)] * 2
    assert sorted(item["label"] for item in batch) == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"patients_per_class": 0}, "patients_per_class=0"),
        ({"patients_per_class": 2.5}, "patients_per_class=2.5"),
        ({"visits": 0}, "visits=0"),
        ({"visits": True}, "visits=True"),
        ({"fractions": (0.7, 0.3)}, "three shares"),
        ({"fractions": (0.7, 0.2, 0.2)}, "sum 1"),
        ({"fractions": (1.2, -0.4, 0.2)}, "three shares"),
        ({"patients_per_class": 3}, "gives no patient to 'validation'. Take at least 10 patients"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        phantom_datalist(**arguments)
