"""Membership inference with shadow models: many models, each trained on a random half (LiRA)."""

from __future__ import annotations

from typing import Any

import torch
from scipy.stats import t as student_t

from monai_plan.metrics.attack_result import AttackResult
from monai_plan.metrics.intervals import Z_95, separation_with_interval
from monai_plan.metrics.membership import rates_at_low_false_positives
from monai_plan.utils import generator_for

__all__ = ["likelihood_ratio_scores", "shadow_membership"]

_EXCHANGES = 50
_OWN_VARIANCE = 16  # models of a kind from which an image has a variance of its own


def likelihood_ratio_scores(scores: torch.Tensor, included: torch.Tensor, target: int) -> torch.Tensor:
    """LiRA (Carlini et al., S&P 2022, Algorithm 1): was the image in the target's training set?

    The other models' scores of an image are two Gaussians, of the models trained with it and of those trained without;
    the target's score is compared with both. Variances are pooled over the images, one for each kind, unless every
    image has at least 16 other models of both kinds: of few models, an image's own variance is mostly chance.

    Args:
        scores: of each patient by each model, e.g. minus the distance to the nearest synthetic image, float, [M, N].
        included: whether the model was trained with the patient, bool, [M, N].
        target: the model attacked, 0 .. M - 1.

    Returns:
        Log likelihood ratios, float64, shape [N]; higher for the target's members.

    Raises:
        ValueError: shapes differ, a score is not finite, or a patient lacks other models of a kind.
    """
    _require_scores(scores, included)
    if not 0 <= target < len(scores):
        raise ValueError(f"target is {target} of {len(scores)} models; count them from 0")
    others = torch.arange(len(scores)) != target
    values, own = scores[others].double(), scores[target].double()
    ratio = torch.zeros_like(own)
    kinds = [(sign, included[others] == kind) for sign, kind in ((1, True), (-1, False))]
    fewest = min(int(where.sum(dim=0).min()) for _, where in kinds)
    for sign, where in kinds:
        count = where.sum(dim=0)
        if fewest < 1 or int((count - 1).sum()) < 1:
            raise ValueError(
                f"of {len(scores) - 1} other models, a patient has {fewest} of a kind (trained with, or without them); "
                "train more models, each with a random half of the patients"
            )
        mean = (values * where).sum(dim=0) / count
        squares = ((values - mean).square() * where).sum(dim=0)
        variance = squares / (count - 1) if fewest >= _OWN_VARIANCE else squares.sum() / (count - 1).sum()
        variance = variance.clamp_min(1e-24)
        ratio = ratio - sign * ((own - mean).square() / variance + variance.log()) / 2
    return ratio


def shadow_membership(
    scores: torch.Tensor, included: torch.Tensor, seed: int, details: dict[str, Any] | None = None
) -> AttackResult:
    """Each model in turn is the target, the others are the shadow models of :func:`likelihood_ratio_scores`.

    The value is the mean of the models' AUROCs. The interval is Student's over models, or the spread of fifty attacks
    with the patients' columns of ``included`` exchanged at random if that is wider: targets share their shadow models,
    so the models are not independent. Control: the first of these exchanges, with an interval made in the same way.

    Args:
        scores: float, shape [M, N]: M >= 3 models, N patients (one score a patient: the largest of the images').
        included: bool, shape [M, N]: whose images the model was trained with, a coin for each. Not balanced by
            patient: that the others had a patient often would say that the target had not.
        seed: of the exchanges.
        details: more to record, plain JSON values.

    Returns:
        ``n`` and ``n_control`` are N: every patient is attacked, in about half of the models each way. Details:
        ``models``, ``per_model`` (AUROCs), and over all pairs of a model and a patient, which are not independent,
        ``pooled_auroc`` and ``pooled_tpr_at_fpr`` (without intervals).

    Raises:
        ValueError: as :func:`likelihood_ratio_scores`, fewer than three models, or a model with patients of one kind.
    """
    _require_scores(scores, included)
    if len(scores) < 3 or bool((included.all(dim=1) | ~included.any(dim=1)).any()):
        raise ValueError(
            f"{len(scores)} models, trained with {included.sum(dim=1).tolist()} of {included.shape[-1]} patients; "
            "give at least three models, each trained with some of the patients and without the others"
        )
    ratios, found = _attack_each(scores, included)
    rng = generator_for(seed, "shadow control")
    exchanged = (included[:, torch.randperm(included.shape[1], generator=rng)] for _ in range(_EXCHANGES))
    controls = torch.stack([_attack_each(scores, others)[1] for others in exchanged])
    by_chance = Z_95 * float(controls.mean(dim=1).std())
    value, interval = _mean_of_models(found, by_chance)
    control, control_interval = _mean_of_models(controls[0], by_chance)
    rates = rates_at_low_false_positives(ratios[included], ratios[~included])
    return AttackResult(
        name="membership_shadow",
        measure="AUROC",
        value=value,
        interval=interval,
        baseline=0.5,
        control=control,
        control_interval=control_interval,
        n=included.shape[1],
        n_control=included.shape[1],
        resolvable=min(0.5, by_chance),
        seed=seed,
        details={
            **(details or {}),
            "models": len(scores),
            "per_model": found.tolist(),
            "pooled_auroc": separation_with_interval(ratios[included], ratios[~included])[0],
            "pooled_tpr_at_fpr": {rate: figures["tpr"] for rate, figures in rates.items()},
        },
    )


def _mean_of_models(found: torch.Tensor, at_least: float) -> tuple[float, tuple[float, float]]:
    """Mean of the models' AUROCs, with an interval that reaches ``at_least`` so far to both sides."""
    value = float(found.mean())
    # Student's alone is too short: targets share their shadow models
    half = max(at_least, float(student_t.ppf(0.975, len(found) - 1)) * float(found.std()) / len(found) ** 0.5)
    return value, (max(0.0, value - half), min(1.0, value + half))


def _attack_each(scores: torch.Tensor, included: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The ratios with each model as the target [M, N], and each target's AUROC [M]."""
    ratios = torch.stack([likelihood_ratio_scores(scores, included, target) for target in range(len(scores))])
    pairs = zip(ratios, included, strict=True)
    return ratios, torch.tensor([separation_with_interval(row[kind], row[~kind])[0] for row, kind in pairs]).double()


def _require_scores(scores: torch.Tensor, included: torch.Tensor) -> None:
    if scores.ndim != 2 or scores.shape != included.shape or included.dtype != torch.bool:
        raise ValueError(
            f"scores {tuple(scores.shape)} and included {tuple(included.shape)} ({included.dtype}); give a score and a "
            "bool for each of M models and N patients"
        )
    if not torch.isfinite(scores).all():
        raise ValueError(
            f"{int((~torch.isfinite(scores)).sum())} scores are not finite; check the models' outputs, or the distances"
        )
