"""Walks: the batched one against a literal pair-by-pair, chunk-by-chunk loop, and what must not change."""

import logging

import pytest
import torch
import torch.nn.functional as F
from fakes import FakeGenerator, classifier
from torch import nn

from monai_plan.latent import AnchorPairs, WalkSteering, walk_linear, walk_private, walk_terms

WALKS = [walk_linear, walk_private]


def make_pairs(count=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    draw = [torch.randn(count, 6, generator=rng) for _ in range(2)]
    return AnchorPairs(*draw, torch.arange(count) % 2)


def make_steering():
    return WalkSteering(FakeGenerator(), classifier(5, 1), classifier(2, 2))


def reference_walk(w_a, w_b, label, steps, steering, iterations):
    """One pair; every classifier term is a mean over a chunk of 4 inner points; chunks are summed."""
    for network in (steering.generator, steering.identity_network, steering.label_network):
        network.eval()
    line = [w_a + (w_b - w_a) * t / (steps - 1) for t in range(1, steps - 1)]
    inner = torch.stack(line).requires_grad_(True)
    adam = torch.optim.Adam([inner], lr=0.1, betas=(0.9, 0.999))
    for _ in range(iterations):
        path = [w_a, *inner, w_b]
        loss = sum(((b - a) ** 2).sum() for a, b in zip(path, path[1:], strict=False))
        for chunk in inner.split(4):
            image = steering.generator.synthesize(chunk).clamp(-1, 1)
            log_q = F.log_softmax(steering.identity_network(image), dim=1)
            uniform = torch.full_like(log_q, 1 / log_q.shape[1])
            loss = loss + 0.1 * F.kl_div(log_q, uniform, reduction="batchmean")
            loss = loss + F.cross_entropy(steering.label_network(image), torch.full((len(chunk),), label))
        adam.zero_grad()
        loss.backward()
        adam.step()
    return torch.stack([w_a, *inner.detach(), w_b])


@pytest.mark.parametrize("steps", [3, 6, 9])  # 1, 4 and 4 + 3 inner points
@pytest.mark.parametrize("points_per_chunk", [1, 5, 100])
def test_batched_walk_equals_one_pair_at_a_time(steps, points_per_chunk):
    pairs, steering = make_pairs(), make_steering()
    points = walk_private(pairs, steps, steering, iterations=12, points_per_chunk=points_per_chunk, progress=False)
    expected = [
        reference_walk(a, b, int(label), steps, make_steering(), 12)
        for a, b, label in zip(pairs.start, pairs.end, pairs.labels, strict=True)
    ]
    torch.testing.assert_close(points, torch.stack(expected), atol=1e-5, rtol=0)
    assert steering.generator.largest_batch <= points_per_chunk


@pytest.mark.parametrize("walk", WALKS)
def test_walks_swap(walk):
    pairs = make_pairs()
    points = walk(pairs, 7, make_steering(), iterations=3, progress=False)
    assert points.shape == (3, 7, 6) and points.dtype == torch.float32 and not points.requires_grad
    assert torch.equal(points[:, 0], pairs.start) and torch.equal(points[:, -1], pairs.end)
    with pytest.raises(TypeError, match="iteratons"):
        walk(pairs, 7, make_steering(), iteratons=3)
    with pytest.raises(ValueError, match="steps must be >= 3"):
        walk(pairs, 2, make_steering())


def test_line_has_equal_steps():
    pairs = AnchorPairs(torch.zeros(1, 2), torch.tensor([[4.0, 8.0]]), torch.tensor([0]))
    assert walk_linear(pairs, 5).tolist() == [[[0, 0], [1, 2], [2, 4], [3, 6], [4, 8]]]


def test_walk_lowers_its_classifier_terms_and_logs_them(caplog):
    pairs, steering = make_pairs(), make_steering()
    with caplog.at_level(logging.INFO, logger="monai_plan.latent.walks"):
        points = walk_private(pairs, 9, steering, iterations=60, identity_weight=10.0, progress=False)
    line, walked = (walk_terms(p, pairs.labels, steering) for p in (walk_linear(pairs, 9), points))
    assert (walked.identity < line.identity).all() and (walked.spring > line.spring).all()
    assert "3 private walks of 9 points, 60 iterations" in caplog.text


def test_terms_of_a_line_by_hand():
    pairs = AnchorPairs(torch.zeros(1, 6), torch.ones(1, 6) * 2, torch.tensor([1]))
    steering = WalkSteering(FakeGenerator(), classifier(4, 1), classifier(2, 2))
    for network in (steering.identity_network, steering.label_network):
        nn.init.zeros_(network[2].weight)  # logits 0: uniform identities, class probability 1/2
    terms = walk_terms(walk_linear(pairs, 5), pairs.labels, steering, points_per_chunk=2)
    assert terms.spring.item() == pytest.approx(6 * 4 / 4)
    assert terms.identity.item() == pytest.approx(0, abs=1e-6) and terms.label.item() == pytest.approx(0.693147)


def test_networks_and_random_state_are_left_as_found():
    steering = make_steering()
    steering.identity_network.train()
    steering.label_network.eval()
    steering.label_network[2].bias.requires_grad_(False)
    state, mean = torch.get_rng_state(), steering.identity_network[1].running_mean.clone()
    walk_private(make_pairs(), 5, steering, iterations=2, progress=False)
    networks = (steering.generator, steering.identity_network, steering.label_network)
    assert all(p.grad is None for network in networks for p in network.parameters())
    assert steering.generator.weight.requires_grad and not steering.label_network[2].bias.requires_grad
    assert [network.training for network in networks] == [True, True, False]
    assert torch.equal(mean, steering.identity_network[1].running_mean) and torch.equal(state, torch.get_rng_state())


def test_autocast_keeps_float32_points_near_the_exact_ones():
    pairs = make_pairs()
    exact, fast = (
        walk_private(pairs, 6, make_steering(), iterations=5, amp_dtype=amp, progress=False)
        for amp in (None, torch.bfloat16)
    )
    assert fast.dtype == torch.float32 and not torch.equal(fast, exact)
    assert (fast - exact).abs().mean() < 0.05


def broken_generator():
    generator = FakeGenerator()
    generator.weight.data[0, 0] = torch.nan
    return generator


@pytest.mark.parametrize(
    "steering, error, words",
    [
        (None, ValueError, "WalkSteering"),
        (WalkSteering(FakeGenerator(), classifier(1, 0), classifier(2, 0)), ValueError, "one identity"),
        (WalkSteering(FakeGenerator(), classifier(3, 0), classifier(1, 0)), ValueError, "1 classes"),
        (
            WalkSteering(broken_generator(), classifier(3, 0), classifier(2, 0)),
            RuntimeError,
            "not finite at iteration 0",
        ),
    ],
)
def test_errors_name_the_cause(steering, error, words):
    with pytest.raises(error, match=words):
        walk_private(make_pairs(), 5, steering, iterations=1, progress=False)


@pytest.mark.parametrize(
    "options",
    [
        {"iterations": 0},
        {"points_per_chunk": 0},
        {"learning_rate": 0.0},
        {"label_weight": -1.0},
        {"amp_dtype": torch.float16},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError):
        walk_linear(make_pairs(), 5, **options)
