"""A withdrawal's paths are planned anew, all others stay."""

import dataclasses

import pytest
import torch
from fakes import FakeGenerator, classifier
from torch import nn

from monai_plan.latent import (
    PatientLatents,
    PrivacyGate,
    WalkPlanner,
    WalkSteering,
    changed_anchors,
    group_centroids,
    group_patients,
    replan_walks,
    walk_linear,
    withdraw_patient,
)

PATIENTS = PatientLatents(
    torch.randn(26, 6, generator=torch.Generator().manual_seed(0)),
    torch.arange(26) % 2,
    tuple(f"patient {row:02}" for row in range(26)),
)


def planner_of(grouping, **options):
    generator = FakeGenerator()
    real = generator.eval().synthesize(torch.randn(9, 6, generator=torch.Generator().manual_seed(1))).detach()
    settings = {
        "walk": walk_linear,
        "steering": WalkSteering(generator, classifier(5, 1), classifier(2, 2)),
        "gate": PrivacyGate(nn.Flatten(), real.flatten(1), 0.5),
        "anchors": group_centroids(grouping, PATIENTS),
        "pairs_per_class": 4,
        "steps": 6,
        "kind": "linear",
    }
    return WalkPlanner(**{**settings, **options})


def after(grouping, *names):
    for name in names:
        grouping = withdraw_patient(grouping, PATIENTS, name)
    return grouping


def check_kept_and_replanned(walks, grouping, later):
    changed = changed_anchors(grouping, later)
    planner = planner_of(later)
    found = replan_walks(walks, planner, changed)
    stale = [bool(changed.intersection(pair)) for pair in walks.meta["pairs"]]
    assert any(stale) and not all(stale)
    anchors = dict(zip(planner.anchors.meta["ids"], planner.anchors.latents, strict=True))
    for path, pair in enumerate(found.meta["pairs"]):
        if stale[path]:
            ends = torch.stack([anchors[end] for end in pair])
            assert torch.equal(found.points[path, [0, -1]], ends), "it runs between the new anchors"
        else:
            assert list(pair) == list(walks.meta["pairs"][path])
            assert torch.equal(found.points[path], walks.points[path])
            assert torch.equal(found.verified[path], walks.verified[path])
    assert torch.equal(found.labels, walks.labels)
    assert found.meta["counts"]["verified"] == int(found.verified.sum())
    assert found.meta["counts"]["replanned_paths"] == sum(stale)
    return found


def test_a_group_that_shrinks():
    grouping = group_patients(PATIENTS, 3)
    large = next(group for group in grouping.groups if len(group.patients) > 3)
    later = after(grouping, large.patients[0])
    assert changed_anchors(grouping, later) == {large.anchor}
    check_kept_and_replanned(planner_of(grouping)(), grouping, later)


def test_an_anchor_that_is_gone():
    grouping = group_patients(PATIENTS, 3)
    later, gone = grouping, set()
    for name in PATIENTS.patients:  # until two groups were joined
        later = after(later, name)
        gone = {group.anchor for group in grouping.groups} - {group.anchor for group in later.groups}
        if gone:
            break
    walks = planner_of(grouping)()
    found = replan_walks(walks, planner_of(later), changed_anchors(grouping, later))
    ends = {end for pair in found.meta["pairs"] for end in pair}
    assert gone and not gone & ends and gone & {end for pair in walks.meta["pairs"] for end in pair}
    assert len({tuple(sorted(pair)) for pair in found.meta["pairs"]}) > 1


def test_nothing_changed_nothing_planned():
    grouping = group_patients(PATIENTS, 3)
    walks = planner_of(grouping)()
    assert replan_walks(walks, planner_of(grouping), set()) is walks


def test_refusals():
    grouping = group_patients(PATIENTS, 3)
    planner = planner_of(grouping)
    walks = planner()
    with pytest.raises(ValueError, match="do not run between k-same anchors"):
        replan_walks(dataclasses.replace(walks, meta={}), planner, {0})
    with pytest.raises(ValueError, match="do not run between k-same anchors"):
        replan_walks(walks, planner_of(grouping, anchors=None, anchors_per_class=5), {0})
