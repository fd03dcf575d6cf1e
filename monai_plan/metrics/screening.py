"""Whether synthetic images lie nearer to the patients that a generator was trained on than to others: screening."""

from __future__ import annotations

from typing import Any

import torch

from monai_plan.metrics.attack_result import AttackResult, RealPatients
from monai_plan.metrics.galleries import chance_of_any, half_sample_spread, permutation_spread, require_distances
from monai_plan.metrics.intervals import Z_95, clopper_pearson
from monai_plan.utils import generator_for

__all__ = ["screening"]

_DRAWS = 20  # galleries that the distances are averaged over; the share needs none
_QUANTILES = (0.01, 0.05, 0.5)


def screening(
    to_real: torch.Tensor, among_real: torch.Tensor, real: RealPatients, seed: int, distance: str
) -> AttackResult:
    """The share of synthetic images whose nearest patient is a member, and the distances DCR, NNDR and mmL.

    Screening only: figures of this kind have passed releases that attacks broke ("The DCR Delusion",
    arXiv:2505.01524). A share above 0.5 calls for an explanation; one at 0.5 proves nothing.

    The galleries hold equally many patients of both kinds; the share is the mean over all such galleries, ties count
    one half. Patients must have been split by chance: then a patient's number of images favours neither side. The
    interval joins the spread over synthetic images and that over patients: the larger of what random halves and random
    labels of the patients give. Control: one random half of the members' patients against the other, with an interval
    of its own, which misses 0.5 in about one of twenty audits.

    Where there are more members than held-out patients, a copy counts only in the galleries that its patient is drawn
    into; ``attainable`` in the details is what a release of nothing but copies would give.

    Args:
        to_real: distances, float, shape [S, N].
        among_real: distances, float, shape [N, N], 0 on the diagonal.
        real: whose the N images are.
        seed: of the galleries, halves and permutations.
        distance: its name, for the record.

    Returns:
        Details: ``mml_training`` and ``mml_held_out`` (mean distance of a synthetic image to the nearest patient),
        ``mml_reference`` (the same of held-out patients' images to members), ``dcr`` (its quantiles by kind), ``nndr``
        (median of nearest over second nearest patient by kind), ``smallest_distance`` (over all patients by kind),
        ``attainable`` (the share of a release of one exact copy of each member's image).

    Raises:
        ValueError: the distances do not fit the patients.
    """
    require_distances(real, to_real=to_real, among_real=among_real)
    rows = real.per_patient(to_real, "amin").T.contiguous()

    value, interval, by_chance = _share(rows, *real.groups, seed)
    control, control_interval, _ = _share(rows, *real.halves(seed), seed)
    numbers = torch.arange(real.count)
    copies = real.per_patient(among_real[real.member], "amin").T
    return AttackResult(
        name="screening",
        measure="share",
        value=value,
        interval=interval,
        baseline=0.5,
        control=control,
        control_interval=control_interval,
        n=real.members,
        n_control=real.held_out,
        resolvable=Z_95 * by_chance,
        seed=seed,
        details={
            "distance": distance,
            "synthetic_images": len(to_real),
            "gallery_patients": min(real.members, real.held_out),
            "attainable": float(_nearest_is_member(*(copies[group] for group in real.groups)).mean()),
            "images_per_patient": {
                "training": float(real.images[numbers < real.members].double().mean()),
                "held_out": float(real.images[numbers >= real.members].double().mean()),
            },
            **_distances(rows, among_real, real, seed),
        },
    )


def _share(
    rows: torch.Tensor, members: torch.Tensor, others: torch.Tensor, seed: int
) -> tuple[float, tuple[float, float], float]:
    """The share for two groups of patients, its interval, and its standard deviation if labels were chance.

    ``rows`` are distances [P, S].
    """

    def share(some: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        return _nearest_is_member(rows[some], rows[rest]).mean()

    each = _nearest_is_member(rows[members], rows[others])
    value = float(each.mean())
    over_images = float(each.var(correction=0)) / len(each)
    by_chance = (float(permutation_spread(share, members, others, seed)) ** 2 + over_images) ** 0.5
    # halves miss the spread of a few patients who are near to everything; random labels do not
    spread = max((float(half_sample_spread(share, members, others, seed)) ** 2 + over_images) ** 0.5, by_chance)
    if spread > 1e-9:
        return value, (max(0.0, value - Z_95 * spread), min(1.0, value + Z_95 * spread)), by_chance
    # every half says the same: as many patients as the smaller side has, all alike
    pairs = min(len(members), len(others))
    return value, clopper_pearson(value * pairs, pairs), by_chance


def _nearest_is_member(members: torch.Tensor, held_out: torch.Tensor) -> torch.Tensor:
    """For each image, how likely its nearest patient is a member: distances [A, S] and [B, S] to [S], float64."""
    if len(members) < len(held_out):
        return 1 - _nearest_is_member(held_out, members)
    nearest = held_out.amin(dim=0)
    chance = chance_of_any(len(members), len(held_out))
    return (chance[(members < nearest).sum(dim=0)] + chance[(members <= nearest).sum(dim=0)]) / 2


def _distances(rows: torch.Tensor, among_real: torch.Tensor, real: RealPatients, seed: int) -> dict[str, Any]:
    """Means over random galleries of equal size; ``rows`` are distances [P, S]."""
    rng = generator_for(seed, "screening galleries")
    size = min(real.members, real.held_out)
    sides = {"training": torch.arange(real.members), "held_out": torch.arange(real.members, real.count)}
    unseen = real.numbers >= real.members
    reference = real.per_patient(among_real[unseen], "amin").T.contiguous()  # of held-out images, [P, images]
    weights = 1 / real.images[real.numbers[unseen]].double()
    weights /= weights.sum()
    figures: dict[str, list[torch.Tensor]] = {name: [] for name in (*sides, "reference")}
    for _ in range(_DRAWS):
        for side, patients in sides.items():
            gallery = patients[torch.randperm(len(patients), generator=rng)[:size]]
            two = rows[gallery].double().topk(2, dim=0, largest=False).values
            ratio = torch.where(two[1] > 0, two[0] / two[1].clamp_min(1e-300), 1.0)
            quantiles = two[0].quantile(two.new_tensor(_QUANTILES))
            figures[side].append(torch.cat([two[0].mean()[None], quantiles, ratio.median()[None]]))
            if side == "training":
                figures["reference"].append((reference[gallery].amin(dim=0).double() * weights).sum())
    means = {side: torch.stack(values).mean(dim=0).tolist() for side, values in figures.items()}
    return {
        "mml_training": means["training"][0],
        "mml_held_out": means["held_out"][0],
        "mml_reference": means["reference"],
        "dcr": {side: dict(zip(map(str, _QUANTILES), means[side][1:4], strict=True)) for side in sides},
        "nndr": {side: means[side][4] for side in sides},
        "smallest_distance": {side: float(rows[patients].min()) for side, patients in sides.items()},
    }
