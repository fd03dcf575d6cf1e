"""A lower bound on epsilon from one training run with canaries (Steinke, Nasr and Jagielski, NeurIPS 2023)."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.stats import binom

from monai_plan.metrics.attack_result import AttackResult
from monai_plan.utils import generator_for

__all__ = ["canary_audit", "one_run_epsilon"]


def one_run_epsilon(correct: int, guesses: int, canaries: int, delta: float = 1e-5, confidence: float = 0.95) -> float:
    """The epsilon below which a run is not differentially private, with the given confidence.

    Each canary was trained on if a fair coin said so; an auditor guessed some of the coins. For an (epsilon, delta)-DP
    run, with B ~ Binomial(r, 1 / (1 + exp(-epsilon))), at least v of r guesses are right with a probability of no more
    than P(B >= v) + 2 m delta max_i P(v > B >= v - i) / i (Theorem 5.2). The bound is where that is
    ``1 - confidence``.

    Args:
        correct: right guesses v, 0 .. ``guesses``.
        guesses: r, 1 .. ``canaries``.
        canaries: m.
        delta: of (epsilon, delta), 0 <= delta < 1.
        confidence: that the true epsilon is no smaller, in (0, 1).

    Returns:
        Epsilon >= 0. It can convict, never acquit: 0 says only that this auditor found nothing.

    Raises:
        ValueError: numbers out of range.
    """
    if not 0 <= correct <= guesses <= canaries or guesses < 1 or not 0 <= delta < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"{correct} of {guesses} guesses about {canaries} canaries, delta {delta}, confidence {confidence}; "
            "0 <= correct <= guesses <= canaries, 1 <= guesses, 0 <= delta < 1 and 0 < confidence < 1 must hold"
        )

    def excess(epsilon: float) -> float:
        right = 1 / (1 + math.exp(-epsilon))
        chance = float(binom.sf(correct - 1, guesses, right))
        if delta and correct:
            below = binom.pmf(np.arange(correct - 1, -1, -1), guesses, right).cumsum()
            chance += 2 * canaries * delta * float((below / np.arange(1, correct + 1)).max())
        return chance - (1 - confidence)

    if excess(0.0) >= 0:
        return 0.0
    return float(brentq(excess, 0.0, 64.0, xtol=1e-9))  # at 64 every guess is right


def canary_audit(
    scores: torch.Tensor, included: torch.Tensor, seed: int, delta: float = 1e-5, guesses: int | None = None
) -> AttackResult:
    """Guess which canaries were trained on, from scores, and bound epsilon.

    The highest scores are guessed to be in, the lowest to be out, the middle is left open. How many to guess must be
    set before the scores are seen. Control: the same with ``included`` permuted once; one of twenty such
    bounds exceeds 0 by chance.

    Args:
        scores: one for each canary, higher if it seems to have been trained on, float, shape [M].
        included: whether it was, by a fair coin each, bool, shape [M].
        seed: of ties and of the permutation.
        delta: of (epsilon, delta).
        guesses: even, 2 .. M; by default two thirds.

    Returns:
        The lower bound at 95 %, in an interval without upper end: (bound, ``math.inf``), which ``as_dict`` writes as
        ``null``. ``resolvable`` is the epsilon of a run that would lead to the smallest bound above 0, ``math.inf`` if
        none could. Details: ``canaries``, ``guesses``, ``correct``, ``delta``, ``largest_bound`` (every guess right).

    Raises:
        ValueError: shapes differ, a score is not a number, the number of guesses is out of range, or no fair coin
            chose the canaries.
    """
    count = len(scores)
    if scores.ndim != 1 or scores.shape != included.shape or included.dtype != torch.bool or scores.isnan().any():
        raise ValueError(
            f"scores {tuple(scores.shape)} with {int(scores.isnan().sum())} undefined, included "
            f"{tuple(included.shape)} ({included.dtype}); give one number and one bool for each canary"
        )
    guesses = 2 * (count // 3) if guesses is None else guesses
    if guesses % 2 or not 2 <= guesses <= count:
        raise ValueError(f"{guesses} guesses about {count} canaries; give an even number from 2 to {count}")
    inside = int(included.sum())
    if binom.cdf(min(inside, count - inside), count, 0.5) < 1e-6:
        raise ValueError(
            f"{inside} of {count} canaries were trained on, which no fair coin does; the bound holds only for canaries "
            "that were included by independent fair coins"
        )
    rng = generator_for(seed, "canaries")
    order = torch.randperm(count, generator=rng)  # ties in random order
    order = order[scores[order].argsort(stable=True)].cpu()
    out, in_ = order[: guesses // 2], order[count - guesses // 2 :]
    included = included.cpu()

    def right(truth: torch.Tensor) -> int:
        return int(truth[in_].sum()) + int((~truth[out]).sum())

    bounds = np.array([one_run_epsilon(v, guesses, count, delta) for v in range(guesses + 1)])
    correct = right(included)
    control = float(bounds[right(included[torch.randperm(count, generator=rng)])])
    seen = np.flatnonzero(bounds > 0)
    least = int(seen[0]) if len(seen) else None
    value = float(bounds[correct])
    return AttackResult(
        name="canaries",
        measure="epsilon",
        value=value,
        interval=(value, math.inf),
        baseline=0.0,
        control=control,
        control_interval=(control, math.inf),
        n=inside,
        n_control=count - inside,
        resolvable=math.inf if least in (None, guesses) else math.log(least / (guesses - least)),
        seed=seed,
        details={
            "canaries": count,
            "guesses": guesses,
            "correct": correct,
            "delta": delta,
            "largest_bound": float(bounds[-1]),
        },
    )
