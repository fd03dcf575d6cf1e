"""The ledger says of every patient what was made of their data, and is readable for its owner alone."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_plan.latent import WalkSet
from monai_plan.latent.aggregation import Group, Grouping
from monai_plan.latent.ledger import Ledger, ReleaseRecord, WalkRecord
from monai_plan.utils import sha256_of
from monai_plan.utils.pseudonyms import pseudonym

GROUPING = Grouping(
    k=2,
    groups=(Group(3, 0, ("a", "b")), Group(5, 0, ("c", "d", "e")), Group(6, 1, ("f", "g")), Group(8, 1, ("h", "i"))),
    left_over=("j",),
)
PRIVATE = WalkRecord(
    *("walks_private.safetensors", "1a" * 32, "private"),
    pairs=((3, 5), (6, 8), (5, 3)),
    shown=((1, 2), (1,), ()),
    groups=GROUPING.groups,
)
LINEAR = WalkRecord("walks_linear.safetensors", "2b" * 32, "linear", ((8, 6),), ((),), GROUPING.groups[2:])
RELEASES = (
    ReleaseRecord("first", "walks", PRIVATE.sha256, "2026-03-31", {"walks.safetensors": "3c" * 32}),
    ReleaseRecord("second", "images", LINEAR.sha256, "2026-04-01", {}),
    ReleaseRecord("third", "images", PRIVATE.sha256, "2026-04-02T10:00:00", {"0-1.png": "4d" * 32}),
)
LEDGER = Ledger(GROUPING, False, ("gone",), (PRIVATE, LINEAR), RELEASES)


def walk_set(**changes) -> WalkSet:
    verified = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    arguments = {"verified": verified, "kind": "private", "meta": {"pairs": [[3, 5], [6, 8]]}} | changes
    return WalkSet(torch.zeros(2, 4, 3), torch.tensor([0, 1]), **arguments)


def saved_with(path: Path, **changes) -> Path:
    """A file of LEDGER with some of its entries changed; ``None`` takes one out."""
    content = json.loads(LEDGER.save(path).read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    return path


def test_a_record_of_walks(tmp_path):
    walks = WalkSet.load(walk_set().save(tmp_path / "folder" / "walks.safetensors"))
    record = WalkRecord.of(walks, str(tmp_path / "folder" / "walks.safetensors"), GROUPING)
    digest = sha256_of(tmp_path / "folder" / "walks.safetensors")
    assert record == WalkRecord("walks.safetensors", digest, "private", ((3, 5), (6, 8)), ((1, 2), ()), GROUPING.groups)
    other = walk_set(meta={"pairs": [[3, 8], [8, 3]]})
    assert [group.anchor for group in WalkRecord.of(other, walks.save(tmp_path / "w"), GROUPING).groups] == [3, 8]


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({}, "random latents.*older version.*k-same"),
        ({"pairs": [[3, 5]]}, "has 2 paths and the anchors of 1"),
        ({"pairs": [[3, 5], [6]]}, r"the anchors \(6,\)"),
        ({"pairs": [[3, 5], [6, 8.0]]}, r"the anchors \(6, 8.0\)"),
        ({"pairs": [[3, 5], [6, True]]}, r"the anchors \(6, True\)"),
        ({"pairs": [[3, 4], [6, 1]]}, r"no group has, \[1, 4\] \(2 such\).*another grouping"),
    ],
)
def test_walks_that_do_not_name_their_anchors_are_refused(tmp_path, meta, words):
    walks = walk_set(meta=meta)
    with pytest.raises(ValueError, match=words):
        WalkRecord.of(walks, walks.save(tmp_path / "walks.safetensors"), GROUPING)


def test_what_a_patient_touches():
    touched = LEDGER.touched("d")
    assert (touched.status, touched.anchor, touched.share) == ("grouped", 5, 1 / 3)
    (walks,) = touched.walks
    assert (walks.file, walks.sha256) == (PRIVATE.file, PRIVATE.sha256)
    assert (walks.paths, walks.images) == ((0, 2), ("0:1", "0:2"))
    assert touched.releases == (RELEASES[0], RELEASES[2])


@pytest.mark.parametrize(
    ("patient", "paths", "releases"),
    [
        ("a", [(0, 2)], ["first", "third"]),
        ("g", [(1,), (0,)], ["first", "second", "third"]),
        ("h", [(1,), (0,)], ["first", "second", "third"]),
    ],
)
def test_an_anchor_at_either_end_counts_in_every_file(patient, paths, releases):
    touched = LEDGER.touched(patient)
    assert [walks.paths for walks in touched.walks] == paths
    assert [release.folder for release in touched.releases] == releases


@pytest.mark.parametrize(("patient", "status"), [("j", "left over"), ("gone", "withdrawn")])
def test_patients_of_no_anchor(patient, status):
    touched = LEDGER.touched(patient)
    assert (touched.patient, touched.status, touched.anchor, touched.share) == (patient, status, None, None)
    assert touched.walks == () and touched.releases == ()
    assert touched.as_text().startswith(
        f"patient {patient}: {status}, in no anchor\nno path was made of this patient's data\nin no release\n"
    )


def test_the_report_in_plain_words():
    assert LEDGER.touched("d").as_text().splitlines() == [
        "patient d: in anchor 5 with 2 others (risk 1/3 = 0.333)",
        "2 paths of walks_private.safetensors (sha256 1a1a1a1a1a1a…): 0, 2",
        "2 images of walks_private.safetensors (sha256 1a1a1a1a1a1a…): 0:1, 0:2",
        "released in first (walks, 2026-03-31), third (images, 2026-04-02T10:00:00)",
        "not in this ledger: the networks that were trained on this patient's images",
    ]
    assert LEDGER.touched("h").as_text().splitlines()[:5] == [
        "patient h: in anchor 8 with 1 other (risk 1/2 = 0.500)",
        "1 path of walks_private.safetensors (sha256 1a1a1a1a1a1a…): 1",
        "1 image of walks_private.safetensors (sha256 1a1a1a1a1a1a…): 1:1",
        "1 path of walks_linear.safetensors (sha256 2b2b2b2b2b2b…): 0",
        "0 images of walks_linear.safetensors (sha256 2b2b2b2b2b2b…): none",
    ]
    text = replace(LEDGER, walks=(), releases=()).touched("d").as_text()
    assert "no path was made of this patient's data\nin no release\n" in text


@pytest.mark.parametrize("patient", ["a", "b", "j", "gone"])
def test_the_report_names_no_other_patient(patient):
    words = LEDGER.touched(patient).as_text().replace(",", " ").replace(":", " ").split()
    others = set("abcdefghij") | {"gone"}
    assert [word for word in words if word in others - {"a"}] == ([] if patient == "a" else [patient])


def test_all_images_are_listed_however_many():
    record = replace(PRIVATE, pairs=((3, 5),) * 500, shown=(tuple(range(1, 21)),) * 500)
    text = replace(LEDGER, walks=(record,), releases=()).touched("a").as_text()
    assert "10000 images" in text and all(f"{path}:{point}" in text for path in (0, 250, 499) for point in (1, 20))


def test_withdrawals_do_not_rewrite_what_was_made_before():
    """Patient a leaves anchor 3, and e moves there; walks are planned again, and the earlier ones were released."""
    groups = (Group(3, 0, ("b", "e")), Group(5, 0, ("c", "d")), *GROUPING.groups[2:])
    again = replace(PRIVATE, sha256="5e" * 32, pairs=((5, 3), (3, 6)), shown=((4,), (2,)), groups=groups)
    grouping = replace(GROUPING, groups=groups)
    later = replace(LEDGER, grouping=grouping, withdrawn=("a", "gone"), walks=(*LEDGER.walks, again))
    of = {name: [(w.sha256[:2], w.paths, w.images) for w in later.touched(name).walks] for name in "abef"}
    assert of == {
        "a": [("1a", (0, 2), ("0:1", "0:2"))],
        "b": [("1a", (0, 2), ("0:1", "0:2")), ("5e", (0, 1), ("0:4", "1:2"))],
        "e": [("1a", (0, 2), ("0:1", "0:2")), ("5e", (0, 1), ("0:4", "1:2"))],
        "f": [("1a", (1,), ("1:1",)), ("2b", (0,), ()), ("5e", (1,), ("1:2",))],
    }
    assert later.touched("a").status == "withdrawn" and later.touched("a").releases == (RELEASES[0], RELEASES[2])
    assert later.touched("e").anchor == 3
    assert "patient a: withdrawn, in no anchor\n2 paths" in later.touched("a").as_text()


def test_a_patient_who_is_in_earlier_walks_only_is_still_found():
    later = replace(LEDGER, grouping=Grouping(2, GROUPING.groups[:2], ()))
    assert later.touched("h").status == "no longer grouped" and len(later.touched("h").walks) == 2
    with pytest.raises(ValueError, match="no patient 'j'"):
        later.touched("j")


def test_unknown_patients():
    with pytest.raises(ValueError, match="no patient 'z'.*stand under their names.*letter for letter"):
        LEDGER.touched("z")


def test_pseudonyms_and_the_wrong_key():
    right, wrong = bytes(32), bytes(31) + b"\1"
    groups = tuple(
        replace(group, patients=tuple(sorted(pseudonym(name, right) for name in group.patients)))
        for group in GROUPING.groups
    )
    walks = (replace(PRIVATE, groups=groups), replace(LINEAR, groups=groups))
    grouping = replace(GROUPING, groups=groups, left_over=())
    ledger = replace(LEDGER, grouping=grouping, keyed=True, withdrawn=(pseudonym("gone", right),), walks=walks)
    assert ledger.touched(pseudonym("d", right)).anchor == 5
    assert ledger.touched(pseudonym("gone", right)).status == "withdrawn"
    for name in (pseudonym("d", wrong), "d"):
        with pytest.raises(ValueError, match="the key may be another one"):
            ledger.touched(name)
    assert ledger.touched(pseudonym("d", right)).walks[0].paths == (0, 2)
    for plain in ({"grouping": GROUPING}, {"withdrawn": ("gone",)}, {"walks": (PRIVATE, LINEAR)}):
        with pytest.raises(ValueError, match=r"pseudonyms, and \d+ of its \d+ names are none"):
            replace(ledger, **plain)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"withdrawn": ("c",)}, "data of 1 patient were withdrawn and are here again"),
        ({"withdrawn": ("j",)}, "data of 1 patient were withdrawn and are here again"),
        ({"walks": (PRIVATE, LINEAR, replace(LINEAR, file="other"))}, "sha256 2b2b.*twice"),
        ({"walks": (PRIVATE,)}, "release 'second' was made from walks with sha256 2b2b.*Keep the record"),
    ],
)
def test_a_ledger_that_would_mislead_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(LEDGER, **change)


def test_the_modes_of_releases():
    with pytest.raises(ValueError, match="'first' must be one of .*'walks', 'images'.*got 'latents'"):
        replace(RELEASES[0], mode="latents")


def test_round_trip(tmp_path):
    assert Ledger.load(LEDGER.save(str(tmp_path / "new" / "ledger.json"))) == LEDGER
    empty = Ledger(Grouping(2, (), ()), True, (), (), ())
    assert Ledger.load(empty.save(tmp_path / "empty.json")) == empty


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(), min_size=4, max_size=4, unique=True), st.text())
def test_odd_names_survive(tmp_path_factory, names, file):
    grouping = Grouping(2, (Group(0, 0, tuple(sorted(names[:2]))),), (names[2],))
    walks = WalkRecord(file, "0f", file, ((0, 0),), ((1,),), grouping.groups)
    release = ReleaseRecord(file, "images", "0f", "2026-03-31", {file: "1f"})
    ledger = Ledger(grouping, False, (names[3],), (walks,), (release,))
    path = tmp_path_factory.mktemp("odd") / "ledger.json"
    assert Ledger.load(ledger.save(path)) == ledger
    assert ledger.touched(names[0]).releases == (release,)


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps no such permissions")
def test_the_file_is_for_its_owner_alone(tmp_path):
    path = tmp_path / "ledger.json"
    path.touch()
    path.chmod(0o666)
    LEDGER.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    for mode in (0o640, 0o604):
        path.chmod(mode)
        with pytest.raises(ValueError, match=f"permissions {mode:04o}.*chmod 600 {path}"):
            Ledger.load(path)


def test_a_missing_ledger(tmp_path):
    with pytest.raises(FileNotFoundError, match="no ledger at '.*none.json'.*restore it"):
        Ledger.load(tmp_path / "none.json")


@pytest.mark.parametrize("keep", [0, 1, 200, -3])
def test_a_truncated_ledger(tmp_path, keep):
    path = LEDGER.save(tmp_path / "ledger.json")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="no readable JSON.*truncated.*Restore it"):
        Ledger.load(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": "walk_set"}, "no ledger.*'walk_set'.*'k_same_ledger'"),
        ({"schema": None}, "no ledger"),
        ({"version": "1"}, "no ledger"),
        ({"version": 2}, "version 2 .*reads up to 1.*pip install"),
        ({"withdrawn": None}, "damaged.*withdrawn"),
        ({"withdrawn": "gone"}, "damaged.*list of names"),
        ({"withdrawn": [7]}, "damaged.*list of names"),
        ({"keyed": "no"}, "damaged.*'no'"),
        ({"grouping": []}, "damaged"),
        ({"grouping": {"k": 2, "groups": [{"anchor": 1}], "left_over": []}}, "damaged.*label"),
        ({"grouping": {"k": 2, "groups": [{"anchor": 1, "label": 0, "patients": "ab"}], "left_over": []}}, "damaged"),
        ({"walks": [{"file": "x"}]}, "damaged.*pairs"),
        ({"walks": [3]}, "damaged"),
        ({"releases": [{"folder": "x"}]}, "damaged"),
        ({"releases": [], "walks": [{**asdict(LINEAR), "groups": []}]}, r"no group has, \[6, 8\]"),
        ({"releases": [], "walks": [{**asdict(LINEAR), "pairs": ["86"]}]}, "breaks a promise.*'8', '6'"),
        ({"withdrawn": ["c"]}, "ledger.json' breaks a promise.*withdrawn"),
        (
            {"grouping": {"k": 2, "groups": [{"anchor": 1, "label": 0, "patients": ["a"]}], "left_over": []}},
            "ledger.json' breaks a promise",
        ),
    ],
)
def test_a_file_that_is_no_ledger_or_a_changed_one(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        Ledger.load(saved_with(tmp_path / "ledger.json", **changes))


def test_json_of_another_kind(tmp_path):
    path = tmp_path / "ledger.json"
    path.write_text("[1]")
    path.chmod(0o600)
    with pytest.raises(ValueError, match="no ledger"):
        Ledger.load(path)
