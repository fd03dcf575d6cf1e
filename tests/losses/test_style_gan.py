"""Adversarial losses by hand."""

from __future__ import annotations

import math

import pytest
import torch

from monai_plan.losses.style_gan import discriminator_logistic_loss, generator_logistic_loss, gradient_penalty


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
