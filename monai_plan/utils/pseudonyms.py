"""Pseudonyms of patients, and the secret key without which nobody can make or reverse them."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from monai_plan.utils.files import atomic_folder, atomic_path, locked, require_private
from monai_plan.utils.given_file import read_given

__all__ = ["pseudonym", "read_or_make_key"]

KEY_BYTES = 32
_MOST_BYTES = 2**16
DIGITS = 32
"""Hexadecimal digits of a pseudonym: 128 bits, so that no two patients ever share one."""


def read_or_make_key(path: str | os.PathLike) -> bytes:
    """Read the secret key of a hospital; make it, at random, where there is none yet.

    Keep the file, and a copy of it in a safe place, for as long as the ledger: with another key the same patients get
    other names, and none of them can be found. It must never leave the hospital. Of two processes that come first at
    once, one makes the key and both read it.

    Args:
        path: the key's file: 64 hexadecimal digits, for its owner alone (mode 0600).

    Returns:
        32 bytes.

    Raises:
        OSError: the file cannot be read or made.
        ValueError: other users may read it, or it holds no key.
    """
    path = Path(path)
    if not path.exists():
        _make_key(path)
    require_private(path)
    content = read_given(path, _MOST_BYTES).strip()
    if not re.fullmatch(rb"[0-9a-fA-F]{%d}" % (2 * KEY_BYTES), content):
        raise ValueError(
            f"'{path}' holds no key: {2 * KEY_BYTES} hexadecimal digits are needed and {len(content)} other characters "
            "stand there; it is truncated or another file. Give the right path, or restore it from your copy. A new "
            "key (delete the file) finds no patient of the ledgers made so far"
        )
    return bytes.fromhex(content.decode("ascii"))


def _make_key(path: Path) -> None:
    with atomic_folder(path) as folder:
        fresh = folder / path.name
        with atomic_path(fresh, mode=0o600) as partial:
            partial.write_text(secrets.token_hex(KEY_BYTES) + "\n", encoding="ascii")
        try:
            os.link(fresh, path)  # which, unlike a renaming, never replaces the key of a faster process
        except FileExistsError:
            return
        except OSError:  # some disks have no links
            with locked(path):
                if not path.exists():
                    os.replace(fresh, path)


def pseudonym(name: str, key: bytes) -> str:
    """A name that stands for a patient: the same for the same name and key, meaningless without the key.

    It is keyed, since a plain hash is none: there are so few patient numbers that whoever holds the hashes tries all
    of them within minutes. Those who hold the key can do that still: pseudonyms are personal data (GDPR, recital 26).

    Args:
        name: the patient's name or number, letter for letter: ``"P1"``, ``"p1"`` and ``"P1 "`` are three patients.
        key: 32 bytes, see :func:`read_or_make_key`.

    Returns:
        32 hexadecimal digits: the first half of HMAC-SHA256 (RFC 2104) of the name in UTF-8.

    Raises:
        ValueError: the key has another length.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, got {len(key)}; use read_or_make_key('patients.key')")
    return hmac.new(key, name.encode("utf-8"), hashlib.sha256).hexdigest()[:DIGITS]
