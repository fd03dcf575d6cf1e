"""Datalists of phantom patients, split by patient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from monai_plan.transforms.render_phantom import PhantomSpec
from monai_plan.utils import PlanKeys

__all__ = ["phantom_datalist"]

_SPLITS = ("training", "validation", "testing")
_SPLITTING = 21  # purpose of the generator


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
    for name, value, least in (("seed", seed, 0), ("patients_per_class", patients_per_class, 1), ("visits", visits, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r}: a whole number from {least} on is needed")
    counts = _split_counts(patients_per_class, fractions)
    rng = np.random.default_rng([seed, _SPLITTING])
    datalist: dict[str, list[dict[str, Any]]] = {split: [] for split in _SPLITS}
    members: dict[str, list[tuple[int, int]]] = {split: [] for split in _SPLITS}
    for label in (0, 1):
        order = (2 * rng.permutation(patients_per_class) + label).tolist()
        for split, count in zip(_SPLITS, counts, strict=True):
            members[split] += [(patient, label) for patient in order[:count]]
            order = order[count:]
    for split in _SPLITS:
        for patient, label in sorted(members[split]):
            name = f"phantom-{seed}-{patient:05d}"
            datalist[split] += [
                {
                    PlanKeys.IMAGE.value: str(PhantomSpec(seed, patient, visit, label)),
                    PlanKeys.LABEL.value: label,
                    PlanKeys.PATIENT.value: name,
                    PlanKeys.GROUP.value: name,
                    "visit": visit,
                }
                for visit in range(visits)
            ]
    return datalist


def _split_counts(patients: int, fractions: Sequence[float]) -> list[int]:
    """Patients of one class in each split, by largest remainder."""
    if len(fractions) != len(_SPLITS) or min(fractions) < 0 or not math.isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise ValueError(
            f"fractions={tuple(fractions)!r}: three shares from 0 to 1 with the sum 1 are needed, for training, "
            "validation and testing, e.g. (0.7, 0.1, 0.2)"
        )
    exact = [patients * fraction for fraction in fractions]
    counts = [int(share + 1e-9) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: patients - sum(counts)]:
        counts[i] += 1
    for split, fraction, count in zip(_SPLITS, fractions, counts, strict=True):
        if fraction > 0 and count == 0:
            raise ValueError(
                f"patients_per_class={patients} with a share of {fraction} gives no patient to '{split}'. Take at "
                f"least {math.ceil(1 / fraction)} patients per class, or set that share to 0"
            )
    return counts
