"""Splits that keep every patient on one side; knows labels and groups, not images."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from monai_plan.utils import generator_for

__all__ = ["check_fractions", "joined_units", "split_units"]


def check_fractions(fractions: Sequence[float]) -> None:
    """Raise a ValueError unless there are three positive shares that sum to 1."""
    if len(fractions) != 3 or not (min(fractions) > 0 and abs(sum(fractions) - 1) <= 1e-6):  # not (…): NaN too
        raise ValueError(
            f"fractions are {tuple(fractions)}; three positive shares (training, validation, testing) that sum to 1 "
            "are needed, e.g. --fractions 0.7 0.1 0.2"
        )


def joined_units(*names: Sequence[str]) -> list[int]:
    """Number the units that must stay together: images that share a name of one kind, directly or through others.

    Args:
        names: for each kind (patients, groups, …) one name per image, or ``""`` where it has none.

    Returns:
        For each image, the number of its unit.
    """
    count = len(names[0])
    edges = [(image, (kind, name)) for kind, own in enumerate(names) for image, name in enumerate(own) if name]
    number = {node: count + index for index, node in enumerate(dict.fromkeys(node for _, node in edges))}
    ends = np.array([(image, number[node]) for image, node in edges], int).reshape(-1, 2)
    size = count + len(number)
    graph = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(size, size))
    return [int(unit) for unit in connected_components(graph, directed=False)[1][:count]]


def split_units(
    labels: Sequence[int], units: Sequence[int], fractions: Sequence[float], seed: int, names: Sequence[str]
) -> list[int]:
    """Share images between splits, stratified by class, without dividing a unit.

    The largest units are placed first, each where it lowers the chi-square distance to the wanted counts most. For
    units of one image this is the Webster/Sainte-Laguë apportionment, which stays within rounding of every class's
    share for three splits. The last units of a class are kept for the splits that have none of it yet.
    scikit-learn's grouped splitters make folds of equal size only.

    Args:
        labels: the class of each image, 0 to K-1.
        units: the unit of each image, see :func:`joined_units`.
        fractions: the wanted share of each split, positive, summing to 1.
        seed: decides between equal choices.
        names: the classes' names, for messages.

    Returns:
        For each image, the index of its split.

    Raises:
        ValueError: some split would have no image of some class.
    """
    splits, classes = len(fractions), len(names)
    members: dict[int, list[int]] = defaultdict(list)
    for index, unit in enumerate(units):
        members[unit].append(index)
    counts = {unit: np.bincount([labels[i] for i in own], minlength=classes) for unit, own in members.items()}
    left = np.stack([count > 0 for count in counts.values()]).sum(axis=0)  # units that still hold each class
    for label in range(classes):
        if left[label] < splits:
            raise ValueError(
                f"class '{names[label]}' has {Counter(labels)[label]} images of only {left[label]} patients or groups, "
                f"and each of the {splits} splits needs one. Add patients, merge the class with another, or leave it "
                "out (and check that the label column is the right one)"
            )
    target = np.outer(fractions, np.bincount(labels, minlength=classes))
    placed = np.zeros_like(target)
    random = torch.randperm(len(members), generator=generator_for(seed, "datalist")).tolist()
    order = sorted(zip(members, random, strict=True), key=lambda entry: (-len(members[entry[0]]), entry[1]))
    chosen: dict[int, int] = {}
    for unit, _ in order:
        count = counts[unit]
        held = count > 0
        lacking = placed == 0
        urgent = held & (left <= lacking.sum(axis=0))
        allowed = lacking[:, urgent].any(axis=1) if lacking[:, urgent].any() else np.ones(splits, bool)
        change = (count * (2 * (placed - target) + count) / target)[:, held].sum(axis=1)
        chosen[unit] = int(np.argmin(np.where(allowed, change, np.inf)))
        placed[chosen[unit]] += count
        left -= held
    if (placed == 0).any():
        split, label = np.argwhere(placed == 0)[0]
        raise ValueError(
            f"split {split} of {splits} got no image of class '{names[label]}', because groups join images of several "
            "classes. Try another --seed, fewer splits of small classes, or more patients"
        )
    return [chosen[unit] for unit in units]
