"""Whether a figure keeps the limits that were set before the run; pure functions on the plain values of a record."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

__all__ = ["interval_ends", "missing_tests", "overall_verdict", "real_shares", "require_limits", "verdict_of"]

FAILED, NO_LIMIT, NOT_RUN, PASSED, UNCLEAR = "failed", "no limit", "not run", "passed", "unclear"
NO_UPPER_END = ("canaries",)
"""Tests whose figure is a lower bound."""


def require_limits(limits: Mapping[str, Any], tests: Collection[str], required: Sequence[str] = ()) -> None:
    """Refuse, before an audit, limits that no test would ever be held to, or that none can keep.

    Args:
        limits: test's id, without a distance, to ``{"at_most": number, "at_least": number}`` or one of both.
        tests: ids of the tests that an audit has, without distances.
        required: ids of tests without which nothing passes, with or without a distance.

    Raises:
        ValueError: an unknown test, a bound that is no finite number, no bound at all, bounds in the wrong order, or an
            upper bound of a figure that is itself a lower bound.
    """
    if unknown := [name for name in limits if name not in tests]:
        raise ValueError(
            f"limits for {', '.join(unknown)}, and the tests are {', '.join(tests)}. Correct the names; a limit holds "
            "for every distance that its test is made with"
        )
    if unknown := [name for name in required if name.partition("/")[0] not in tests]:
        raise ValueError(
            f"{', '.join(unknown)} required, and the tests are {', '.join(tests)}. Correct the names: what is never "
            "run keeps every release from passing"
        )
    for name, limit in limits.items():
        if not isinstance(limit, Mapping) or not set(limit) <= {"at_least", "at_most"}:
            raise ValueError(f'the limit of {name} is {limit!r}; write it as {{"at_most": 0.6, "at_least": 0.4}}')
        _bounds(name, limit)


def verdict_of(test: Mapping[str, Any]) -> str:
    """Judge one test by its whole interval, never by its value alone: few patients must not pass for safety.

    Args:
        test: ``result`` (``None`` if it was not run) with ``interval`` (low, high; an end of ``None`` is unbounded),
            and ``limit`` with ``at_most``, ``at_least`` or both; ``limit`` is ``None`` for a figure only reported.

    Returns:
        "passed": the whole interval lies within the limits, which belong to them; "failed": all of it lies outside;
        "unclear": neither; "not run"; "no limit": reported only.

    Raises:
        ValueError: the limit is of another figure than the value, or makes no sense (see ``require_limits``), or
            the interval is reversed.
    """
    result, limit = test.get("result"), test.get("limit")
    if limit is not None:
        at_least, at_most = _bounds(test.get("id"), limit)
    if result is None:
        return NOT_RUN
    if limit is None:
        return NO_LIMIT
    low, high = interval_ends(result.get("interval"))
    if low > high:
        raise ValueError(f"the interval of '{test.get('id')}' is reversed: {low} to {high}; correct what computed it")
    if at_least <= low and high <= at_most:
        return PASSED
    return FAILED if high < at_least or low > at_most else UNCLEAR


def overall_verdict(
    tests: Sequence[Mapping[str, Any]], required: Sequence[str] = (), mixed: Mapping[str, float] | None = None
) -> str:
    """The verdict on a release.

    Args:
        tests: all tests of the record, see :func:`verdict_of`.
        required: ids of tests without which nothing passes, see :func:`missing_tests`.
        mixed: what ``real_shares`` gives.

    Returns:
        "failed": a test failed; "passed": every test with a limit was run and passed, there is at least one, every
        required one was run, and no classifier had real images among its synthetic ones; else "unclear". A test that
        cannot be run must not have a limit.
    """
    if FAILED in map(verdict_of, tests):
        return FAILED
    judged = {verdict_of(test) for test in tests if test.get("limit") is not None}
    return PASSED if judged == {PASSED} and not missing_tests(tests, required) and not mixed else UNCLEAR


def real_shares(record: Mapping[str, Any]) -> dict[str, float]:
    """Rows of a record's table whose classifiers had real images among the synthetic ones, with the share of these."""
    rows = (record.get("utility") or {}).get("rows") or {}
    return {name: row["real_share"] for name, row in rows.items() if row.get("real_share")}


def missing_tests(tests: Sequence[Mapping[str, Any]], required: Sequence[str]) -> list[str]:
    """The required tests that were not run, in the order of ``required``.

    ``"screening"`` is met by ``"screening/embedding"`` too: a test made with one of several distances.
    """
    run = {test["id"] for test in tests if test.get("result") is not None}
    run |= {name.split("/")[0] for name in run}
    return [name for name in required if name not in run]


def interval_ends(interval: Sequence[float | None] | None) -> tuple[float, float]:
    """The ends of an interval of a record as numbers: infinite where they, or the whole interval, are ``None``."""
    low, high = interval or (None, None)
    low_known, high_known = (end is not None and not math.isnan(end) for end in (low, high))
    return (low if low_known else -math.inf), (high if high_known else math.inf)  # type: ignore[return-value]


def _bounds(name: Any, limit: Mapping[str, Any]) -> tuple[float, float]:
    figure = limit.get("figure", "value")
    if figure != "value":
        raise ValueError(
            f"the limit of '{name}' is of the figure '{figure}', and only a test's 'value' has an interval to be "
            "judged by; set figure='value' in the config"
        )
    at_least, at_most = (limit.get(side) for side in ("at_least", "at_most"))
    if at_least is None and at_most is None:
        raise ValueError(
            f"the limit of '{name}' sets no bound, and everything would pass; give it at_most or at_least in the config"
        )
    for bound in (at_least, at_most):
        if bound is not None and (type(bound) not in (int, float) or not math.isfinite(bound)):
            raise ValueError(
                f"the limit of {name} has the bound {bound!r}, which is no finite number; write it as "
                '{"at_most": 0.6, "at_least": 0.4} in the config'
            )
    if at_most is not None and str(name).partition("/")[0] in NO_UPPER_END:
        raise ValueError(
            f"the limit of '{name}' is at most {at_most}, and its figure is a lower bound: its interval has no upper "
            "end and keeps no such limit. Leave the limit out; the figure is reported all the same"
        )
    low, high = -math.inf if at_least is None else at_least, math.inf if at_most is None else at_most
    if low > high:
        raise ValueError(
            f"the limit of '{name}' is at least {low} and at most {high}, which nothing can keep; they may be swapped "
            "in the config"
        )
    return low, high
