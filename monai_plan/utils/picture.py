"""Tensors to picture files."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from monai.utils import optional_import

from monai_plan.utils.files import atomic_path

__all__ = ["image_grid", "save_png"]

PIL_Image, _ = optional_import("PIL.Image", descriptor='pictures need Pillow: pip install "monai_plan[bundle]"')


def image_grid(images: torch.Tensor, columns: int, gap: int = 2) -> torch.Tensor:
    """Lay images [N, C, H, W] in [-1, 1] out in rows of ``columns``; returns uint8 [rows, width, C], white between."""
    images = images.detach().float().cpu().clamp(-1, 1)
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    sheet = torch.ones(channels, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[:, y : y + height, x : x + width] = image
    return ((sheet + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)


def save_png(path: str | os.PathLike, picture: torch.Tensor) -> Path:
    """Write a uint8 picture [H, W, 1 or 3] as PNG, whole or not at all; returns the path, which ends in ``.png``."""
    array = picture.squeeze(-1).numpy() if picture.shape[-1] == 1 else picture.numpy()
    path = Path(path).with_suffix(".png")
    with atomic_path(path) as partial:
        PIL_Image.fromarray(array).save(partial)
    return path
