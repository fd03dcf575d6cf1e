"""A withdrawal takes away all that was made of the patient, and only that; what it left dark is planned anew."""

import dataclasses

import pytest
import torch
from fakes import FakeGenerator, classifier
from torch import nn

from monai_plan.latent import (
    InvertedImages,
    Ledger,
    PatientLatents,
    PrivacyGate,
    WalkPlanner,
    WalkSet,
    WalkSteering,
    darken_paths,
    group_centroids,
    group_patients,
    record_walks,
    replan_walks,
    spread_centroids,
    walk_linear,
    withdraw,
    withdraw_patient,
)
from monai_plan.utils import pseudonym

KEY = bytes(range(32))
PATIENTS = PatientLatents(
    torch.randn(26, 6, generator=torch.Generator().manual_seed(0)),
    torch.arange(26) % 2,
    tuple(f"patient {row:02}" for row in range(26)),
)


def planner_of(grouping, spread=False, **options):
    generator = FakeGenerator()
    real = generator.eval().synthesize(torch.randn(9, 6, generator=torch.Generator().manual_seed(1))).detach()
    centroids = group_centroids(grouping, PATIENTS)
    settings = {
        "walk": walk_linear,
        "steering": WalkSteering(generator, classifier(5, 1), classifier(2, 2)),
        "gate": PrivacyGate(nn.Flatten(), real.flatten(1), 0.5),
        "anchors": spread_centroids(centroids, PATIENTS) if spread else centroids,
        "pairs_per_class": 4,
        "steps": 6,
        "kind": "linear",
    }
    return WalkPlanner(**{**settings, **options})


def check(walks, before, after, stale):
    dark = darken_paths(walks, before, after)
    again = replan_walks(dark, planner_of(after))
    anchors = group_centroids(after, PATIENTS)
    latents = dict(zip(anchors.meta["ids"], anchors.latents, strict=True))
    assert any(stale) and not all(stale)
    for path, is_stale in enumerate(stale):
        if not is_stale:
            for found in (dark, again):
                assert torch.equal(found.points[path], walks.points[path])
                assert torch.equal(found.verified[path], walks.verified[path])
                assert list(found.meta["pairs"][path]) == list(walks.meta["pairs"][path])
            continue
        assert not dark.points[path].any() and not dark.verified[path].any()
        if again.meta["pairs"][path]:
            ends = torch.stack([latents[end] for end in again.meta["pairs"][path]])
            assert torch.equal(again.points[path, [0, -1]], ends), "it runs between the new anchors"
    assert again.meta["counts"]["verified"] == int(again.verified.sum())
    used = [frozenset(pair) for pair in again.meta["pairs"] if pair]
    assert len(used) == len(set(used)), "no walk twice"
    return dark, again


def test_a_group_that_shrinks():
    grouping = group_patients(PATIENTS, 3)
    large = next(group for group in grouping.groups if len(group.patients) > 3)
    walks = planner_of(grouping)()
    stale = [large.anchor in pair for pair in walks.meta["pairs"]]
    _, again = check(walks, grouping, withdraw_patient(grouping, PATIENTS, large.patients[0]), stale)
    assert list(map(list, again.meta["pairs"])) == list(map(list, walks.meta["pairs"]))


@pytest.mark.parametrize("pairs_per_class", [4, 6])  # six are all there are between four anchors
def test_an_anchor_that_is_gone(pairs_per_class):
    grouping = later = group_patients(PATIENTS, 3)
    for name in PATIENTS.patients:
        later = withdraw_patient(later, PATIENTS, name)
        if len(later.groups) < len(grouping.groups):
            break
    walks = planner_of(grouping, pairs_per_class=pairs_per_class)()
    now = {group.anchor: group.patients for group in later.groups}
    changed = {group.anchor for group in grouping.groups if now.get(group.anchor) != group.patients}
    gone = {group.anchor for group in grouping.groups} - set(now)
    _, again = check(walks, grouping, later, [bool(changed.intersection(pair)) for pair in walks.meta["pairs"]])
    assert gone and not gone & {end for pair in again.meta["pairs"] for end in pair}
    if pairs_per_class == 6:
        assert [] in again.meta["pairs"], "surplus paths stay dark"


def test_spread_anchors_all_hold_the_mean_of_their_class():
    grouping = group_patients(PATIENTS, 3)
    large = next(group for group in grouping.groups if len(group.patients) > 3)
    walks = planner_of(grouping, spread=True)()
    assert walks.meta["spread"] is True and planner_of(grouping)().meta["spread"] is False
    dark = darken_paths(walks, grouping, withdraw_patient(grouping, PATIENTS, large.patients[0]))
    assert [not points.any() for points in dark.points] == (walks.labels == large.label).tolist()


def test_other_walks_are_refused():
    grouping = group_patients(PATIENTS, 3)
    walks = planner_of(grouping)()
    with pytest.raises(ValueError, match="do not run between k-same anchors"):
        darken_paths(dataclasses.replace(walks, meta={}), grouping, grouping)
    with pytest.raises(ValueError, match="only walks between k-same anchors"):
        replan_walks(walks, planner_of(grouping, anchors=None, anchors_per_class=5))
    assert torch.equal(replan_walks(walks, planner_of(grouping)).points, walks.points), "nothing is dark"


@pytest.fixture(params=[None, KEY], ids=["names", "pseudonyms"])
def room(request, tmp_path):
    """The private room of a run, with a validation patient."""
    key = request.param
    names = tuple(name if key is None else pseudonym(name, key) for name in (*PATIENTS.patients, "val"))
    error, splits = torch.full((27,), 0.1), ("training",) * 26 + ("validation",)
    latents, labels = (
        torch.cat([PATIENTS.latents, torch.zeros(1, 6)]),
        torch.cat([PATIENTS.labels, torch.zeros(1).long()]),
    )
    InvertedImages(latents, labels, error, error, names, names, splits).save(tmp_path / "latents.safetensors")
    patients = dataclasses.replace(PATIENTS, patients=names[:26])
    grouping = group_patients(patients, 3)
    planner = planner_of(group_patients(PATIENTS, 3))
    for file in ("line", "walk"):
        walks = planner(1 if file == "walk" else 0)
        walks.save(tmp_path / f"{file}.safetensors")
    files = [tmp_path / f"{file}.safetensors" for file in ("line", "walk")]
    ledger = record_walks(tmp_path / "ledger.json", grouping, files, key)
    return tmp_path, key, ledger, files, dict(zip((*PATIENTS.patients, "val"), names, strict=True))


def test_everything_of_the_patient_is_gone(room):
    folder, key, before, files, names = room
    patient = before.grouping.groups[0].patients[0]
    plain = next(name for name, kept in names.items() if kept == patient)
    old = [WalkSet.load(file) for file in files]
    touched = {part.file: part for part in before.touched(patient).walks}
    withdraw(plain, folder / "ledger.json", folder / "latents.safetensors", files, key)
    assert patient not in InvertedImages.load(folder / "latents.safetensors").patients
    after = Ledger.load(folder / "ledger.json")
    assert after.withdrawn == (patient,) and all(len(group.patients) >= 3 for group in after.grouping.groups)
    assert after.touched(patient).status == "withdrawn" and not after.touched(patient).walks
    for file, walks in zip(files, old, strict=True):
        now = WalkSet.load(file)
        for path in touched[file.name].paths:
            assert not now.points[path].any() and not now.verified[path].any()
        assert any(torch.equal(a, b) and a.any() for a, b in zip(now.points, walks.points, strict=True))
    withdraw(plain, folder / "ledger.json", folder / "latents.safetensors", files, key)  # a killed one is repeated
    assert Ledger.load(folder / "ledger.json") == after


def test_a_patient_in_no_group_can_withdraw(room):
    folder, key, before, files, names = room
    old = [WalkSet.load(file).points for file in files]
    withdraw("val", folder / "ledger.json", folder / "latents.safetensors", files, key)
    assert names["val"] not in InvertedImages.load(folder / "latents.safetensors").patients
    after = Ledger.load(folder / "ledger.json")
    assert after.withdrawn == (names["val"],) and after.grouping == before.grouping
    assert all(torch.equal(WalkSet.load(file).points, points) for file, points in zip(files, old, strict=True))
    with pytest.raises(ValueError, match="knows no patient"):
        withdraw("nobody", folder / "ledger.json", folder / "latents.safetensors", files, key)


def test_the_last_two_groups_of_a_class(tmp_path):
    """One anchor is left, between which no walk can run: the patient is out all the same."""
    few = PatientLatents(PATIENTS.latents[:16], PATIENTS.labels[:16] * 0, PATIENTS.patients[:16])
    few = dataclasses.replace(few, latents=few.latents[:6], labels=few.labels[:6], patients=few.patients[:6])
    grouping = group_patients(few, 3)
    points = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
    meta = {"pairs": [[0, 1]], "counts": {}}
    walks = WalkSet(points, torch.zeros(1).long(), torch.tensor([[False, True, True, False]]), "linear", meta)
    walks.save(tmp_path / "walk.safetensors")
    error = torch.zeros(6)
    inverted = InvertedImages(few.latents, few.labels, error, error, few.patients, few.patients, ("training",) * 6)
    inverted.save(tmp_path / "latents.safetensors")
    record_walks(tmp_path / "ledger.json", grouping, [tmp_path / "walk.safetensors"])
    files = (tmp_path / "ledger.json", tmp_path / "latents.safetensors", [tmp_path / "walk.safetensors"])
    left = withdraw(few.patients[0], *files)
    assert [len(group.patients) for group in left.groups] == [5]
    assert not WalkSet.load(tmp_path / "walk.safetensors").verified.any()
    assert Ledger.load(tmp_path / "ledger.json").withdrawn == (few.patients[0],)
