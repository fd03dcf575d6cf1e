"""Re-identification: how often a verification network links a synthetic image to a patient."""

from __future__ import annotations

from typing import Any

import torch

from monai_plan.metrics.attack_result import AttackResult, RealPatients
from monai_plan.metrics.galleries import chance_of_any, excess_spread, require_distances
from monai_plan.metrics.intervals import Z_95, clopper_pearson, difference_interval

__all__ = ["reidentification"]


def reidentification(
    to_real: torch.Tensor,
    among_real: torch.Tensor,
    real: RealPatients,
    seed: int,
    distance: str,
    false_match: float = 0.05,
    members_share: float = 1.0,
) -> AttackResult:
    """Excess of synthetic images linked to members over those linked to held-out patients.

    The distances are those of a network that tells same-patient pairs from others. An image is linked to a gallery if
    its nearest patient there is closer than a threshold: the one at which ``false_match`` of the held-out images are
    linked to a gallery of other held-out patients. All galleries hold the same number of patients, m; rates are means
    over all galleries of that size.

    Two positive controls on real images say whether the network could have linked anything at all: the AUROC of
    same-patient pairs against others, and how often an image's nearest patient among m is its own. And a copy is linked
    only in the galleries that its patient is drawn into: ``attainable`` in the details is what a release of nothing but
    copies would give.

    Args:
        to_real: distances, float, shape [S, N].
        among_real: distances, float, shape [N, N], 0 on the diagonal.
        real: whose the N images are.
        seed: of halves and permutations.
        distance: its name, for the record.
        false_match: rate of false links that sets the threshold, 0 < false_match < 1.
        members_share: how many of the generator's training patients the members in ``real`` are, e.g. one half where
            the network was trained on the others; only ``attainable`` depends on it.

    Returns:
        The excess, in -1 .. 1; the rate for held-out patients is the control. The interval joins the spread over
        synthetic images and the larger of what random halves and random labels of the patients give. Details:
        ``rate`` and ``rate_interval_95`` (members), ``threshold``, ``false_match`` (as it came out, at most as asked
        for), ``gallery_patients``, ``attainable`` (the excess of a release of exact copies of the members' images),
        ``verification_auroc`` and ``top_1`` (``rate``, ``interval_95``, ``n`` patients); the last two are ``None``
        where no patient has two images.

    Raises:
        ValueError: the distances do not fit the patients, or ``false_match`` or ``members_share`` is out of range.
    """
    require_distances(real, to_real=to_real, among_real=among_real)
    if not 0 < false_match < 1:
        raise ValueError(f"false_match is {false_match}; give a rate between 0 and 1, e.g. 0.05")
    if not 0 < members_share <= 1:
        raise ValueError(f"members_share is {members_share}; give a share above 0 and at most 1, e.g. 0.5")
    size = min(real.members, real.held_out - 1)
    nearest = real.per_patient(among_real, "amin")
    threshold, achieved = _threshold(nearest, real, size, false_match)
    members, held_out = real.groups
    within = (real.per_patient(to_real, "amin") < threshold).T.contiguous()  # [P, S]
    copies = (nearest[real.member] < threshold).T

    def linked(patients: torch.Tensor, drawn: int, within: torch.Tensor = within) -> torch.Tensor:
        return chance_of_any(len(patients), drawn)[within[patients].sum(dim=0)]

    def rates(members: torch.Tensor, held_out: torch.Tensor) -> torch.Tensor:
        first, second = linked(members, size).mean(), linked(held_out, size).mean()
        return torch.stack([first, second, first - second])

    def rates_of_halves(members: torch.Tensor, held_out: torch.Tensor) -> torch.Tensor:
        # half the patients in half the gallery make half the links
        drawn = max(1, size // 2)
        first, second = (linked(patients, drawn).mean() * size / drawn for patients in (members, held_out))
        return torch.stack([first, second, first - second])

    attainable = (linked(members, size, copies) - linked(held_out, size, copies)).mean() * members_share
    each = [linked(members, size), linked(held_out, size)]
    each.append(each[0] - each[1])
    values = [float(links.mean()) for links in each]
    over_images = torch.stack([links.var(correction=0) / len(links) for links in each])
    spread, by_chance = excess_spread(rates, rates_of_halves, over_images, members, held_out, seed)
    bounds = [(v - Z_95 * float(s), v + Z_95 * float(s)) for v, s in zip(values, spread, strict=True)]
    if float(spread[2]) < 1e-9:  # every half says the same: so many patients were all alike
        bounds = [clopper_pearson(v * size, size) for v in values[:2]]
        bounds.append(difference_interval(values[0] * size, size, values[1] * size, size))
    return AttackResult(
        name="reidentification",
        measure="excess rate",
        value=values[2],
        interval=(max(-1.0, bounds[2][0]), min(1.0, bounds[2][1])),
        baseline=0.0,
        control=values[1],
        control_interval=(max(0.0, bounds[1][0]), min(1.0, bounds[1][1])),
        n=real.members,
        n_control=real.held_out,
        resolvable=min(1.0, max(Z_95 * by_chance, difference_interval(0, size, 0, size)[1])),
        seed=seed,
        details={
            "distance": distance,
            "synthetic_images": len(to_real),
            "rate": values[0],
            "rate_interval_95": [max(0.0, bounds[0][0]), min(1.0, bounds[0][1])],
            "threshold": threshold,
            "false_match": achieved,
            "gallery_patients": size,
            "attainable": float(attainable),
            **_positive_controls(among_real, nearest, real, size),
        },
    )


def _threshold(nearest: torch.Tensor, real: RealPatients, size: int, false_match: float) -> tuple[float, float]:
    """Below it, ``false_match`` of the held-out images find one of ``size`` other held-out patients; and that rate.

    ``nearest`` are distances of images to patients [N, P]. Every patient weighs the same.
    """
    unseen = (real.numbers >= real.members).nonzero()[:, 0]
    own = real.numbers[unseen]
    others = nearest[unseen, real.members :].double()
    others[torch.arange(len(unseen)), own - real.members] = torch.inf
    ordered = others.sort(dim=1).values[:, :-1]  # its own patient stands last
    weights = chance_of_any(real.held_out - 1, size).diff()[None, :] / (real.images[own] * real.held_out)[:, None]
    values, order = ordered.flatten().sort()
    above = weights.flatten()[order].cumsum(0) > false_match + 1e-9
    threshold = float(values[int(above.int().argmax())])
    return threshold, float((weights * (ordered < threshold)).sum())


def _positive_controls(
    among_real: torch.Tensor, nearest: torch.Tensor, real: RealPatients, size: int
) -> dict[str, Any]:
    """What the distance can do with real images, of members and held-out patients alike."""
    several = (real.images[real.numbers] > 1).nonzero()[:, 0]
    if not len(several):
        return {"verification_auroc": None, "top_1": None}
    own = among_real.masked_fill(real.numbers[:, None] != real.numbers[None, :], torch.inf)
    own = own.fill_diagonal_(torch.inf).amin(dim=1, keepdim=True)[several]
    others = nearest.scatter(1, real.numbers[:, None], torch.inf)[several]
    none_nearer = 1 - chance_of_any(real.count - 1, size - 1)
    hits = torch.zeros(len(real), dtype=torch.float64)
    hits[several] = (none_nearer[(others < own).sum(dim=1)] + none_nearer[(others <= own).sum(dim=1)]) / 2
    by_patient = real.per_patient(hits, "mean")[real.images > 1]
    rate, count = float(by_patient.mean()), len(by_patient)
    return {
        "verification_auroc": _verification_auroc(among_real, real.numbers),
        "top_1": {"rate": rate, "interval_95": list(clopper_pearson(rate * count, count)), "n": count},
    }


def _verification_auroc(among_real: torch.Tensor, numbers: torch.Tensor, rows_at_once: int = 256) -> float:
    """How often two images of a patient are nearer than two of different patients; ties count one half.

    Rows by rows: of N images there are N^2 / 2 pairs.
    """
    places = torch.arange(len(numbers))

    def distances(rows: torch.Tensor, same: bool) -> torch.Tensor:
        """Of pairs of an image in ``rows`` and a later one, of the same patient or of two."""
        alike = numbers[rows][:, None] == numbers[None, :]
        return among_real[rows][(places[None, :] > rows[:, None]) & (alike == same)]

    parts = places.split(rows_at_once)
    together = torch.cat([distances(rows, True) for rows in parts]).sort().values
    nearer = count = 0
    for rows in parts:
        apart = distances(rows, False)
        nearer += sum(int(torch.searchsorted(together, apart, right=right).sum()) for right in (False, True))
        count += len(apart)
    return nearer / (2 * len(together) * count)
