"""Augmentation: off, on, replayable, differentiable."""

from __future__ import annotations

import pytest
import torch

from monai_plan.networks.layers import AugmentPipe
from monai_plan.utils import generator_for

NOTHING = {"flip": False, "shift": 0.0, "log_scale": 0.0, "angle": 0.0, "brightness": 0.0, "log_contrast": 0.0}


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


def test_nothing_active_is_the_identity_at_p_one():
    torch.testing.assert_close(AugmentPipe(1.0, **NOTHING)(batch(), rng()), batch(), rtol=0, atol=1e-5)


def test_brightness_is_added_and_contrast_is_multiplied():
    x = batch(count=16)
    shifts = (AugmentPipe(1.0, **{**NOTHING, "brightness": 0.2})(x, rng()) - x).flatten(1)
    torch.testing.assert_close(shifts, shifts[:, :1].expand_as(shifts), rtol=0, atol=1e-4)
    factors = (AugmentPipe(1.0, **{**NOTHING, "log_contrast": 0.4})(x, rng()).flatten(1) * x.flatten(1)).sum(1)
    factors = factors / x.flatten(1).square().sum(1)
    assert (factors > 0).all() and factors.std() > 0.1


def test_gradients_reach_the_images():
    x = batch().requires_grad_(True)
    AugmentPipe(1.0)(x, rng()).square().sum().backward()
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
