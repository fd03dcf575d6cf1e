"""Singling out, linkability and inference for images: the three questions of Opinion 05/2014 of WP29.

In the shape that Anonymeter gave them for tables (Giomi et al., PoPETs 2023): the attack's rate on the patients whom
the generator was trained on, the same on held-out patients as control (what is learnt of the population is no leak),
and a guess that knows nothing as the naive baseline. An attack that does no better than the guess was too weak to tell.
"""

from __future__ import annotations

from typing import Any

import torch
from scipy.stats import hypergeom

from monai_plan.metrics.attack_result import AttackResult, RealPatients
from monai_plan.metrics.galleries import chance_of_one, excess_spread, require_distances
from monai_plan.metrics.intervals import Z_95, accuracy_interval, clopper_pearson, difference_interval

__all__ = ["inference", "linkability", "singling_out"]


def singling_out(to_real: torch.Tensor, radius: torch.Tensor, real: RealPatients, seed: int) -> AttackResult:
    """Does a synthetic image describe exactly one patient?

    The attacker draws a ball around each synthetic image and guesses that a single patient of the hospital lies in it.
    A guess is right if exactly one of m patients lies strictly inside. The radius is the attacker's, made from the
    synthetic images alone, e.g. half the distance to the nearest other one: then a copy's ball holds nobody but whom it
    was copied from, as long as the patients lie no closer than the synthetic images.

    Galleries hold equally many patients of both kinds, m; rates are means over all galleries of that size. So a copy
    counts only in the galleries that its patient is drawn into, and ``attainable`` in the details is the most that a
    release of nothing but copies would give.

    The guesses share their patients and are not independent; so the interval joins the spread over synthetic images
    and the larger of what random halves and random labels of the patients give.

    Args:
        to_real: distances, float, shape [S, N].
        radius: of the ball around each synthetic image, finite, >= 0, float, shape [S].
        real: whose the N images are; m is the smaller kind's number of patients.
        seed: of halves and permutations.

    Returns:
        The excess of members' rate over held-out patients'. Details: see :func:`linkability` (``naive`` is the most
        that a ball placed by chance can reach, about 1 / e; small balls stay below it), ``gallery_patients``,
        ``synthetic_images``, ``attainable`` and ``median_radius``.

    Raises:
        ValueError: the distances or radii do not fit the images.
    """
    require_distances(real, to_real=to_real)
    count = len(to_real)
    if radius.shape != (count,) or not torch.isfinite(radius).all() or bool((radius < 0).any()):
        raise ValueError(
            f"radius has the shape {tuple(radius.shape)} for {count} synthetic images, with "
            f"{int((~torch.isfinite(radius)).sum())} infinite or undefined and {int((radius < 0).sum())} negative "
            "values; give one finite radius >= 0 for each, made from the synthetic images alone"
        )
    members, held_out = real.groups
    size = min(real.members, real.held_out)
    inside = (real.per_patient(to_real, "amin") < radius[:, None]).T.contiguous()  # [P, S]

    def alone(patients: torch.Tensor, drawn: int) -> torch.Tensor:
        """How likely each guess is right in a random gallery, [S]."""
        return chance_of_one(len(patients), drawn)[inside[patients].sum(dim=0)]

    def rates(some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        first, second = alone(some, size).mean(), alone(others, size).mean()
        return torch.stack([first, second, first - second])

    each = torch.stack([alone(members, size), alone(held_out, size)])
    each = torch.cat([each, each[:1] - each[1:]])
    half = max(1, size // 2)
    smaller = [float(alone(group, half).mean()) for group in (members, held_out)]
    grown = [float(rate) / part if part else 1.0 for rate, part in zip(each[:2].mean(dim=1), smaller, strict=True)]

    def rates_of_halves(some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        first, second = (alone(p, half).mean() * times for p, times in zip((some, others), grown, strict=True))
        return torch.stack([first, second, first - second])

    over_images = each.var(dim=1, correction=0) / count
    spread, by_chance = excess_spread(rates, rates_of_halves, over_images, members, held_out, seed)
    rate, control, excess = each.mean(dim=1).tolist()
    reach = [Z_95 * s for s in spread.tolist()]
    if reach[2] > 1e-9:
        interval = max(-1.0, excess - reach[2]), min(1.0, excess + reach[2])
    else:  # every half says the same: so many patients were all alike
        interval = difference_interval(rate * size, size, control * size, size)
    shares = [
        (max(0.0, r - h), min(1.0, r + h)) if h > 1e-9 else clopper_pearson(r * size, size)
        for r, h in ((rate, reach[0]), (control, reach[1]))
    ]
    return _result(
        "singling_out",
        real,
        (rate, control),
        (shares[0], shares[1]),
        interval,
        resolvable=min(1.0, max(Z_95 * by_chance, difference_interval(0, size, 0, size)[1])),
        naive=(1 - 1 / size) ** (size - 1),
        seed=seed,
        details={
            "gallery_patients": size,
            "synthetic_images": count,
            "attainable": size / real.members,
            "median_radius": float(radius.median()),
        },
    )


def linkability(
    views_a_to_synthetic: torch.Tensor, views_b_to_synthetic: torch.Tensor, real: RealPatients, neighbours: int = 1
) -> AttackResult:
    """Do two separate parts of a patient's image lead to the same synthetic image?

    The attacker holds two collections, e.g. the left and the right halves of radiographs, and joins two records that
    have a synthetic image in common among the ``neighbours`` nearest of each.

    Args:
        views_a_to_synthetic: distances of the real images' first parts to the same parts of the synthetic images,
            float, shape [N, S].
        views_b_to_synthetic: of the second parts, [N, S].
        real: whose the N images are.
        neighbours: 1 .. S; equally near ones are taken together.

    Returns:
        The excess of members' rate over held-out patients', with Newcombe's interval over patients (a patient has the
        mean of their images). Details: ``rate``, ``rate_interval_95``, ``naive`` (what guessing gives), ``risk``
        ((rate - control) / (1 - control), at least 0: Giomi et al. 2023).

    Raises:
        ValueError: the distances do not fit the images, or ``neighbours`` is out of range.
    """
    views = (views_a_to_synthetic, views_b_to_synthetic)
    require_distances(real, views_a_to_synthetic=views[0].T, views_b_to_synthetic=views[1].T)
    count = views[0].shape[1]
    if views[1].shape[1] != count:
        raise ValueError(f"{count} and {views[1].shape[1]} synthetic images; both views must be compared with the same")
    _require_neighbours(neighbours, count)
    near = [distances <= distances.kthvalue(neighbours, dim=1, keepdim=True).values for distances in views]
    linked = (near[0] & near[1]).any(dim=1).double()
    naive = float(hypergeom.sf(0, count, neighbours, neighbours))
    return _of_patients("linkability", linked, real, naive, {"neighbours": neighbours, "synthetic_images": count})


def inference(
    to_real: torch.Tensor, synthetic_labels: torch.Tensor, real: RealPatients, neighbours: int = 1
) -> AttackResult:
    """Do the synthetic images nearest to a patient's image tell the patient's class?

    The attacker holds the image and wants its label, a secret; they take the most frequent class of the ``neighbours``
    nearest synthetic images. A good release teaches the disease, so the rate is high for everyone; a leak is what
    members lose beyond held-out patients. Both splits should have the same shares of the classes.

    Args:
        to_real: distances, float, shape [S, N].
        synthetic_labels: classes, int64, shape [S].
        real: whose the N images are, and their labels.
        neighbours: 1 .. S. Equally near images all vote, and among equally frequent classes the attacker guesses.

    Returns:
        As :func:`linkability`; the naive guess is the most frequent class of the synthetic images.

    Raises:
        ValueError: the distances or labels do not fit the images, or ``neighbours`` is out of range.
    """
    require_distances(real, to_real=to_real)
    count = len(to_real)
    _require_neighbours(neighbours, count)
    if synthetic_labels.shape != (count,) or int(synthetic_labels.min()) < 0 or int(real.labels.min()) < 0:
        raise ValueError(
            f"synthetic_labels of shape {tuple(synthetic_labels.shape)} for {count} synthetic images; give one class "
            "for each, counted from 0, as for the real images"
        )
    classes = 1 + max(int(synthetic_labels.max()), int(real.labels.max()))
    votes_of = torch.nn.functional.one_hot(synthetic_labels.long(), classes).double()
    near = to_real <= to_real.kthvalue(neighbours, dim=0, keepdim=True).values
    votes = near.T.double() @ votes_of  # [N, classes]
    best = votes == votes.amax(dim=1, keepdim=True)
    right = best.double().gather(1, real.labels[:, None].long())[:, 0] / best.sum(dim=1)
    usual = int(votes_of.sum(dim=0).argmax())
    naive = float(real.per_patient((real.labels == usual).double(), "mean")[: real.members].mean())
    return _of_patients("inference", right, real, naive, {"neighbours": neighbours, "synthetic_images": count})


def _require_neighbours(neighbours: int, count: int) -> None:
    if not 1 <= neighbours <= count:
        raise ValueError(f"neighbours is {neighbours}; give a number from 1 to that of the synthetic images, {count}")


def _of_patients(
    name: str, right: torch.Tensor, real: RealPatients, naive: float, details: dict[str, Any]
) -> AttackResult:
    """From right answers per image, 0 .. 1, shape [N]."""
    by_patient = real.per_patient(right, "mean")
    won, control = float(by_patient[: real.members].sum()), float(by_patient[real.members :].sum())
    interval = difference_interval(won, real.members, control, real.held_out)
    # at a difference of 0, both have the rate of all
    common = float(by_patient.mean())
    low, high = difference_interval(common * real.members, real.members, common * real.held_out, real.held_out)
    return _result(
        name,
        real,
        (won / real.members, control / real.held_out),
        (accuracy_interval(won, real.members), accuracy_interval(control, real.held_out)),
        interval,
        resolvable=(high - low) / 2,
        naive=naive,
        seed=None,
        details=details,
    )


def _result(
    name: str,
    real: RealPatients,
    rates: tuple[float, float],
    intervals: tuple[tuple[float, float], tuple[float, float]],
    interval: tuple[float, float],
    *,
    resolvable: float,
    naive: float,
    seed: int | None,
    details: dict[str, Any],
) -> AttackResult:
    rate, control = rates
    return AttackResult(
        name=name,
        measure="excess rate",
        value=rate - control,
        interval=interval,
        baseline=0.0,
        control=control,
        control_interval=intervals[1],
        n=real.members,
        n_control=real.held_out,
        resolvable=resolvable,
        seed=seed,
        details={
            "rate": rate,
            "rate_interval_95": list(intervals[0]),
            "naive": naive,
            "risk": max(0.0, (rate - control) / (1 - control)) if control < 1 else 0.0,
            **details,
        },
    )
