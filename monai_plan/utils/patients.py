"""Whose image an item of a data list is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from monai_plan.utils.enums import PlanKeys

__all__ = ["class_of_patient", "patient_of"]


def patient_of(item: Mapping[str, Any]) -> str:
    """The item's ``patient_id`` or, where none is known, its ``group_id``.

    Raises:
        ValueError: it has neither.
    """
    patient = item.get(PlanKeys.PATIENT) or item.get(PlanKeys.GROUP)
    if not patient:
        raise ValueError(
            f"the item of '{item.get(PlanKeys.IMAGE)}' has neither group_id nor patient_id, and it must be known whose "
            "image it is. Make the datalist with `python -m monai_plan datalist … --patient_column NAME`"
        )
    return str(patient)


def class_of_patient(labels: Iterable[int]) -> int:
    """The one class of a patient with images of these: that of most, at a tie the highest (once ill is ill)."""
    images = Counter(labels)
    return max(images, key=lambda label: (images[label], label))
