"""How many synthetic images lie closer to a training patient than the images of strangers do."""

from __future__ import annotations

import torch

from monai_plan.metrics.attack_result import AttackResult, RealPatients
from monai_plan.metrics.galleries import chance_of_any, excess_spread, require_distances
from monai_plan.metrics.intervals import Z_95, accuracy_interval

__all__ = ["near_copies"]


def near_copies(
    to_real: torch.Tensor,
    among_real: torch.Tensor,
    real: RealPatients,
    seed: int,
    distance: str,
    quantile: float = 0.01,
) -> AttackResult:
    """Share of synthetic images that have a member as near as hardly any stranger's image has one, less chance.

    The threshold is the distance at which ``quantile`` of the held-out images have a member. Every member is looked at,
    so each copy counts, whoever was copied. Synthetic images may be smoother than real ones, and near to everybody; so
    the control is the share that has a held-out patient as near, in a gallery of as many patients as there are members.
    Where fewer were held out, galleries of equal size are compared, and the held-out share is then taken to grow with
    the gallery as the members' does (between not at all and in proportion to the patients).

    Both shares are judged by one threshold: thresholds made apart, in galleries of different size, call very smooth
    images copies.

    Args:
        to_real: distances, float, shape [S, N].
        among_real: distances, float, shape [N, N].
        real: whose the N images are.
        seed: of halves and permutations.
        distance: its name, for the record.
        quantile: 0 < quantile < 1; of fewer held-out images than its inverse, the nearest one sets the threshold.

    Returns:
        The excess share, in -1 .. 1. The interval joins the spread over synthetic images and the larger of what random
        halves and random labels of the patients give. Details: ``share`` and ``share_interval_95`` (with a member so
        near), ``near`` (the number of these images), ``patients`` (members to whom any of them is so near),
        ``threshold``, ``quantile`` (as it came out), ``smallest_distance`` (by kind), ``synthetic_images``.

    Raises:
        ValueError: the distances do not fit the patients, or ``quantile`` is out of range.
    """
    require_distances(real, to_real=to_real, among_real=among_real)
    if not 0 < quantile < 1:
        raise ValueError(f"quantile is {quantile}; give a share of the held-out images between 0 and 1, e.g. 0.01")
    threshold, achieved = _threshold(among_real, real, quantile)
    rows = real.per_patient(to_real, "amin").T.contiguous()
    near = rows <= threshold  # [P, S]
    members, held_out = real.groups

    def shares(some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """For each image: has one of ``some`` near, has one of as many others near, and the difference, [3, S]."""
        size = min(len(some), len(others))
        has = (near[some].any(dim=0)).double()
        known, unseen = (_chance(near[patients], size) for patients in (some, others))
        control = unseen * _growth(has, known, len(some) / size)
        return torch.stack([has, control, has - control])

    def rates(some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return shares(some, others).mean(dim=1)

    each = shares(members, held_out)
    size = min(len(members), len(held_out))
    # what halves of the patients leave of either share, on the average
    kept = [_chance(near[group], max(1, n // 2)) for group, n in ((members, len(members)), (held_out, size))]
    grown = [_growth(full, half, 2.0) for full, half in zip(each[:2], kept, strict=True)]

    def rates_of_halves(some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        first = near[some].any(dim=0).double().mean() * grown[0]
        second = _chance(near[others], min(len(others), max(1, size // 2))).mean() * grown[1]
        return torch.stack([first, second, first - second])

    over_images = each.var(dim=1, correction=0) / len(to_real)
    spread, by_chance = excess_spread(rates, rates_of_halves, over_images, members, held_out, seed)
    least = accuracy_interval(0, len(to_real))[1]  # what no near image at all leaves open
    share, control = float(each[0].mean()), min(1.0, float(each[1].mean()))
    reach = [max(least, Z_95 * float(s)) for s in spread]
    return AttackResult(
        name="near_copies",
        measure="excess share",
        value=share - control,
        interval=(max(-1.0, share - control - reach[2]), min(1.0, share - control + reach[2])),
        baseline=0.0,
        control=control,
        control_interval=(max(0.0, control - reach[1]), min(1.0, control + reach[1])),
        n=real.members,
        n_control=real.held_out,
        resolvable=min(1.0, max(least, Z_95 * by_chance)),
        seed=seed,
        details={
            "distance": distance,
            "synthetic_images": len(to_real),
            "share": share,
            "share_interval_95": [max(0.0, share - reach[0]), min(1.0, share + reach[0])],
            "near": int(near[members].any(dim=0).sum()),
            "patients": int(near[members].any(dim=1).sum()),
            "threshold": threshold,
            "quantile": achieved,
            "smallest_distance": {"training": float(rows[members].min()), "held_out": float(rows[held_out].min())},
        },
    )


def _threshold(among_real: torch.Tensor, real: RealPatients, quantile: float) -> tuple[float, float]:
    """No farther than it, at least ``quantile`` of the held-out images have a member; and that share.

    Every patient weighs the same.
    """
    unseen = ~real.member
    nearest, order = among_real[unseen][:, real.member].amin(dim=1).sort()
    weights = 1 / (real.images[real.numbers[unseen]] * real.held_out)[order].double()
    threshold = float(nearest[int((weights.cumsum(0) > quantile - 1e-9).int().argmax())])
    return threshold, float(weights[nearest <= threshold].sum())


def _chance(near: torch.Tensor, size: int) -> torch.Tensor:
    """For each image, how likely it has a patient near in a random gallery of ``size``: bool [P, S] to [S]."""
    return chance_of_any(len(near), size)[near.sum(dim=0)]


def _growth(full: torch.Tensor, part: torch.Tensor, otherwise: float) -> float:
    """How many times as large a share is in a full gallery; ``otherwise`` where there is none in either."""
    return float(full.mean() / part.mean()) if bool(part.any()) else otherwise
