"""From nothing to verified walks, as often as wanted: anchors, pairs, walk, verdict, repair."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from monai_plan.latent.anchor_graph import pair_coverage, pair_neighbours
from monai_plan.latent.anchors import AnchorPairs, AnchorSet, pair_anchors, random_anchors, require_pairs
from monai_plan.latent.gate import PrivacyGate
from monai_plan.latent.repair import repair_walks
from monai_plan.latent.verification import require_independent, verify_walks
from monai_plan.latent.walk_set import WalkSet
from monai_plan.latent.walks import WalkSteering
from monai_plan.utils import generator_for

__all__ = ["WalkPlanner", "require_plan", "steps_for"]

PAIRINGS = ("random", "neighbours")
NEIGHBOURS = 10
"""Edges from each anchor, see :func:`~monai_plan.latent.pair_neighbours`."""


@dataclass(frozen=True, kw_only=True)
class WalkPlanner:
    """Plans a set of walks; the same epoch gives the same walks, another one others.

    All its networks are put into evaluation mode and frozen for good; plans of several threads wait for each other.
    Give it to a :class:`~monai_plan.data.PrivacyWalkDataset` to have fresh walks in every epoch, or save
    ``planner().save(path)`` and keep them.

    Attributes:
        walk: pairs, steps and steering -> points, e.g. :func:`~monai_plan.latent.walk_private`, or
            ``functools.partial(walk_guided, guide=guide)``.
        steering: the true networks; those of the walk and of the repair.
        gate: judges every inner point; another network than those that steer.
        pairs_per_class: walks of each class; between given anchors fewer where a class has not so many pairs.
        steps: points of a walk, both ends included, >= 3.
        anchors: the ends to choose among, the same in every epoch; ``None`` draws random ones anew.
        anchors_per_class: of the random ones.
        pairing: "random", or "neighbours": on a nearest-neighbour graph of the anchors.
        risk: of an edge of that graph, see :func:`~monai_plan.latent.pair_neighbours`.
        label_network: images -> logits; points whose most likely class is not the walk's are not verified. ``None``
            leaves the class unchecked. The network that steered may be given: its verdict on the class is then that
            of a party, which costs usefulness if it is wrong, but no privacy.
        repair_attempts: steps that a failing point may take in image space; 0 drops it at once.
        kind: kept in the walks.
        seed: of everything drawn; the global random state is not touched.
        batch_size: images judged at once.
        meta: plain values kept in the walks.

    Raises:
        ValueError: a count is too small, the pairing is unknown, or the gate's network also steers.
    """

    walk: Callable[[AnchorPairs, int, WalkSteering], torch.Tensor]
    steering: WalkSteering
    gate: PrivacyGate
    pairs_per_class: int
    steps: int
    anchors: AnchorSet | None = None
    anchors_per_class: int = 48
    pairing: str = "random"
    risk: Callable[[torch.Tensor], torch.Tensor] | None = None
    label_network: nn.Module | None = None
    repair_attempts: int = 0
    kind: str
    seed: int = 0
    batch_size: int = 32
    meta: dict[str, Any] = field(default_factory=dict)
    _lock: threading.RLock = field(init=False, repr=False, compare=False, default_factory=threading.RLock)

    def __post_init__(self) -> None:
        require_plan(
            self.anchors_per_class if self.anchors is None else self.anchors,
            self.pairs_per_class,
            self.pairing,
            self.repair_attempts,
        )
        require_independent(self.steering, self.gate)
        for network in (*self._networks(), self.gate):  # another thread may look at them: nobody switches them again
            network.eval().requires_grad_(False)

    def _networks(self) -> list[nn.Module]:
        networks = [self.steering.generator, self.steering.identity_network, self.steering.label_network]
        return networks if self.label_network is None else [*networks, self.label_network]

    def __call__(self, epoch: int = 0) -> WalkSet:
        """The verified walks of an epoch, on the CPU.

        ``meta`` holds the counts of :func:`~monai_plan.latent.verify_walks` and of
        :func:`~monai_plan.latent.repair_walks`, and ``coverage``, see :func:`~monai_plan.latent.pair_coverage`; between
        k-same anchors also ``k``, and ``pairs``, the anchors' numbers at the ends of each path.
        """
        with self._lock:
            return self._plan(generator_for(self.seed, "walks", epoch).initial_seed())

    def _plan(self, seed: int) -> WalkSet:
        anchors = self.anchors
        wanted: int | dict[int, int] = self.pairs_per_class
        if anchors is None:
            anchors = random_anchors(self.steering.generator, self.anchors_per_class, seed)
        else:
            wanted = _pairs_there_are(anchors, self.pairs_per_class, self.pairing)
        if self.pairing == "random":
            pairs = pair_anchors(anchors, wanted, seed)
        else:
            pairs = pair_neighbours(anchors, wanted, seed, neighbours=NEIGHBOURS, risk=self.risk)
        meta = {"seed": seed, "pairing": self.pairing, "coverage": pair_coverage(anchors, pairs)}
        if "ids" in anchors.meta and pairs.rows is not None:
            numbers = torch.tensor(anchors.meta["ids"])
            meta |= {"k": anchors.meta["k"], "pairs": numbers[pairs.rows].tolist(), "spread": "spread" in anchors.meta}
        return self.between(pairs, meta)

    def between(self, pairs: AnchorPairs, meta: Mapping[str, Any]) -> WalkSet:
        """The verified walks between given anchors; ``meta`` is kept in them beside the planner's own."""
        with self._lock:
            return self._between(pairs, meta)

    def _between(self, pairs: AnchorPairs, meta: Mapping[str, Any]) -> WalkSet:
        points = self.walk(pairs, self.steps, self.steering)
        walks = verify_walks(
            *(points, pairs.labels, self.steering.generator, self.gate, self.label_network),
            batch_size=self.batch_size,
            kind=self.kind,
            meta={**self.meta, **meta},
        )
        if not self.repair_attempts:
            return walks
        return repair_walks(
            *(walks, self.steering, self.gate, self.label_network),
            attempts=self.repair_attempts,
            batch_size=self.batch_size,
        )


def require_plan(anchors: AnchorSet | int, pairs_per_class: int, pairing: str, repair_attempts: int) -> None:
    """See that a :class:`WalkPlanner` could plan, before a guide is trained for it.

    Args:
        anchors: given ones, or how many each class is to have at random.
        pairs_per_class, pairing, repair_attempts: see there.

    Raises:
        ValueError: a class has too few anchors, the pairing is unknown, or a number is out of range.
    """
    if pairing not in PAIRINGS:
        raise ValueError(f"pairing must be one of {PAIRINGS}, got '{pairing}'")
    if repair_attempts < 0:
        raise ValueError(f"repair_attempts must be >= 0, got {repair_attempts}; 0 drops failing points")
    if isinstance(anchors, AnchorSet):
        _pairs_there_are(anchors, pairs_per_class, pairing)
        return
    require_pairs(anchors, pairs_per_class)
    if _sure_pairs(anchors, pairing) < pairs_per_class:
        raise ValueError(
            f"{anchors} anchors of a class may have only {_sure_pairs(anchors, pairing)} pairs of neighbours, and "
            f"{pairs_per_class} were asked for; set pairs_per_class={_sure_pairs(anchors, pairing)}, or draw more "
            "anchors"
        )


def steps_for(anchors: AnchorSet | None, pairs_per_class: int, points_per_class: int, pairing: str = "random") -> int:
    """How many points a path needs, both ends included, so that fewer anchors do not mean fewer images.

    Args:
        anchors: given ones, whose classes may have fewer than ``pairs_per_class`` different pairs; ``None`` for random
            ones, of which there are enough.
        pairs_per_class, pairing: see :class:`WalkPlanner`.
        points_per_class: inner points wanted of each class, on the average over the classes.

    Raises:
        ValueError: a number is below 1, or a class has a single anchor.
    """
    if points_per_class < 1:
        raise ValueError(f"points_per_class must be >= 1, got {points_per_class}")
    pairs = {0: pairs_per_class} if anchors is None else _pairs_there_are(anchors, pairs_per_class, pairing)
    return 2 + math.ceil(points_per_class * len(pairs) / sum(pairs.values()))


def _pairs_there_are(anchors: AnchorSet, pairs_per_class: int, pairing: str) -> dict[int, int]:
    """By class, ``pairs_per_class`` or as many as there surely are."""
    pairs = {}
    for label, count in zip(*(column.tolist() for column in anchors.labels.unique(return_counts=True)), strict=True):
        if count < 2:
            raise ValueError(
                f"class {label} has a single anchor, and a walk joins two. Choose a smaller k (at most half of the "
                "class's patients), or random anchors"
            )
        pairs[label] = min(pairs_per_class, _sure_pairs(count, pairing))
        require_pairs(count, pairs[label])
    return pairs


def _sure_pairs(anchors: int, pairing: str) -> int:
    """Different pairs that any so many anchors have."""
    others = anchors - 1
    return math.ceil(anchors * (min(NEIGHBOURS, others) if pairing == "neighbours" else others) / 2)
