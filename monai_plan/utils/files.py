"""Files that are either whole or absent: written to a temporary name beside the target, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["atomic_path", "require_writable", "sha256_of", "write_json"]


def require_writable(folder: str | os.PathLike, free_bytes: int = 0) -> Path:
    """Create ``folder`` if needed and prove that it can be written, before long work starts.

    Args:
        folder: the output folder.
        free_bytes: the space that the work will need.

    Raises:
        OSError: the folder cannot be made or written, or its disk has less than ``free_bytes`` left.
    """
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".writable-"):
            pass
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write to the folder '{path}' ({error.strerror}); it may be read-only, full or owned by another "
            "user. Choose another one with --output_dir DIR, or change its permissions",
        ) from error
    stats = os.statvfs(path)
    free = stats.f_bavail * stats.f_frsize
    if free < free_bytes:
        raise OSError(
            errno.ENOSPC,
            f"the disk of '{path}' has {free / 2**20:.0f} MiB left and this work needs about "
            f"{free_bytes / 2**20:.0f} MiB. Free some space, or choose another disk with --output_dir DIR",
        )
    return path


@contextmanager
def atomic_path(final: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path in the target's folder; rename it to ``final`` when the block ends without an error.

    The temporary name keeps the target's suffix, because many writers choose their format by it.
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=final.parent, prefix=f".{final.stem}.part-", suffix=final.suffix)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, final)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, content: Any) -> Path:
    """Write ``content`` as indented JSON, whole or not at all; numbers that are not finite become ``null``."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Path(path)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
