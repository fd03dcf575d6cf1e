"""k-same: groups of at least k patients of one class, so that a centroid stands where k latents stood.

A grouping keeps one promise, checked whenever one is made: every group has k to 2k - 1 patients of one class, and no
patient is in two. After a withdrawal, the centroid of a group that lost one member gives that member away to whoever
has the centroid before it as well: put the new anchors in the place of the old ones, never beside them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from monai.utils import optional_import

from monai_plan.latent.anchors import AnchorSet
from monai_plan.latent.points import check_labelled_points
from monai_plan.utils import class_of_patient

__all__ = [
    "Group",
    "Grouping",
    "PatientLatents",
    "average_by_patient",
    "group_centroids",
    "group_cost",
    "group_patients",
    "withdraw_patient",
]

logger = logging.getLogger(__name__)

BLOCK = 1024
"""Patients grouped at once, n: the solver holds n * (n // k) edges. Larger classes are halved first."""
STARTS, ITERATIONS = 4, 20
"""Of constrained k-means; a block takes 2 to 10 iterations, a half gains less than 0.1 % from 80 more."""
REACH = 1e5
"""Distance from the mean to the farthest patient, as given to the solver: it rounds distances to 1/1,000, in int32."""


@dataclass(frozen=True)
class PatientLatents:
    """One latent of each patient.

    Attributes:
        latents: points in W, float32, shape [P, D] (flatten W+ first).
        labels: their classes, int64, shape [P].
        patients: their names or pseudonyms, not empty, all different.

    Raises:
        ValueError: a shape, dtype, value or name is wrong.
    """

    latents: torch.Tensor
    labels: torch.Tensor
    patients: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_named_points(self.latents, self.labels, self.patients)
        if len(set(self.patients)) < len(self.patients):
            raise ValueError(
                f"{len(self.patients)} latents belong to {len(set(self.patients))} patients; average each patient's "
                "images first: average_by_patient(latents, labels, patients)"
            )


@dataclass(frozen=True)
class Group:
    """Patients who share an anchor.

    Attributes:
        anchor: number of the anchor, kept through withdrawals; a new grouping counts from 0 again.
        label: their class.
        patients: their names, sorted.
    """

    anchor: int
    label: int
    patients: tuple[str, ...]


@dataclass(frozen=True)
class Grouping:
    """Which patients share an anchor, and who has none.

    Attributes:
        k: the smallest number of patients in a group, >= 2.
        groups: sorted by anchor number, k to 2k - 1 patients each.
        left_over: names of the patients in no group, because their class has fewer than k, sorted.

    Raises:
        ValueError: a group is too small or too large, something appears twice, or an order is wrong.
    """

    k: int
    groups: tuple[Group, ...]
    left_over: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_k(self.k)
        wrong = [len(group.patients) for group in self.groups if not self.k <= len(group.patients) < 2 * self.k]
        if wrong:
            raise ValueError(
                f"groups must have {self.k} to {2 * self.k - 1} patients (k to 2k - 1), got groups of {sorted(wrong)}; "
                "do not edit a grouping by hand: use group_patients and withdraw_patient"
            )
        lists = [*(group.patients for group in self.groups), self.left_over]
        names = self.patients
        if len(set(names)) < len(names):
            raise ValueError(f"{len(names) - len(set(names))} patient(s) appear twice in a grouping; group them again")
        anchors = [group.anchor for group in self.groups]
        if anchors != sorted(set(anchors)) or any(list(part) != sorted(part) for part in lists):
            raise ValueError(
                "a grouping must list groups by anchor number, each number once, and patients by name, got the numbers "
                f"{anchors[:10]} (the first 10 of {len(anchors)}); sort them"
            )

    @property
    def patients(self) -> tuple[str, ...]:
        """Everybody, those in groups first."""
        return tuple(name for group in self.groups for name in group.patients) + self.left_over


def average_by_patient(latents: torch.Tensor, labels: torch.Tensor, patients: Sequence[str]) -> PatientLatents:
    """Average each patient's images, so that a patient counts once, however many images they have.

    A patient with images of several classes belongs to that of most of their images, at a tie to the highest (a
    patient once seen ill is ill), and only the images of that class are averaged.

    Args:
        latents: one latent of each image, float32, shape [N, D], N >= 1, on any device.
        labels: their classes, int64, shape [N].
        patients: the patient of each image, N names.

    Returns:
        The patients sorted by name, on the CPU; the same to the last bit, whatever the order of the images.

    Raises:
        ValueError: a shape, dtype, value or name is wrong, or there is no image.
    """
    _check_named_points(latents, labels, patients)
    if len(latents) == 0:
        raise ValueError("need the latent of at least one image, got none; project the images first")
    latents, classes = latents.cpu(), labels.tolist()
    rows: dict[str, list[int]] = {}
    for row in _canonical_order(latents, patients):
        rows.setdefault(patients[row], []).append(row)
    means, chosen, used = [], [], 0
    for name in sorted(rows):
        label = class_of_patient(classes[row] for row in rows[name])
        own = [row for row in rows[name] if classes[row] == label]
        means.append(latents[own].double().mean(dim=0))
        chosen.append(label)
        used += len(own)
    if used < len(latents):
        left_out = len(latents) - used
        logger.info("%d of %d images left out: of another class than their patient's", left_out, len(latents))
    return PatientLatents(torch.stack(means).float(), torch.tensor(chosen), tuple(sorted(rows)))


def group_patients(patients: PatientLatents, k: int = 12, method: str = "constrained") -> Grouping:
    """Group the patients of each class by k or a few more, near ones together.

    ``"constrained"`` is k-means with bounded sizes (Bradley, Bennett & Demiriz, 2000) into floor(n / k) groups. Classes
    above 1,024 patients are first halved by it, and each halving can cost one group. ``"greedy"`` is for comparison:
    groups of exactly k nearest neighbours as in k-SALSA (Jeon et al., ECCV 2022), started as in MDAV (Domingo-Ferrer &
    Mateo-Sanz, 2002) at the patient farthest from the mean of those still free; the last k to 2k - 1 stay together.

    Args:
        patients: one latent of each; the order makes no difference.
        k: fewest patients in a group, >= 2. At 12, a nominal risk of 1/12 meets the 0.09 of EMA 0070.
        method: ``"constrained"`` or ``"greedy"``.

    Returns:
        The groups, anchors numbered from 0 by class. Classes with fewer than k patients are left over.

    Raises:
        ImportError: ``"constrained"`` without the package k-means-constrained.
        ValueError: ``k`` or ``method`` is wrong, or every class has fewer than k patients.
    """
    _check_k(k)
    methods = {"constrained": _constrained, "greedy": _greedy}
    if method not in methods:
        raise ValueError(f"method must be one of {tuple(methods)}, got {method!r}")
    of_class: dict[int, list[int]] = {}
    latents, classes = patients.latents.cpu(), patients.labels.tolist()
    for row in _canonical_order(latents, patients.patients):
        of_class.setdefault(classes[row], []).append(row)
    counts = {label: len(rows) for label, rows in sorted(of_class.items())}
    most = max(counts.values(), default=0)
    if most < k:
        advice = f"set k={most} or less (a nominal risk of 1/{most})" if most >= 2 else "no k fits: add patients"
        raise ValueError(f"every class has fewer than k={k} patients (patients by class: {counts}); {advice}")
    groups: list[Group] = []
    left_over: list[str] = []
    for label, count in counts.items():
        names = [patients.patients[row] for row in of_class[label]]
        if count < k:
            logger.warning("class %d is left over: %d patient(s), fewer than k=%d", label, count, k)
            left_over += names
            continue
        members: dict[int, list[str]] = {}  # in the order of their first member
        numbers = methods[method](latents[of_class[label]].double().numpy(), k)
        for name, number in zip(names, numbers.tolist(), strict=True):
            members.setdefault(number, []).append(name)
        groups += [Group(len(groups) + i, label, tuple(sorted(part))) for i, part in enumerate(members.values())]
    return Grouping(k, tuple(groups), tuple(sorted(left_over)))


def withdraw_patient(grouping: Grouping, patients: PatientLatents, patient: str) -> Grouping:
    """Take a patient out, changing their own group and at most one other.

    A group that falls to k - 1 takes over a member of a larger group of its class, or joins a group of exactly k, and
    its anchor is gone; whichever adds least to the squared distances within groups. If it is the last group of its
    class, its members are left over.

    Args:
        grouping: where the patient is in; not changed.
        patients: the latents that were grouped, with or without the patient's.
        patient: the name.

    Returns:
        The grouping without the patient; its other anchors keep their numbers.

    Raises:
        ValueError: the grouping does not have the patient, or the latents are not those that were grouped.
    """
    if patient in grouping.left_over:
        return replace(grouping, left_over=tuple(name for name in grouping.left_over if name != patient))
    own = next((group for group in grouping.groups if patient in group.patients), None)
    if own is None:
        raise ValueError(
            f"the grouping has no patient {patient!r}; give the name or pseudonym under which they were grouped "
            "(or they have been withdrawn before)"
        )
    rest = replace(own, patients=tuple(name for name in own.patients if name != patient))
    others = [group for group in grouping.groups if group.label == own.label and group is not own]
    groups = {group.anchor: group for group in grouping.groups if group is not own}
    left_over = grouping.left_over
    if len(rest.patients) >= grouping.k:
        groups[own.anchor] = rest
    elif others:
        groups |= {group.anchor: group for group in _mend(rest, others, patients, grouping.k)}
    else:
        left_over = tuple(sorted(left_over + rest.patients))
    return Grouping(grouping.k, tuple(groups[anchor] for anchor in sorted(groups)), left_over)


def group_cost(grouping: Grouping, patients: PatientLatents) -> float:
    """The mean over grouped patients of the squared distance to their group's centroid, in W.

    Raises:
        ValueError: there is no group, or the latents are not those that were grouped.
    """
    squared = [(part - part.mean(dim=0)).square().sum(dim=1) for part in _latents_of(grouping.groups, patients)]
    return float(torch.cat(squared).mean())


def group_centroids(grouping: Grouping, patients: PatientLatents) -> AnchorSet:
    """The mean latent of each group, as anchors.

    Returns:
        Anchors on the CPU in the order of ``grouping.groups``; ``meta`` holds ``k``, the size of the smallest group
        (``smallest_group``) and the anchors' numbers (``ids``), no names.

    Raises:
        ValueError: there is no group, or the latents are not those that were grouped.
    """
    means = [part.mean(dim=0) for part in _latents_of(grouping.groups, patients)]
    meta = {
        "k": grouping.k,
        "smallest_group": min(len(group.patients) for group in grouping.groups),
        "ids": [group.anchor for group in grouping.groups],
    }
    labels = torch.tensor([group.label for group in grouping.groups])
    return AnchorSet(torch.stack(means).float(), labels, "k_same", meta)


def _check_k(k: int) -> None:
    if not isinstance(k, int) or k < 2:
        raise ValueError(f"k must be a whole number from 2 on, got {k!r}; a group of one is a patient. Set k=12")


def _check_named_points(latents: torch.Tensor, labels: torch.Tensor, patients: Sequence[str]) -> None:
    check_labelled_points("patients' latents", latents, labels)
    if latents.ndim != 2 or len(latents) != len(patients):
        raise ValueError(
            f"latents must be [rows, D] with a patient's name for each row, got {tuple(latents.shape)} and "
            f"{len(patients)} names; flatten W+ with .flatten(1)"
        )
    wrong = [name for name in patients if not isinstance(name, str) or not name]
    if wrong:
        raise ValueError(f"patients must have names, got {wrong[0]!r} ({len(wrong)} such); fill the patient column in")


def _canonical_order(latents: torch.Tensor, patients: Sequence[str]) -> list[int]:
    """Row numbers sorted by the latents' values, first column first, then by name: whatever order they came in."""
    if len(latents) == 0:
        return []
    rank = latents.unique(dim=0, return_inverse=True)[1].tolist()
    return sorted(range(len(latents)), key=lambda row: (rank[row], patients[row]))


def _latents_of(groups: Iterable[Group], patients: PatientLatents) -> list[torch.Tensor]:
    """The latents of each group, float64 [members, D] on the CPU, in the order of the names."""
    rows = {name: row for row, name in enumerate(patients.patients)}
    latents, classes = patients.latents.cpu(), patients.labels.tolist()
    found = []
    for group in groups:
        of_group = [rows[name] for name in group.patients if name in rows and classes[rows[name]] == group.label]
        if len(of_group) < len(group.patients):
            raise ValueError(
                f"{len(group.patients) - len(of_group)} of the {len(group.patients)} patients of anchor {group.anchor} "
                f"have no latent of class {group.label}; give the latents that were grouped"
            )
        found.append(latents[of_group].double())
    if not found:
        raise ValueError("the grouping has no group left; group more patients")
    return found


def _mend(rest: Group, others: list[Group], patients: PatientLatents, k: int) -> list[Group]:
    """The k - 1 patients of ``rest`` with a member of another group, and that group without; or with a whole group.

    The changes of the sum of squares are Ward's: of clusters of a and b points whose means lie d apart, joined,
    a b / (a + b) d^2.
    """
    kept, *latents = _latents_of([rest, *others], patients)
    centre = kept.mean(dim=0)
    options = []
    for number, part in enumerate(latents):
        size, mean = len(part), part.mean(dim=0)
        if size == k:
            options.append((float((centre - mean).square().sum()) * (k - 1) * k / (2 * k - 1), number, -1))
            continue
        gain = (part - centre).square().sum(dim=1) * (k - 1) / k
        loss = (part - mean).square().sum(dim=1) * size / (size - 1)  # that of the member and the size - 1 others
        cheapest = int((gain - loss).argmin())
        options.append((float((gain - loss)[cheapest]), number, cheapest))
    _, number, member = min(options)
    other = others[number]
    if member < 0:
        return [replace(other, patients=tuple(sorted(other.patients + rest.patients)))]
    taken = other.patients[member]
    return [
        replace(other, patients=tuple(name for name in other.patients if name != taken)),
        replace(rest, patients=tuple(sorted((*rest.patients, taken)))),
    ]


def _constrained(points: np.ndarray, k: int) -> np.ndarray:
    """A group's number for each of n >= k points [n, D], by constrained k-means in blocks."""
    count = len(points)
    if count < 2 * k:
        return np.zeros(count, dtype=np.int64)
    if count <= BLOCK:
        return _bounded_k_means(points, count // k, k, STARTS)  # none has 2k: the others would be too few
    numbers = _bounded_k_means(points, 2, max(k, count // 4), 1)
    first = numbers == 0
    numbers[first] = _constrained(points[first], k)
    numbers[~first] = numbers[first].max() + 1 + _constrained(points[~first], k)
    return numbers


def _bounded_k_means(points: np.ndarray, groups: int, smallest: int, starts: int) -> np.ndarray:
    """The library's k-means with groups of at least ``smallest``, always from the same seed; integers [n]."""
    library, found = optional_import("k_means_constrained", name="KMeansConstrained")
    if not found:
        raise ImportError('k-same groups need k-means-constrained: pip install "monai_plan[k_same]"')
    centred = points - points.mean(axis=0)
    reach = np.linalg.norm(centred, axis=1).max()
    model = library(groups, smallest, n_init=starts, max_iter=ITERATIONS, random_state=0)
    return model.fit(centred * (REACH / reach) if reach > 0 else centred).labels_


def _greedy(points: np.ndarray, k: int) -> np.ndarray:
    """A group's number for each of n >= k points [n, D]: the farthest free one, its k - 1 nearest, and so on."""
    points = points - points.mean(axis=0)
    norms, total = (points**2).sum(axis=1), points.sum(axis=0)
    numbers, free = np.full(len(points), len(points) // k - 1), np.ones(len(points), dtype=bool)
    for number in range(len(points) // k - 1):
        # squared distances without the square of the other end, which is the same for all
        far = np.where(free, norms - 2 * (points @ (total / free.sum())), -np.inf).argmax()
        near = np.where(free, norms - 2 * (points @ points[far]), np.inf).argpartition(k)[:k]
        numbers[near], free[near] = number, False
        total -= points[near].sum(axis=0)
    return numbers
