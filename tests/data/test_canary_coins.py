"""Coins for patients: fair, independent, the same in every stage."""

import pytest

from monai_plan.data import phantom_datalist, plant_canaries

SPLITS = {**phantom_datalist(patients_per_class=40, visits=2), "labels": {"0": "a", "1": "b"}}


def patients(items):
    return {item["patient_id"] for item in items}


def test_tails_leave_the_training_and_heads_stay():
    planted = plant_canaries(SPLITS, 30)
    heads = patients(item for item in planted["canaries"] if item["canary"])
    tails = patients(item for item in planted["canaries"] if not item["canary"])
    assert len(heads | tails) == 30 and not heads & tails and 5 < len(heads) < 25
    assert patients(planted["training"]) == patients(SPLITS["training"]) - tails
    assert len(planted["canaries"]) == 60  # every visit
    assert {name: planted[name] for name in ("validation", "testing", "labels")} == {
        name: SPLITS[name] for name in ("validation", "testing", "labels")
    }


def test_the_coins_are_fair():
    heads = sum(item["canary"] for seed in range(40) for item in plant_canaries(SPLITS, 20, seed)["canaries"]) / 2
    assert 400 - 3 * 14.2 < heads < 400 + 3 * 14.2  # 800 coins, deviation 14.1


def test_a_seed_repeats_and_none_changes_nothing():
    assert plant_canaries(SPLITS, 20, 3) == plant_canaries(SPLITS, 20, 3) != plant_canaries(SPLITS, 20, 4)
    assert plant_canaries(SPLITS, 0) == SPLITS


@pytest.mark.parametrize(
    "count, message", [(57, "has 56 patients"), (-1, "canaries"), (2.5, "canaries"), (2, "from 3 on")]
)
def test_bad_counts(count, message):
    with pytest.raises(ValueError, match=message):
        plant_canaries(SPLITS, count)


def test_a_class_of_canaries_alone_may_vanish():
    items = [{"image": str(i), "label": int(i == 0), "patient_id": str(i)} for i in range(4)]
    outcomes = set()
    for seed in range(20):
        try:
            plant_canaries({"training": items}, 4, seed)
            outcomes.add("kept")
        except ValueError as error:
            assert "the coins took every training image" in str(error)
            outcomes.add("vanished")
    assert outcomes == {"kept", "vanished"}
