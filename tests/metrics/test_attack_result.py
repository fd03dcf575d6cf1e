"""Patients are numbered members first, and a result is plain JSON."""

from __future__ import annotations

import json
import math

import pytest
import torch

from monai_plan.metrics import AttackResult, RealPatients


def real(names: str, member: str) -> RealPatients:
    flags = torch.tensor([kind == "m" for kind in member])
    return RealPatients(tuple(names), flags, torch.zeros(len(names), dtype=torch.int64))


def result(**changes) -> AttackResult:
    settings = {"name": "screening", "measure": "share", "value": 0.6, "interval": (0.5, 0.7), "baseline": 0.5}
    settings |= {"control": None, "control_interval": None, "n": 3, "n_control": 2, "resolvable": 0.1, "seed": 0}
    return AttackResult(**(settings | changes))


def test_members_have_the_first_numbers():
    patients = real("cabbad", "hmmmmh")
    assert patients.numbers.tolist() == [2, 0, 1, 1, 0, 3]
    assert (patients.members, patients.held_out, patients.count, len(patients)) == (2, 2, 4, 6)
    assert patients.images.tolist() == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("reduce", "expected"), [("amax", [5, 4, 1, 6]), ("amin", [2, 3, 1, 6]), ("mean", [3.5, 3.5, 1, 6])]
)
def test_per_patient_by_hand(reduce, expected):
    values = torch.tensor([[1.0, 2, 3, 4, 5, 6], [0.0] * 6])
    assert real("cabbad", "hmmmmh").per_patient(values, reduce).tolist() == [expected, [0] * 4]


def test_halves_are_disjoint_members_and_replayed():
    patients = real("abcdexy", "mmmmmhh")
    drawn = [torch.cat(patients.halves(seed)) for seed in range(50)]
    assert all(len(set(pair.tolist())) == 4 and int(pair.max()) < 5 for pair in drawn)
    assert {int(pair[0]) for pair in drawn} == {0, 1, 2, 3, 4}
    assert torch.equal(drawn[3], torch.cat(patients.halves(3)))
    assert [group.tolist() for group in patients.groups] == [[0, 1, 2, 3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("names", "member", "message"),
    [
        ("abab", "mhmh", "1 members' patients and 1 held-out"),
        ("abca", "mmhh", "^1 patients are both members and held out; an"),
        ("abcd", "mmmm", "4 members' patients and 0 held-out"),
        ("abc", "mmhh", "3 patients' names"),
    ],
)
def test_bad_patients_are_refused(names, member, message):
    with pytest.raises(ValueError, match=message):
        real(names, member)


def test_as_plain_json():
    plain = result(interval=(0.5, math.inf), details={"rates": {0.1: (1.0, math.nan)}}, curve=((0.0, 0.0),)).as_dict()
    assert plain["interval"] == [0.5, None] and plain["curve"] == [[0.0, 0.0]]
    assert plain["details"] == {"rates": {"0.1": [1.0, None]}}
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


@pytest.mark.parametrize("changes", [{"value": math.nan}, {"value": 0.8}, {"interval": (0.61, 0.7)}])
def test_a_value_outside_its_interval_is_refused(changes):
    with pytest.raises(ValueError, match="screening: share"):
        result(**changes)
