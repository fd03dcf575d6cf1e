"""Whose image an item of a data list is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_plan.utils.enums import PlanKeys

__all__ = ["patient_of"]


def patient_of(item: Mapping[str, Any]) -> str:
    """The item's ``patient_id`` or, where none is known, its ``group_id``.

    Raises:
        ValueError: it has neither.
    """
    patient = item.get(PlanKeys.PATIENT) or item.get(PlanKeys.GROUP)
    if not patient:
        raise ValueError(
            f"the item {dict(item)} has neither group_id nor patient_id, and it must be known whose image it is. Make "
            "the datalist with `python -m monai_plan datalist … --patient_column NAME`"
        )
    return str(patient)
