"""Training items by patient: relabelled for the identity network, and counted for k-same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from monai_plan.utils import PlanKeys, patient_of

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
    seen = {(patient_of(item), int(item[PlanKeys.LABEL])) for item in items}
    counts = Counter(label for _, label in seen)
    label, fewest = min(counts.items(), key=lambda count: (count[1], count[0]))
    if fewest < 2 * k:
        advice = f"Set --k {fewest // 2} (nominal risk 1/{fewest // 2})" if fewest >= 4 else "No k is small enough"
        raise ValueError(
            f"class {label} has images of {fewest} patient(s), and two groups of k={k} need {2 * k}. {advice}, or "
            "let walks start from random latents, which carry no such promise: overlay random_anchors.json"
        )
