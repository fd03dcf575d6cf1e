"""Files that are either whole or absent: written to a temporary name beside the target, then renamed."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import logging
import math
import os
import re
import shlex
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.utils import optional_import

__all__ = [
    "atomic_folder",
    "atomic_path",
    "delete_left_parts",
    "explained_shortage",
    "json_text",
    "locked",
    "require_private",
    "require_writable",
    "sha256_of",
    "write_json",
]

fcntl, has_fcntl = optional_import("fcntl")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)
PROBE = bytes(1 << 16)
"""What a disk takes that is not full."""

logger = logging.getLogger(__name__)


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
        with tempfile.TemporaryFile(dir=path):  # on Linux it has no name that a kill could leave
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
    nobody but its owner may read it. What a kill has left of an earlier attempt is deleted first.

    Args:
        final: the file to be written; its folder is made if needed.
        mode: its permissions, e.g. ``0o600`` for secrets; ``None``: what the umask allows.

    Raises:
        OSError: the disk is full, whatever the block's writer made of it.
    """
    final = Path(final)
    with explained_shortage(final), _part_of(final, _new_file) as partial:
        try:
            yield partial
        except Exception as error:
            _require_room(partial, error)
            raise
        if mode is None:
            mask = os.umask(0)
            os.umask(mask)
            mode = 0o666 & ~mask
        partial.chmod(mode)
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, final)


@contextmanager
def atomic_folder(final: str | os.PathLike) -> Iterator[Path]:
    """Give an empty temporary folder beside ``final``, for its owner alone; it is deleted when the block ends.

    The block makes its files there and renames them itself. What a kill has left of an earlier attempt is deleted.

    Args:
        final: the file or folder that it is for; its parent is made if needed.

    Raises:
        OSError: the disk is full.
    """
    final = Path(final)
    with explained_shortage(final), _part_of(final, _new_folder) as partial:
        yield partial
        _delete(partial)


@contextmanager
def explained_shortage(path: str | os.PathLike) -> Iterator[None]:
    """Let the error of a full disk, or of a folder locked meanwhile, say what could not be written, and what to do.

    Args:
        path: the file or folder that is written in the block.

    Raises:
        OSError: the disk is full, or the user's share of it, or the file would be larger than allowed; or its folder
            cannot be written any more.
    """
    try:
        yield
    except _Explained:
        raise
    except OSError as error:
        if error.errno in FULL:
            advice = "Free some space on its disk, or have your quota or file size limit raised"
        elif error.errno in LOCKED and error.filename and _is_part_of(Path(os.fsdecode(error.filename)), Path(path)):
            advice = "Have its folder, or the disk that it is on, made writable again"
        else:
            raise
        raise _Explained(
            error.errno,
            f"'{path}' could not be written ({os.strerror(error.errno)}). What stood there before is unharmed. "
            f"{advice}, then type the same command again",
        ) from error


def _is_part_of(fault: Path, target: Path) -> bool:
    """Whether what could not be written is the target, one of its folders, or on the way to it."""
    fault, target = fault.absolute(), target.absolute()
    if fault == target or fault in target.parents or target in fault.parents:
        return True
    return any(
        place.parent == target.parent and place.name.startswith(f".{target.stem}.part-")
        for place in (fault, *fault.parents)
    )


class _Explained(OSError):
    """It says already what to do."""


def _require_room(partial: Path, error: Exception) -> None:
    """After a writer has failed: see whether the disk still takes something; native writers do not say that it is full.

    Raises:
        OSError: it does not.
    """
    try:
        with partial.open("ab") as stream:
            stream.write(PROBE)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as shortage:
        if shortage.errno in FULL:
            raise shortage from error


@contextmanager
def _part_of(final: Path, new: Callable[[Path], None]) -> Iterator[Path]:
    """A temporary file or folder beside ``final``, ``.<stem>.part-<number><suffix>``, of one writer.

    The writer holds a lock on it. A kill lets go of that, by which the next writer sees that nobody is at work there
    any more, and takes the name. Where nothing keeps locks, all are taken for alive. After an error in the block it is
    deleted; otherwise the block has to have it deleted or renamed, after which the name may be another writer's.

    Args:
        final: the target.
        new: makes the path, or raises FileExistsError.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        partial = final.with_name(f".{final.stem}.part-{number}{final.suffix}")
        _delete_if_left(partial)
        try:
            new(partial)
        except FileExistsError:
            continue
        try:
            handle = _opened(partial)
        except FileNotFoundError:  # as below
            continue
        if handle is None or (_lock(handle, partial) is not False and _is_at(handle, partial)):
            break
        os.close(handle)  # another writer has just taken it for left
    try:
        yield partial
    except BaseException:
        _delete(partial)
        raise
    finally:
        if handle is not None:
            os.close(handle)  # which ends the lock


def _new_file(path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _new_folder(path: Path) -> None:
    path.mkdir(0o700)


def _opened(path: Path) -> int | None:
    """A handle to lock it by; None where there are no locks: Windows renames nothing that is open."""
    if not has_fcntl:
        return None
    return os.open(path, os.O_NOFOLLOW | (os.O_RDONLY if path.is_dir() else os.O_RDWR))


def _lock(handle: int, path: Path) -> bool | None:
    """Whether it is locked now; None if the disk keeps no locks, or such as keep the writer out, too."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    if path.is_dir() or _takes_another_handle(handle, path):
        return True
    fcntl.flock(handle, fcntl.LOCK_UN)
    return None


def _takes_another_handle(handle: int, path: Path) -> bool:
    """On a share of Windows (SMB) a locked file can be written by nobody but the handle that locked it."""
    try:
        other = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return True  # renamed or deleted meanwhile, which the caller sees
    try:
        state = os.fstat(other)
        if os.path.samestat(state, os.fstat(handle)):
            os.pwrite(other, b"\0", state.st_size)
            os.ftruncate(other, state.st_size)
    except PermissionError:
        return False
    except OSError:  # a full disk, say, of which the writer will hear
        pass
    finally:
        os.close(other)
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _delete_if_left(partial: Path) -> None:
    """Delete it if no writer is at work there."""
    try:
        handle = _opened(partial)
    except OSError:  # there is none, or it is another user's
        return
    if handle is None:
        return
    try:
        if _lock(handle, partial) and _is_at(handle, partial):
            _delete(partial)
    finally:
        os.close(handle)


def delete_left_parts(*folders: str | os.PathLike) -> None:
    """Delete what killed runs have left of :func:`atomic_path` and :func:`atomic_folder`.

    Args:
        folders: where to look, not below; what others are writing there stays.
    """
    for path in sorted(path for folder in folders for path in Path(folder).glob(".*.part-*")):
        if re.fullmatch(r"\..*\.part-\d{1,4}(\.[^.]*)?", path.name):
            _delete_if_left(path)


@contextmanager
def locked(path: str | os.PathLike) -> Iterator[None]:
    """Keep other processes and threads from changing a file meanwhile, if they ask here, too; they wait.

    The lock is a file of its own beside ``path``, ``.<name>.lock`` with mode 0600, and stays there: whoever deleted it
    could let two in. Windows has no such locks, and some disks keep none: there nobody waits.

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
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            logger.warning("the disk of '%s' keeps no locks (%s); start no second command there", path, error.strerror)
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
