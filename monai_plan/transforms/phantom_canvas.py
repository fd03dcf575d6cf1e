"""The canvas of all phantoms: pixels' places, resizing, grain, and the smooth shapes that pictures are drawn with.

Knows neither chests nor eyes. Positions are normalised to [-1, 1] over the picture: ``x`` to the right, ``y``
downwards.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

__all__ = [
    "CANVAS",
    "bilinear_lookup",
    "check_size",
    "grain",
    "pixel_centres",
    "resized",
    "smooth_step",
    "smooth_texture",
]

Array = np.ndarray

CANVAS = 96  # smaller pictures are drawn at this size and then averaged, so that every size shows the same picture
_SMALLEST, _LARGEST = 32, 256
_GRAIN = 128  # grid of the noise, whatever the picture's size


def check_size(image_size: int) -> None:
    """Raise a ValueError unless ``image_size`` is a whole number from 32 to 256."""
    if isinstance(image_size, bool) or not isinstance(image_size, int) or not _SMALLEST <= image_size <= _LARGEST:
        raise ValueError(
            f"image_size={image_size!r}: phantoms are drawn with a side of {_SMALLEST} to {_LARGEST} pixels, a whole "
            "number. For other sizes draw the nearest of these and append monai.transforms.Resize"
        )


@lru_cache(maxsize=4)
def pixel_centres(size: int) -> tuple[Array, Array]:
    """x and y [size * size] of the pixels' centres in [-1, 1]; shared, so never written to."""
    axis = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return x.ravel(), y.ravel()


def resized(picture: torch.Tensor, size: int) -> torch.Tensor:
    """Resize [C, S, S] to [C, size, size], averaging where it gets smaller."""
    return torch.nn.functional.interpolate(
        picture[None], size=(size, size), mode="bilinear", align_corners=False, antialias=True
    )[0]


def grain(rng: np.random.Generator, amplitude: float) -> torch.Tensor:
    """Noise of the film or the sensor, [1, 128, 128] with the standard deviation ``amplitude``."""
    return torch.from_numpy(rng.standard_normal((1, _GRAIN, _GRAIN), dtype=np.float32)).mul_(amplitude)


def smooth_step(distance: Array, softness: float) -> Array:
    """A step from 0 to 1 that is ``2 * softness`` wide and centred on 0."""
    ramp = np.clip(distance * (0.5 / softness) + 0.5, 0.0, 1.0)
    return ramp * ramp * (3.0 - 2.0 * ramp)


def bilinear_lookup(grid: Array, x: Array, y: Array) -> Array:
    """Read a square grid that covers [-1.2, 1.2] at the points (x, y) [P]; clamped outside."""
    last = grid.shape[0] - 1
    column = np.clip((x + 1.2) * (last / 2.4), 0, last - 1e-3)
    row = np.clip((y + 1.2) * (last / 2.4), 0, last - 1e-3)
    j, i = column.astype(np.intp), row.astype(np.intp)
    right, down = column - j, row - i
    flat, at = grid.ravel(), i * (last + 1) + j
    top = flat[at] * (1 - right) + flat[at + 1] * right
    bottom = flat[at + last + 1] * (1 - right) + flat[at + last + 2] * right
    return (top * (1 - down) + bottom * down).astype(np.float32)


def smooth_texture(rng: np.random.Generator) -> Array:
    """Three octaves of noise on a [48, 48] grid, in about [-1, 1]."""
    axis = np.linspace(-1.2, 1.2, 48, dtype=np.float32)
    y, x = (values.ravel() for values in np.meshgrid(axis, axis, indexing="ij"))
    total = np.zeros(48 * 48, dtype=np.float32)
    for cells, weight in ((5, 0.5), (11, 0.35), (24, 0.25)):
        total += weight * bilinear_lookup(rng.standard_normal((cells, cells), dtype=np.float32), x, y)
    return np.clip(total, -1.5, 1.5).reshape(48, 48)
