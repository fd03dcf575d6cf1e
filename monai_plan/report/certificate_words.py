"""Figures of a certificate as words: the same strings for the page, the model card and the datasheet."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

from monai_plan.report.attack_stories import story_of
from monai_plan.report.release_texts import DETAIL_NAMES, EPSILON_NOTE, OVERALL, THREAT
from monai_plan.report.verdicts import interval_ends

__all__ = ["certificate_words", "detail_name", "figure_text", "interval_text", "plain_pairs", "plain_text"]

NONE = "–"
SYMBOLS = {"passed": "✓", "failed": "✗", "unclear": "?", "not run": "○", "no limit": "·"}
PAIRWISE = ("AUROC", "balanced accuracy")
"""Measures of an attacker who has to choose between two kinds of cases."""
EXCESS = "excess rate"
"""A rate less that of its control, which is therefore no figure to compare it with."""
HALF = 0.5
"""What guessing gives in tests whose attack and control can be read alike."""
ROWS = {
    "real": "Real images",
    "plan": "Synthetic images (private walks)",
    "linear": "Synthetic images (straight walks)",
}
K_LIMIT = 0.09


def figure_text(value: float | None) -> str:
    """Three decimals, fewer for large numbers, powers of ten for tiny ones, a dash for ``None``; a true minus sign."""
    if value is None:
        return NONE
    if isinstance(value, int):
        text = f"{value:,}".replace(",", "\u202f")
    elif value and abs(value) < 0.0005:
        text = f"{value:.1e}"
    else:
        text = f"{value + 0.0:.3f}" if abs(value) < 100 else f"{value:.1f}"  # + 0.0: no "-0.000"
    return text.replace("-", "−")


def interval_text(interval: Sequence[float | None] | None) -> str:
    """``"0.412 to 0.588"``, ``"0.412 or more"``, ``"0.588 or less"``, or a dash."""
    low, high = interval or (None, None)
    if low is None or high is None:
        return NONE if low is high else f"{figure_text(high)} or less" if low is None else f"{figure_text(low)} or more"
    return f"{figure_text(low)} to {figure_text(high)}"


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
        "k_line": _k_line(certificate["release"]["k"]),
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
    reasons += [f"{story_of(name).title}: required, and not run" for name in verdict["missing"]]
    reasons += [
        f"{test['title']}: no limit was set, and an effect is there: {test['value']}, guessing gives {test['baseline']}"
        for test in by_verdict["no limit"]
        if test["kind"] != "safeguard" and test["above_guessing"]
    ]
    if not by_verdict["passed"] + by_verdict["failed"] + by_verdict["unclear"]:
        reasons.append("No test that was run had a limit: nothing was judged")
    words = OVERALL[verdict["overall"]]
    return {
        **words,
        "verdict": verdict["overall"],
        "symbol": SYMBOLS[verdict["overall"]],
        "counts": [(SYMBOLS[name], len(group), name) for name, group in by_verdict.items() if group],
        "reasons": reasons,
        "todo": _todo(verdict["overall"], by_verdict, verdict["missing"]),
    }


def _todo(overall: str, by_verdict: Mapping[str, Sequence[Mapping[str, Any]]], missing: Sequence[str]) -> list[str]:
    remedies: dict[str, list[str]] = {}  # several tests may have the same one
    for test in by_verdict["failed"]:
        remedies.setdefault(test["remedy"], []).append(test["title"])
    again = [f"{'; '.join(titles)}: {remedy}" for remedy, titles in remedies.items()]
    more = [f"{test['title']}: add held-out patients. {test['smallest']}" for test in by_verdict["unclear"]]
    more += [f"{story_of(name).title}: run the test; it is required." for name in missing]
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
    }
    if result is None:
        return words
    value, baseline = result["value"], result["baseline"]
    is_epsilon = result["measure"] == "epsilon" or name.split("/")[0] == "canaries"
    return {
        **words,
        "measure": result["measure"],
        "value": figure_text(value),
        "interval": interval_text(result["interval"]),
        "baseline": figure_text(baseline) if story.baseline_name else NONE,
        "control": figure_text(result["control"]),
        "control_interval": interval_text(result["control_interval"]),
        "control_name": "Rate for others" if result["measure"] == EXCESS else "Control",
        "n": result["n"],
        "n_control": result["n_control"],
        "seed": NONE if result["seed"] is None else str(result["seed"]),
        "resolvable": figure_text(result["resolvable"]),
        "smallest": _smallest(result),
        "finding": _plain_finding(result, story.cases, story.kind),
        "comparison": _comparison(result, story.kind),
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


def _smallest(result: Mapping[str, Any]) -> str:
    patients = f"{result['n']} patients" + (f" and {result['n_control']} others" if result["n_control"] else "")
    if result["resolvable"] == 0:
        return f"Counted over {patients}, not estimated from a sample."
    if result["resolvable"] is None:
        return f"{patients}; the smallest effect that they could have shown is not stated."
    return (
        f"{patients} could have shown a distance of {figure_text(result['resolvable'])} or more from "
        f"{figure_text(result['baseline'])}; anything smaller would have gone unseen."
    )


def _plain_finding(result: Mapping[str, Any], cases: str, kind: str) -> str:
    value, measure = result["value"], result["measure"]
    if value is None:
        return "No figure could be computed."
    hundred = f"{abs(100 * value):.1f}".removesuffix(".0").replace("-", "−")
    if measure in PAIRWISE:
        return (
            f"Shown {cases}, the attacker is right {hundred} times in 100. Tossing a coin is right "
            f"{figure_text(100 * result['baseline']).rstrip('0').rstrip('.')} times."
        )
    if measure == EXCESS:
        more = "less" if value < 0 else "more"
        return f"In 100 tries it succeeds {hundred} times {more} often with training patients than with others."
    if measure == "share" and kind == "screening":
        return f"Of 100 synthetic images, {hundred} lie nearer to a training patient than to others; by chance 50 do."
    if measure in ("share", "rate"):
        return f"That is {hundred} in 100."
    return f"The lower bound of epsilon is {figure_text(value)}." if measure == "epsilon" else ""


def _comparison(result: Mapping[str, Any], kind: str) -> str:
    baseline, (low, high) = result["baseline"], interval_ends(result["interval"])
    if kind == "safeguard" or baseline is None:
        return ""
    if low == -math.inf and high == math.inf:
        return "There is no interval, so that nothing follows from the figure."
    if low > baseline:
        said = "The whole interval lies above what guessing gives: the effect is there."
    elif high < baseline and kind == "screening":
        said = "The whole interval lies below it: the images keep farther from training patients than from others."
    elif high < baseline:
        said = (
            "The whole interval lies below what guessing gives. Turned round the attack would work to this degree, or "
            "the two groups of patients differ for another reason: compare the control."
        )
    else:
        said = "The interval contains what guessing gives: no effect is shown."
    low, high = interval_ends(result["control_interval"])
    if baseline == HALF and not low <= baseline <= high:
        said += (
            " The control finds something where nothing is to be found, so that groups of these patients differ by "
            "themselves; the finding may have the same cause."
        )
    return said


def _k_line(k: int | None) -> str:
    if k is None:
        return (
            "The starting points of the synthetic images are not means of groups of patients (no k-same), so that "
            f"there is no nominal risk 1/k to compare with the {K_LIMIT} of EMA Policy 0070 and Health Canada."
        )
    relation = "within" if 1 / k <= K_LIMIT else "above"
    return (
        f"Each starting point of the synthetic images is the mean of at least k = {k} patients: a nominal risk of "
        f"1/{k} = {figure_text(1 / k)}, {relation} the {K_LIMIT} of EMA Policy 0070 and Health Canada. It is about "
        "starting points only: the generator was trained on every patient."
    )


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
        interval = interval_text(row.get("auroc_interval_95"))
        rows.append(
            {
                "name": ROWS.get(name, name),
                "accuracy": figure_text(row["accuracy"]),
                "auroc": figure_text(row["auroc"]) + ("" if interval == NONE else f" ({interval})"),
                "kappa": figure_text(row.get("kappa")),
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


def _subgroups(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    lines = []
    for name, row in rows.items():
        for attribute, groups in (row.get("subgroups") or {}).items():
            for group, figures in groups.items():
                line = {"attribute": attribute, "group": group, "trained_on": ROWS.get(name, name)}
                lines.append({**line, **{key: figure_text(figures.get(key)) for key in ("n", "accuracy", "auroc")}})
    return sorted(lines, key=lambda line: (line["attribute"], line["group"]))


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
