"""Whose image an item is."""

import pytest

from monai_plan.utils import patient_of


@pytest.mark.parametrize(
    ("item", "patient"),
    [({"patient_id": "a", "group_id": "g"}, "a"), ({"group_id": "g"}, "g"), ({"patient_id": 7}, "7")],
)
def test_the_patient_else_the_group(item, patient):
    assert patient_of(item) == patient


@pytest.mark.parametrize("item", [{}, {"patient_id": "", "group_id": None}])
def test_nobodys_image_is_refused(item):
    with pytest.raises(ValueError, match="neither group_id nor patient_id"):
        patient_of(item)
