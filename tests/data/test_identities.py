"""Items relabelled by patient."""

from __future__ import annotations

import pytest

from monai_plan.data import identity_items, require_group_size


def test_labels_number_the_patients_in_order_and_leave_the_input_alone():
    items = [
        {"image": "a", "label": 1, "group_id": "site", "patient_id": "p"},
        {"image": "b", "label": 0, "group_id": "site", "patient_id": "q"},
        {"image": "c", "label": 1, "group_id": "site", "patient_id": "p"},
        {"image": "d", "label": 1, "group_id": "eyes of one", "patient_id": ""},
        {"image": "e", "label": 1, "group_id": "eyes of one", "patient_id": ""},
    ]
    assert [item["label"] for item in identity_items(items)] == [0, 1, 0, 2, 2]
    assert [item["label"] for item in items] == [1, 0, 1, 1, 1]
    assert identity_items(items)[0]["image"] == "a"


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{"image": "a", "label": 0}], "neither group_id nor patient_id"),
        ([{"image": "a", "label": 0, "patient_id": "p"}, {"image": "b", "label": 0, "patient_id": "p"}], "1 patient"),
        ([], "0 patient"),
    ],
)
def test_refuses(items, message):
    with pytest.raises(ValueError, match=message):
        identity_items(items)


def patients(*counts):
    return [{"patient_id": f"{c}-{i}", "label": c} for c, count in enumerate(counts) for i in range(count)] * 2


def test_group_size_counts_patients_not_images():
    require_group_size(patients(8, 9), 4)
    with pytest.raises(ValueError, match="class 0 has 7 patient.s., .* k=4 need 8. Set k=3"):
        require_group_size(patients(7, 20), 4)
    both = [{"patient_id": f"{i}", "label": label} for i in range(4) for label in (0, 1)]
    with pytest.raises(ValueError, match="class 0 has 0 patient"):  # each is counted once, where the grouping puts them
        require_group_size(both, 2)
    with pytest.raises(ValueError, match="No k is small enough"):
        require_group_size(patients(7, 3), 2)


@pytest.mark.parametrize("k", [1, 2.0, True, "12"])
def test_group_size_refuses(k):
    with pytest.raises(ValueError, match="whole number from 2 on"):
        require_group_size(patients(50, 50), k)
