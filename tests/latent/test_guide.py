"""The guide learns what the true networks say, and the report shows when it has not."""

import math

import pytest
import torch
from fakes import FakeGenerator, classifier
from scipy.stats import spearmanr

from monai_plan.latent import WalkSteering, ask_networks, guide_latents, judge_guide, train_guide
from monai_plan.latent.guide import _rank_correlation
from monai_plan.networks.nets import LatentGuide


def make_steering():
    return WalkSteering(FakeGenerator(), classifier(5, 1), classifier(2, 2))


def test_latents_are_of_all_classes_on_and_between_draws():
    generator = FakeGenerator().eval()
    latents = guide_latents(generator, 4000, seed=3)
    assert latents.shape == (4000, 6) and torch.equal(latents, guide_latents(generator, 4000, seed=3))
    drawn, between = latents[0::4], latents[2::4]
    assert drawn.var(dim=0).mean() == pytest.approx(1, abs=0.1)
    assert between.var(dim=0).mean() == pytest.approx(2 / 3, abs=0.1)  # E[f^2 + (1 - f)^2], f uniform
    of_first, of_second = latents[0::2].mean(), latents[1::2].mean()
    assert of_second - of_first == pytest.approx(1.0, abs=0.1)  # the fake mapping adds the label


def test_answers_are_those_of_the_networks_on_clamped_images():
    steering, latents = make_steering(), 3 * torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
    answers = ask_networks(latents, steering, batch_size=3)
    images = steering.generator.eval().synthesize(latents).clamp(-1, 1)
    torch.testing.assert_close(answers.identity, steering.identity_network.eval()(images))
    torch.testing.assert_close(answers.label, steering.label_network.eval()(images))
    assert len(answers + answers) == 14 and not answers.label.requires_grad


def test_a_trained_guide_agrees_and_an_untrained_one_is_found_out():
    steering = make_steering()
    answers, unseen = (ask_networks(guide_latents(steering.generator, n, seed=n), steering) for n in (2000, 300))
    state = torch.get_rng_state()
    trained = train_guide(answers, steering, iterations=400, progress=False)
    assert torch.equal(state, torch.get_rng_state()) and not trained.training
    good = judge_guide(trained, unseen, steering)
    assert good.count == 300 and good.identity_correlation > 0.93 and good.label_agreement > 0.94
    assert good.identity_error < 0.15 * good.identity_mean and abs(good.identity_bias) < good.identity_error
    bad = judge_guide(LatentGuide(6, 5, 2), unseen, steering)
    assert bad.identity_correlation < 0.5 and bad.label_agreement < 0.8 and bad.label_error > 3 * good.label_error


def test_going_on_with_answers_along_a_path_mends_the_guide_there():
    steering = make_steering()
    near = ask_networks(0.3 * guide_latents(steering.generator, 500, seed=0), steering)
    far = ask_networks(4 + guide_latents(steering.generator, 500, seed=1), steering)
    guide = train_guide(near, steering, iterations=200, progress=False)
    before = judge_guide(guide, far, steering)
    after = judge_guide(train_guide(near + far, steering, guide, iterations=300, progress=False), far, steering)
    assert after.identity_error < 0.5 * before.identity_error


def test_file_keeps_the_guide(tmp_path):
    guide = LatentGuide(6, 5, 2, width=16, depth=1)
    guide.standardise(torch.randn(9, 6) * 3 + 1)
    loaded = LatentGuide.load(guide.save(tmp_path / "guide.safetensors"))
    w = torch.randn(4, 6)
    assert all(torch.equal(a, b) for a, b in zip(guide(w), loaded(w), strict=True))


def test_rank_correlation_by_hand():
    assert _rank_correlation(torch.tensor([1.0, 2, 3]), torch.tensor([10.0, 20, 400])) == pytest.approx(1)
    assert _rank_correlation(torch.tensor([1.0, 2, 3]), torch.tensor([3.0, 2, 1])) == pytest.approx(-1)
    assert _rank_correlation(torch.tensor([1.0, 2, 3, 4]), torch.tensor([2.0, 1, 4, 3])) == pytest.approx(0.6)
    hinge, guess = torch.tensor([0.0, 0, 0, 0, 1, 2]), torch.tensor([0.0, 1, 2, 3, 0, 0])
    assert _rank_correlation(hinge, guess) == pytest.approx(spearmanr(hinge, guess).statistic) and guess.any()
    assert math.isnan(_rank_correlation(hinge, torch.zeros(6)))  # says nothing


def test_refuses():
    answers = ask_networks(torch.randn(2, 6), make_steering())
    with pytest.raises(ValueError, match="1 iteration"):
        train_guide(answers, make_steering(), iterations=0)
    with pytest.raises(ValueError, match="learning_rate"):
        train_guide(answers, make_steering(), iterations=3, learning_rate=1e30, progress=False)
    with pytest.raises(ValueError, match="at least 1"):
        LatentGuide(6, 0, 2)
