"""The certificate's page: one HTML file that needs nothing else, to read on any screen, to print and to sign."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

from monai_plan.report.certificate_words import TOLD_APART, certificate_words, detail_name, plain_pairs, plain_text
from monai_plan.report.finding_words import EXCESS, HALF, figure_text, interval_text
from monai_plan.report.render import fill_template
from monai_plan.report.verdicts import interval_ends

__all__ = ["certificate_html"]

PNG = b"\x89PNG\r\n\x1a\n"
ROC = 200
"""Side of a ROC curve's square, in CSS pixels."""


def certificate_html(
    certificate: Mapping[str, Any],
    certificate_sha256: str,
    pictures: Mapping[str, bytes] | None = None,
    signed: bool = False,
) -> str:
    """The page as text: no script, no request to anywhere, every figure of the tests.

    Args:
        certificate: what ``certificate.json`` holds, verdicts included.
        certificate_sha256: of that file's bytes; ties the page to the file that is signed.
        pictures: name to PNG bytes; without them no real image is in the page.
        signed: whether a signature lies beside the file.

    Raises:
        ValueError: a picture is no PNG.
        ImportError: jinja2 is not installed.
    """
    words = certificate_words(certificate)
    for test in words["tests"]:
        if test["result"] is not None:
            details = test["result"]["details"]
            test["details"] = _detail_blocks({name: details[name] for name in details if name not in TOLD_APART})
            test["roc"] = _roc(test["curve"])
    return fill_template(
        "certificate.html.j2",
        certificate=certificate,
        sha256=certificate_sha256,
        signed=signed,
        pictures=[(name, _data_uri(name, png)) for name, png in (pictures or {}).items()],
        plots=_interval_plots(certificate["tests"], words["tests"]),
        figure=figure_text,
        **words,
    )


def _data_uri(name: str, png: bytes) -> str:
    if not png.startswith(PNG):
        raise ValueError(
            f"the picture '{name}' is no PNG (it begins with {png[:8]!r}); give the bytes of a PNG file, e.g. "
            "Path(...).read_bytes()"
        )
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _interval_plots(tests: Sequence[Mapping[str, Any]], words: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Groups of rows with one axis each: all tests in which guessing gives one half, then by measure."""
    run = [(test, about) for test, about in zip(tests, words, strict=True) if test["result"] is not None]
    alike = [pair for pair in run if pair[0]["result"]["baseline"] == HALF]
    groups = [_plot("Attacks in which guessing gives one half", alike, (0.0, 1.0))] if alike else []
    others = [pair for pair in run if pair[0]["result"]["baseline"] != HALF]
    for measure in dict.fromkeys(test["result"]["measure"] for test, _ in others):
        pairs = [pair for pair in others if pair[0]["result"]["measure"] == measure]
        groups.append(_plot(measure[:1].upper() + measure[1:], pairs, _axis([test for test, _ in pairs])))
    return groups


def _plot(title: str, pairs: Sequence[tuple[Any, Any]], axis: tuple[float, float]) -> dict[str, Any]:
    low, high = axis

    def percent(value: float) -> float:
        return round(100 * (min(max(value, low), high) - low) / (high - low), 2)

    def place(value: float | None) -> str:
        return "" if value is None else f"{percent(value):.2f}"

    def span(interval: Sequence[float | None] | None) -> tuple[str, ...]:
        return () if interval is None else tuple(map(place, interval_ends(interval)))

    rows = []
    for test, words in pairs:
        result, limit = test["result"], test["limit"]
        comparable = result["control"] is not None and result["measure"] not in EXCESS
        allowed = None
        if limit is not None:
            bounds = [limit.get("at_least"), limit.get("at_most")]
            start, end = (percent(e if bound is None else bound) for bound, e in zip(bounds, axis, strict=True))
            known = [place(bound) for bound in bounds if bound is not None]
            allowed = {"x": f"{start:.2f}", "width": f"{end - start:.2f}", "bounds": known}
        rows.append(
            {
                "words": words,
                "allowed": allowed,
                "baseline": place(result["baseline"]) if words["baseline_name"] else "",
                "interval": span(result["interval"]),
                "value": place(result["value"]),
                "control_interval": span(result["control_interval"]) if comparable else (),
                "control": place(result["control"]) if comparable else "",
            }
        )
    ticks = [low + (high - low) * step / 4 for step in range(5)]
    return {"title": title, "rows": rows, "ticks": [(place(tick), f"{tick:.4g}".replace("-", "−")) for tick in ticks]}


def _axis(tests: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """From 0, or below where there is something, to a round number above everything that is drawn."""
    known = [0.0]
    for test in tests:
        result, limit = test["result"], test["limit"] or {}
        shown = [result["value"], result["baseline"], limit.get("at_least"), limit.get("at_most")]
        shown += result["interval"] or ()
        if result["measure"] not in EXCESS:
            shown += [result["control"], *(result["control_interval"] or ())]
        known += [value for value in shown if value is not None]
    low, high = min(known), max(known)
    magnitude = 10.0 ** math.floor(math.log10(high - low)) if high > low else 0.25
    for part in (0.25, 0.5, 1.0, 2.5, 5.0):
        step = part * magnitude
        bottom = step * math.floor(low / step)
        if bottom + 4 * step >= high:
            break
    return bottom, bottom + 4 * step


def _roc(curve: Sequence[Sequence[float]]) -> str:
    """The points of an SVG polyline, from corner to corner; "" without a curve."""
    points = [(0.0, 0.0), *map(tuple, curve), (1.0, 1.0)] if curve else []
    return " ".join(f"{ROC * x:.1f},{ROC * (1 - y):.1f}" for x, y in points)


def _detail_blocks(details: Mapping[str, Any]) -> dict[str, Any]:
    """The sub-figures of a test: ``pairs`` of name and text, and ``tables`` of groups that have the same columns."""
    tables, rest = [], {}
    for name, value in details.items():
        groups = _groups(value) if isinstance(value, Mapping) else []
        columns = list(groups[0][1]) if groups else []
        if len(groups) > 1 and len(columns) <= 6 and all(list(figures) == columns for _, figures in groups):
            lines = [[group, *map(_cell, figures.values())] for group, figures in groups]
            tables.append({"title": detail_name(name), "columns": list(map(detail_name, columns)), "rows": lines})
        else:
            rest[name] = value
    return {"pairs": plain_pairs(rest), "tables": tables}


def _groups(value: Mapping[str, Any], name: str = "") -> list[tuple[str, Mapping[str, Any]]]:
    """The innermost mappings and the names that lead to them."""
    inner = [item for item in value.values() if isinstance(item, Mapping)]
    if not inner:
        return [(name, value)]
    if len(inner) < len(value):
        return []
    return [
        found
        for key, item in value.items()
        for found in _groups(item, f"{name}, {detail_name(key)}" if name else detail_name(key))
    ]


def _cell(value: Any) -> str:
    is_interval = isinstance(value, list) and len(value) == 2 and all(isinstance(end, float | None) for end in value)
    return interval_text(value) if is_interval else plain_text(value)
