"""Files that are either whole or absent: written to a temporary name beside the target, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.utils import optional_import

__all__ = ["atomic_path", "json_text", "locked", "require_private", "require_writable", "sha256_of", "write_json"]

fcntl, has_fcntl = optional_import("fcntl")


def require_writable(folder: str | os.PathLike, free_bytes: int = 0, mode: int = 0o777) -> Path:
    """Create ``folder`` if needed and prove that it can be written, before long work starts.

    Args:
        folder: the output folder.
        free_bytes: the space that the work will need.
        mode: of folders that are made now, less the umask: ``0o700`` keeps other users out.

    Raises:
        OSError: the folder cannot be made or written, or its disk has less than ``free_bytes`` left.
    """
    path = Path(folder).expanduser()
    try:
        for missing in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
            missing.mkdir(mode, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".writable-"):
            pass
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write to the folder '{path}' ({error.strerror}); it may be read-only, full or owned by another "
            "user. Choose another one, or change its permissions",
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


def require_private(path: str | os.PathLike) -> None:
    """Refuse a secret that other users of this machine may read or change; Windows keeps no such permissions.

    Raises:
        ValueError: the permissions of ``path`` let its group or others in.
    """
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if os.name == "posix" and mode & 0o077:
        raise ValueError(
            f"'{path}' is a secret and other users may read or change it (permissions {mode:04o}); it was copied "
            f"without its permissions, or its disk keeps none. Type: chmod 600 {shlex.quote(os.fspath(path))}\n"
            "If that changes nothing, move it to a disk that keeps permissions"
        )


@contextmanager
def atomic_path(final: str | os.PathLike, mode: int | None = None) -> Iterator[Path]:
    """Give a temporary path in the target's folder; rename it to ``final`` when the block ends without an error.

    The temporary name keeps the target's suffix, because many writers choose their format by it. Until the block ends
    nobody but its owner may read it.

    Args:
        final: the file to be written; its folder is made if needed.
        mode: its permissions, e.g. ``0o600`` for secrets; ``None``: what the umask allows.
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=final.parent, prefix=f".{final.stem}.part-", suffix=final.suffix)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        if mode is None:
            mask = os.umask(0)
            os.umask(mask)
            mode = 0o666 & ~mask
        partial.chmod(mode)
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, final)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def locked(path: str | os.PathLike) -> Iterator[None]:
    """Keep other processes and threads from changing a file meanwhile, if they ask here, too; they wait.

    The lock is a file of its own beside ``path``, ``.<name>.lock`` with mode 0600, and stays there: whoever deleted it
    could let two in. Windows has no such locks: there nobody waits.

    Args:
        path: the file to be changed; need not exist, its folder is made if needed.
    """
    path = Path(path)
    if not has_fcntl:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # which ends the lock


def write_json(path: str | os.PathLike, content: Any, mode: int | None = None) -> Path:
    """Write ``content`` as indented JSON, whole or not at all; numbers that are not finite become ``null``.

    ``mode`` is that of :func:`atomic_path`.
    """
    with atomic_path(path, mode) as partial:
        partial.write_text(json_text(content), encoding="utf-8")
    return Path(path)


def json_text(content: Any) -> str:
    """What :func:`write_json` writes."""
    return json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n"


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
