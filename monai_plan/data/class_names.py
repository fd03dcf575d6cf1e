"""The names of a generator's classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["names_of_classes"]


def names_of_classes(labels: Mapping[str, str] | Sequence[str] | None, count: int) -> list[str]:
    """The classes' names in order of their numbers.

    Args:
        labels: a list, or ``{"0": name, …}`` as in a datalist; ``None``: the numbers are the names.
        count: classes of the generator.

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
            f"the generator has {count} classes and their names are {found}; give each of {', '.join(numbers)} a name "
            "of its own, or none at all"
        )
    return names
