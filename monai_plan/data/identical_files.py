"""Which files of a data set are byte for byte the same; knows files, not images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from monai_plan.utils import sha256_of

__all__ = ["first_of_identical"]


def first_of_identical(root: Path, files: Sequence[str]) -> list[str]:
    """For each file the first one with the same bytes: itself where no earlier one has them.

    A file that is missing or empty is the same as no other. Only files of equal size are read.

    Args:
        root: the folder that ``files`` are relative to.
        files: paths, no two the same.

    Raises:
        OSError: a file cannot be read.
    """
    sizes = {file: path.stat().st_size for file in files if (path := root / file).is_file()}
    counts = Counter(size for size in sizes.values() if size)
    first: dict[str, str] = {}
    return [
        first.setdefault(sha256_of(root / file), file) if counts[sizes.get(file, 0)] > 1 else file for file in files
    ]
