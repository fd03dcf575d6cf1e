"""A data set as tensors."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_plan.data import stack_images


def test_images_labels_and_groups_keep_their_order():
    items = [
        {"image": MetaTensor(torch.full((1, 2, 2), float(number))), "label": number % 2, "group_id": f"p{number}"}
        for number in range(3)
    ]
    images, labels, groups = stack_images(items)
    assert type(images) is torch.Tensor and images[:, 0, 0, 0].tolist() == [0, 1, 2] and images.shape == (3, 1, 2, 2)
    assert labels.tolist() == [0, 1, 0] and labels.dtype == torch.int64 and groups == ["p0", "p1", "p2"]


def test_an_empty_split():
    with pytest.raises(ValueError, match="data set is empty; check the split"):
        stack_images([])
