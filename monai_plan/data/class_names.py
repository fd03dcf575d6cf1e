"""The names of classes, in order of their numbers; and those that a classifier was trained with."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from monai_plan.utils import read_json

__all__ = ["names_from_training", "names_of_classes"]

logger = logging.getLogger(__name__)

_ADVICE = "The names can be given by hand, in the order of the training: --labels \"['…','…']\""


def names_from_training(file: str | os.PathLike, labels: Mapping[str, str] | None) -> dict[str, str] | None:
    """The names that a training left beside its weights; where it left none, those of the data list, with a warning.

    Args:
        file: JSON, ``{"0": name, …}``.
        labels: of the data list that the classifier is asked about; ``None`` for a folder of images.

    Returns:
        The number as text to the name; ``None`` if nobody has written the names down.

    Raises:
        ValueError: the file is damaged, or the data list numbers its classes otherwise.
    """
    path = Path(file)
    if not path.is_file():
        if labels is None:
            return None
        logger.warning(
            "no '%s' tells which class is which, so the order of the data list is taken: %s. Where the classifier was "
            "trained on another order, its answers get the wrong names; give those of its training with --labels",
            path,
            _in_words(labels),
        )
        return dict(labels)
    try:
        trained = read_json(path)
    except ValueError as error:
        raise ValueError(f"the classes' names are damaged: {error}. {_ADVICE}") from error
    if not isinstance(trained, dict) or not all(isinstance(name, str) for name in trained.values()):
        raise ValueError(f"'{path}' holds {trained!r}, and not the names of classes. {_ADVICE}")
    if labels is not None and dict(labels) != trained:
        raise ValueError(
            f"the classifier was trained with the classes {_in_words(trained)} ('{path}'), and the images have "
            f"{_in_words(labels)}: its answers would get the wrong names. Write the data list in the order of the "
            f"training (python -m monai_plan datalist --classes). {_ADVICE}"
        )
    return trained


def _in_words(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{number}: {name}" for number, name in labels.items())


def names_of_classes(labels: Mapping[str, str] | Sequence[str] | None, count: int) -> list[str]:
    """The classes' names in order of their numbers.

    Args:
        labels: a list, or ``{"0": name, …}`` as in a datalist (keys are text); ``None``: the numbers are the names.
        count: how many classes there are.

    Raises:
        ValueError: a class has no name, or shares it with another, or there are too many names.
    """
    numbers = [str(number) for number in range(count)]
    if labels is None:
        return numbers
    found = labels if isinstance(labels, Mapping) else {str(number): name for number, name in enumerate(labels)}
    names = [str(found.get(number, "")).strip() for number in numbers]
    if len(found) != count or not all(names) or len(set(names)) < count:
        raise ValueError(
            f"there are {count} classes and their names are {found}; give each of {', '.join(numbers)} a name of its "
            'own, or none at all. Instead of a list, {"0": "name", …} will do, with keys that are text'
        )
    return names
