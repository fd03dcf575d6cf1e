"""Adversarial losses by hand."""

from __future__ import annotations

import math

import pytest
import torch

from monai_plan.losses.style_gan import (
    PathLengthPenalty,
    StyleGanObjective,
    discriminator_logistic_loss,
    generator_logistic_loss,
    gradient_penalty,
    relativistic_discriminator_loss,
    relativistic_generator_loss,
)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize("fake", [[0.0], [1.0, -2.0], [3.0, 3.0, -0.5]])
def test_generator_loss(fake):
    expected = sum(softplus(-x) for x in fake) / len(fake)
    assert generator_logistic_loss(torch.tensor(fake)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("real", "fake"), [([0.0], [0.0]), ([2.0, -1.0], [1.0, -2.0])])
def test_discriminator_loss(real, fake):
    expected = sum(softplus(x) for x in fake) / len(fake) + sum(softplus(-x) for x in real) / len(real)
    assert discriminator_logistic_loss(torch.tensor(real), torch.tensor(fake)).item() == pytest.approx(expected)


def test_large_logits_stay_finite():
    assert generator_logistic_loss(torch.tensor([-1e4])).item() == pytest.approx(1e4)
    assert discriminator_logistic_loss(torch.tensor([1e4]), torch.tensor([-1e4])).item() == 0.0


def test_r1_of_a_linear_discriminator_is_the_squared_norm_of_its_weight():
    weight = torch.tensor([[1.0, -2.0], [3.0, 0.5]], requires_grad=True)
    images = torch.randn(5, 1, 2, 2).requires_grad_(True)
    penalty = gradient_penalty((images * weight).sum(dim=(1, 2, 3)), images)
    assert penalty.item() == pytest.approx(1 + 4 + 9 + 0.25)
    penalty.backward()  # d|w|^2 / dw = 2 w: the penalty trains the discriminator
    torch.testing.assert_close(weight.grad, 2 * weight.detach())


def test_r1_of_a_quadratic_discriminator_is_the_mean_over_images():
    images = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1).requires_grad_(True)
    penalty = gradient_penalty(images.square().flatten(), images)  # gradients 2 and 6
    assert penalty.item() == pytest.approx((4 + 36) / 2)


def test_relativistic_losses_compare_pairs():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    of_discriminator = (softplus(-1.5) + softplus(4.0)) / 2
    of_generator = (softplus(1.5) + softplus(-4.0)) / 2
    assert relativistic_discriminator_loss(real, fake).item() == pytest.approx(of_discriminator, rel=1e-6)
    assert relativistic_generator_loss(real, fake).item() == pytest.approx(of_generator, rel=1e-6)


def test_path_length_of_a_linear_generator():
    """Image = a * w in one pixel each: J^T y = a * y / sqrt(H W) for every layer; the lengths are known for each y."""
    penalty, scale = PathLengthPenalty(decay=0.75), 3.0
    lengths, expected = [], []
    for turn in range(2):
        ws = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(turn)).requires_grad_(True)
        images = scale * ws.sum(dim=1).view(2, 1, 2, 2)
        found = penalty(images, ws, torch.Generator().manual_seed(10 + turn))
        noise = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(10 + turn))
        lengths.append(scale * noise.flatten(1).norm(dim=1) / 2)  # both layers have the same gradient; sqrt(2 * 2) = 2
        expected.append(0.25 * lengths[-1].mean() + 0.75 * (expected[-1] if expected else 0.0))
        assert found.item() == pytest.approx((lengths[-1] - expected[-1]).square().mean().item(), rel=1e-5)
        assert penalty.mean.item() == pytest.approx(float(expected[-1]), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hinge"}, "'hinge'"),
        ({"r1_gamma": -1.0}, "at least 0"),
        ({"r2_gamma": -1.0}, "at least 0"),
        ({"mixing": 1.5}, "0 .. 1"),
        ({"penalty_interval": 0}, "from 1 on"),
        ({"path_length_interval": 0}, "from 1 on"),
    ],
)
def test_objective_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        StyleGanObjective(**options)
