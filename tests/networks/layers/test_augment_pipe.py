"""Augmentation: off, on, replayable, differentiable, without a leak."""

from __future__ import annotations

import math

import pytest
import torch

from monai_plan.networks.layers import AugmentPipe
from monai_plan.utils import generator_for

NOTHING = {
    **{"flip": False, "shift": 0.0, "log_scale": 0.0, "angle": 0.0, "brightness": 0.0, "log_contrast": 0.0},
    **{"hue": 0.0, "log_saturation": 0.0},
}


def batch(channels: int = 1, dtype: torch.dtype = torch.float32, count: int = 8) -> torch.Tensor:
    return (torch.rand(count, channels, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(dtype)


def rng(seed: int = 0) -> torch.Generator:
    return generator_for(seed, "test")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_shape_and_dtype_are_kept(channels, dtype, p):
    x = batch(channels, dtype)
    y = AugmentPipe(p)(x, rng())
    assert y.shape == x.shape and y.dtype == dtype and torch.isfinite(y).all()
    assert torch.equal(y, x) == (p == 0.0)


def test_every_image_changes_at_p_one_and_about_half_of_the_factors_at_one_half():
    x = torch.zeros(512, 1, 4, 4)
    only_brightness = {**NOTHING, "brightness": 0.2}
    assert (AugmentPipe(1.0, **only_brightness)(x, rng()).flatten(1).abs().amax(1) > 0).all()
    share = (AugmentPipe(0.5, **only_brightness)(x, rng()).flatten(1).abs().amax(1) > 0).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.08)


def test_same_generator_same_result_and_the_global_state_is_untouched():
    augment, x = AugmentPipe(1.0), batch()
    before = torch.get_rng_state()
    first = augment(x, rng(1))
    assert torch.equal(first, augment(x, rng(1)))
    assert not torch.equal(first, augment(x, rng(2)))
    assert torch.equal(before, torch.get_rng_state())


def test_only_flip_gives_the_image_or_its_mirror():
    x = batch(count=64)
    y = AugmentPipe(1.0, **{**NOTHING, "flip": True})(x, rng())
    same = (y - x).flatten(1).abs().amax(1) < 1e-5
    mirrored = (y - x.flip(-1)).flatten(1).abs().amax(1) < 1e-5
    assert (same ^ mirrored).all()
    assert 16 < mirrored.sum() < 48  # half of them


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_active_is_the_identity_at_p_one(channels):
    assert torch.equal(AugmentPipe(1.0, **NOTHING)(batch(channels), rng()), batch(channels))


@pytest.mark.parametrize(("channels", "p", "amounts"), [(1, 0.3, 7), (3, 0.2, 9), (1, 0.6, 7)])
def test_the_share_of_unaltered_images_is_the_closed_form(channels, p, amounts):
    x = batch(channels, count=2000)[..., :4, :4]
    same = (AugmentPipe(p)(x, rng()) == x).flatten(1).all(1).float().mean().item()
    expected = (1 - p) ** amounts * (1 - p / 2)
    assert same > 0 and same == pytest.approx(expected, abs=4 * math.sqrt(expected / 2000))


def test_mean_effects_are_those_of_their_distributions():
    """At p = 0.8 of 4000 images: E[contrast] = 2^(s^2 ln 2 / 2), E[turned colour] = sin(a) / a, mirrored p / 2."""
    x = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(4000, 3, 2, 2).contiguous()
    contrast = AugmentPipe(0.8, **{**NOTHING, "log_contrast": 0.4})(x, rng())[:, 0].mean().item()
    assert contrast == pytest.approx(0.2 + 0.8 * 2 ** (0.16 * math.log(2) / 2), abs=0.02)
    red, *others = AugmentPipe(0.8, **{**NOTHING, "hue": math.pi / 2})(x, rng()).mean(dim=(0, 2, 3)).tolist()
    along = 0.2 + 0.8 * math.sin(math.pi / 2) / (math.pi / 2)
    assert red == pytest.approx(1 / 3 + 2 / 3 * along, abs=0.02)
    assert others == pytest.approx([(1 - along) / 3] * 2, abs=0.02)
    edge = torch.tensor([1.0, 0.0]).expand(4000, 1, 2, 2).contiguous()
    mirrored = 1 - AugmentPipe(0.8, **{**NOTHING, "flip": True})(edge, rng())[:, 0, 0, 0].mean().item()
    assert mirrored == pytest.approx(0.4, abs=0.03)


def test_what_is_left_of_a_difference_at_the_limit_is_above_zero():
    """The factor (1 - p) + p c of the docstring, at its least: t = 4.4934, where c = sin t / t = -0.2172."""
    t, p = 4.4934, 0.8
    x = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(4000, 3, 1, 1).contiguous()
    y = AugmentPipe(p, **{**NOTHING, "hue": t})(x, rng()).mean(dim=(0, 2, 3))
    left = y[0] - y.mean()  # what is left of the red that was 2 / 3 beyond the mean
    assert left / (2 / 3) == pytest.approx(1 - p + p * math.sin(t) / t, abs=0.035)
    assert 1 - p + p * math.sin(t) / t > 0


def test_hue_turns_colours_about_the_grey_axis_and_saturation_scales_across_it():
    x = batch(3, count=32)
    grey = x.mean(dim=1, keepdim=True)
    colour = (x - grey).square().sum(dim=1)
    turned = AugmentPipe(1.0, **{**NOTHING, "hue": math.pi})(x, rng())
    torch.testing.assert_close(turned.mean(dim=1, keepdim=True), grey, rtol=0, atol=1e-5)
    torch.testing.assert_close((turned - grey).square().sum(dim=1), colour, rtol=0, atol=1e-4)
    faded = AugmentPipe(1.0, **{**NOTHING, "log_saturation": 1.0})(x, rng())
    factors = ((faded - grey).square().sum(dim=1) / colour).flatten(1).sqrt()
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(faded.mean(dim=1, keepdim=True), grey, rtol=0, atol=1e-5)
    assert factors[:, 0].log2().std() == pytest.approx(1.0, abs=0.4)


@pytest.mark.parametrize("channels", [1, 2])
def test_colours_are_for_rgb_alone_and_leave_the_other_draws(channels):
    without = AugmentPipe(0.8, hue=0.0, log_saturation=0.0)(batch(channels), rng())
    assert torch.equal(AugmentPipe(0.8)(batch(channels), rng()), without)


def test_brightness_is_added_and_contrast_is_multiplied():
    x = batch(count=16)
    shifts = (AugmentPipe(1.0, **{**NOTHING, "brightness": 0.2})(x, rng()) - x).flatten(1)
    torch.testing.assert_close(shifts, shifts[:, :1].expand_as(shifts), rtol=0, atol=1e-4)
    factors = (AugmentPipe(1.0, **{**NOTHING, "log_contrast": 0.4})(x, rng()).flatten(1) * x.flatten(1)).sum(1)
    factors = factors / x.flatten(1).square().sum(1)
    assert (factors > 0).all() and factors.std() > 0.1


@pytest.mark.parametrize(("channels", "p"), [(1, 1.0), (3, 1.0), (1, 0.15), (3, 0.15)])
def test_gradients_reach_the_images(channels, p):
    x = batch(channels).requires_grad_(True)
    AugmentPipe(p)(x, rng()).square().sum().backward()
    assert (x.grad.flatten(1).abs().sum(1) > 0).all()


def test_autocast_does_not_coarsen_the_coordinates():
    augment = AugmentPipe(1.0)
    with torch.autocast("cpu", torch.bfloat16):
        inside = augment(batch(), rng())
    assert torch.equal(inside, augment(batch(), rng()))


def test_p_is_saved():
    other = AugmentPipe(0.0)
    other.load_state_dict(AugmentPipe(0.375).state_dict())
    assert other.p.item() == 0.375
