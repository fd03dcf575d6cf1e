"""Whole numbers in the proportion of shares."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["apportioned"]


def apportioned(count: int, shares: Sequence[float]) -> list[int]:
    """``count`` things dealt by shares that sum to 1, by largest remainder; of equal remainders the first."""
    exact = [count * share for share in shares]
    counts = [int(part + 1e-9) for part in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: count - sum(counts)]:
        counts[i] += 1
    return counts
