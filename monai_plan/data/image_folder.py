"""The images that a classifier is asked about: the test split of a data list, or whatever lies in a folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from monai_plan.data.datalist import DATALIST_NAME, read_splits
from monai_plan.transforms.radiograph_files import RADIOGRAPH_SUFFIXES, is_radiograph
from monai_plan.utils import PlanKeys

__all__ = ["images_to_classify"]

logger = logging.getLogger(__name__)


def images_to_classify(
    dataset_dir: str | None, datalist: str | None = None, num_classes: int | None = None, **phantom: Any
) -> dict[str, Any]:
    """The images that a configuration asks for, and the names of their classes where somebody has written them down.

    Args:
        dataset_dir: a folder with a ``datalist.json``, of which the test split is taken; or a folder of images, which
            are all taken, those of its subfolders too; None or ``""`` for the test split of the phantoms.
        datalist: the data list's path, where it lies elsewhere.
        num_classes: see :func:`monai_plan.data.read_splits`; a folder of images leaves it unchecked.
        phantom: see :func:`monai_plan.data.read_splits`.

    Returns:
        ``testing``: items with the key ``image``, an absolute path or a phantom's text; those of a data list have its
        other keys, too. ``labels``: the classes' names as in a data list, or None for a folder of images.

    Raises:
        ValueError: see :func:`monai_plan.data.read_splits`; or the folder is missing or holds no image.
    """
    folder = Path(dataset_dir or "").expanduser()
    if datalist or not dataset_dir or (folder / DATALIST_NAME).is_file():
        splits = read_splits(dataset_dir, datalist, num_classes, **phantom)
        return {"testing": splits["testing"], "labels": splits["labels"]}
    return {"testing": [{str(PlanKeys.IMAGE): path} for path in _images_in(folder.resolve())], "labels": None}


def _images_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ValueError(f"no folder at '{folder}'. Give the folder of the images with --dataset_dir DIR")
    images, others = [], 0
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(parent, name) for name in names if not name.startswith(".")):
            if path.is_file() and is_radiograph(path):
                images.append(str(path))
            else:
                others += 1
    if not images:
        raise ValueError(
            f"no image in '{folder}' or its subfolders. Readable are {', '.join(RADIOGRAPH_SUFFIXES)} and DICOM files "
            "of any name. Give the folder of the images with --dataset_dir DIR"
        )
    if others:
        logger.warning("%d files below '%s' are not images by name and were left out", others, folder)
    return sorted(images)
