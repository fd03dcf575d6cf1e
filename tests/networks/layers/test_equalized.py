"""Equalised layers by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from monai_plan.networks.layers import EqualizedConv2d, EqualizedLinear
from monai_plan.networks.layers.equalized import LRELU_GAIN, lrelu_


@pytest.mark.parametrize(("bound", "expected"), [(None, [-0.2, 0.0, 3.0]), (2.0, [-0.2, 0.0, 2.0])])
def test_lrelu_by_hand(bound, expected):
    torch.testing.assert_close(lrelu_(torch.tensor([-1.0, 0.0, 3.0]), bound), torch.tensor(expected))


@pytest.mark.parametrize(
    ("gain", "clamp", "expected"),
    [
        (1.0, None, [-0.2 * math.sqrt(2), 0.0, 3 * math.sqrt(2)]),
        (0.5, None, [-0.1 * math.sqrt(2), 0.0, 1.5 * math.sqrt(2)]),
        (1.0, 2.0, [-0.2 * math.sqrt(2), 0.0, 2.0]),
        (0.5, 2.0, [-0.1 * math.sqrt(2), 0.0, 1.0]),  # the bound is multiplied by the gain
    ],
)
def test_gain_and_clamp_by_hand(gain, clamp, expected):
    layer = EqualizedConv2d(1, 1, 1, clamp=clamp)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.fill_(1.0)
    result = layer(torch.tensor([-2.0, -1.0, 2.0]).reshape(1, 1, 1, 3), gain)
    torch.testing.assert_close(result.flatten(), torch.tensor(expected))


@pytest.mark.parametrize("down", [1, 2])
def test_second_derivatives(down):
    torch.manual_seed(0)
    layer = EqualizedConv2d(2, 3, 3, down=down, clamp=1.0).double()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, x)


@pytest.mark.parametrize("lr_multiplier", [1.0, 0.01])
@pytest.mark.parametrize("activate", [False, True])
def test_linear_by_hand(lr_multiplier, activate):
    layer = EqualizedLinear(4, 1, bias_init=1.0, lr_multiplier=lr_multiplier, activate=activate)
    with torch.no_grad():
        layer.weight.fill_(1 / lr_multiplier)
    # (1 + 2 + 3 - 10) / sqrt(4) + 1 = -1
    result = layer(torch.tensor([[1.0, 2.0, 3.0, -10.0]]))
    torch.testing.assert_close(result, torch.tensor([[-0.2 * math.sqrt(2) if activate else -1.0]]))


def test_stored_weights_have_the_variance_of_the_multiplier():
    torch.manual_seed(0)
    assert EqualizedLinear(256, 256).weight.std().item() == pytest.approx(1.0, abs=0.02)
    assert EqualizedLinear(256, 256, lr_multiplier=0.01).weight.std().item() == pytest.approx(100.0, abs=2.0)


@pytest.mark.parametrize("kernel", [1, 3])
def test_same_size_convolution(kernel):
    torch.manual_seed(0)
    layer = EqualizedConv2d(3, 5, kernel, activate=False)
    with torch.no_grad():
        layer.bias.normal_()
    x = torch.randn(2, 3, 8, 8)
    expected = F.conv2d(x, layer.weight / math.sqrt(3 * kernel**2), layer.bias, padding=kernel // 2)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x, gain=0.5), expected * 0.5)


@pytest.mark.parametrize("kernel", [1, 3])
def test_halving_convolution_is_filter_then_convolution_then_every_second_pixel(kernel):
    torch.manual_seed(0)
    layer = EqualizedConv2d(3, 5, kernel, down=2).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    filters = torch.outer(taps, taps).expand(3, 1, 4, 4)
    low = F.conv2d(F.pad(x, [kernel // 2 + 1] * 4), filters, groups=3)
    expected = LRELU_GAIN * F.leaky_relu(F.conv2d(low, layer.weight / math.sqrt(3 * kernel**2))[:, :, ::2, ::2], 0.2)
    assert expected.shape == (2, 5, 4, 4)
    torch.testing.assert_close(layer(x), expected)
