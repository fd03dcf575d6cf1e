"""From nothing to verified walks, as often as wanted: anchors, pairs, walk, verdict, repair."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
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

__all__ = ["WalkPlanner", "require_plan"]

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
        pairs_per_class: walks of each class.
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
    _lock: threading.Lock = field(init=False, repr=False, compare=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        counts = [self.anchors_per_class]
        if self.anchors is not None:
            counts = self.anchors.labels.unique(return_counts=True)[1].tolist()
        require_plan(counts, self.pairs_per_class, self.pairing, self.repair_attempts)
        require_independent(self.steering, self.gate)
        for network in (*self._networks(), self.gate):  # another thread may look at them: nobody switches them again
            network.eval().requires_grad_(False)

    def _networks(self) -> list[nn.Module]:
        networks = [self.steering.generator, self.steering.identity_network, self.steering.label_network]
        return networks if self.label_network is None else [*networks, self.label_network]

    def __call__(self, epoch: int = 0) -> WalkSet:
        """The verified walks of an epoch, on the CPU.

        ``meta`` holds the counts of :func:`~monai_plan.latent.verify_walks` and of
        :func:`~monai_plan.latent.repair_walks`, and ``coverage``, see :func:`~monai_plan.latent.pair_coverage`.
        """
        with self._lock:
            return self._plan(generator_for(self.seed, "walks", epoch).initial_seed())

    def _plan(self, seed: int) -> WalkSet:
        anchors = self.anchors
        if anchors is None:
            anchors = random_anchors(self.steering.generator, self.anchors_per_class, seed)
        if self.pairing == "random":
            pairs = pair_anchors(anchors, self.pairs_per_class, seed)
        else:
            pairs = pair_neighbours(anchors, self.pairs_per_class, seed, neighbours=NEIGHBOURS, risk=self.risk)
        points = self.walk(pairs, self.steps, self.steering)
        meta = {**self.meta, "seed": seed, "pairing": self.pairing, "coverage": pair_coverage(anchors, pairs)}
        walks = verify_walks(
            *(points, pairs.labels, self.steering.generator, self.gate, self.label_network),
            batch_size=self.batch_size,
            kind=self.kind,
            meta=meta,
        )
        if not self.repair_attempts:
            return walks
        return repair_walks(
            *(walks, self.steering, self.gate, self.label_network),
            attempts=self.repair_attempts,
            batch_size=self.batch_size,
        )


def require_plan(anchors: Sequence[int], pairs_per_class: int, pairing: str, repair_attempts: int) -> None:
    """See that a :class:`WalkPlanner` could plan, before a guide is trained for it.

    Args:
        anchors: how many each class has.
        pairs_per_class, pairing, repair_attempts: see there.

    Raises:
        ValueError: a class has too few anchors for so many pairs, the pairing is unknown, or a number is out of range.
    """
    if pairing not in PAIRINGS:
        raise ValueError(f"pairing must be one of {PAIRINGS}, got '{pairing}'")
    if repair_attempts < 0:
        raise ValueError(f"repair_attempts must be >= 0, got {repair_attempts}; 0 drops failing points")
    for count in anchors:
        require_pairs(count, pairs_per_class)
        edges = math.ceil(count * min(NEIGHBOURS, count - 1) / 2)  # there are at least so many
        if pairing == "neighbours" and edges < pairs_per_class:
            raise ValueError(
                f"{count} anchors of a class may have only {edges} pairs of neighbours, and {pairs_per_class} were "
                f"asked for; set pairs_per_class={edges}, or draw more anchors"
            )
