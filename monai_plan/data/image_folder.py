"""The images that a classifier is asked about: the test split of a data list, or whatever lies in a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.utils import optional_import

from monai_plan.data.datalist import DATALIST_NAME, read_splits
from monai_plan.transforms.radiograph_files import RADIOGRAPH_SUFFIXES, is_radiograph
from monai_plan.utils import PlanKeys

__all__ = ["images_to_classify", "require_readable"]

logger = logging.getLogger(__name__)
tqdm, has_tqdm = optional_import("tqdm", name="tqdm")

_MOST_FAULTS = 10


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
        OSError: a folder below it cannot be read.
    """
    folder = Path(dataset_dir or "").expanduser()
    if datalist or not dataset_dir or (folder / DATALIST_NAME).is_file():
        splits = read_splits(dataset_dir, datalist, num_classes, **phantom)
        return {"testing": splits["testing"], "labels": splits["labels"]}
    return {"testing": [{str(PlanKeys.IMAGE): path} for path in _images_in(folder.resolve())], "labels": None}


def require_readable(items: Sequence[Mapping[str, Any]], read: Callable[[str], Any]) -> None:
    """Read every image once, before the work starts.

    Args:
        items: with the key ``image``, a path.
        read: called with each path, e.g. a :class:`~monai_plan.transforms.LoadRadiograph`.

    Raises:
        ValueError: images cannot be used; the first ten are named.
    """
    faults = []
    for item in tqdm(items, desc="checking images", unit="image", mininterval=1.0) if has_tqdm else items:
        try:
            read(item[str(PlanKeys.IMAGE)])
        except (ValueError, OSError) as error:
            faults.append(str(error))
    if faults:
        shown = "\n  ".join(faults[:_MOST_FAULTS])
        raise ValueError(f"{len(faults)} of {len(items)} images cannot be used:\n  {shown}")


def _refuse_folder(error: OSError) -> None:
    raise OSError(
        error.errno,
        f"the folder '{error.filename}' cannot be read ({error.strerror}), and its images would be left out. Change "
        "its permissions, or move it away",
    ) from error


def _images_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ValueError(f"no folder at '{folder}'. Give the folder of the images with --dataset_dir DIR")
    images, others = [], 0
    for parent, folders, names in os.walk(folder, onerror=_refuse_folder):
        entered = [name for name in folders if not name.startswith(".") and not Path(parent, name).is_symlink()]
        others += len(folders) - len(entered)
        folders[:] = entered
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
        logger.warning(
            "%d files or folders below '%s' were left out: not images by name, hidden folders, or links to folders",
            others,
            folder,
        )
    return sorted(images)
