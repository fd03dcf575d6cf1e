"""Datalists of phantom patients, split by patient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from monai_plan.transforms.render_fundus import FundusSpec
from monai_plan.transforms.render_phantom import PhantomSpec
from monai_plan.utils import PlanKeys, apportioned

__all__ = ["fundus_datalist", "phantom_datalist"]

_SPLITS = ("training", "validation", "testing")
_SPLITTING, _UNEQUAL = 21, 22  # purposes of the generators
_GRADES = 5
_UNEQUAL_SHARE = 0.15  # of the patients have eyes one grade apart


def phantom_datalist(
    seed: int = 0,
    patients_per_class: int = 200,
    visits: int = 3,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
) -> dict[str, list[dict[str, Any]]]:
    """List phantom radiographs with two classes, split by patient and stratified by label.

    Every patient has one label, lies in one split and comes ``visits`` times. The pictures themselves are drawn by
    :class:`~monai_plan.transforms.RenderPhantomd`.

    Args:
        seed: the population and its split; other seeds give other patients.
        patients_per_class: patients with label 0, and as many with label 1.
        visits: radiographs of each patient.
        fractions: shares of training, validation and testing; they sum to 1.

    Returns:
        ``{"training": [...], "validation": [...], "testing": [...]}``, each item ``{"image": str, "label": int,
        "patient_id": str, "group_id": str, "visit": int}``; plain JSON values.

    Raises:
        ValueError: a number is out of its range, or a split with a fraction above 0 would get no patient.
    """
    _check_least("visits", visits, 1)
    return {
        split: [
            _item(PhantomSpec(seed, patient, visit, label), f"phantom-{seed}-{patient:05d}", "visit")
            for patient, label in members
            for visit in range(visits)
        ]
        for split, members in _split_patients(seed, 2, patients_per_class, fractions).items()
    }


def fundus_datalist(
    seed: int = 0,
    patients_per_class: int = 120,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
) -> dict[str, list[dict[str, Any]]]:
    """List phantom fundus photographs with five grades of retinopathy, split by patient and stratified by grade.

    Every patient lies in one split and comes with both eyes. A patient's class is the grade of the worse eye; in about
    15 % of the patients the other eye is one grade lower, but not below 0. The pictures themselves are drawn by
    :class:`~monai_plan.transforms.RenderFundusd`.

    Args:
        seed: the population and its split; other seeds give other patients.
        patients_per_class: patients whose worse eye has grade 0, and as many for each of 1 to 4.
        fractions: shares of training, validation and testing; they sum to 1.

    Returns:
        ``{"training": [...], "validation": [...], "testing": [...]}``, each item ``{"image": str, "label": int,
        "patient_id": str, "group_id": str, "eye": "left" or "right"}``, the label being that eye's; plain JSON values.

    Raises:
        ValueError: a number is out of its range, or a split with a fraction above 0 would get no patient.
    """
    return {
        split: [
            _item(FundusSpec(seed, patient, eye, label), f"fundus-{seed}-{patient:05d}", "eye")
            for patient, worse in members
            for eye, label in _grades_of_eyes(seed, patient, worse).items()
        ]
        for split, members in _split_patients(seed, _GRADES, patients_per_class, fractions).items()
    }


def _item(spec: PhantomSpec | FundusSpec, name: str, picture: str) -> dict[str, Any]:
    """One record; ``picture`` is the spec's field that tells a patient's pictures apart."""
    return {
        PlanKeys.IMAGE.value: str(spec),
        PlanKeys.LABEL.value: spec.label,
        PlanKeys.PATIENT.value: name,
        PlanKeys.GROUP.value: name,
        picture: getattr(spec, picture),
    }


def _grades_of_eyes(seed: int, patient: int, worse: int) -> dict[str, int]:
    rng = np.random.default_rng([seed, patient, _UNEQUAL])
    grades = {"left": worse, "right": worse}
    if rng.uniform() < _UNEQUAL_SHARE:
        grades["left" if rng.uniform() < 0.5 else "right"] = max(worse - 1, 0)
    return grades


def _check_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}: a whole number from {least} on is needed")


def _split_patients(
    seed: int, classes: int, patients_per_class: int, fractions: Sequence[float]
) -> dict[str, list[tuple[int, int]]]:
    """The patients of each split with their classes, in order of their numbers."""
    _check_least("seed", seed, 0)
    _check_least("patients_per_class", patients_per_class, 1)
    counts = _split_counts(patients_per_class, fractions)
    rng = np.random.default_rng([seed, _SPLITTING])
    members: dict[str, list[tuple[int, int]]] = {split: [] for split in _SPLITS}
    for label in range(classes):
        order = (classes * rng.permutation(patients_per_class) + label).tolist()
        for split, count in zip(_SPLITS, counts, strict=True):
            members[split] += [(patient, label) for patient in order[:count]]
            order = order[count:]
    return {split: sorted(patients) for split, patients in members.items()}


def _split_counts(patients: int, fractions: Sequence[float]) -> list[int]:
    """Patients of one class in each split, by largest remainder."""
    if len(fractions) != len(_SPLITS) or min(fractions) < 0 or not math.isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise ValueError(
            f"fractions={tuple(fractions)!r}: three shares from 0 to 1 with the sum 1 are needed, for training, "
            "validation and testing, e.g. (0.7, 0.1, 0.2)"
        )
    counts = apportioned(patients, fractions)
    for split, fraction, count in zip(_SPLITS, fractions, counts, strict=True):
        if fraction > 0 and count == 0:
            raise ValueError(
                f"patients_per_class={patients} with a share of {fraction} gives no patient to '{split}'. Take at "
                f"least {math.ceil(1 / fraction)} patients per class, or set that share to 0"
            )
    return counts
