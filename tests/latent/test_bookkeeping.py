"""The ledger follows walks, releases and withdrawals, and speaks up when a withdrawn patient comes back."""

import dataclasses
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from monai_plan.latent import (
    Ledger,
    PatientLatents,
    WalkSet,
    group_patients,
    grouping_in_use,
    groups_behind,
    name_in_ledger,
    record_release,
    record_walks,
    require_not_withdrawn,
    require_recorded,
)
from monai_plan.latent.aggregation import Group, Grouping
from monai_plan.utils import pseudonym, sha256_of

KEY = bytes(range(32))
GROUPING = Grouping(2, (Group(0, 0, ("ann", "bob")), Group(3, 0, ("cyd", "dan", "eve"))), ("fay",))


def walks(pairs, seed=0):
    points = torch.randn(len(pairs), 4, 5, generator=torch.Generator().manual_seed(seed))
    verified = torch.zeros(len(pairs), 4, dtype=torch.bool)
    verified[:, 1] = True
    return WalkSet(points, torch.zeros(len(pairs), dtype=torch.int64), verified, "private", {"pairs": pairs})


@pytest.fixture
def files(tmp_path):
    walk_file = walks([[0, 3]]).save(tmp_path / "walks.safetensors")
    return tmp_path / "ledger.json", walk_file


def test_walks_are_recorded_with_their_groups(files):
    ledger_file, walk_file = files
    assert record_walks(ledger_file, GROUPING, [walk_file]) == Ledger.load(ledger_file)
    touched = Ledger.load(ledger_file).touched("eve")
    assert (touched.anchor, touched.walks[0].images) == (3, ("0:1",))


def test_the_groups_behind_walks(files, tmp_path):
    ledger_file, walk_file = files
    assert groups_behind(ledger_file, walk_file) is None  # no ledger yet
    record_walks(ledger_file, GROUPING, [walk_file])
    assert groups_behind(ledger_file, walk_file) == {"k": 2, "smallest_group": 2, "patients": 5, "spread": False}
    assert groups_behind(ledger_file, walks([[3, 0]], seed=1).save(tmp_path / "others.safetensors")) is None


def test_unreleased_walks_are_forgotten_and_released_ones_kept(files, tmp_path):
    ledger_file, walk_file = files
    record_walks(ledger_file, GROUPING, [walk_file])
    record_release(ledger_file, walk_file, tmp_path / "release", "images", {"0-1.png": "abc"})
    released = sha256_of(walk_file)
    walks([[3, 0], [0, 3]], seed=1).save(walk_file)
    record_walks(ledger_file, GROUPING, [walk_file])
    unreleased = sha256_of(walk_file)
    walks([[3, 0]], seed=2).save(walk_file)
    ledger = record_walks(ledger_file, GROUPING, [walk_file])
    known = {record.sha256 for record in ledger.walks}
    assert known == {released, sha256_of(walk_file)} and unreleased not in known
    assert [release.folder for release in ledger.touched("ann").releases] == ["release"]
    record_walks(ledger_file, GROUPING, [walk_file])  # the same once more
    assert len(Ledger.load(ledger_file).walks) == 2


def test_a_release_that_was_killed_and_written_again_is_noted_once(files, tmp_path):
    ledger_file, walk_file = files
    record_walks(ledger_file, GROUPING, [walk_file])
    for content in ("abc", "abc", "def"):
        record_release(ledger_file, walk_file, tmp_path / "release", "images", {"0-1.png": content})
    assert [release.files["0-1.png"] for release in Ledger.load(ledger_file).releases] == ["abc", "def"]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such locks")
def test_releases_at_the_same_time_are_all_recorded(files, tmp_path, monkeypatch):
    ledger_file, walk_file = files
    record_walks(ledger_file, GROUPING, [walk_file])
    load = Ledger.load

    def load_slowly(path):
        ledger = load(path)
        time.sleep(0.02)
        return ledger

    monkeypatch.setattr(Ledger, "load", load_slowly)
    with ThreadPoolExecutor(4) as pool:
        doings = [
            pool.submit(record_release, ledger_file, walk_file, tmp_path / name, "images", {"0-1.png": "abc"})
            for name in ("first", "second", "third")
        ]
        doings.insert(1, pool.submit(record_walks, ledger_file, GROUPING, [walk_file], withdrawn=["gil"]))
    assert all(doing.exception() is None for doing in doings)
    ledger = load(ledger_file)
    assert {release.folder for release in ledger.releases} == {"first", "second", "third"}
    assert ledger.withdrawn == ("gil",)


def test_a_withdrawal_stays(files):
    ledger_file, walk_file = files
    record_walks(ledger_file, GROUPING, [walk_file])
    without = dataclasses.replace(GROUPING, left_over=())
    record_walks(ledger_file, without, [walk_file], withdrawn=["fay"])
    assert record_walks(ledger_file, without, [walk_file]).withdrawn == ("fay",)
    with pytest.raises(ValueError, match="withdrawn and are here again"):
        record_walks(ledger_file, GROUPING, [walk_file])
    assert Ledger.load(ledger_file).grouping == without


def test_names_and_pseudonyms_are_not_mixed(files):
    ledger_file, walk_file = files
    record_walks(ledger_file, GROUPING, [walk_file])
    with pytest.raises(ValueError, match="holds names, and now pseudonyms=true"):
        record_walks(ledger_file, GROUPING, [walk_file], KEY)


def test_a_release_of_random_walks_needs_no_ledger(tmp_path):
    file = dataclasses.replace(walks([[0, 3]]), meta={}).save(tmp_path / "walks.safetensors")
    record_release(tmp_path / "ledger.json", file, tmp_path / "release", "walks", {})
    assert not (tmp_path / "ledger.json").exists()


def test_a_release_of_unknown_walks_is_refused(files, tmp_path):
    ledger_file, walk_file = files
    with pytest.raises(FileNotFoundError, match="no ledger at"):
        record_release(ledger_file, walk_file, tmp_path / "release", "walks", {})
    record_walks(ledger_file, GROUPING, [walk_file])
    walks([[0, 3]], seed=7).save(walk_file)
    for call in (require_recorded, lambda *files: record_release(*files, tmp_path / "release", "walks", {})):
        with pytest.raises(ValueError, match="does not know the walks"):
            call(ledger_file, walk_file)


@pytest.mark.parametrize("key", [None, KEY])
def test_withdrawn_patients_are_noticed_in_the_datalist(files, key):
    ledger_file, walk_file = files
    names = {name: name if key is None else pseudonym(name, key) for name in ("ann", "bob", "cyd", "dan", "eve", "fay")}
    groups = tuple(
        dataclasses.replace(group, patients=tuple(sorted(names[name] for name in group.patients)))
        for group in GROUPING.groups
    )
    require_not_withdrawn(ledger_file, [{"patient_id": "fay"}], key)  # no ledger yet
    ledger = record_walks(ledger_file, Grouping(2, groups, ()), [walk_file], key, withdrawn=[names["fay"]])
    require_not_withdrawn(ledger_file, [{"patient_id": "ann"}, {"group_id": "bob"}], key)
    with pytest.raises(ValueError, match=f"withdrew their data, the first stands in the ledger as '{names['fay']}'"):
        require_not_withdrawn(ledger_file, [{"patient_id": "ann"}, {"group_id": "fay"}], key)
    assert name_in_ledger(ledger, "ann", key) == names["ann"]
    wrong = KEY if key is None else None
    words = "holds names, and now pseudonyms=true" if key is None else "holds pseudonyms, and now pseudonyms=false"
    with pytest.raises(ValueError, match=words):
        name_in_ledger(ledger, "ann", wrong)
    with pytest.raises(ValueError, match=words):
        require_not_withdrawn(ledger_file, [{"patient_id": "fay"}], wrong)


def test_another_key_is_noticed(files):
    ledger_file, walk_file = files
    names = {name: pseudonym(name, KEY) for name in ("ann", "bob", "cyd", "dan", "eve", "fay")}
    groups = tuple(
        dataclasses.replace(group, patients=tuple(sorted(names[name] for name in group.patients)))
        for group in GROUPING.groups
    )
    record_walks(ledger_file, Grouping(2, groups, ()), [walk_file], KEY, withdrawn=[names["fay"]])
    other = bytes(32)
    with pytest.raises(ValueError, match=r"the key is not the one .*restore private/pseudonyms.key"):
        require_not_withdrawn(ledger_file, [{"patient_id": "fay"}], other)
    with pytest.raises(ValueError, match="the key is not the one"):
        record_walks(ledger_file, Grouping(2, groups, ()), [walk_file], other)


def test_the_grouping_in_use_is_kept(files):
    ledger_file, walk_file = files
    latents = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    patients = PatientLatents(latents, torch.tensor([0, 0, 0, 0, 0, 0]), ("ann", "bob", "cyd", "dan", "eve", "fay"))
    new = group_patients(patients, 2)
    assert grouping_in_use(ledger_file, patients, 2) == new != GROUPING
    record_walks(ledger_file, GROUPING, [walk_file])
    assert grouping_in_use(ledger_file, patients, 2) == GROUPING
    assert grouping_in_use(ledger_file, patients, 3) == group_patients(patients, 3)
    five = PatientLatents(latents[:5], patients.labels[:5], patients.patients[:5])
    assert grouping_in_use(ledger_file, five, 2) == group_patients(five, 2)
