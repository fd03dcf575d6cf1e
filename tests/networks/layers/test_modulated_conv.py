"""The batch-wide modulated convolution equals the literal one with weights per sample."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from monai_plan.networks.layers import ModulatedConv2d, ToImage


def literal(layer: ModulatedConv2d, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """StyleGAN2, equations 1 and 3, as a grouped convolution over a zero-inserted, low-passed image."""
    batch, channels, height, width = x.shape
    styles = w @ layer.affine.weight.t() / math.sqrt(w.shape[1]) + layer.affine.bias
    weights = layer.weight[None] * styles[:, None, :, None, None]
    weights = weights / (weights.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    if layer.up == 2:  # a transposed convolution: zeros between the pixels, the mirrored kernel, then the filter
        sparse = torch.zeros(batch, channels, 2 * height - 1, 2 * width - 1, dtype=x.dtype)
        sparse[:, :, ::2, ::2] = x
        x, weights, padding = sparse, weights.flip([3, 4]), 2
    else:
        padding = 1
    y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), weights.flatten(0, 1), padding=padding, groups=batch)
    y = y.reshape(batch, -1, *y.shape[2:])
    if layer.up == 2:
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 4
        filters = torch.outer(taps, taps).expand(y.shape[1], 1, 4, 4)
        y = F.conv2d(y, filters, padding=1, groups=y.shape[1])
    return y


def lrelu(x: torch.Tensor) -> torch.Tensor:
    return math.sqrt(2) * F.leaky_relu(x, 0.2)


@pytest.fixture
def layer(request):
    torch.manual_seed(0)
    layer = ModulatedConv2d(6, 5, w_dim=7, size=8, up=request.param)
    with torch.no_grad():
        layer.bias.normal_()
        layer.noise_strength.fill_(0.3)
    return layer


def inputs(layer: ModulatedConv2d) -> tuple[torch.Tensor, torch.Tensor]:
    size, dtype = 8 // layer.up, layer.weight.dtype
    rng = torch.Generator().manual_seed(1)
    return torch.randn(3, 6, size, size, generator=rng).to(dtype), torch.randn(3, 7, generator=rng).to(dtype)


@pytest.mark.parametrize("layer", [1, 2], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_weights_per_sample(layer, dtype):
    layer = layer.to(dtype)
    x, w = inputs(layer)
    bias = layer.bias[:, None, None]
    expected = lrelu(literal(layer, x, w) + layer.noise_const * layer.noise_strength + bias)
    result = layer(x, w, noise="const")
    assert result.dtype == dtype
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(result, expected, **tolerance)
    torch.testing.assert_close(layer(x, w, noise="none"), lrelu(literal(layer, x, w) + bias), **tolerance)


@pytest.mark.parametrize("layer", [1, 2], indirect=True)
def test_gradients_equal_those_of_weights_per_sample(layer):
    layer = layer.double()
    x, w = inputs(layer)
    ours = torch.autograd.grad(layer(x, w, noise="none").square().sum(), layer.weight)[0]
    literal_loss = lrelu(literal(layer, x, w) + layer.bias[:, None, None]).square().sum()
    torch.testing.assert_close(ours, torch.autograd.grad(literal_loss, layer.weight)[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("layer", [1], indirect=True)
def test_noise_modes(layer):
    x, w = inputs(layer)

    def random(seed: int) -> torch.Tensor:
        return layer(x, w, "random", torch.Generator().manual_seed(seed))

    assert torch.equal(layer(x, w, "const"), layer(x, w, "const"))
    assert torch.equal(random(0), random(0))
    assert not torch.equal(random(0), random(1))
    with pytest.raises(ValueError, match="'loud'.*'const'"):
        layer(x, w, "loud")


@pytest.mark.parametrize("noise", ["const", "random", "none"])
@pytest.mark.parametrize("layer", [1, 2], indirect=True)
def test_second_derivatives(layer, noise):
    layer = layer.double()
    x, w = (v[:1, :, :2, :2] if v.ndim == 4 else v[:1] for v in inputs(layer))
    layer.size, layer.noise_const = 2 * layer.up, layer.noise_const[: 2 * layer.up, : 2 * layer.up]

    def image(w: torch.Tensor) -> torch.Tensor:
        return layer(x, w, noise, torch.Generator().manual_seed(0))

    assert torch.autograd.gradgradcheck(image, w.requires_grad_(True))


@pytest.mark.parametrize("layer", [1], indirect=True)
def test_clamp_bounds_the_activations(layer):
    layer.clamp = 0.1
    x, w = inputs(layer)
    assert layer(x, w).abs().max().item() == pytest.approx(0.1)


def test_to_image_by_hand():
    layer = ToImage(in_channels=4, channels=1, w_dim=2, clamp=10.0)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.affine.weight.zero_()
        layer.bias.fill_(0.5)
    # styles are 1 (the bias); each pixel is sum(x) / sqrt(4) + 0.5, not demodulated
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1)
    assert layer(x, torch.zeros(1, 2)).item() == pytest.approx(5.5)
    assert layer(x * 100, torch.zeros(1, 2)).item() == pytest.approx(10.0)


def test_float16_does_not_lose_features_to_large_styles():
    """Squares of styles beyond float16's range: the demodulation must not turn the features into zeros."""
    layer = ModulatedConv2d(64, 8, 16, 4)
    with torch.no_grad():
        layer.affine.bias.fill_(40.0)
    x, w = torch.rand(2, 64, 4, 4), torch.randn(2, 16)
    expected = layer(x, w)
    with torch.autocast("cpu", torch.float16):
        found = layer(x.half(), w.half())
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)
