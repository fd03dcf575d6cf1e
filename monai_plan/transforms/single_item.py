"""One item of a pipeline: its image as the networks take it, and its class as a number."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import NdarrayOrTensor
from monai.utils import convert_to_tensor

__all__ = ["class_number", "label_in", "signed_batch"]

_ROUNDING = 1e-3  # resampling and half precision


def signed_batch(img: NdarrayOrTensor) -> torch.Tensor:
    """An image as a batch of one.

    Args:
        img: array, tensor or MetaTensor, shape [C, H, W], range [-1, 1].

    Returns:
        A plain float32 tensor, shape [1, C, H, W], on the image's device.

    Raises:
        ValueError: the shape or a value is wrong.
    """
    image = convert_to_tensor(img, dtype=torch.float32, track_meta=False)
    if image.ndim != 3 or image.numel() == 0:
        raise ValueError(
            f"one image [C, H, W] expected, got shape {tuple(image.shape)}; put the transform behind "
            "EnsureChannelFirst and before anything that makes batches"
        )
    if not bool((image.abs() <= 1 + _ROUNDING).all()):
        raise ValueError(
            f"the image lies in {float(image.min()):.4g} .. {float(image.max()):.4g} and must lie in [-1, 1], as the "
            "networks saw it in training; scale it first, e.g. from 0 .. 255 with "
            "monai.transforms.ScaleIntensityRange(a_min=0, a_max=255, b_min=-1, b_max=1), or look for NaN in the file"
        )
    return image[None]


def class_number(label: Any) -> int:
    """An item's class: an int, or an array or tensor of one element.

    Raises:
        ValueError: it is not one whole number.
    """
    try:
        values = np.asarray(label, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        values = np.empty(0)
    if len(values) != 1 or not float(values[0]).is_integer():
        raise ValueError(
            f"the label must be one whole number, the image's class, got {label!r}; put the transform before labels "
            "are made one-hot, and map names to numbers with monai.transforms.MapLabelValued"
        )
    return int(values[0])


def label_in(item: Mapping[Hashable, Any], label_key: Hashable, otherwise: str = "") -> Any:
    """An item's label.

    Args:
        item: an item of a pipeline.
        label_key: where the label should stand.
        otherwise: how to do without, the end of the error's advice.

    Raises:
        KeyError: there is no such key.
    """
    if label_key not in item:
        raise KeyError(
            f"no '{label_key}' in an item with {sorted(map(str, item))}; give label_key, the key of the item's class"
            f"{otherwise}"
        )
    return item[label_key]
