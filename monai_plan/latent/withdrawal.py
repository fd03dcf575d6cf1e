"""A withdrawal: first everything made of the patient is taken away and written down, then paths are planned anew."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace

import torch

from monai_plan.latent.aggregation import Grouping, average_by_patient, withdraw_patient
from monai_plan.latent.anchors import AnchorSet
from monai_plan.latent.bookkeeping import name_in_ledger, record_walks
from monai_plan.latent.inverted_images import InvertedImages
from monai_plan.latent.ledger import Ledger
from monai_plan.latent.walk_planner import WalkPlanner
from monai_plan.latent.walk_set import WalkSet

__all__ = ["darken_paths", "replan_walks", "withdraw"]

logger = logging.getLogger(__name__)


def withdraw(
    patient: str,
    ledger_file: str | os.PathLike,
    latents_file: str | os.PathLike,
    walk_files: Sequence[str | os.PathLike],
    key: bytes | None = None,
) -> Grouping:
    """Take a patient out of latents, groups, walks and ledger; needs no network, and a killed one may be repeated.

    The group is mended without falling below k. Paths between anchors that this changes are darkened: their points are
    deleted and none of them may be shown. :func:`replan_walks` fills them again.

    Args:
        patient: as in the data list.
        ledger_file, latents_file, walk_files: of the private room.
        key: of the pseudonyms, if there are such.

    Returns:
        The mended grouping.

    Raises:
        ValueError: neither ledger nor latents know the patient, or the key is not theirs.
    """
    ledger, inverted = Ledger.load(ledger_file), InvertedImages.load(latents_file)
    name = name_in_ledger(ledger, patient, key)
    if name not in inverted.patients:
        ledger.touched(name)  # or it says that nobody knows the patient
    without = inverted.without(name)
    grouping = ledger.grouping
    if name in grouping.patients:
        training = without.of_split("training")
        latents = average_by_patient(training.latents, training.labels, training.patients)
        grouping = withdraw_patient(grouping, latents, name)
    without.save(latents_file)
    for file in walk_files:
        darken_paths(WalkSet.load(file), ledger.grouping, grouping).save(file)
    record_walks(ledger_file, grouping, walk_files, key, withdrawn=[name])
    return grouping


def darken_paths(walks: WalkSet, before: Grouping, after: Grouping) -> WalkSet:
    """Delete the paths from anchors that hold other patients than before, or are gone; all others are kept.

    Where the anchors were drawn apart, all of a class hold its mean and scatter, and all of its paths go.

    Returns:
        As many paths, in the same order; deleted ones are zero and unverified, and without ends in ``meta["pairs"]``
        if an anchor of theirs is gone.

    Raises:
        ValueError: the walks do not say between which anchors they run.
    """
    if "pairs" not in walks.meta:
        raise ValueError(
            "these walks do not run between k-same anchors, so no patient's withdrawal touches them; plan them again "
            "between such anchors"
        )
    now = {group.anchor: group.patients for group in after.groups}
    changed = {group.anchor for group in before.groups if now.get(group.anchor) != group.patients}
    if walks.meta.get("spread"):
        labels = {group.label for group in before.groups if group.anchor in changed}
        changed = {group.anchor for group in before.groups if group.label in labels}
    pairs = [list(pair) for pair in walks.meta["pairs"]]
    dark = [path for path, pair in enumerate(pairs) if changed.intersection(pair)]
    points, verified = walks.points.clone(), walks.verified.clone()
    points[dark], verified[dark] = 0.0, False
    for path in dark:
        if not set(pairs[path]) <= set(now):
            pairs[path] = []
    logger.info("%d of %d paths deleted", len(dark), len(walks))
    return _with(walks, points, verified, pairs)


def replan_walks(walks: WalkSet, planner: WalkPlanner) -> WalkSet:
    """Plan the darkened paths anew, between the anchors as they are now; all others are kept bit for bit.

    A path whose anchors are still there keeps its ends; another gets a pair of its class that no path has. Where there
    is none left it stays dark.

    Args:
        walks: of :func:`darken_paths`.
        planner: with the new anchors.

    Returns:
        The walks, with as many paths as before, in the same order.

    Raises:
        ValueError: the planner has no k-same anchors.
    """
    anchors = planner.anchors
    if anchors is None or "ids" not in anchors.meta or "pairs" not in walks.meta:
        raise ValueError("only walks between k-same anchors can be planned anew: WalkPlanner(anchors=...)")
    pairs = [list(pair) for pair in walks.meta["pairs"]]
    dark = [path for path in range(len(walks)) if not walks.points[path].any()]
    taken = {frozenset(pair) for pair in pairs if pair}
    for path in dark:
        if not pairs[path]:
            pairs[path] = _free_pair(anchors, int(walks.labels[path]), taken)
            taken.add(frozenset(pairs[path]))
    planned = [path for path in dark if pairs[path]]
    if not planned:
        return _with(walks, walks.points, walks.verified, pairs)
    ids = list(anchors.meta["ids"])
    rows = torch.tensor([[ids.index(end) for end in pairs[path]] for path in planned])
    made = planner.between(anchors.pairs_of(rows), {})
    points, verified = walks.points.clone(), walks.verified.clone()
    points[planned], verified[planned] = made.points, made.verified
    logger.info("%d paths planned anew, %d stay dark: no pair is left for them", len(planned), len(dark) - len(planned))
    return _with(walks, points, verified, pairs)


def _free_pair(anchors: AnchorSet, label: int, taken: set[frozenset[int]]) -> list[int]:
    ids = [number for number, of in zip(anchors.meta["ids"], anchors.labels.tolist(), strict=True) if of == label]
    return next(([a, b] for place, b in enumerate(ids) for a in ids[:place] if frozenset((a, b)) not in taken), [])


def _with(walks: WalkSet, points: torch.Tensor, verified: torch.Tensor, pairs: list[list[int]]) -> WalkSet:
    counts = {**walks.meta.get("counts", {}), "verified": int(verified.sum())}
    return replace(walks, points=points, verified=verified, meta={**walks.meta, "pairs": pairs, "counts": counts})
