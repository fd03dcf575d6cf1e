"""k-same groups: answers by hand, the promise under any cohort and any chain of withdrawals, no trace of the order."""

import logging
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_plan.latent import aggregation
from monai_plan.latent.aggregation import (
    Group,
    Grouping,
    PatientLatents,
    average_by_patient,
    group_centroids,
    group_cost,
    group_patients,
    withdraw_patient,
)

METHODS = ("constrained", "greedy")
ODD_NAMES = ("Ünï", "1", " 1", 'a"b', "a,b", "a\nb", "\x00", "😀", "\udce9", "../x", "None")


def people(points, labels=None, names=None):
    """Patients at the given points (numbers: points on a line), named a, b, c … unless told."""
    latents = torch.as_tensor(points, dtype=torch.float32).view(len(points), -1)
    labels = [0] * len(points) if labels is None else labels
    return PatientLatents(latents, torch.tensor(labels).long(), tuple(names or map(chr, range(97, 97 + len(points)))))


def shuffled(patients, seed):
    order = np.random.default_rng(seed).permutation(len(patients.patients)).tolist()
    names = tuple(patients.patients[row] for row in order)
    return PatientLatents(patients.latents[order], patients.labels[order], names)


def without(patients, name):
    kept = [row for row, one in enumerate(patients.patients) if one != name]
    return PatientLatents(patients.latents[kept], patients.labels[kept], tuple(patients.patients[row] for row in kept))


def members(grouping):
    return ["".join(group.patients) for group in grouping.groups]


def cohort(rng, count, classes, levels, width):
    """Patients on a grid of few levels, so that many latents are equal (1 level: all of them)."""
    points = rng.integers(levels, size=(count, width)).astype(np.float32) / 7
    names = [f"{ODD_NAMES[row % len(ODD_NAMES)]}{row // len(ODD_NAMES)}" for row in range(count)]
    return PatientLatents(torch.from_numpy(points), torch.from_numpy(rng.integers(classes, size=count)), tuple(names))


def check_promise(grouping, patients, k):
    """What an auditor would check, from the outside."""
    classes = dict(zip(patients.patients, patients.labels.tolist(), strict=True))
    for group in grouping.groups:
        assert k <= len(group.patients) <= 2 * k - 1
        assert {classes[name] for name in group.patients} == {group.label}
    everyone = [name for group in grouping.groups for name in group.patients] + list(grouping.left_over)
    assert sorted(everyone) == sorted(patients.patients)


def squares(grouping, patients):
    """The sum of squared distances within groups, by numpy and pairs."""
    place = dict(zip(patients.patients, patients.latents.double().numpy(), strict=True))
    total = 0.0
    for group in grouping.groups:
        pairs = combinations([place[name] for name in group.patients], 2)
        total += sum(float(((a - b) ** 2).sum()) for a, b in pairs) / len(group.patients)
    return total


COHORTS = st.tuples(
    st.integers(0, 10**6), st.integers(1, 70), st.integers(1, 3), st.sampled_from([1, 2, 5, 1000]), st.integers(1, 3)
)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "points, k, expected",
    [
        ([0, 1, 10, 11, 20, 21, 22], 2, ["ab", "cd", "efg"]),
        ([22, 1, 11, 20, 10, 21, 0], 2, ["bg", "ce", "adf"]),
        ([0, 1, 2, 3, 9], 2, ["abc", "de"]),  # squares 2 + 18, against 0.5 + 28.7 of ab and cde
        ([5, 5, 5, 5, 5], 2, ["ab", "cde"]),
        ([0, 1, 2, 100, 101, 102, 103], 3, ["abc", "defg"]),
        ([0, 1, 2, 100, 101], 3, ["abcde"]),  # fewer than 2 k: one group, however far
        ([[0, 0], [9, 9], [0, 1], [9, 8]], 2, ["ac", "bd"]),
    ],
)
def test_groups_by_hand(points, k, expected, method):
    grouping = group_patients(people(points), k, method)
    if points == [5, 5, 5, 5, 5]:
        assert sorted(map(len, members(grouping))) == [2, 3]
    else:
        assert members(grouping) == expected
    assert [group.anchor for group in grouping.groups] == list(range(len(expected)))


@pytest.mark.parametrize(
    "points, expected",
    [
        # mean 5.6: 0 is farthest and takes 4; {0, 4, 5} and {9, 10} would be nearer together
        ([0, 4, 5, 9, 10], ["ab", "cde"]),
        # mean 4.2: 9 is farthest and takes 6; from the other end it would be {0, 2} and {4, 6, 9}
        ([0, 2, 4, 6, 9], ["abc", "de"]),
        # 21 takes 20; the mean of the others is 1.52, and 4 is farthest from it; 0 is, from the mean of all
        ([0, 1, 1.2, 1.4, 4, 20, 21], ["abc", "de", "fg"]),
    ],
)
def test_greedy_starts_at_the_farthest_from_the_mean_of_those_left(points, expected):
    assert members(group_patients(people(points), 2, "greedy")) == expected


def test_classes_are_kept_apart_numbered_in_order_and_small_ones_left_over(caplog):
    points = [0, 0.1, 0.2, 0.3, 0.4, 5, 5.1, 0.5, 0.6]
    patients = people(points, labels=[3, 1, 3, 1, 3, 1, 1, 2, 1])
    with caplog.at_level(logging.WARNING):
        grouping = group_patients(patients, 2)
    assert [(group.anchor, group.label, "".join(group.patients)) for group in grouping.groups] == [
        (0, 1, "bdi"),
        (1, 1, "fg"),
        (2, 3, "ace"),
    ]
    assert grouping.left_over == ("h",)
    assert [record.getMessage() for record in caplog.records] == ["class 2 is left over: 1 patient(s), fewer than k=2"]


@settings(max_examples=60, deadline=None)
@given(COHORTS, st.integers(2, 12), st.sampled_from(METHODS))
def test_the_promise_holds_for_any_cohort(shape, k, method):
    patients = cohort(np.random.default_rng(shape[0]), *shape[1:])
    counts = torch.bincount(patients.labels).tolist()
    if max(counts) < k:
        with pytest.raises(ValueError, match="fewer than k="):
            group_patients(patients, k, method)
        return
    grouping = group_patients(patients, k, method)
    check_promise(grouping, patients, k)
    assert [group.anchor for group in grouping.groups] == list(range(sum(count // k for count in counts)))
    assert len(grouping.left_over) == sum(count for count in counts if count < k)
    labels = [group.label for group in grouping.groups]
    assert labels == sorted(labels)


@settings(max_examples=40, deadline=None)
@given(COHORTS, st.integers(2, 6), st.sampled_from(METHODS), st.integers(0, 10**6))
def test_the_order_of_the_input_leaves_no_trace(shape, k, method, seed):
    rng = np.random.default_rng(shape[0])
    patients = cohort(rng, k * shape[2] + shape[1], *shape[2:])  # some class has k
    noise = torch.from_numpy(rng.normal(size=patients.latents.shape).astype(np.float32)) * (seed % 2)
    patients = replace(patients, latents=patients.latents + noise)
    other = shuffled(patients, seed)
    first, second = group_patients(patients, k, method), group_patients(other, k, method)
    assert first == second
    assert torch.equal(group_centroids(first, patients).latents, group_centroids(second, other).latents)
    name = first.groups[0].patients[0]
    assert withdraw_patient(first, patients, name) == withdraw_patient(second, other, name)


def test_runs_are_equal_and_leave_the_global_random_states():
    patients = cohort(np.random.default_rng(0), 60, 2, 1000, 3)
    before, (_, keys, position, *_) = torch.get_rng_state(), np.random.get_state()
    first = group_patients(patients, 4)
    assert torch.equal(before, torch.get_rng_state())
    assert (np.random.get_state()[1] == keys).all() and np.random.get_state()[2] == position
    np.random.random(), torch.rand(1)
    assert group_patients(patients, 4) == first


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**-12, 2.0**12, 2.0**40])
def test_the_scale_of_w_makes_no_difference(scale):
    # the solver rounds costs to 1/1,000 and holds them in 32 bits
    patients = cohort(np.random.default_rng(1), 60, 2, 1000, 3)
    scaled = PatientLatents(patients.latents * scale, patients.labels, patients.patients)
    for method in METHODS:
        assert group_patients(scaled, 4, method) == group_patients(patients, 4, method)


def test_groups_are_near_and_constrained_ones_nearer_than_greedy_ones():
    rng = np.random.default_rng(2)
    points = rng.normal(size=(9, 16))[rng.integers(9, size=240)] + 0.3 * rng.normal(size=(240, 16))
    patients = people(points, names=[f"p{row}" for row in range(240)])
    spread = float((patients.latents - patients.latents.mean(dim=0)).square().sum(dim=1).mean())
    constrained, greedy = (group_cost(group_patients(patients, 12, method), patients) for method in METHODS)
    assert constrained < 0.85 * greedy < greedy < 0.4 * spread


@pytest.mark.parametrize("block", [1, 7, 16, 50])
@pytest.mark.parametrize("k", [2, 5, 12])
def test_large_classes_are_halved_until_they_fit(monkeypatch, block, k):
    patients = cohort(np.random.default_rng(3), 300, 2, 4, 2)  # 16 places: many equal latents
    calls, solve = [], aggregation._bounded_k_means

    def recorded(points, groups, smallest, *others):
        calls.append((len(points), groups, smallest))
        return solve(points, groups, smallest, *others)

    monkeypatch.setattr(aggregation, "BLOCK", block)
    monkeypatch.setattr(aggregation, "_bounded_k_means", recorded)
    grouping = group_patients(patients, k)
    check_promise(grouping, patients, k)
    assert all(groups == 2 if count > block else groups == count // k for count, groups, _ in calls)
    halved = [(count, smallest) for count, _, smallest in calls if count > block]
    assert len(halved) >= 2 and all(smallest == max(k, count // 4) for count, smallest in halved)
    most = sum(count // k for count in torch.bincount(patients.labels).tolist())
    assert most - len(halved) <= len(grouping.groups) <= most
    assert group_patients(shuffled(patients, 0), k) == grouping


def test_halving_keeps_what_lies_together(monkeypatch):
    monkeypatch.setattr(aggregation, "BLOCK", 8)
    centres = np.repeat(np.arange(8) * 100.0, 4)
    patients = people(centres + np.tile([0.0, 1.0, 2.0, 3.0], 8), names=[f"{row:02d}" for row in range(32)])
    grouping = group_patients(patients, 4)
    assert [group.patients for group in grouping.groups] == [
        tuple(f"{row:02d}" for row in range(start, start + 4)) for start in range(0, 32, 4)
    ]


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(aggregation, "optional_import", lambda *args, **kwargs: (None, False))
    with pytest.raises(ImportError, match=r'pip install "monai_plan\[k_same\]"'):
        group_patients(people([0, 1, 2, 3]), 2)
    assert members(group_patients(people([0, 1, 8, 9]), 2, "greedy")) == ["ab", "cd"]


# --- one latent of each patient


@pytest.mark.parametrize(
    "images, expected, left_out",
    [
        ([("b", 0, 2.0), ("a", 1, 1.0), ("b", 0, 4.0)], [("a", 1, 1.0), ("b", 0, 3.0)], 0),
        # most images are of class 0
        ([("a", 0, 1.0), ("a", 1, 50.0), ("a", 0, 3.0)], [("a", 0, 2.0)], 1),
        # a tie: once seen ill is ill
        ([("a", 0, 1.0), ("a", 2, 5.0), ("a", 0, 3.0), ("a", 2, 7.0), ("a", 1, 0.0)], [("a", 2, 6.0)], 3),
        ([(name, 0, float(row)) for row, name in enumerate(ODD_NAMES)], None, 0),
    ],
)
def test_averages_by_hand(images, expected, left_out, caplog):
    names, labels, points = zip(*images, strict=True)
    with caplog.at_level(logging.INFO):
        made = average_by_patient(torch.tensor(points).view(-1, 1), torch.tensor(labels), names)
    found = list(zip(made.patients, made.labels.tolist(), made.latents.flatten().tolist(), strict=True))
    assert found == (sorted(images) if expected is None else expected)
    told = [record.getMessage() for record in caplog.records]
    assert told == (
        [f"{left_out} of {len(images)} images left out: of another class than their patient's"] * (left_out > 0)
    )


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
IMAGES = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 1), st.tuples(FLOATS, FLOATS)), min_size=1, max_size=14
)


@settings(max_examples=100, deadline=None)
@given(IMAGES, st.randoms(use_true_random=False))
def test_averages_do_not_depend_on_the_order_to_the_last_bit(images, random):
    def average(some):
        names, labels, points = zip(*some, strict=True)
        return average_by_patient(torch.tensor(points, dtype=torch.float32), torch.tensor(labels), names)

    other = images.copy()
    random.shuffle(other)
    first, second = average(images), average(other)
    assert first.patients == second.patients and torch.equal(first.labels, second.labels)
    assert first.latents.numpy().tobytes() == second.latents.numpy().tobytes()


def test_averaging_is_exact_where_float32_and_the_order_would_show():
    points = torch.tensor([[2.0**100], [1.0], [-(2.0**100)], [1.0]])
    found = {
        float(average_by_patient(points[list(order)], torch.zeros(4).long(), ["a"] * 4).latents)
        for order in ([0, 1, 2, 3], [0, 2, 1, 3], [1, 3, 0, 2], [2, 3, 1, 0])
    }
    assert len(found) == 1
    # in float32 the ones would be lost
    many = torch.tensor([[2.0**26], [1.0], [1.0], [-(2.0**26)]])
    assert float(average_by_patient(many, torch.zeros(4).long(), ["a"] * 4).latents) == 0.5


# --- withdrawals


def grouping_of(k, *groups, left_over=""):
    """Groups "3:abc" of class 0; "3:abc:1" of class 1."""
    made = []
    for text in groups:
        anchor, names, *label = text.split(":")
        made.append(Group(int(anchor), int(label[0]) if label else 0, tuple(names)))
    return Grouping(k, tuple(made), tuple(left_over))


LINE = people([0, 1, 2, 10, 11, 12, 13, 30, 31], labels=[0] * 7 + [1] * 2)


@pytest.mark.parametrize(
    "grouping, gone, expected",
    [
        # still k: only the patient's own group changes
        (grouping_of(2, "0:abc", "1:def"), "b", grouping_of(2, "0:ac", "1:def")),
        (grouping_of(2, "0:ab", "1:de", left_over="cfg"), "f", grouping_of(2, "0:ab", "1:de", left_over="cg")),
        # b, at 1, takes over d, at 10: 9^2 / 2 more, 1.5 less; e would add 50, f 60.5 - 1.5
        (grouping_of(2, "0:ab", "1:def"), "a", grouping_of(2, "0:bd", "1:ef")),
        # b joins the nearer pair, and the number of b's group is gone
        (grouping_of(2, "3:ab", "5:cd", "7:fg"), "a", grouping_of(2, "5:bcd", "7:fg")),
        (grouping_of(2, "3:fg", "5:cd", "7:ab"), "a", grouping_of(2, "3:fg", "5:bcd")),
        # a and b, around 0.5, take over d and leave three
        (grouping_of(3, "0:abc", "4:defg"), "c", grouping_of(3, "0:abd", "4:efg")),
        # the only other group has three: all five together
        (grouping_of(3, "0:abc", "4:efg"), "c", grouping_of(3, "4:abefg")),
        # the last group of its class; class 1 is not touched, though it is larger
        (grouping_of(2, "0:ab", "1:hi:1"), "a", grouping_of(2, "1:hi:1", left_over="b")),
        (grouping_of(2, "0:ab", "1:hi:1", left_over="cd"), "h", grouping_of(2, "0:ab", left_over="cdi")),
        (grouping_of(2, "0:ab"), "b", grouping_of(2, left_over="a")),
    ],
)
def test_withdrawals_by_hand(grouping, gone, expected):
    assert withdraw_patient(grouping, LINE, gone) == expected
    assert withdraw_patient(grouping, without(LINE, gone), gone) == expected


@pytest.mark.parametrize(
    "points, groups, expected",
    [
        # 3.9 is nearest and adds 3.9^2 / 2 = 7.6; 5, an outlier of its group, 5^2 / 2 - (8 / 3)^2 * 3 / 2 = 1.8
        ([4, 3.9, 4.1, 5, 9, 9], ["1:cde", "2:fgh"], ["0:af", "1:cde", "2:gh"]),
        # to join the pair adds 2 / 3 * 6^2 = 24, to take 7 adds 7^2 / 2
        ([6, 6, 7, 7, 7], ["1:cd", "2:efg"], ["1:acd", "2:efg"]),
        # to join the pair adds 2 / 3 * 4.4^2 = 12.9, to take 6 adds 6^2 / 2 - 2^2 * 3 / 2 = 12
        ([-4.4, -4.4, 6, 9, 9], ["1:cd", "2:efg"], ["0:ae", "1:cd", "2:fg"]),
    ],
)
def test_a_group_is_mended_by_what_adds_least_not_by_what_is_nearest(points, groups, expected):
    patients = people([0, -1, *points])  # b leaves a, at 0
    assert withdraw_patient(grouping_of(2, "0:ab", *groups), patients, "b") == grouping_of(2, *expected)


def allowed_changes(grouping, gone):
    """Every grouping that a withdrawal from a group of k may lead to, by brute force."""
    own = next(group for group in grouping.groups if gone in group.patients)
    rest = tuple(name for name in own.patients if name != gone)
    for other in grouping.groups:
        if other.label != own.label or other is own:
            continue
        apart = tuple(group for group in grouping.groups if group not in (own, other))
        changes = []
        if len(other.patients) > grouping.k:
            for name in other.patients:
                smaller = tuple(one for one in other.patients if one != name)
                changes.append([replace(own, patients=(*rest, name)), replace(other, patients=smaller)])
        else:
            changes.append([replace(other, patients=other.patients + rest)])
        for change in changes:
            made = [replace(group, patients=tuple(sorted(group.patients))) for group in (*apart, *change)]
            yield Grouping(grouping.k, tuple(sorted(made, key=lambda group: group.anchor)), grouping.left_over)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(0, 20))
def test_a_withdrawal_adds_the_least_squares_of_all_allowed_changes(seed, k, extra):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(2 * k + extra, 2))
    patients = people(points, names=[f"p{row:02d}" for row in range(len(points))])
    grouping = group_patients(patients, k, "greedy")
    gone = grouping.groups[0].patients[0]  # greedy groups, but for one, have exactly k
    if len(grouping.groups[0].patients) > k:
        gone = grouping.groups[-1].patients[0]
    options = list(allowed_changes(grouping, gone))
    found = withdraw_patient(grouping, patients, gone)
    assert found in options
    assert squares(found, patients) == pytest.approx(min(squares(option, patients) for option in options), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(COHORTS, st.integers(2, 5), st.sampled_from(METHODS))
def test_the_promise_outlives_any_chain_of_withdrawals(shape, k, method):
    rng = np.random.default_rng(shape[0])
    patients = cohort(rng, 3 * k + shape[1], *shape[2:])
    grouping = group_patients(patients, k, method)
    label_of = dict(zip(patients.patients, patients.labels.tolist(), strict=True))
    issued = {group.anchor for group in grouping.groups}
    left = list(patients.patients)
    while left:
        gone = left.pop(int(rng.integers(len(left))))
        own = {group.anchor for group in grouping.groups if gone in group.patients}
        after = withdraw_patient(grouping, patients, gone)
        patients = without(patients, gone)
        check_promise(after, patients, k)
        old, new = ({group.anchor: group for group in made.groups} for made in (grouping, after))
        changed = {anchor for anchor in old if new.get(anchor) != old[anchor]}
        assert own <= changed and len(changed - own) <= 1 and len(own) <= 1
        assert all(old[anchor].label == label_of[gone] for anchor in changed)
        assert new.keys() <= old.keys() <= issued  # none is ever given anew
        if not own:
            assert not changed and len(after.left_over) == len(grouping.left_over) - 1
        elif after.left_over != grouping.left_over:
            assert label_of[gone] not in {group.label for group in after.groups}
        grouping = after
    assert grouping == Grouping(k, (), ())


# --- costs and centroids


def test_cost_and_centroids_by_hand():
    patients = people([[0, 0], [2, 0], [10, 0], [10, 6], [10, 3], [7, 7]], labels=[4, 4, 0, 0, 0, 0])
    grouping = Grouping(2, (Group(3, 0, ("c", "d", "e")), Group(8, 4, ("a", "b"))), ("f",))
    assert group_cost(grouping, patients) == pytest.approx((1 + 1 + 9 + 9 + 0) / 5)
    anchors = group_centroids(grouping, patients)
    assert anchors.latents.tolist() == [[10, 3], [1, 0]] and anchors.labels.tolist() == [0, 4]
    assert anchors.origin == "k_same"
    assert anchors.meta == {"k": 2, "smallest_group": 2, "ids": [3, 8]}


def test_centroids_are_summed_in_float64():
    patients = people([2.0**26, 1, 1, -(2.0**26)])
    assert group_centroids(grouping_of(4, "0:abcd"), patients).latents.tolist() == [[0.5]]


def test_cost_agrees_with_pairs_of_distances():
    patients = cohort(np.random.default_rng(4), 50, 2, 1000, 3)
    grouping = group_patients(patients, 3)
    grouped = 50 - len(grouping.left_over)
    assert group_cost(grouping, patients) == pytest.approx(squares(grouping, patients) / grouped)


def test_anchors_are_saved_without_names(tmp_path):
    patients = people(range(4), names=["secret-a", "secret-b", "secret-c", "secret-d"])
    path = group_centroids(group_patients(patients, 2), patients).save(tmp_path / "anchors.safetensors")
    assert b"secret" not in path.read_bytes()


# --- errors


PAIRS = grouping_of(2, "0:ab", "1:cd")
POINTS = people([0, 1, 2, 3])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: people([0, 1, 2], names="aba"), "3 latents belong to 2 patients; average.*average_by_patient"),
        (lambda: people([0, 1], names=["a", ""]), r"must have names, got '' \(1 such\)"),
        (lambda: people([0, 1], names=["a", float("nan")]), "got nan"),
        (lambda: people([0, 1], names="abc"), r"\(2, 1\) and 3 names"),
        (lambda: PatientLatents(torch.zeros(1, 2, 3), torch.zeros(1).long(), ("a",)), r"\(1, 2, 3\).*flatten\(1\)"),
        (lambda: people([0, float("inf")]), "NaN or infinite"),
        (lambda: PatientLatents(torch.zeros(1, 2).double(), torch.zeros(1).long(), ("a",)), "float64"),
        (lambda: average_by_patient(torch.zeros(2, 3), torch.zeros(2).long(), ["a"]), r"\(2, 3\) and 1 names"),
        (lambda: average_by_patient(torch.zeros(0, 3), torch.zeros(0).long(), []), "at least one image, got none"),
        (lambda: average_by_patient(torch.zeros(1, 3), torch.zeros(1).long(), [7]), "got 7"),
        (lambda: grouping_of(3, "0:abc", "1:de", "2:fghijk"), r"3 to 5 patients.*got groups of \[2, 6\]"),
        (lambda: grouping_of(2, "0:ab", "1:bc"), r"1 patient\(s\) appear twice"),
        (lambda: grouping_of(2, "0:aa"), r"1 patient\(s\) appear twice"),
        (lambda: grouping_of(2, "0:ab", left_over="b"), r"1 patient\(s\) appear twice"),
        (lambda: grouping_of(2, "1:ab", "1:cd"), r"each number once.*got the numbers \[1, 1\]"),
        (lambda: grouping_of(2, "1:ab", "0:cd"), r"got the numbers \[1, 0\]"),
        (lambda: grouping_of(2, "1:ba"), "patients by name"),
        (lambda: Grouping(1, (), ()), "from 2 on, got 1"),
        (lambda: group_patients(POINTS, 1), "from 2 on, got 1; .*k=12"),
        (lambda: group_patients(POINTS, True), "from 2 on, got True"),
        (lambda: group_patients(POINTS, 2.0), "from 2 on, got 2.0"),
        (lambda: group_patients(POINTS, 2, "kmeans"), r"\('constrained', 'greedy'\), got 'kmeans'"),
        (lambda: group_patients(people(range(5), [0, 0, 2, 2, 2]), 4), r"k=4 .*\{0: 2, 2: 3\}\); set k=3 or less.*1/3"),
        (lambda: group_patients(people(range(2), [0, 1]), 2), r"\{0: 1, 1: 1\}\); no k fits"),
        (lambda: group_patients(PatientLatents(torch.zeros(0, 2), torch.zeros(0).long(), ())), r"\{\}\); no k fits"),
        (lambda: withdraw_patient(PAIRS, POINTS, "x"), "no patient 'x'.*withdrawn before"),
        (lambda: withdraw_patient(withdraw_patient(PAIRS, POINTS, "a"), POINTS, "a"), "no patient 'a'"),
        (lambda: withdraw_patient(PAIRS, people([0, 1, 2]), "a"), "1 of the 2 patients of anchor 1"),
        (lambda: group_cost(PAIRS, people(range(4), [1, 1, 0, 0])), "2 of the 2 patients of anchor 0 .* class 0"),
        (lambda: group_cost(Grouping(2, (), ("a",)), POINTS), "no group left"),
        (lambda: group_centroids(Grouping(2, (), ()), POINTS), "no group left"),
    ],
)
def test_errors_name_the_cause(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_the_advised_k_fits():
    patients = people(range(5), [0, 0, 2, 2, 2])
    assert members(group_patients(patients, 3)) == ["cde"]
