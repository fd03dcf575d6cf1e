"""What a withdrawal makes stale, made anew: the paths of the anchors that it changed, and no others."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from monai_plan.latent.aggregation import Grouping
from monai_plan.latent.anchors import AnchorSet
from monai_plan.latent.walk_planner import WalkPlanner
from monai_plan.latent.walk_set import WalkSet

__all__ = ["changed_anchors", "replan_walks"]

logger = logging.getLogger(__name__)


def changed_anchors(before: Grouping, after: Grouping) -> set[int]:
    """Anchors that hold other patients than before, or are gone."""
    now = {group.anchor: group.patients for group in after.groups}
    return {group.anchor for group in before.groups if now.get(group.anchor) != group.patients}


def replan_walks(walks: WalkSet, planner: WalkPlanner, changed: set[int]) -> WalkSet:
    """Plan the paths anew that start or end at a changed anchor; all others are kept bit for bit.

    A path between two anchors that are still there keeps its ends; one whose anchor is gone gets a pair of its class
    that no other path has, as long as there are such.

    Args:
        walks: made by a planner with k-same anchors, ``meta["pairs"]`` says between which.
        planner: with the new anchors.
        changed: numbers of the anchors, see :func:`changed_anchors`.

    Returns:
        The walks, with as many paths as before, in the same order.

    Raises:
        ValueError: the walks are not between k-same anchors, or a class has fewer than two anchors left.
    """
    anchors, pairs = planner.anchors, [tuple(pair) for pair in walks.meta.get("pairs", ())]
    if anchors is None or len(pairs) != len(walks):
        raise ValueError(
            "these walks do not run between k-same anchors, so no patient's withdrawal touches them; plan them again "
            "with WalkPlanner(anchors=...)"
        )
    stale = [path for path, pair in enumerate(pairs) if changed.intersection(pair)]
    if not stale:
        return walks
    kept = {pair for path, pair in enumerate(pairs) if path not in set(stale)}
    ids = list(anchors.meta["ids"])
    chosen = []
    for path in stale:
        pair = pairs[path]
        if not set(pair) <= set(ids):
            pair = _free_pair(anchors, int(walks.labels[path]), kept)
        kept.add(pair)
        chosen.append(pair)
    rows = torch.tensor([[ids.index(end) for end in pair] for pair in chosen])
    made = planner.between(anchors.pairs_of(rows), {})
    points, verified = walks.points.clone(), walks.verified.clone()
    points[stale], verified[stale] = made.points, made.verified
    for path, pair in zip(stale, chosen, strict=True):
        pairs[path] = pair
    counts = {**walks.meta["counts"], "verified": int(verified.sum()), "replanned_paths": len(stale)}
    logger.info("%d of %d paths planned anew", len(stale), len(walks))
    meta = {**walks.meta, "pairs": [list(pair) for pair in pairs], "counts": counts}
    return replace(walks, points=points, verified=verified, meta=meta)


def _free_pair(anchors: AnchorSet, label: int, taken: set[tuple[int, ...]]) -> tuple[int, int]:
    ids = [number for number, of in zip(anchors.meta["ids"], anchors.labels.tolist(), strict=True) if of == label]
    pairs = [(a, b) for place, b in enumerate(ids) for a in ids[:place]]
    if not pairs:
        raise ValueError(
            f"class {label} has {len(ids)} anchor(s) left, and a walk joins two. Invert more patients, or group them "
            "with a smaller k (walk.json)"
        )
    return next((pair for pair in pairs if pair not in taken and pair[::-1] not in taken), pairs[0])
