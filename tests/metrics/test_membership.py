"""Membership scores by hand, rates that the patients can carry, leaks found and no false alarms."""

from __future__ import annotations

import pytest
import torch
from attack_worlds import column, patients, world

from monai_plan.metrics import (
    clopper_pearson,
    density_ratio_scores,
    density_ratio_spread,
    membership_attack,
    nearest_synthetic_scores,
    rates_at_low_false_positives,
    separation_with_interval,
)


def attack(synthetic, points, real, seed=0, density=False):
    to_real, among_real = torch.cdist(synthetic, points), torch.cdist(points, points)
    if not density:
        return membership_attack("membership_distance", nearest_synthetic_scores(to_real), real, seed)
    scores = density_ratio_scores(to_real, among_real, real, 3, seed)
    spread = density_ratio_spread(to_real, among_real, real, 3, seed, draws=30)
    return membership_attack("membership_density", scores, real, seed, spread=spread)


def test_a_patient_has_their_largest_score():
    """Members 5 and 2, held out 3 and 1: three of four pairs in order."""
    scores = torch.tensor([0.0, 5.0, 2.0, 1.0, 3.0, 0.0, 1.0, 1.0])
    result = membership_attack("membership_distance", scores, patients(2, 2, images=2), seed=0, details={"k": 1})
    assert result.value == 0.75 and (result.n, result.n_control) == (2, 2)
    assert result.curve == ((0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1))
    assert result.details == {"k": 1, "tpr_at_fpr": {}}  # two held-out patients carry no rate of 0.1


def test_rates_at_low_false_positives_by_hand():
    """Of 20 held-out scores 0 .. 19, two may pass at 0.1: above 17; one at 0.05: above 18."""
    members = torch.tensor([17.0, 18.0, 18.5, 40.0])
    rates = rates_at_low_false_positives(members, torch.arange(20.0))
    assert list(rates) == ["0.1", "0.05"]
    assert (rates["0.1"]["tpr"], rates["0.05"]["tpr"]) == (0.75, 0.5)
    assert (rates["0.1"]["fpr"], rates["0.05"]["fpr"]) == (0.1, 0.05)
    assert rates["0.05"]["interval_95"] == list(clopper_pearson(2, 4))


def test_ties_keep_the_false_positive_rate():
    rates = rates_at_low_false_positives(torch.ones(5), torch.ones(10))
    assert rates["0.1"]["tpr"] == rates["0.1"]["fpr"] == 0


@pytest.mark.parametrize("density", [False, True])
@pytest.mark.parametrize("images", [1, 3])
def test_copies_are_found_and_members_are_alike(images, density):
    result = attack(*world(0, images=images, synthetic=120, leak=True), density=density)
    assert result.interval[0] > 0.8
    assert result.control_interval[0] < 0.5 < result.control_interval[1] < 0.9
    assert len(result.curve) <= 41 and result.curve[0] == (0, 0) and result.curve[-1] == (1, 1)
    rates = [rate for point in zip(result.curve, result.curve[1:], strict=False) for rate in zip(*point, strict=True)]
    assert all(before <= after for before, after in rates)


def test_holes_around_members_are_a_finding():
    """A gate that keeps its distance from members shows who they are, as an AUROC below 0.5."""
    synthetic, points, real = world(0, synthetic=2000)
    far = torch.cdist(synthetic, points[real.member]).amin(dim=1) > 1.0
    assert attack(synthetic[far], points, real).interval[1] < 0.5


@pytest.mark.parametrize("density", [False, True])
def test_nothing_is_found_where_nothing_leaks(density):
    results = [attack(*world(seed), seed=seed, density=density) for seed in range(40)]
    for intervals in ([r.interval for r in results], [r.control_interval for r in results]):
        assert sum(not low <= 0.5 <= high for low, high in intervals) <= 6  # P(more) = 0.003


def test_the_control_is_one_half_of_the_members_against_the_other():
    real = patients(40, 20)
    scores = torch.randn(60, generator=torch.Generator().manual_seed(0)).double()
    first, second = real.halves(seed=5)
    expected = separation_with_interval(scores[first], scores[second])
    result = membership_attack("membership_distance", scores, real, seed=5)
    assert (result.control, result.control_interval) == expected
    # members of two kinds: halves differ by what chance deals them, which a mean over many halves would hide
    uneven = torch.where(torch.arange(60) < 20, scores + 100, scores)
    controls = [membership_attack("membership_distance", uneven, real, seed=seed).control for seed in range(20)]
    assert max(controls) - min(controls) > 0.2


def test_a_further_spread_widens_the_interval_by_hand():
    """DeLong's half width h and the spread s: sqrt(h^2 + (1.96 s)^2)."""
    scores, real = torch.randn(60, generator=torch.Generator().manual_seed(0)), patients(40, 20)
    narrow = membership_attack("membership_density", scores, real, seed=0)
    wide = membership_attack("membership_density", scores, real, seed=0, spread=0.05)
    half = (narrow.interval[1] - narrow.interval[0]) / 2
    assert wide.interval[1] - wide.value == pytest.approx((half**2 + (1.959964 * 0.05) ** 2) ** 0.5)
    assert wide.resolvable > narrow.resolvable and wide.control_interval == narrow.control_interval


def test_references_have_a_spread_that_shrinks_with_their_number():
    spreads = []
    for held_out in (10, 80):
        synthetic, points, real = world(0, held_out=held_out)
        to_real, among_real = torch.cdist(synthetic, points), torch.cdist(points, points)
        spreads.append(density_ratio_spread(to_real, among_real, real, 3))
    assert 0 < 1.5 * spreads[1] < spreads[0] < 0.2
    few = patients(2, 3)
    assert density_ratio_spread(torch.ones(4, 5), torch.ones(5, 5), few, 1) == 0


def test_density_by_hand():
    """Held out are 0, 10 and 13. Each held-out image has the two others as references; a member lacks one at random."""
    points, real = column(1, 50, 0, 10, 13), patients(2, 3)
    synthetic = column(1.5, 49)
    scores = density_ratio_scores(torch.cdist(synthetic, points), torch.cdist(points, points), real, neighbours=2)
    ratios = scores.exp().tolist()
    assert ratios[2:] == pytest.approx([13 / 49, 10 / 39, 13 / 36])  # the farther of two, of both kinds
    assert any(ratios[0] == pytest.approx(farther / 48) for farther in (9, 12))  # without 13, or without another


@pytest.mark.parametrize("neighbours", [0, 3])
def test_too_few_references(neighbours):
    points = column(1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match=f"neighbours is {neighbours}, and 4 synthetic and 3 held-out images leave 2"):
        density_ratio_scores(torch.ones(4, 5), torch.cdist(points, points), patients(2, 3), neighbours)


@pytest.mark.parametrize("scores", [torch.ones(3), torch.tensor([1.0, 2.0, torch.nan, 0.0])])
def test_bad_scores_are_refused(scores):
    with pytest.raises(ValueError, match="membership_distance: scores of shape"):
        membership_attack("membership_distance", scores, patients(2, 2), seed=0)
