"""Anchors and pairs: shapes, determinism, no pair twice, clear refusals."""

import pytest
import torch
from fakes import FakeGenerator

from monai_plan.latent import AnchorPairs, AnchorSet, pair_anchors, random_anchors


def make_anchors(counts):
    labels = torch.cat([torch.full((n,), label) for label, n in enumerate(counts)]).long()
    latents = torch.arange(len(labels), dtype=torch.float32).unsqueeze(1).expand(-1, 3).contiguous()
    return AnchorSet(latents, labels, "random")


def test_random_anchors_are_replayable_and_leave_global_state():
    generator = FakeGenerator().train()
    state = torch.get_rng_state()
    first, again = random_anchors(generator, 5, seed=3), random_anchors(generator, 5, seed=3)
    other = random_anchors(generator, 5, seed=4)
    assert torch.equal(first.latents, again.latents) and not torch.equal(first.latents, other.latents)
    assert first.labels.tolist() == [0] * 5 + [1] * 5 and first.origin == "random"
    assert torch.equal(state, torch.get_rng_state()) and generator.training and not first.latents.requires_grad


def test_truncation_zero_gives_the_mean():
    assert (
        random_anchors(FakeGenerator(), 3, seed=0, truncation=0.0).latents.tolist() == [[0.0] * 6] * 3 + [[1.0] * 6] * 3
    )


def test_anchor_file_round_trip(tmp_path):
    anchors = random_anchors(FakeGenerator(), 2, seed=1)
    loaded = AnchorSet.load(anchors.save(tmp_path / "anchors.safetensors"))
    assert torch.equal(loaded.latents, anchors.latents) and torch.equal(loaded.labels, anchors.labels)
    assert (loaded.origin, loaded.meta) == ("random", anchors.meta)


@pytest.mark.parametrize("count, pairs", [(2, 1), (4, 6), (7, 5), (40, 100)])
def test_pairs_are_distinct_and_within_class(count, pairs):
    anchors = make_anchors([count, count])
    made = pair_anchors(anchors, pairs, seed=0)
    start, end = made.start[:, 0].long(), made.end[:, 0].long()
    seen = {frozenset(pair) for pair in zip(start.tolist(), end.tolist(), strict=True)}
    assert len(seen) == 2 * pairs and all(len(pair) == 2 for pair in seen)
    assert torch.equal(anchors.labels[start], made.labels) and torch.equal(anchors.labels[end], made.labels)
    assert torch.equal(made.start, pair_anchors(anchors, pairs, seed=0).start)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: pair_anchors(make_anchors([3, 1]), 1, 0), r"class 1 has 1 anchor"),
        (lambda: pair_anchors(make_anchors([3]), 4, 0), r"make 3 different pair"),
        (lambda: pair_anchors(make_anchors([3]), 0, 0), "whole numbers from 1 on"),
        (lambda: random_anchors(FakeGenerator(), 0, 0), "per_class"),
        (lambda: AnchorSet(torch.zeros(2, 3), torch.zeros(2).long(), "projected"), "k-same first"),
        (lambda: AnchorSet(torch.zeros(2, 3), torch.zeros(3).long(), "random"), "one label a row"),
        (lambda: AnchorSet(torch.full((2, 3), torch.nan), torch.zeros(2).long(), "random"), "NaN"),
        (lambda: AnchorSet(torch.zeros(2, 3), torch.zeros(2), "random"), "int64"),
        (lambda: AnchorSet(torch.zeros(2, 3), torch.tensor([0, -1]), "random"), ">= 0"),
        (lambda: AnchorPairs(torch.zeros(2, 3), torch.zeros(1, 3), torch.zeros(2).long()), "P, D"),
    ],
)
def test_errors_name_the_cause(call, words):
    with pytest.raises(ValueError, match=words):
        call()
