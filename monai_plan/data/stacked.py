"""A whole data set in memory, for figures that need all of its images at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from monai_plan.utils import PlanKeys

__all__ = ["StackedImages", "stack_images"]


class StackedImages(NamedTuple):
    """Images [N, C, H, W], labels int64 [N], and the group (patient) of each."""

    images: torch.Tensor
    labels: torch.Tensor
    groups: list[Any]


def stack_images(dataset: Iterable[Mapping[str, Any]]) -> StackedImages:
    """Read every item of a data set, e.g. a ``CacheDataset`` over one split of a data list.

    Args:
        dataset: dicts with ``image`` [C, H, W], ``label`` and ``group_id``.

    Raises:
        ValueError: it is empty.
    """
    items = list(dataset)
    if not items:
        raise ValueError("the data set is empty; check the split of the data list")
    images = torch.stack([torch.as_tensor(item[PlanKeys.IMAGE]).as_subclass(torch.Tensor) for item in items])
    labels = torch.tensor([int(item[PlanKeys.LABEL]) for item in items])
    return StackedImages(images, labels, [item[PlanKeys.GROUP] for item in items])
