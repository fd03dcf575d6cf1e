"""Training items by patient: relabelled for the identity network, and counted for k-same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from monai_plan.utils import PlanKeys, class_of_patient, patient_of

__all__ = ["identity_items", "require_group_size"]


def identity_items(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The items with ``label`` replaced by the number of their patient: 0 .. patients - 1, in order of appearance.

    Args:
        items: training items with ``label`` and ``patient_id`` (or, where none is known, ``group_id``).

    Raises:
        ValueError: there are fewer than two patients, or an item names none.
    """
    patients: dict[str, int] = {}
    relabelled = []
    for item in items:
        number = patients.setdefault(patient_of(item), len(patients))
        relabelled.append({**item, PlanKeys.LABEL.value: number})
    if len(patients) < 2:
        raise ValueError(f"the training split holds {len(patients)} patient(s); an identity network needs at least two")
    return relabelled


def require_group_size(items: Sequence[Mapping[str, Any]], k: int) -> None:
    """See that every class has patients for two groups of k, before anything is trained: a walk joins two anchors.

    Args:
        items: training items with ``label``, and ``patient_id`` or ``group_id``.
        k: fewest patients of a group, >= 2.

    Raises:
        ValueError: ``k`` is too small, or a class has fewer than 2 k patients.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 2:
        raise ValueError(f"k must be a whole number from 2 on, got {k!r}; 12 keeps the nominal risk 1/k below 0.09")
    labels: dict[str, list[int]] = {}
    for item in items:
        labels.setdefault(patient_of(item), []).append(int(item[PlanKeys.LABEL]))
    patients = Counter(map(class_of_patient, labels.values()))
    classes = {label for of_patient in labels.values() for label in of_patient}
    label, fewest = min(((label, patients[label]) for label in classes), key=lambda count: (count[1], count[0]))
    if fewest < 2 * k:
        advice = f"Set k={fewest // 2} (nominal risk 1/{fewest // 2})" if fewest >= 4 else "No k is small enough"
        raise ValueError(
            f"class {label} has {fewest} patient(s), each counted in the class of most of their images, and two groups "
            f"of k={k} need {2 * k}. {advice}, or let walks start from random latents, which carry no such promise "
            "(pipeline: --set walk#anchors=null walk#k_same_check=null walk#record=null; bundle: random_anchors.json)"
        )
