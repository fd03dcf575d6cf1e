"""Pairs of anchors on a nearest-neighbour graph: short walks, away from what is risky, that cover the class.

Random pairs join far corners of a class, and the lines between them cross whatever lies there. Lines between neighbours
are short, and can be chosen so that they avoid what is known to be risky.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping

import torch

from monai_plan.latent.anchors import AnchorPairs, AnchorSet, pairs_by_class, require_pairs
from monai_plan.utils import generator_for

__all__ = ["pair_coverage", "pair_neighbours"]

INSIDE = (0.25, 0.5, 0.75)
"""Where along an edge its risk is asked for."""
ROWS = 256
"""Latents given to ``risk`` at once."""
ENTRIES = 2**22
"""Distances held at once."""
MEDIAN_OF = 2000
"""Anchors of a class among which the median distance is taken."""

Risk = Callable[[torch.Tensor], torch.Tensor]


def pair_neighbours(
    anchors: AnchorSet,
    pairs_per_class: int | Mapping[int, int],
    seed: int,
    neighbours: int = 10,
    risk: Risk | None = None,
    risk_weight: float = 1.0,
) -> AnchorPairs:
    """Choose cheap pairs of neighbouring anchors, each anchor about equally often, no pair twice.

    Edges join every anchor with its ``neighbours`` nearest ones of the class (Euclidean, in W), in either direction. An
    edge costs its length over the median edge length of its class, plus ``risk_weight`` times the largest ``risk`` at a
    quarter, half and three quarters of it. One after another, that edge is taken whose less used end has been used
    least, then whose other end has, then the cheapest. So every anchor is an end once before an edge between two used
    ones is taken: balance goes before cost, and an anchor in a risky place gets the least risky of its edges.

    Args:
        anchors: the anchors; classes without any anchor are passed over.
        pairs_per_class: pairs of each class, >= 1; or class -> pairs.
        seed: order among equally good edges only; the global random state is not touched.
        neighbours: edges sought from each anchor, >= 1; at most all others of its class.
        risk: latents, float32 [N, D], N <= 256, on the anchors' device -> risks [N], on any device, in units of
            ``risk_weight``: e.g. the images' similarity to the nearest patient. Called without gradients.
        risk_weight: what a risk of 1 costs, in median edge lengths, >= 0.

    Returns:
        The pairs, sorted by class, in the order chosen.

    Raises:
        ValueError: too few anchors or edges for ``pairs_per_class``, two anchors of a class are equal, a number is out
            of range, or ``risk`` gives another shape, NaN or infinite values.
    """
    if len(anchors) == 0 or not isinstance(neighbours, int) or neighbours < 1:
        raise ValueError(f"need some anchors and a whole number of neighbours, got {len(anchors)} and {neighbours!r}")
    if not 0 <= risk_weight < math.inf:
        raise ValueError(f"risk_weight must be a number from 0 on, got {risk_weight}; a negative one would seek risk")
    chosen = []
    for label, wanted in pairs_by_class(anchors, pairs_per_class).items():
        members = torch.nonzero(anchors.labels == label).flatten()
        latents = anchors.latents[members]
        require_pairs(len(members), wanted, f"class {label}")
        edges = _edges(latents, neighbours)
        if len(edges) < wanted:
            # n anchors with k neighbours each make at least n k / 2 edges, and at most n - 1 neighbours are needed
            enough = max(neighbours + 1, math.ceil(2 * wanted / len(members)))
            raise ValueError(
                f"class {label} has {len(members)} anchors, whose {neighbours} nearest neighbours make {len(edges)} "
                f"different pairs, and {wanted} were asked for. Set neighbours={enough}, draw more anchors, "
                f"or set pairs_per_class={len(edges)}"
            )
        costs = _costs(latents, edges, risk, risk_weight, label)
        order = torch.randperm(len(edges), generator=generator_for(seed, "neighbours", label))
        taken = _balanced(edges[order].tolist(), costs[order].tolist(), wanted)
        chosen.append(members[edges[order[taken]].to(members.device)])
    return anchors.pairs_of(torch.cat(chosen))


def pair_coverage(anchors: AnchorSet, pairs: AnchorPairs) -> dict[str, dict[str, float]]:
    """How much of each class the chosen pairs reach, for records.

    Args:
        anchors: all anchors.
        pairs: pairs of them, from :func:`pair_neighbours` or :func:`~monai_plan.latent.pair_anchors`.

    Returns:
        By class, as text: ``ends``, the share of its anchors that are an end of some pair; ``mean_distance`` and
        ``largest_distance`` of its anchors to the nearest point of any line between a pair, over the median distance
        between two of its anchors (0: on a line, as every end is). The median is taken among at most 2,000 anchors,
        evenly spread over their order.

    Raises:
        ValueError: the widths differ, a class of anchors has no pair or no two different anchors, or a pair is of a
            class without anchors.
    """
    if anchors.latents.shape[1] != pairs.start.shape[1]:
        raise ValueError(
            f"anchors of width {anchors.latents.shape[1]} and pairs of width {pairs.start.shape[1]} belong to two "
            "generators; pair these anchors"
        )
    classes, paired = set(anchors.labels.tolist()), set(pairs.labels.tolist())
    if classes != paired:
        raise ValueError(
            f"anchors are of the classes {sorted(classes)} and pairs of {sorted(paired)}; make the pairs from all of "
            "these anchors"
        )
    record = {}
    for label in sorted(classes):
        latents = anchors.latents[anchors.labels == label]
        of_class = pairs.labels == label
        start, end = pairs.start[of_class], pairs.end[of_class]
        typical = _median_distance(latents)
        if not typical > 0:
            raise ValueError(
                f"the median distance between the {len(latents)} anchor(s) of class {label} is {typical}; at least two "
                "different ones are needed: draw more (random_anchors(per_class=...))"
            )
        distances = _distances_to_lines(latents, start, end).double() / typical
        ends = {row.tobytes() for row in torch.cat([start, end]).cpu().numpy()}
        record[str(label)] = {
            "ends": sum(row.tobytes() in ends for row in latents.cpu().numpy()) / len(latents),
            "mean_distance": float(distances.mean()),
            "largest_distance": float(distances.max()),
        }
    return record


def _edges(latents: torch.Tensor, neighbours: int) -> torch.Tensor:
    """Index pairs (low, high) of anchors of which one is among the other's nearest; int64 [E, 2], unique, CPU."""
    count = len(latents)
    neighbours = min(neighbours, count - 1)
    parts = []
    for rows in torch.arange(count, device=latents.device).split(max(1, ENTRIES // count)):
        distances = torch.cdist(latents[rows], latents)
        distances[torch.arange(len(rows), device=rows.device), rows] = torch.inf  # not its own neighbour
        near = distances.topk(neighbours, largest=False).indices
        parts.append(torch.stack([rows.repeat_interleave(neighbours), near.flatten()], dim=1))
    return torch.cat(parts).cpu().sort(dim=1).values.unique(dim=0)


@torch.no_grad()
def _costs(
    latents: torch.Tensor, edges: torch.Tensor, risk: Risk | None, risk_weight: float, label: int
) -> torch.Tensor:
    """The cost of each edge, float64 [E], on the CPU."""
    parts = []
    for part in edges.split(max(1, ENTRIES // latents.shape[1])):
        parts.append((latents[part[:, 0]] - latents[part[:, 1]]).double().norm(dim=1).cpu())
    lengths = torch.cat(parts)
    if not lengths.all():
        low, high = edges[int(lengths.argmin())].tolist()
        raise ValueError(
            f"anchors {low} and {high} of class {label} are equal, and a walk between them would never leave the "
            "unprotected anchor; draw other anchors (another seed, truncation above 0)"
        )
    costs = lengths / lengths.median()
    if risk is None or risk_weight == 0:
        return costs
    risks = []
    for part in edges.split(max(1, ROWS // len(INSIDE))):
        a, b = latents[part[:, 0]], latents[part[:, 1]]
        points = torch.cat([torch.lerp(a, b, fraction) for fraction in INSIDE])
        found = torch.as_tensor(risk(points))
        if found.shape != points.shape[:1] or not torch.isfinite(found).all():
            raise ValueError(
                f"risk must give one finite number for each of {len(points)} latents, got shape {tuple(found.shape)}"
                f"{'' if found.shape != points.shape[:1] else ' with NaN or infinite values'}; check its networks"
            )
        risks.append(found.view(len(INSIDE), -1).amax(dim=0).double().cpu())
    return costs + risk_weight * torch.cat(risks)


def _balanced(edges: list[list[int]], costs: list[float], count: int) -> list[int]:
    """Which edges to take: the least used ends first, then the cheapest, then the first in the list."""
    uses: dict[int, int] = dict.fromkeys((anchor for edge in edges for anchor in edge), 0)

    def key(number: int) -> tuple[int, int, float, int]:
        low, high = sorted(uses[anchor] for anchor in edges[number])
        return low, high, costs[number], number

    # uses only grow, so a key can only have become larger since it was pushed: look at it again when it comes up
    heap = [key(number) for number in range(len(edges))]
    heapq.heapify(heap)
    taken: list[int] = []
    while len(taken) < count:
        number = heap[0][-1]
        if heap[0] != key(number):
            heapq.heapreplace(heap, key(number))
            continue
        heapq.heappop(heap)
        taken.append(number)
        for anchor in edges[number]:
            uses[anchor] += 1
    return taken


def _median_distance(latents: torch.Tensor) -> float:
    """The median over pairs of anchors, 0 for fewer than two anchors."""
    some = torch.linspace(0, len(latents) - 1, min(len(latents), MEDIAN_OF), dtype=torch.float64).round().long()
    distances = torch.nn.functional.pdist(latents[some.to(latents.device)])
    return float(distances.median()) if len(distances) else 0.0


def _distances_to_lines(points: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """The Euclidean distance of each point [N, D] to the nearest of P segments [P, D], float32 [N].

    The segment is found by inner products; the distance is then computed from the difference itself, because the
    products lose the digits of small distances.
    """
    along = end - start
    squared = along.square().sum(dim=1).clamp(min=torch.finfo(along.dtype).tiny)
    at_start, start_squared = (start * along).sum(dim=1), start.square().sum(dim=1)
    found = []
    for rows in points.split(max(1, ENTRIES // len(start))):
        dot = rows @ along.T - at_start  # (x - a).u
        fraction = (dot / squared).clamp(0, 1)
        # |x - a - t u|^2 without |x|^2, which is the same for all segments
        score = start_squared - 2 * rows @ start.T + fraction * (fraction * squared - 2 * dot)
        nearest = score.argmin(dim=1, keepdim=True)
        foot = start[nearest[:, 0]] + fraction.gather(1, nearest) * along[nearest[:, 0]]
        found.append((rows - foot).norm(dim=1))
    return torch.cat(found)
