"""Keys are plain strings."""

from __future__ import annotations

from monai.utils.enums import CommonKeys

from monai_plan.utils import PlanKeys


def test_keys_are_strings_and_agree_with_monai():
    assert {key.name: f"{key}" for key in PlanKeys}["GROUP"] == "group_id"
    assert {PlanKeys.IMAGE: 1}["image"] == 1
    assert (PlanKeys.IMAGE, PlanKeys.LABEL) == (CommonKeys.IMAGE, CommonKeys.LABEL)
    assert len({str(key) for key in PlanKeys}) == len(PlanKeys)
