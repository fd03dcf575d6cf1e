"""Layout of grids and PNG files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_plan.utils import image_grid, save_png

Image = pytest.importorskip("PIL.Image")


def test_grid_by_hand():
    images = torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1).expand(-1, 1, 2, 2)
    black, grey, white = 0, 128, 255
    expected = [
        [black, black, white, grey, grey],
        [black, black, white, grey, grey],
        [white, white, white, white, white],
        [white, white, white, white, white],
        [white, white, white, white, white],
    ]
    sheet = image_grid(images, columns=2, gap=1)
    assert sheet.dtype == torch.uint8 and sheet[:, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("count", "channels", "columns", "gap", "shape"),
    [(6, 1, 3, 2, (10, 22, 1)), (1, 3, 1, 2, (4, 6, 3)), (4, 3, 8, 0, (4, 48, 3)), (5, 1, 2, 1, (14, 13, 1))],
)
def test_shapes(count, channels, columns, gap, shape):
    assert image_grid(torch.zeros(count, channels, 4, 6), columns, gap).shape == shape


def test_values_beyond_the_range_are_clamped_and_gradients_dropped():
    images = torch.tensor([-5.0, 5.0]).reshape(1, 1, 1, 2).requires_grad_(True)
    assert image_grid(images.bfloat16(), 1).flatten().tolist() == [0, 255]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["a.png", "a"])
def test_png(tmp_path, channels, name):
    picture = torch.arange(2 * 3 * channels, dtype=torch.uint8).reshape(2, 3, channels)
    path = save_png(tmp_path / name, picture)
    assert path == tmp_path / "a.png" and [file.name for file in tmp_path.iterdir()] == ["a.png"]
    with Image.open(path) as image:
        assert image.mode == {1: "L", 3: "RGB"}[channels]
        np.testing.assert_array_equal(np.asarray(image).reshape(2, 3, channels), picture.numpy())
