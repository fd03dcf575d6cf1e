"""Files that others may have made: of bounded size and depth, no pipe or device, and the very ones that are listed."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

from monai_plan.utils.files import atomic_path, locked, sha256_of

__all__ = ["HASHES", "parse_json", "read_given", "read_json", "require_listed", "require_small", "unlist"]

HASHES = "weights.sha256"
MOST_BYTES = 2**27
"""Of a text: a data list of half a million images. Read as JSON it may take ten times as much memory."""
MOST_LEVELS = 50
logger = logging.getLogger(__name__)

_HASH_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")


def require_small(path: Path, most: int = MOST_BYTES) -> None:
    """Refuse what would never end, or would fill the memory.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it is a pipe, a device or a folder, or larger than ``most`` bytes.
    """
    size = path.stat().st_size
    if not path.is_file():
        raise ValueError(f"'{path}' is no plain file, but a folder, a pipe or a device. Give the path of a file")
    if size > most:
        raise ValueError(
            f"'{path}' has {size} bytes, more than the {most} that are read of such a file; it is another one, or was "
            "damaged. Give the right path"
        )


def read_given(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a plain file of bounded size.

    Raises:
        OSError: it cannot be read.
        ValueError: see :func:`require_small`.
    """
    require_small(path, most)
    return path.read_bytes()


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: see :func:`require_small` and :func:`parse_json`; or it is not text in UTF-8. The message names the
            file and the fault; how to come by a better one is for the caller to add.
    """
    content = read_given(path)
    try:
        return parse_json(content.decode("utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"'{path}' ({len(content)} bytes) is not JSON: {error}") from error


def parse_json(text: str) -> Any:
    """What a JSON text says; at most 50 lists and objects may lie within each other.

    Raises:
        ValueError: it is not JSON, or nested more deeply.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MOST_LEVELS} times") from error
    except ValueError as error:
        raise ValueError(f"{error}") from error
    level = [content]
    for _ in range(MOST_LEVELS):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    if level:
        raise ValueError(f"it is nested more than {MOST_LEVELS} times")
    return content


def require_listed(path: Path) -> None:
    """Refuse a file that is not the one whose hash is known, before anything of it is used.

    Known are the hashes of a bundle's weights, in the file ``weights.sha256`` one folder up, and those of a release, in
    the ``manifest.json`` beside it. A file that no list names is not checked. Whoever can change the file can change
    the list as well: this finds damage, mixed-up and half-copied folders, and is no signature.

    Raises:
        ValueError: it is another one.
    """
    path = path.parent.resolve() / path.name  # a link from there to elsewhere has the name that is listed
    listed = _listed(path)
    if listed is None:
        return
    source, wanted = listed
    if (found := sha256_of(path)) != wanted:
        yours = f", or, where you made it yourself, take its line out of {HASHES}" if source.name == HASHES else ""
        raise ValueError(
            f"'{path}' has the SHA-256 {found[:16]}…, and '{source}' lists {str(wanted)[:16]}…: it was damaged or "
            f"replaced since. Copy what belongs there once more{yours}"
        )


def unlist(path: Path) -> None:
    """Take a file out of its bundle's list of hashes, if it is there: what is written now is not what shipped.

    Args:
        path: the file, before it is replaced.
    """
    path = path.parent.resolve() / path.name
    bundle = path.parent.parent / HASHES
    if not bundle.is_file():
        return
    with locked(bundle):
        lines = read_given(bundle).decode("utf-8", "replace").splitlines(keepends=True)
        kept = [line for line in lines if _name_in(line) != f"{path.parent.name}/{path.name}"]
        if len(kept) < len(lines):
            logger.warning("'%s' is made anew: its hash is taken out of '%s'", path, bundle)
            with atomic_path(bundle) as partial:
                partial.write_text("".join(kept), encoding="utf-8")


def _name_in(line: str) -> str | None:
    """The file that a line of a list is about."""
    match = _HASH_LINE.fullmatch(line.rstrip("\r\n"))
    return match[2] if match else None


def _listed(path: Path) -> tuple[Path, str] | None:
    """The list that names a file, and the hash that stands there."""
    bundle, manifest = path.parent.parent / HASHES, path.parent / "manifest.json"
    if bundle.is_file():
        name = f"{path.parent.name}/{path.name}"
        for line in read_given(bundle).decode("utf-8", "replace").splitlines():
            if _name_in(line) == name:
                return bundle, line.split(maxsplit=1)[0]
    if manifest.is_file():
        try:
            content = read_json(manifest)
            if content["schema"] == "release":
                return manifest, content["files"][path.name]
        except (ValueError, LookupError, TypeError):
            return None
    return None
