"""Likelihood ratios by hand; remembered patients are found, and coins alone are not."""

from __future__ import annotations

import pytest
import torch

from monai_plan.metrics import likelihood_ratio_scores, shadow_membership


def simulated(seed: int, models: int, patients: int, effect: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores that differ between patients, and rise by ``effect`` where the model was trained with the patient."""
    rng = torch.Generator().manual_seed(seed)
    coins = torch.rand(models, 20 * patients, generator=rng) < 0.5
    enough = (coins.sum(dim=0) > 1) & ((~coins).sum(dim=0) > 1)  # models of both kinds, whichever is the target
    included = coins[:, enough][:, :patients]
    level = 3 * torch.randn(patients, generator=rng)
    return level + torch.randn(models, patients, generator=rng) + effect * included, included


def test_ratio_by_hand():
    """With: 4 and 6 (mean 5); without: 0 and 2 (mean 1). Both variances are 2, so a score x has ratio 2 x - 6."""
    scores = torch.tensor([[5.0], [4], [6], [0], [2]])
    included = torch.tensor([[False], [True], [True], [False], [False]])
    assert likelihood_ratio_scores(scores, included, 0).tolist() == pytest.approx([4.0])
    scores[0] = 3
    assert likelihood_ratio_scores(scores, included, 0).tolist() == pytest.approx([0.0])


def test_few_models_share_their_variance():
    """Two patients with spreads 1 and 3: pooled variances are 5 (of 2 / 1 and 18 / 1 by two, halved)."""
    scores = torch.tensor([[9.0, 9], [4, 4], [6, 10], [0, 0], [2, 6]])
    included = torch.tensor([[True], [True], [True], [False], [False]]).expand(5, 2)
    variance = (2 + 18) / 2
    expected = [((9 - 1) ** 2 - (9 - 5) ** 2) / (2 * variance), ((9 - 3) ** 2 - (9 - 7) ** 2) / (2 * variance)]
    assert likelihood_ratio_scores(scores, included, 0).tolist() == pytest.approx(expected)


def test_many_models_have_a_variance_for_each_patient():
    scores, included = simulated(0, models=60, patients=50, effect=1.0)
    wide = scores * torch.where(torch.arange(50) < 25, 1.0, 100.0)
    for target in (0, 1):
        narrow = likelihood_ratio_scores(scores, included, target)
        assert torch.allclose(likelihood_ratio_scores(wide, included, target), narrow, atol=1e-4)


def test_remembered_patients_are_found():
    result = shadow_membership(*simulated(0, models=12, patients=60, effect=2.0), seed=0)
    assert result.interval[0] > 0.8
    assert result.control_interval[0] < 0.5 < result.control_interval[1] < 0.7
    assert len(result.details["per_model"]) == 12 and 0 < result.resolvable < 0.15
    assert result.details["pooled_tpr_at_fpr"]["0.1"] > 0.3


def test_nothing_is_found_where_nothing_is_remembered():
    results = [shadow_membership(*simulated(s, models=8, patients=30, effect=0.0), seed=s) for s in range(6)]
    for intervals in ([r.interval for r in results], [r.control_interval for r in results]):
        assert sum(not low <= 0.5 <= high for low, high in intervals) <= 2  # P(more) = 0.002 at 95 % coverage
    controls = [r.control for r in results]
    assert max(controls) - min(controls) > 0.02  # single exchanges; means over fifty differ by less than 0.01


def test_perfect_knowledge_still_has_an_interval():
    result = shadow_membership(*simulated(0, models=10, patients=20, effect=1000.0), seed=0)
    assert result.value == 1 and 0.5 < result.interval[0] < 0.99 and result.interval[1] == 1


@pytest.mark.parametrize(
    ("models", "change", "message"),
    [
        (2, lambda s, i: (s, i), "2 models"),
        (4, lambda s, i: (s, torch.ones_like(i)), r"trained with \[8, 8, 8, 8\] of 8 patients"),
        (4, lambda s, i: (s, torch.arange(8).expand(4, 8) < 4), "a patient has 0 of a kind"),
        (4, lambda s, i: (s * torch.nan, i), "32 scores are not finite"),
        (4, lambda s, i: (s[:, :3], i), r"scores \(4, 3\) and included \(4, 8\)"),
    ],
)
def test_bad_input_is_refused(models, change, message):
    included = (torch.arange(models)[:, None] + torch.arange(8)) % 2 == 0
    with pytest.raises(ValueError, match=message):
        shadow_membership(*change(torch.ones(models, 8), included), seed=0)
