"""The keys of batches, files and checkpoints, in one place."""

from __future__ import annotations

from monai.utils.enums import StrEnum

__all__ = ["PlanKeys"]


class PlanKeys(StrEnum):
    """Keys used in batches, datalists and tensor files."""

    IMAGE = "image"
    LABEL = "label"
    PATIENT = "patient_id"
    GROUP = "group_id"
    CANARY = "canary"
    PATH_ID = "path_id"
    POSITION = "position"
