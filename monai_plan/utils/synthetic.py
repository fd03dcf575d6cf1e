"""The mark of loaders that emit synthetic images only; set in data, read in handlers, which do not import data."""

from __future__ import annotations

__all__ = ["SYNTHETIC_MARK", "is_synthetic"]

SYNTHETIC_MARK = "is_synthetic"


def is_synthetic(loader: object) -> bool:
    """Whether ``loader`` declares, by ``is_synthetic = True``, that it never emits a real image."""
    return getattr(loader, SYNTHETIC_MARK, False) is True
