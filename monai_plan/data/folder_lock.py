"""A folder in which one run at a time works, with as many processes as it has."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from monai.utils import optional_import

__all__ = ["LOCK", "held"]

LOCK = ".lock"

logger = logging.getLogger(__name__)
fcntl, has_fcntl = optional_import("fcntl")  # Windows has none


@contextmanager
def held(folder: Path, alone: bool) -> Iterator[Callable[[], None]]:
    """Hold a folder by its file :data:`LOCK` until the block ends; a kill lets go of it, too.

    Args:
        folder: it is there and can be written.
        alone: refuse all others; otherwise those that share it may hold it, too.

    Yields:
        A function that shares the folder from then on.

    Raises:
        ValueError: another run holds it.
    """
    if not has_fcntl:
        yield lambda: None
        return
    path = folder / LOCK
    handle = _opened(path, alone)
    try:
        yield lambda: _require(handle, path, alone=False)
    finally:
        if _is_taken(handle, path, alone=True):  # no other process holds it
            path.unlink(missing_ok=True)
        os.close(handle)


def _opened(path: Path, alone: bool) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _require(handle, path, alone)
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its last holder has just deleted it


def _require(handle: int, path: Path, alone: bool) -> None:
    if not _is_taken(handle, path, alone):
        raise ValueError(
            f"another run is at work in '{path.parent}': the same command in another terminal, a job that was queued "
            "again, or a process that has outlived its run. Wait until it has ended, or end it; to work beside it, "
            "give another folder"
        )


def _is_taken(handle: int, path: Path, alone: bool) -> bool:
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        logger.warning("the disk of '%s' keeps no locks (%s); start no second run there", path, error.strerror)
    return True
