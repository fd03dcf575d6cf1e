"""Faults of a run that are neither a wrong argument nor a fault of the program."""

from __future__ import annotations

__all__ = ["RunError"]


class RunError(RuntimeError):
    """A run cannot go on because of what its networks or images gave; the message says what to change."""
