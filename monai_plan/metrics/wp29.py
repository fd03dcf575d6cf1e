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
from monai_plan.metrics.galleries import chance_of_one, half_sample_spread, permutation_spread, require_distances
from monai_plan.metrics.intervals import Z_95, accuracy_interval, clopper_pearson, difference_interval

__all__ = ["inference", "linkability", "singling_out"]


def singling_out(to_real: torch.Tensor, among_synthetic: torch.Tensor, real: RealPatients, seed: int) -> AttackResult:
    """Does a synthetic image describe exactly one patient?

    The attacker draws a ball around each synthetic image and guesses that a single patient of the hospital lies in it.
    They know only how many patients there are, m: the radius reaches to the ball's k-th nearest other synthetic image,
    k such that one of m patients is expected inside, k = (S - 1) / m. A guess is right if exactly one of m patients
    lies strictly inside. By chance that is so in about 1 / e of the cases.

    The guesses share their patients and are not independent; so the interval joins the spread over synthetic images
    and the larger of what random halves and random labels of the patients give, each with its own radius.

    Args:
        to_real: distances, float, shape [S, N], S >= 2.
        among_synthetic: distances, float, shape [S, S].
        real: whose the N images are; m is the smaller kind's number of patients.
        seed: of halves and permutations.

    Returns:
        The excess of members' rate over held-out patients'. Details: see :func:`linkability`, and ``expected_inside``
        (patients; above 1 where there are fewer synthetic images than patients) and ``gallery_patients``.

    Raises:
        ValueError: the distances do not fit the images.
    """
    require_distances(real, to_real=to_real)
    count = len(to_real)
    if among_synthetic.shape != (count, count) or count < 2 or not torch.isfinite(among_synthetic).all():
        raise ValueError(
            f"among_synthetic has the shape {tuple(among_synthetic.shape)} for {count} synthetic images; give the "
            "finite distances among at least two of them, in the order of to_real's rows"
        )
    nearest = real.per_patient(to_real, "amin").T.contiguous()  # [P, S]
    others = among_synthetic.clone().fill_diagonal_(-1.0).sort(dim=1).values  # itself first, at place 0

    def reach(size: int) -> int:
        return min(count - 1, max(1, round((count - 1) / size)))

    def alone(members: torch.Tensor, held_out: torch.Tensor) -> torch.Tensor:
        """How likely a guess is right, for members and held-out patients, [2, S]."""
        size = min(len(members), len(held_out))
        radius = others[:, reach(size)]
        return torch.stack([chance_of_one(len(p), size)[(nearest[p] < radius).sum(dim=0)] for p in (members, held_out)])

    def rates(members: torch.Tensor, held_out: torch.Tensor) -> torch.Tensor:
        first, second = alone(members, held_out).mean(dim=1)
        return torch.stack([first, second, first - second])

    everyone = torch.arange(real.count)
    each = alone(everyone[: real.members], everyone[real.members :])
    each = torch.cat([each, each[:1] - each[1:]])
    over_images = each.var(dim=1, correction=0) / count
    by_chance = float((permutation_spread(rates, real, seed)[2] ** 2 + over_images[2]).sqrt())
    spread = ((half_sample_spread(rates, real, seed) ** 2 + over_images).sqrt()).tolist()
    size = min(real.members, real.held_out)
    rate, control, excess = each.mean(dim=1).tolist()
    halves = [Z_95 * s for s in (*spread[:2], max(spread[2], by_chance))]
    if halves[2] > 1e-9:
        interval = max(-1.0, excess - halves[2]), min(1.0, excess + halves[2])
    else:  # every half says the same: so many patients were all alike
        interval = difference_interval(rate * size, size, control * size, size)
    shares = [
        (max(0.0, r - h), min(1.0, r + h)) if h > 1e-9 else clopper_pearson(r * size, size)
        for r, h in ((rate, halves[0]), (control, halves[1]))
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
            "expected_inside": reach(size) * size / (count - 1),
            "gallery_patients": size,
            "synthetic_images": count,
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
