"""Low-pass filters against a literal zero-insertion and scipy's convolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d

from monai_plan.networks.layers.resample import blur, upsample

KERNEL = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64.0


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("gain", [1.0, 4.0])
@pytest.mark.parametrize("padding", [(1, 1), (2, 2), (2, 1), (0, 3)])
def test_blur_is_the_padded_correlation(padding, gain, stride):
    x = draw(2, 3, 7, 6)
    expected = [
        [correlate2d(np.pad(channel, padding), KERNEL * gain, mode="valid")[::stride, ::stride] for channel in image]
        for image in x.numpy()
    ]
    torch.testing.assert_close(blur(x, padding, gain, stride), torch.tensor(np.array(expected)))


def test_upsample_is_zero_insertion_and_the_filter():
    x = draw(2, 3, 5, 4)
    sparse = np.zeros((2, 3, 10, 8))
    sparse[:, :, ::2, ::2] = x.numpy()
    expected = [
        [correlate2d(np.pad(channel, (2, 1)), KERNEL * 4, mode="valid") for channel in image] for image in sparse
    ]
    torch.testing.assert_close(upsample(x), torch.tensor(np.array(expected)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_constant_stays_constant_and_the_dtype_is_kept(dtype):
    up = upsample(torch.ones(1, 2, 6, 6, dtype=dtype))
    assert up.shape == (1, 2, 12, 12) and up.dtype == dtype
    assert torch.equal(up[:, :, 2:-2, 2:-2], torch.ones(1, 2, 8, 8, dtype=dtype))
