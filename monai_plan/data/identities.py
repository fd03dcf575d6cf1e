"""Training items relabelled by patient, for the identity network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_plan.utils import PlanKeys

__all__ = ["identity_items"]


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
        patient = item.get(PlanKeys.PATIENT) or item.get(PlanKeys.GROUP)
        if not patient:
            raise ValueError(
                f"the item {dict(item)} has neither group_id nor patient_id; the identity network needs to know whose "
                "image it is. Make the datalist with `python -m monai_plan datalist … --patient_column NAME`"
            )
        relabelled.append({**item, PlanKeys.LABEL.value: patients.setdefault(str(patient), len(patients))})
    if len(patients) < 2:
        raise ValueError(f"the training split holds {len(patients)} patient(s); an identity network needs at least two")
    return relabelled
