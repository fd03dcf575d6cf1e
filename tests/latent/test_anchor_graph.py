"""Pairs on the neighbour graph: choices and coverage by hand, balance, bounded memory, clear refusals."""

import math
from collections import Counter

import pytest
import torch

from monai_plan.latent import AnchorPairs, AnchorSet, anchor_graph, pair_anchors, pair_coverage, pair_neighbours


def anchors_at(*classes):
    """Anchors of each class at the given points (numbers: points on a line)."""
    points = [torch.as_tensor(places, dtype=torch.float32).view(len(places), -1) for places in classes]
    labels = [torch.full((len(part),), label) for label, part in enumerate(points)]
    return AnchorSet(torch.cat(points), torch.cat(labels).long(), "random")


def random_set(count, width=4, classes=1, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return anchors_at(*torch.randn(classes, count, width, generator=rng))


def places(pairs):
    return [frozenset(pair) for pair in torch.cat([pairs.start, pairs.end], dim=1).tolist()]


LINE = (0.0, 1.0, 3.0, 7.0)  # with one neighbour each: edges 0-1, 1-3, 3-7 of the lengths 1, 2, 4; the median is 2


def risk_around(place, height):
    return lambda latents: height * ((latents[:, 0] - place).abs() < 0.1).float()


@pytest.mark.parametrize(
    "neighbours, risk, weight, expected",
    [
        # 0-1 is cheapest; then 3-7, whose ends are unused, before the shorter 1-3
        (1, None, 1.0, [{0, 1}, {3, 7}, {1, 3}]),
        # costs 0.5 + 4, 1, 2: 1-3 first; then an end is unused in both others, and 3-7 is cheaper
        (1, risk_around(0.5, 4.0), 1.0, [{1, 3}, {3, 7}, {0, 1}]),
        (1, risk_around(0.5, 4.0), 0.0, [{0, 1}, {3, 7}, {1, 3}]),
        (1, risk_around(0.5, 4.0), 0.1, [{0, 1}, {3, 7}, {1, 3}]),  # 0.9 is still the least
        (1, risk_around(0.0, 4.0), 1.0, [{0, 1}, {3, 7}, {1, 3}]),  # at an anchor, not inside an edge
        (1, risk_around(6.0, 9.0), 1.0, [{0, 1}, {3, 7}, {1, 3}]),  # balance goes before cost
        # all edges: every end is used twice before one is used three times
        (9, None, 1.0, [{0, 1}, {3, 7}, {1, 3}, {0, 7}, {0, 3}, {1, 7}]),
    ],
)
def test_choices_by_hand(neighbours, risk, weight, expected):
    pairs = pair_neighbours(anchors_at(LINE), len(expected), 0, neighbours, risk, weight)
    assert places(pairs) == expected
    assert pairs.labels.tolist() == [0] * len(expected)


def test_risk_weighs_the_same_at_any_scale_of_w():
    # costs 0.5 + risk, 1 and 2; lengths of 10, 20 and 40 would drown a risk of 4
    large = anchors_at([10 * place for place in LINE])
    assert places(pair_neighbours(large, 1, 0, 1, risk_around(5.0, 0.4))) == [{0, 10}]
    assert places(pair_neighbours(large, 1, 0, 1, risk_around(5.0, 4.0))) == [{10, 30}]


def test_an_unused_anchor_comes_before_a_hub_is_spared():
    hub = [[0.0, 0.0], [1.0, 0.0], [-1.1, 0.0], [0.0, 1.2]]  # the three others have no neighbour but the first
    chain = [[50.0, 0.0], [51.0, 0.0], [52.4, 0.0], [54.4, 0.0]]  # its ends are paired first, then the middle
    pairs = pair_neighbours(anchors_at(hub + chain), 5, 0, neighbours=1)
    assert len(torch.cat([pairs.start, pairs.end]).unique(dim=0)) == 8


def test_the_largest_risk_inside_an_edge_counts():
    asked = []

    def risk(latents):
        asked.extend(latents[:, 0].tolist())
        assert not torch.is_grad_enabled()
        return torch.zeros(len(latents), dtype=torch.float64)

    pair_neighbours(anchors_at(LINE), 1, 0, 1, risk)
    assert sorted(asked) == [0.25, 0.5, 0.75, 1.5, 2.0, 2.5, 4.0, 5.0, 6.0]


def test_classes_are_kept_apart_and_found_again():
    anchors = AnchorSet(torch.tensor([[0.0], [0.5], [1.0], [1.5]]), torch.tensor([2, 0, 2, 0]), "k_same")
    pairs = pair_neighbours(anchors, 1, 0)
    assert places(pairs) == [{0.5, 1.5}, {0.0, 1.0}] and pairs.labels.tolist() == [0, 2]


@pytest.mark.parametrize("count, pairs", [(40, 20), (40, 40), (41, 100), (7, 21)])
def test_all_anchors_are_used_about_equally_often_and_no_pair_twice(count, pairs):
    anchors = random_set(count, classes=2)
    made = pair_neighbours(anchors, pairs, seed=0, neighbours=8)
    chosen = [frozenset(map(tuple, pair)) for pair in torch.stack([made.start, made.end], dim=1).tolist()]
    assert len(set(chosen)) == 2 * pairs and all(len(pair) == 2 for pair in chosen)
    uses = Counter(anchor for pair in chosen for anchor in pair)
    mean = 2 * pairs / count
    assert len(uses) >= 0.85 * 2 * count and max(uses.values()) <= mean + 3
    if mean >= 2:
        assert min(uses[tuple(anchor)] for anchor in anchors.latents.tolist()) >= mean / 2


def test_neighbours_lie_nearer_than_random_pairs_and_cover_the_class():
    anchors = random_set(60, width=16)
    near, far = pair_neighbours(anchors, 60, 0, neighbours=6), pair_anchors(anchors, 60, 0)
    length = {name: (p.end - p.start).norm(dim=1).mean() for name, p in {"near": near, "far": far}.items()}
    assert length["near"] < 0.85 * length["far"]
    assert pair_coverage(anchors, near)["0"]["ends"] == 1.0 > pair_coverage(anchors, far)["0"]["ends"]


def test_equal_seeds_give_equal_pairs_and_leave_the_global_state():
    grid = anchors_at([[x, y] for x in (0.0, 1.0, 2.0, 3.0) for y in (0.0, 1.0, 2.0, 3.0)])  # many equal lengths
    state = torch.get_rng_state()
    first, again, other = (pair_neighbours(grid, 8, seed, neighbours=4) for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.start, again.start) and torch.equal(first.end, again.end)
    assert not torch.equal(first.start, other.start)


@pytest.mark.parametrize("name, value", [("ENTRIES", 50), ("ROWS", 3)])
def test_results_do_not_depend_on_what_is_held_at_once(monkeypatch, name, value):
    anchors = random_set(30)
    largest = []

    def risk(latents):
        largest.append(len(latents))
        return latents.norm(dim=1)

    def everything():
        pairs = pair_neighbours(anchors, 10, 0, 5, risk)
        return [
            *pairs.start.flatten().tolist(),
            *pairs.end.flatten().tolist(),
            *pair_coverage(anchors, pairs)["0"].values(),
        ]

    whole = everything()
    monkeypatch.setattr(anchor_graph, name, value)
    largest.clear()
    assert everything() == pytest.approx(whole, abs=1e-6) and whole[-1] > 0.1
    assert max(largest) <= anchor_graph.ROWS


def test_coverage_by_hand():
    anchors = anchors_at(
        [[0, 0], [4, 0], [2, 3], [2, -1]],  # distances 4, 4, sqrt 13 and sqrt 5 twice each: the median is sqrt 13
        [[0, 0], [3, 4], [6, 8]],  # 5, 5, 10
    )
    pairs = AnchorPairs(torch.zeros(2, 2), torch.tensor([[4.0, 0.0], [3.0, 4.0]]), torch.tensor([0, 1]))
    record = pair_coverage(anchors, pairs)
    assert record["0"] == pytest.approx({"ends": 0.5, "mean_distance": 1 / 13**0.5, "largest_distance": 3 / 13**0.5})
    # the third lies on the extension of the line, 5 beyond its end
    assert record["1"] == pytest.approx({"ends": 2 / 3, "mean_distance": 1 / 3, "largest_distance": 1.0})
    assert all(type(value) is float for of_class in record.values() for value in of_class.values())


def test_coverage_finds_the_nearest_of_many_lines():
    anchors = random_set(50, width=3)
    pairs = pair_anchors(anchors, 20, seed=1)
    fractions = torch.linspace(0, 1, 2001, dtype=torch.float64).view(-1, 1, 1)
    dense = torch.lerp(pairs.start.double(), pairs.end.double(), fractions).flatten(0, 1)
    nearest = torch.cdist(anchors.latents.double(), dense).min(dim=1).values
    typical = torch.pdist(anchors.latents).median()
    found = pair_coverage(anchors, pairs)["0"]
    assert found["mean_distance"] == pytest.approx(float(nearest.mean() / typical), abs=1e-3)
    assert found["largest_distance"] == pytest.approx(float(nearest.max() / typical), abs=1e-3)


PAIR = AnchorPairs(torch.zeros(1, 1), torch.ones(1, 1), torch.zeros(1).long())


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: pair_neighbours(anchors_at(LINE), 4, 0, 1), r"4 anchors.*1 nearest.*3 .*4 were.*neighbours=2,.*=3$"),
        (lambda: pair_neighbours(anchors_at(LINE, LINE[:1]), 1, 0), "class 1 has 1 anchor"),
        (lambda: pair_neighbours(anchors_at(LINE), 7, 0), "make 6 different pair"),
        (lambda: pair_neighbours(anchors_at(LINE), 0, 0), "whole numbers from 1 on, got 4 and 0"),
        (lambda: pair_neighbours(anchors_at(LINE), 1, 0, 0), "neighbours, got 4 and 0"),
        (lambda: pair_neighbours(anchors_at(LINE), 1, 0, 2.5), "got 4 and 2.5"),
        (lambda: pair_neighbours(anchors_at([2.0, 1.0, 2.0]), 1, 0), "0 and 2 of class 0 are equal"),
        (lambda: pair_neighbours(anchors_at(LINE), 1, 0, 1, None, -1.0), "risk_weight.*-1.0"),
        (lambda: pair_neighbours(anchors_at(LINE), 1, 0, 1, lambda w: w), r"9 latents, got shape \(9, 1\);"),
        (lambda: pair_neighbours(anchors_at(LINE), 1, 0, 1, lambda w: w[:, 0] * math.nan), "with NaN"),
        (lambda: pair_coverage(anchors_at(LINE, LINE), PAIR), r"\[0, 1\] and pairs of \[0\]"),
        (lambda: pair_coverage(anchors_at([[0, 0], [1, 1]]), PAIR), "width 2 and pairs of width 1"),
        (lambda: pair_coverage(anchors_at([0.0]), PAIR), r"1 anchor\(s\) of class 0 is 0.0"),
    ],
)
def test_errors_name_the_cause(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_the_advised_number_of_neighbours_is_enough():
    for count, wanted in [(4, 4), (9, 30), (9, 36), (30, 200)]:
        anchors = random_set(count)
        with pytest.raises(ValueError, match="neighbours=") as caught:
            pair_neighbours(anchors, wanted, 0, neighbours=1)
        enough = int(str(caught.value).split("neighbours=")[1].split(",")[0])
        assert len(pair_neighbours(anchors, wanted, 0, neighbours=enough)) == wanted
