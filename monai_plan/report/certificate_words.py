"""Figures of a certificate as words: the same strings for the page, the model card and the datasheet."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from monai_plan.report.attack_stories import story_of
from monai_plan.report.finding_words import (
    EXCESS,
    NONE,
    comparison,
    figure_text,
    interval_text,
    k_line,
    plain_finding,
    smallest_effect,
)
from monai_plan.report.release_texts import DETAIL_NAMES, EPSILON_NOTE, OVERALL, THREAT
from monai_plan.report.verdicts import interval_ends, real_shares

__all__ = ["certificate_words", "detail_name", "plain_pairs", "plain_text"]

SYMBOLS = {"passed": "✓", "failed": "✗", "unclear": "?", "not run": "○", "no limit": "·"}
TOLD_APART = ("attainable", "validation_against_testing")
"""Sub-figures that stand beside the finding."""
SMALLER = "smaller groups"
"""Groups of too few images to be named, counted together."""
ROWS = {
    "real": "Real images",
    "plan": "Synthetic images (private walks)",
    "linear": "Synthetic images (straight walks)",
}


def certificate_words(certificate: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that templates print, in the order and words in which they print it.

    Args:
        certificate: what ``certificate.json`` holds, verdicts included.

    Returns:
        ``overall`` (verdict, sentence, means, means_not, reasons, todo), ``tests`` (one dict of strings for each),
        ``threat``, ``k_line``, ``data``, ``utility`` and ``made``.
    """
    tests = [_test_words(test, certificate["release"]["mode"]) for test in certificate["tests"]]
    return {
        "overall": _overall_words(certificate, tests),
        "tests": tests,
        "threat": THREAT[certificate["release"]["mode"]],
        "k_line": k_line(certificate),
        "data": _data_words(certificate),
        "utility": _utility_words(certificate),
        "made": _made_words(certificate["about"]),
    }


def _overall_words(certificate: Mapping[str, Any], tests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    verdict = certificate["verdict"]
    by_verdict = {name: [test for test in tests if test["verdict"] == name] for name in SYMBOLS}
    reasons = [f"{test['title']}: the limit is not kept" for test in by_verdict["failed"]]
    reasons += [
        f"{test['title']}: the interval is too wide to tell (too few patients)" for test in by_verdict["unclear"]
    ]
    not_run = _not_run_though_asked(by_verdict["not run"], verdict["missing"])
    reasons += [reason for reason, _ in not_run]
    reasons += [
        f"{test['title']}: no limit was set, and an effect is there: {test['value']}, guessing gives {test['baseline']}"
        for test in by_verdict["no limit"]
        if test["kind"] != "safeguard" and test["above_guessing"]
    ]
    reasons += [
        f"{test['title']}: the limit cannot be broken; a release of nothing but copies would give {test['copies']}"
        for test in tests
        if test["out_of_reach"]
    ]
    if not by_verdict["passed"] + by_verdict["failed"] + by_verdict["unclear"]:
        reasons.append("No test that was run had a limit: nothing was judged")
    mixed = real_shares(certificate)
    reasons += [
        f"The downstream classifier '{name}' was trained on {100 * share:g} % real images: it has seen patients, "
        "whatever is found of the synthetic ones"
        for name, share in mixed.items()
    ]
    steps = [step for _, step in not_run]
    if mixed:
        steps.append("Train the downstream classifier on synthetic images alone, and repeat the audit.")
    words = OVERALL[verdict["overall"]]
    return {
        **words,
        "verdict": verdict["overall"],
        "symbol": SYMBOLS[verdict["overall"]],
        "counts": [(SYMBOLS[name], len(group), name) for name, group in by_verdict.items() if group],
        "reasons": reasons,
        "todo": _todo(verdict["overall"], by_verdict, steps),
    }


def _not_run_though_asked(tests: Sequence[Mapping[str, Any]], missing: Sequence[str]) -> list[tuple[str, str]]:
    """What was not run and keeps a release from passing: the reason, and what to do.

    Args:
        tests: that were not run.
        missing: ids of the required ones, some of them perhaps not among ``tests``.
    """
    found = []
    for name in missing:
        why = "".join(f" ({test['not_run']})" for test in tests if name in _names(test))
        title = story_of(name).title
        found.append((f"{title}: required, and not run{why}", f"{title}: run the test; it is required."))
    for test in tests:
        if test["limit"] != NONE and not _names(test) & set(missing):
            reason = f"{test['title']}: it has a limit, and was not run ({test['not_run']})"
            found.append((reason, f"{test['title']}: run the test, or take its limit out of the settings."))
    return found


def _names(test: Mapping[str, Any]) -> set[str]:
    """A test's id, with and without the distance."""
    return {test["id"], test["id"].split("/")[0]}


def _todo(overall: str, by_verdict: Mapping[str, Sequence[Mapping[str, Any]]], run: Sequence[str]) -> list[str]:
    remedies: dict[str, list[str]] = {}  # several tests may have the same one
    for test in by_verdict["failed"]:
        remedies.setdefault(test["remedy"], []).append(test["title"])
    again = [f"{'; '.join(titles)}: {remedy}" for remedy, titles in remedies.items()]
    more = [f"{test['title']}: add held-out patients. {test['smallest']}" for test in by_verdict["unclear"]]
    more += run
    if overall == "failed":
        return [
            "Do not release.",
            *again,
            *more,
            "Repeat the whole audit after every change, with the limits of this one. Limits that are changed after the "
            "figures are known prove nothing.",
        ]
    if overall == "unclear":
        return [
            "Do not treat this as a pass.",
            *more,
            "If no more patients can be had, the controller may accept the remaining risk, in writing and with "
            "reasons; this document does not do so.",
        ]
    return [
        "Read what this audit cannot show (below), and decide whether the limits were strict enough for these data and "
        "this receiver.",
        "Check the legal basis, and bind the receiver by contract: no attempt to identify anybody, no passing on.",
        "Sign, and keep this document with the record of releases. Withdrawals of consent after today need it.",
        "Repeat the audit when anything changes: data, generator, walks, settings, or what is released to whom.",
    ]


def _test_words(test: Mapping[str, Any], mode: str) -> dict[str, Any]:
    name, result, limit, verdict = test["id"], test["result"], test["limit"], test["verdict"]
    story = story_of(name)
    words = {
        **vars(story),
        "id": name,
        "verdict": verdict,
        "symbol": SYMBOLS[verdict],
        "limit": _limit_text(limit),
        "not_run": test["not_run"],
        "exceeds_release": _exceeds_release(story.needs, mode),
        "result": result,
        "copies": NONE,
        "out_of_reach": False,
    }
    if result is None:
        return words
    value, baseline, details = result["value"], result["baseline"], result["details"]
    attainable, at_most = details.get("attainable"), (limit or {}).get("at_most")
    is_epsilon = result["measure"] == "epsilon" or name.split("/")[0] == "canaries"
    return {
        **words,
        "measure": result["measure"],
        "value": figure_text(value),
        "interval": interval_text(result["interval"]),
        "baseline": figure_text(baseline) if story.baseline_name else NONE,
        "control": figure_text(result["control"]),
        "control_value": _value_and_interval({"value": result["control"], "interval": result["control_interval"]}),
        "control_is": story.control if result["control"] is not None else "",
        "control_name": "For held-out patients" if result["measure"] in EXCESS else "Control",
        "strangers": _value_and_interval(details.get("validation_against_testing")),
        "copies": figure_text(attainable),
        "out_of_reach": None not in (attainable, at_most) and attainable <= at_most,
        "n": result["n"],
        "n_control": result["n_control"],
        "seed": NONE if result["seed"] is None else str(result["seed"]),
        "resolvable": figure_text(result["resolvable"]),
        "smallest": smallest_effect(name, result),
        "finding": plain_finding(name, result, story),
        "comparison": comparison(result, story.kind),
        "above_guessing": baseline is not None and interval_ends(result["interval"])[0] > baseline,
        "note": EPSILON_NOTE if is_epsilon else "",
        "curve": result.get("curve") or [],
    }


def _exceeds_release(needs: str, mode: str) -> str:
    if needs == "more":
        return "This attacker holds more than is released: it is a worst case."
    if needs == "generator" and mode == "images":
        return "The generator is not released in this mode: the test shows what would follow if it got out."
    return ""


def _limit_text(limit: Mapping[str, Any] | None) -> str:
    low, high = ((limit or {}).get(side) for side in ("at_least", "at_most"))
    if low is None or high is None:
        return (
            NONE if low is high else f"at most {figure_text(high)}" if low is None else f"at least {figure_text(low)}"
        )
    return interval_text((low, high))


def _value_and_interval(figures: Mapping[str, Any] | None) -> str:
    if not figures:
        return ""
    interval = interval_text(figures["interval"])
    return figure_text(figures["value"]) + ("" if interval == NONE else f" ({interval})")


def _class_counts(counts: Mapping[str, int], classes: Mapping[str, str]) -> str:
    return ", ".join(f"{classes.get(number, number)}: {figure_text(n)}" for number, n in counts.items()) or NONE


def _data_words(certificate: Mapping[str, Any]) -> dict[str, Any]:
    data, synthetic = certificate["data"], certificate["synthetic"]
    rejected, emitted = synthetic["gate_rejected"], synthetic["gate_emitted"]
    colours = {1: "grey", 3: "colour"}.get(data["channels"], f"{data['channels']} channels")
    no_gate = rejected is None or emitted is None
    return {
        "image": f"{data['image_size']} × {data['image_size']} pixels, {colours}",
        "splits": [
            {
                "name": name,
                "patients": figure_text(split["patients"]),
                "images": figure_text(split["images"]),
                "classes": _class_counts(split["by_class"], data["classes"]),
            }
            for name, split in data["splits"].items()
        ],
        "synthetic": _class_counts(synthetic["by_class"], data["classes"]),
        "gate": "not counted" if no_gate else f"{figure_text(rejected)} rejected, {figure_text(emitted)} let through",
    }


def _utility_words(certificate: Mapping[str, Any]) -> dict[str, Any] | None:
    utility, classes = certificate["utility"], certificate["data"]["classes"]
    if utility is None:
        return None
    rows = []
    for name, row in utility["rows"].items():
        first = _first_seed(row)
        rows.append(
            {
                "name": ROWS.get(name, name) + _mixed_in(row),
                "accuracy": figure_text(row["accuracy"]),
                **{
                    figure: _value_and_interval(
                        {"value": row.get(figure), "interval": first.get(figure + "_interval_95")}
                    )
                    for figure in ("auroc", "kappa")
                },
                "calibration": figure_text(row.get("calibration_error")),
                "brier": figure_text(row.get("brier")),
                "recall": [(classes.get(str(c), str(c)), figure_text(share)) for c, share in enumerate(row["recall"])],
            }
        )
    return {
        "rows": rows,
        "subgroups": _subgroups(utility["rows"]),
        "quality": plain_pairs(utility["quality"] or {}),
        "note": utility["note"],
    }


def _mixed_in(row: Mapping[str, Any]) -> str:
    share = row.get("real_share")
    return f", {100 * share:g} % real images mixed in" if share else ""


def _first_seed(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """What stands beside means over seeds: intervals and subgroups of the first seed's network."""
    return (row.get("per_seed") or [row])[0]


def _subgroups(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    lines = []
    for name, row in rows.items():
        for attribute, groups in (_first_seed(row).get("subgroups") or {}).items():
            for group, figures in groups.items():
                line = {"attribute": attribute, "group": group, "trained_on": ROWS.get(name, name)}
                lines.append({**line, **{key: figure_text(figures.get(key)) for key in ("n", "accuracy", "auroc")}})
    return sorted(lines, key=lambda line: (line["attribute"], line["group"] == SMALLER, line["group"]))


def plain_pairs(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested plain values as (name, text), the names of nested ones joined by " / "."""
    pairs = []
    for name, value in values.items():
        label = prefix + detail_name(name)
        if isinstance(value, Mapping):
            pairs += plain_pairs(value, f"{label} / ")
        else:
            pairs.append((label, plain_text(value)))
    return pairs


def detail_name(name: str) -> str:
    """A sub-figure's name in words."""
    return DETAIL_NAMES.get(name, name.replace("_", " "))


def plain_text(value: Any) -> str:
    """A plain value, or a list of them."""
    if isinstance(value, list | tuple):
        return ", ".join(map(plain_text, value)) or NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    return figure_text(value) if value is None or isinstance(value, int | float) else str(value)


def _made_words(about: Mapping[str, Any]) -> dict[str, str]:
    try:
        moment = datetime.datetime.fromisoformat(about["date"])
    except ValueError:
        date = about["date"]
    else:
        date = f"{moment.day} {moment:%B %Y}" + (f", {moment:%H:%M %Z}".rstrip() if "T" in about["date"] else "")
    seconds = about["seconds"]
    duration = NONE if seconds is None else f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    return {"date": date, "duration": duration}
