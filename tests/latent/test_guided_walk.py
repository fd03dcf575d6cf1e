"""The guided walk against a closed form, against the paper's walk on the same loss, and what must not change."""

import logging

import pytest
import torch
from fakes import FakeGenerator, classifier
from torch import nn

from monai_plan.latent import (
    AnchorPairs,
    LatentPrior,
    WalkSteering,
    ask_networks,
    pair_anchors,
    random_anchors,
    train_guide,
    walk_guided,
    walk_linear,
    walk_private,
)
from monai_plan.latent.frozen import frozen
from monai_plan.latent.guided_walk import GuidedOptions, _corrected, _lean, _Search
from monai_plan.latent.walk_problem import WalkProblem
from monai_plan.latent.walks import chunk_shares, image_outputs
from monai_plan.losses import identity_uniformity, label_agreement, spring_energy
from monai_plan.networks.nets import StyleGenerator


def make_pairs(count=3, seed=0, scale=1.0):
    rng = torch.Generator().manual_seed(seed)
    draw = [scale * torch.randn(count, 6, generator=rng) for _ in range(2)]
    return AnchorPairs(*draw, torch.arange(count) % 2)


def make_steering():
    return WalkSteering(FakeGenerator(), classifier(5, 1), classifier(2, 2))


class Plain(nn.Module):
    """The image is the latent."""

    def synthesize(self, w, noise="const", rng=None):
        return w[:, None, None]


class NoOpinion(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :2] * 0


def parabola_steering(centre):
    return WalkSteering(Plain(), nn.Flatten(), NoOpinion(), lambda outputs: (outputs - centre).square().sum(dim=1))


@pytest.mark.parametrize("options", [{"control_points": 5}, {"control_points": 99}, {"balance": "published"}])
def test_without_terms_the_line_is_the_answer(options):
    pairs = make_pairs()
    points = walk_guided(pairs, 9, make_steering(), identity_weight=0.0, label_weight=0.0, progress=False, **options)
    torch.testing.assert_close(points, walk_linear(pairs, 9), atol=1e-5, rtol=0)


@pytest.mark.parametrize("balance", ["published", "normalised"])
def test_all_points_and_a_parabola_give_the_solution_of_a_tridiagonal_system(balance):
    pairs, centre, steps = make_pairs(scale=0.2), torch.full((6,), 0.3), 8
    options = {"balance": balance, "identity_weight": 0.7, "control_points": 6, "iterations": 500, "tolerance": 1e-9}
    points = walk_guided(pairs, steps, parabola_steering(centre), progress=False, **options)
    line = walk_linear(pairs, steps)
    unit = (line[:, 1:-1] - centre).square().sum(dim=2).mean()
    for path, (a, b) in enumerate(zip(pairs.start, pairs.end, strict=True)):
        if balance == "published":
            spring, weights = 1.0, 0.7 * chunk_shares(6)
        else:
            spring, weights = 1 / float(spring_energy(line)[path]), torch.full((6,), 0.7 / 6) / unit
        matrix = spring * (2 * torch.eye(6) - torch.eye(6).roll(1, 0).tril(-1) - torch.eye(6).roll(-1, 0).triu(1))
        right = weights[:, None] * centre + spring * torch.cat([a[None], torch.zeros(4, 6), b[None]])
        expected = torch.linalg.solve(matrix + weights.diag(), right)
        torch.testing.assert_close(points[path, 1:-1], expected, atol=2e-3, rtol=0)


def published_loss(points, labels, steering):
    inner = points[:, 1:-1].flatten(0, 1)
    answers = ask_networks(inner, steering)
    terms = 0.1 * identity_uniformity(answers.identity)
    terms = terms + label_agreement(answers.label, labels.repeat_interleave(points.shape[1] - 2))
    return spring_energy(points) + (terms.view(len(points), -1) * chunk_shares(points.shape[1] - 2)).sum(dim=1)


@pytest.mark.parametrize(("control_points", "slack"), [(14, 1.03), (8, 1.12)])
def test_reaches_the_loss_of_the_papers_walk(control_points, slack):
    pairs, steering = make_pairs(12), make_steering()
    settings = {"balance": "published", "control_points": control_points, "tolerance": 1e-5}
    guided = walk_guided(pairs, 16, steering, progress=False, **settings)
    theirs = walk_private(pairs, 16, steering, iterations=500, progress=False)
    ours, paper, line = (published_loss(p, pairs.labels, steering) for p in (guided, theirs, walk_linear(pairs, 16)))
    assert ours.mean() <= slack * paper.mean() < 0.5 * line.mean() and (ours < line).all()


def test_a_guide_spares_the_generator_and_finds_nearly_the_same():
    pairs, steering = make_pairs(6, scale=1.5), make_steering()
    lines = walk_linear(pairs, 40).flatten(0, 1)
    nearby = lines + 0.3 * torch.randn(lines.shape, generator=torch.Generator().manual_seed(1))
    guide = train_guide(ask_networks(torch.cat([lines, nearby]), steering), steering, iterations=600, progress=False)
    steering.generator.largest_batch = 0
    guided = walk_guided(pairs, 12, steering, guide, balance="published", progress=False)
    assert steering.generator.largest_batch == 0
    loss, line = (published_loss(p, pairs.labels, steering) for p in (guided, walk_linear(pairs, 12)))
    direct = published_loss(
        walk_guided(pairs, 12, steering, balance="published", progress=False), pairs.labels, steering
    )
    assert (line - loss).sum() > 0.8 * (line - direct).sum() > 0


class Uphill(nn.Module):
    """A prior whose energy falls along the first axis."""

    def __init__(self, typical):
        super().__init__()
        self.typical = typical

    def energy(self, w, labels):
        return self.typical - w[:, 0]


def test_the_prior_pulls():
    pairs = make_pairs()
    options = {"identity_weight": 0.0, "label_weight": 0.0, "progress": False}
    free = walk_guided(pairs, 9, make_steering(), **options)
    pulled = walk_guided(pairs, 9, make_steering(), prior=Uphill(9.0), prior_weight=0.5, **options)
    assert (pulled[:, 1:-1, 0] > free[:, 1:-1, 0]).all()
    torch.testing.assert_close(pulled[:, :, 1:], free[:, :, 1:], atol=1e-4, rtol=0)
    pushed = walk_guided(pairs, 9, make_steering(), prior=Uphill(-9.0), prior_weight=0.5, **options)
    assert (pushed[:, 1:-1, 0] < free[:, 1:-1, 0]).all()  # too likely: the mean of many


def test_with_the_prior_points_are_as_likely_as_draws():
    generator = StyleGenerator(16, 1, 2, channel_base=64, channel_max=8).eval()
    prior = LatentPrior.fit(generator, 1000)
    pairs = pair_anchors(random_anchors(generator, 20, seed=0), 10, seed=0)
    steering = WalkSteering(generator, NoOpinion(), NoOpinion(), lambda outputs: outputs[:, 0])
    labels = pairs.labels.repeat_interleave(10)
    energies = [
        prior.energy(walk_guided(pairs, 12, steering, prior=p, progress=False)[:, 1:-1].flatten(0, 1), labels).mean()
        for p in (None, prior)
    ]
    assert energies[0] < 0.8 and energies[1] == pytest.approx(1, abs=0.05)


def test_normalised_terms_do_not_know_the_scale_of_w():
    """Ten times larger latents and a generator that divides by ten: the same pictures."""
    pairs = make_pairs(4)
    large = AnchorPairs(10 * pairs.start, 10 * pairs.end, pairs.labels)
    small, wide = make_steering(), make_steering()
    with torch.no_grad():
        wide.generator.weight /= 10
    points = [walk_guided(p, 11, s, progress=False) for p, s in ((pairs, small), (large, wide))]
    torch.testing.assert_close(10 * points[0], points[1], atol=5e-2, rtol=1e-2)


def test_ends_are_kept_paths_do_not_mix_and_networks_are_left_as_found():
    pairs, steering = make_pairs(), make_steering()
    steering.label_network.train()
    state = torch.get_rng_state()
    points = walk_guided(pairs, 9, steering, balance="published", progress=False)
    assert torch.equal(points[:, 0], pairs.start) and torch.equal(points[:, -1], pairs.end)
    assert steering.label_network.training and not points.requires_grad and torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in steering.generator.parameters())
    alone = AnchorPairs(pairs.start[:1], pairs.end[:1], pairs.labels[:1])
    one = walk_guided(alone, 9, steering, balance="published", points_per_chunk=3, progress=False)
    torch.testing.assert_close(one, points[:1], atol=1e-4, rtol=0)


def test_a_path_that_gains_nothing_more_stops(caplog):
    with caplog.at_level(logging.INFO):
        walk_guided(make_pairs(), 9, make_steering(), iterations=100000, progress=False)
    evaluations = float(caplog.messages[-1].split("; ")[-1].split()[0])
    assert 4 <= evaluations < 300


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"balance": "even"}, ValueError, "normalised"),
        ({"control_points": 0}, ValueError, "control_points"),
        ({"label_weight": -1.0}, ValueError, ">= 0"),
        ({"iteratons": 3}, TypeError, "iteratons"),
    ],
)
def test_refuses_options(options, error, message):
    with pytest.raises(error, match=message):
        walk_guided(make_pairs(), 9, make_steering(), **options)


def test_refuses_broken_networks_and_few_points():
    steering = make_steering()
    with pytest.raises(ValueError, match="steps must be >= 3"):
        walk_guided(make_pairs(), 2, steering)
    with torch.no_grad():
        steering.generator.weight.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="not finite"):
        walk_guided(make_pairs(), 9, steering, progress=False)


def test_refinement_needs_few_images_and_mends_a_poor_guide():
    pairs, steering = make_pairs(8, scale=1.5), make_steering()
    settings = {"balance": "published", "control_points": 6, "tolerance": 1e-5, "progress": False}
    few = 0.5 * torch.randn(60, 6, generator=torch.Generator().manual_seed(3))
    guide = train_guide(ask_networks(few, steering), steering, iterations=200, progress=False)
    direct = walk_guided(pairs, 14, steering, iterations=400, **settings)
    guided = walk_guided(pairs, 14, steering, guide, **settings)
    refined = walk_guided(pairs, 14, steering, guide, refinements=15, **settings)
    plain = walk_guided(pairs, 14, steering, iterations=15, **settings)
    best, poor, mended, early = (published_loss(p, pairs.labels, steering) for p in (direct, guided, refined, plain))
    assert poor.mean() > 1.1 * best.mean()  # or there is nothing to mend
    assert (mended <= poor + 1e-4).all() and mended.mean() < best.mean() + 0.25 * (poor - best).mean()
    assert mended.mean() < early.mean()


def misled(steering, seed=7):
    """A guide of other classifiers, which points the wrong way."""
    wrong = WalkSteering(steering.generator, classifier(5, seed), classifier(2, seed + 1))
    latents = 1.5 * torch.randn(1500, 6, generator=torch.Generator().manual_seed(seed))
    return train_guide(ask_networks(latents, wrong), wrong, iterations=400, progress=False)


def test_refinement_follows_the_true_slope_whatever_the_guide_says():
    pairs, steering = make_pairs(10, scale=1.5), make_steering()
    settings = {"balance": "published", "control_points": 6, "tolerance": 1e-6, "progress": False}
    guide = misled(steering)
    start, refined = (walk_guided(pairs, 14, steering, guide, refinements=n, **settings) for n in (0, 60))
    direct = walk_guided(pairs, 14, steering, iterations=400, **settings)
    wrong, mended, best = (published_loss(p, pairs.labels, steering) for p in (start, refined, direct))
    assert wrong.mean() > 1.3 * best.mean()  # or there is nothing to mend
    assert mended.mean() < best.mean() + 0.15 * (wrong - best).mean()


def test_refined_paths_do_not_mix():
    pairs, steering = make_pairs(5, scale=1.5), make_steering()
    settings = {"balance": "published", "control_points": 6, "tolerance": 1e-2, "refinements": 12, "progress": False}
    guide = misled(steering)
    together = walk_guided(pairs, 14, steering, guide, **settings)
    for row in range(5):
        one = AnchorPairs(*(t[row : row + 1] for t in (pairs.start, pairs.end, pairs.labels)))
        torch.testing.assert_close(
            walk_guided(one, 14, steering, guide, **settings)[0], together[row], atol=1e-3, rtol=0
        )


def test_equal_ends_are_no_trouble():
    pairs, steering = make_pairs(2), make_steering()
    loop = AnchorPairs(pairs.start, pairs.start.clone(), pairs.labels)
    points = walk_guided(loop, 9, steering, misled(steering), refinements=3, progress=False)
    assert torch.isfinite(points).all()


def test_the_corrected_guide_has_the_true_slope_at_the_centre_and_its_own_everywhere():
    pairs, steering = make_pairs(4), make_steering()
    arguments = (walk_linear(pairs, 12), pairs.labels, steering, None, GuidedOptions(balance="published"))
    true = WalkProblem(lambda w: image_outputs(w, steering, None), 100, *arguments)
    guided = WalkProblem(misled(steering), 100, *(a if i == 0 else a for i, a in enumerate(arguments)))
    everyone = torch.arange(4)
    with frozen(steering.generator, steering.identity_network, steering.label_network):
        search = _Search(true.start, true.loss, 1e-3)
        lean = _lean(guided, search)
        surrogate = _corrected(guided, search.best, lean, torch.full((4,), 3.0))
        at_centre = surrogate(search.best, everyone)[1]
        torch.testing.assert_close(at_centre, search.gradients, atol=1e-4, rtol=1e-4)
        away = search.best + 0.3
        direction = torch.randn(away.shape, generator=torch.Generator().manual_seed(0))

        def without_springs(controls):
            springs = (guided.stretch @ controls + guided.pull).square().sum(dim=(1, 2)) * guided.spring_weight
            return surrogate(controls, everyone)[0] - springs

        difference = (without_springs(away + 1e-2 * direction) - without_springs(away - 1e-2 * direction)) / 2e-2
        slope = (surrogate(away, everyone)[1] * direction).sum(dim=(1, 2))
        torch.testing.assert_close(slope, difference, atol=2e-2, rtol=2e-2)
