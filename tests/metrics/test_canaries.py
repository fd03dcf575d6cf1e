"""Bounds by hand-computed binomials, and against randomised response, whose epsilon is known."""

from __future__ import annotations

import math

import pytest
import torch

from monai_plan.metrics import canary_audit, one_run_epsilon


def test_bound_by_hand():
    """All r right: p^r = 0.05 at the bound, so p = 0.05^(1/r) and epsilon is its log odds."""
    for guesses in (10, 100):
        right = 0.05 ** (1 / guesses)
        assert one_run_epsilon(guesses, guesses, guesses, delta=0) == pytest.approx(math.log(right / (1 - right)))


def test_one_mistake_by_hand():
    """P(at least 9 of 10) = p^10 + 10 p^9 (1 - p) is 0.05 at the bound."""
    bound = one_run_epsilon(9, 10, 10, delta=0)
    right = 1 / (1 + math.exp(-bound))
    assert right**10 + 10 * right**9 * (1 - right) == pytest.approx(0.05)


def test_delta_by_hand():
    """One guess, one canary, right: p + 2 delta P(0 right) = p + 2 delta (1 - p)."""
    bound = one_run_epsilon(1, 1, 1, delta=0.01, confidence=0.3)
    right = 1 / (1 + math.exp(-bound))
    assert right + 0.02 * (1 - right) == pytest.approx(0.7)


@pytest.mark.parametrize(("correct", "expected_zero"), [(50, True), (58, True), (59, False)])
def test_chance_gives_no_bound(correct, expected_zero):
    """P(Binomial(100, 1/2) >= 58) = 0.067, >= 59: 0.044."""
    assert (one_run_epsilon(correct, 100, 100, delta=0) == 0) == expected_zero


def test_delta_costs():
    bounds = [one_run_epsilon(90, 100, 1000, delta=delta) for delta in (0, 1e-5, 1e-3)]
    assert bounds[0] > bounds[1] > bounds[2] > 0


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_randomised_response(epsilon):
    """Each coin is told rightly with probability 1 / (1 + exp(-epsilon)): the bound holds, and is close."""
    count, runs = 2000, 60
    bounds = []
    for seed in range(runs):
        rng = torch.Generator().manual_seed(seed)
        included = torch.rand(count, generator=rng) < 0.5
        truthful = torch.rand(count, generator=rng) < 1 / (1 + math.exp(-epsilon))
        correct = int((torch.where(truthful, included, ~included) == included).sum())
        bounds.append(one_run_epsilon(correct, count, count, delta=0))
    assert sum(bound > epsilon for bound in bounds) <= 8  # P(more) = 0.004 at 5 %
    assert sum(bounds) / runs == pytest.approx(epsilon, rel=0.3)


def test_audit_by_hand():
    """Six canaries: of the two highest one was in, of the two lowest both were out."""
    scores = torch.tensor([6.0, 5, 4, 3, 2, 1])
    included = torch.tensor([True, False, True, True, False, False])
    result = canary_audit(scores, included, seed=0)
    assert (result.details["guesses"], result.details["correct"]) == (4, 3)
    assert result.interval == (result.value, math.inf) and result.as_dict()["interval"][1] is None
    assert (result.value, result.n, result.n_control) == (0, 3, 3)
    assert math.isinf(result.resolvable)  # 4 of 4 come by chance in 1 of 16 cases


def test_exposed_canaries_are_found():
    rng = torch.Generator().manual_seed(0)
    included = torch.rand(300, generator=rng) < 0.5
    result = canary_audit(torch.randn(300, generator=rng) + 3 * included, included, seed=0)
    assert 1.5 < result.value < result.details["largest_bound"] and result.control < 0.2
    assert result.control_interval == (result.control, math.inf)
    assert 0 < result.resolvable < 0.6
    blind = canary_audit(torch.zeros(300), included, seed=0)
    assert blind.value < 0.5


def test_the_control_is_a_single_permutation():
    """Of 60 canaries that are told without a mistake, a permutation tells about half: a bound above 0 is rare."""
    included = torch.arange(60) % 2 == 0
    controls = [canary_audit(included.double(), included, seed=seed).control for seed in range(60)]
    assert sum(control > 0 for control in controls) <= 9  # P(more) = 0.002 at 5 %
    bounds = {one_run_epsilon(correct, 40, 60) for correct in range(41)}
    assert set(controls) <= bounds  # a mean over permutations would lie between


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: one_run_epsilon(5, 4, 10), "5 of 4 guesses about 10"),
        (lambda: one_run_epsilon(0, 0, 10), "0 of 0 guesses"),
        (lambda: canary_audit(torch.ones(3), torch.ones(2, dtype=torch.bool), 0), "one number and one bool"),
        (lambda: canary_audit(torch.ones(8), torch.arange(8) < 4, 0, guesses=3), "3 guesses about 8"),
        (lambda: canary_audit(torch.ones(40), torch.ones(40, dtype=torch.bool), 0), "40 of 40 canaries"),
        (lambda: canary_audit(torch.full((8,), torch.nan), torch.arange(8) < 4, 0), "8 undefined"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
