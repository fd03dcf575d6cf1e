"""Checks of settings, made before long work starts; the bundles list them under ``check``."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["fingerprint", "require_counts", "require_own_folder", "require_seeds"]


def require_counts(least: int = 1, **counts: Any) -> None:
    """Refuse settings that are not whole numbers from ``least`` on.

    Args:
        least: the smallest value allowed.
        counts: config id to value, e.g. ``epochs=10``.

    Raises:
        ValueError: naming the first that is at fault.
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            name = name.replace("::", "#")  # MONAI writes it so within expressions
            raise ValueError(
                f"'{name}' is {value!r}, and must be a whole number from {least} on. Correct it where it was set: in "
                f"the config, or on the command line (pipeline: --set {name}=NUMBER, bundle: --{name} NUMBER)"
            )


def require_seeds(seeds: Any) -> None:
    """Refuse anything but a list of different whole numbers, at least one.

    Raises:
        ValueError: it is something else.
    """
    numbers = seeds if isinstance(seeds, Sequence) and not isinstance(seeds, str) else ()
    whole = [seed for seed in numbers if isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0]
    if not whole or len(whole) != len(numbers) or len(set(whole)) != len(whole):
        raise ValueError(
            f"'seeds' is {seeds!r}, and must be a list of different whole numbers from 0 on. Write it so "
            "(pipeline: --set seeds='[0,1,2]', bundle: --seeds '[0,1,2]')"
        )


def require_own_folder(real: bool, bundle_root: str | os.PathLike, **folders: str | os.PathLike) -> None:
    """Refuse to mix weights made from patients' images with those that ship in a bundle.

    Args:
        real: real images are used, not the embedded phantoms.
        bundle_root: the bundle's folder.
        folders: config id to a folder of weights, e.g. ``models_dir="…"``.

    Raises:
        ValueError: ``real``, and a folder lies within the bundle.
    """
    root = Path(bundle_root).resolve()
    for name, folder in folders.items():
        shipped = (root / room for room in ("models", "private"))
        if real and any(Path(folder).resolve().is_relative_to(room) for room in shipped):
            raise ValueError(
                f"'{name}' is '{folder}', where the weights made from phantoms ship. With real images they would be "
                "read in place of your own, or overwritten by weights that know your patients. Give a folder of your "
                f"own (bundle: --{name} DIR), or run `python -m monai_plan pipeline`, which does"
            )


def fingerprint(*values: Any) -> str:
    """A SHA-256 over plain values, to recognise a run on other data or with other settings."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
