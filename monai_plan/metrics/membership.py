"""Membership inference: who was in the training set, told from what was released.

Each attack is a score per real image, higher for members, and :func:`membership_attack` judges any such score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from monai_plan.metrics.attack_result import AttackResult, RealPatients
from monai_plan.metrics.galleries import require_distances
from monai_plan.metrics.intervals import Z_95, clopper_pearson, separation_with_interval
from monai_plan.utils import generator_for

__all__ = [
    "density_ratio_scores",
    "density_ratio_spread",
    "membership_attack",
    "nearest_synthetic_scores",
    "rates_at_low_false_positives",
]

_CURVE_POINTS = 41
_FALSE_POSITIVES = (0.1, 0.05, 0.01, 0.001)
_TINY = 1e-12  # a distance of 0 has a logarithm then


def membership_attack(
    name: str,
    scores: torch.Tensor,
    real: RealPatients,
    seed: int,
    details: Mapping[str, Any] | None = None,
    spread: float = 0.0,
) -> AttackResult:
    """How well a score tells members' patients from held-out ones.

    A patient has the largest score of their images. An AUROC below 0.5 is a finding too: a gate that keeps images away
    from training patients leaves holes around them, and an attacker only has to turn the score around.

    Control: one random half of the members' patients against the other, with an interval of its own. It shows how far
    from 0.5 chance alone leads with half as many patients, and its interval misses 0.5 in about one of twenty audits.
    It says nothing of a split that was not made by chance: compare two splits that nothing was trained on for that.

    Args:
        name: the test's id.
        scores: of the real images, higher for members, float, shape [N]. Infinite scores are taken.
        real: whose the N images are.
        seed: of the control's halves.
        details: more to record, plain JSON values.
        spread: standard deviation of the AUROC that DeLong's interval does not know of and is joined to it, e.g.
            :func:`density_ratio_spread`.

    Returns:
        The AUROC with DeLong's interval over patients. Details: ``tpr_at_fpr`` (see
        :func:`rates_at_low_false_positives`).

    Raises:
        ValueError: the scores do not fit the images, or one is not a number.
    """
    if scores.shape != (len(real),) or scores.isnan().any():
        raise ValueError(
            f"{name}: scores of shape {tuple(scores.shape)}, {int(scores.isnan().sum())} not numbers, for {len(real)} "
            "real images; give one score for each, and check the network or the distances that they came from"
        )
    by_patient = real.per_patient(scores.double().cpu())
    members, held_out = by_patient[: real.members], by_patient[real.members :]
    auroc, interval = _joined(separation_with_interval(members, held_out), spread)
    control, control_interval = separation_with_interval(*(by_patient[half] for half in real.halves(seed)))
    return AttackResult(
        name=name,
        measure="AUROC",
        value=auroc,
        interval=interval,
        baseline=0.5,
        control=control,
        control_interval=control_interval,
        n=real.members,
        n_control=real.held_out,
        # variance of an AUROC of 0.5: Mann and Whitney, Annals of Mathematical Statistics 1947
        resolvable=min(0.5, Z_95 * ((real.count + 1) / (12 * real.members * real.held_out) + spread**2) ** 0.5),
        seed=seed,
        details={**(details or {}), "tpr_at_fpr": rates_at_low_false_positives(members, held_out)},
        curve=_roc_curve(members, held_out),
    )


def rates_at_low_false_positives(members: torch.Tensor, others: torch.Tensor) -> dict[str, dict[str, Any]]:
    """True positive rates at low false positive rates (Carlini et al., S&P 2022), where there are patients to tell.

    The threshold is the lowest at which no more than the promised share of ``others`` lies above; it is taken as given
    by the interval.

    Args:
        members: scores, float, shape [A].
        others: scores, float, shape [B].

    Returns:
        By false positive rate (0.1, 0.05, 0.01, 0.001; only those of at least 1 / B): ``tpr``, its Clopper-Pearson
        ``interval_95``, ``fpr`` (as it came out) and the numbers ``n`` and ``n_control``.
    """
    ordered = others.sort(descending=True).values
    rates = {}
    for wanted in _FALSE_POSITIVES:
        allowed = int(wanted * len(others) + 1e-9)
        if allowed < 1:
            continue
        caught = int((members > ordered[allowed]).sum())
        rates[str(wanted)] = {
            "tpr": caught / len(members),
            "interval_95": list(clopper_pearson(caught, len(members))),
            "fpr": int((others > ordered[allowed]).sum()) / len(others),
            "n": len(members),
            "n_control": len(others),
        }
    return rates


def nearest_synthetic_scores(to_real: torch.Tensor) -> torch.Tensor:
    """Minus the distance to the nearest synthetic image: GAN-Leaks, black box (Chen et al., CCS 2020).

    Args:
        to_real: distances, float, shape [S, N].

    Returns:
        Shape [N].
    """
    return -to_real.amin(dim=0)


def density_ratio_scores(
    to_real: torch.Tensor, among_real: torch.Tensor, real: RealPatients, neighbours: int = 5, seed: int = 0
) -> torch.Tensor:
    """How much denser the synthetic images lie around an image than real images do.

    DOMIAS (van Breugel et al., AISTATS 2023), with distances to the nearest neighbours for densities: the logarithm of
    the distance to the ``neighbours``-th nearest reference image over that to the ``neighbours``-th nearest synthetic
    one. The references are the held-out patients. One of them cannot be their own reference; so each member goes
    without one random held-out patient as well, and both kinds have references of equally many patients.

    The references are a sample too: give :func:`membership_attack` the spread that they bring,
    :func:`density_ratio_spread`. Without it, the interval held 0.5 in 89 % of simulated audits, not in 95 %.

    Args:
        to_real: distances, float, shape [S, N].
        among_real: distances, float, shape [N, N].
        real: whose the N images are.
        neighbours: >= 1; no more than there are synthetic images, or reference images for any patient.
        seed: of the patients left out.

    Returns:
        Shape [N], higher for members.

    Raises:
        ValueError: the distances do not fit the images, or there are too few of them for so many neighbours.
    """
    require_distances(real, to_real=to_real, among_real=among_real)
    rng = generator_for(seed, "density references")
    to_reference = _to_reference(among_real, real, real.groups[1], neighbours, len(to_real), rng)
    return to_reference - _logarithm(to_real, neighbours)


def density_ratio_spread(
    to_real: torch.Tensor,
    among_real: torch.Tensor,
    real: RealPatients,
    neighbours: int = 5,
    seed: int = 0,
    draws: int = 100,
) -> float:
    """How far the AUROC of :func:`density_ratio_scores` moves when other reference patients are met.

    Random halves of the held-out patients are the references of all patients, with half as many neighbours; the spread
    over halves is what the references add at their full number (see :func:`half_sample_spread`).

    Args:
        to_real: as for the scores, and so are ``among_real``, ``real`` and ``neighbours``.
        seed: of the halves.
        draws: halves.

    Returns:
        A standard deviation; 0 with fewer than four held-out patients, whose halves hold no two.
    """
    require_distances(real, to_real=to_real, among_real=among_real)
    if real.held_out < 4:
        return 0.0
    rng = generator_for(seed, "halves of references")
    to_synthetic, held_out = _logarithm(to_real, neighbours), real.groups[1]
    found = []
    for _ in range(draws):
        half = held_out[torch.randperm(real.held_out, generator=rng)[: real.held_out // 2]]
        usable = int(real.images[half].sum() - real.images[half].max())
        fewer = min(max(1, round(neighbours / 2)), usable)
        ratios = _to_reference(among_real, real, half, fewer, fewer, rng) - to_synthetic
        by_patient = real.per_patient(ratios)
        found.append(separation_with_interval(by_patient[: real.members], by_patient[real.members :])[0])
    return float(torch.tensor(found).std())


def _logarithm(to_real: torch.Tensor, neighbours: int) -> torch.Tensor:
    """Of the distance to the ``neighbours``-th nearest synthetic image, [N]."""
    return to_real.double().kthvalue(neighbours, dim=0).values.clamp_min(_TINY).log()


def _to_reference(
    among_real: torch.Tensor,
    real: RealPatients,
    patients: torch.Tensor,
    neighbours: int,
    synthetic: int,
    rng: torch.Generator,
) -> torch.Tensor:
    """Logarithm of each real image's distance to the ``neighbours``-th nearest image of reference ``patients``, [N].

    A reference patient goes without themselves, anyone else without one of them at random.
    """
    left_out = patients[torch.randint(len(patients), (real.count,), generator=rng)]
    left_out[patients] = patients
    references = torch.isin(real.numbers, patients).nonzero()[:, 0]
    usable = real.numbers[references][None, :] != left_out[real.numbers][:, None]  # [N, references]
    least = min(int(usable.sum(dim=1).min()), synthetic)
    if not 1 <= neighbours <= least:
        raise ValueError(
            f"neighbours is {neighbours}, and {synthetic} synthetic and {len(references)} held-out images leave "
            f"{least}; ask for fewer, or give more images"
        )
    distances = among_real[:, references].double().masked_fill(~usable, torch.inf)
    return distances.kthvalue(neighbours, dim=1).values.clamp_min(_TINY).log()


def _joined(found: tuple[float, tuple[float, float]], spread: float) -> tuple[float, tuple[float, float]]:
    """A figure whose interval has a further, independent spread in it."""
    value, (low, high) = found
    below, above = (math.hypot(end - value, Z_95 * spread) for end in (low, high))
    return value, (max(0.0, value - below), min(1.0, value + above))


def _roc_curve(members: torch.Tensor, others: torch.Tensor) -> tuple[tuple[float, float], ...]:
    """The ROC curve's corners, thinned evenly."""
    thresholds = torch.cat([members, others]).unique().flip(0)
    points = [(0.0, 0.0)]
    for t in thresholds:
        points.append((float((others >= t).double().mean()), float((members >= t).double().mean())))
    if len(points) <= _CURVE_POINTS:
        return tuple(points)
    return tuple(points[i] for i in torch.linspace(0, len(points) - 1, _CURVE_POINTS).round().long().tolist())
