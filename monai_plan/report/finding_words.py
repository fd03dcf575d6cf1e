"""A test's figures and findings as sentences, for people who know no statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from monai_plan.report.attack_stories import AttackStory
from monai_plan.report.verdicts import interval_ends

__all__ = ["comparison", "figure_text", "interval_text", "k_line", "plain_finding", "smallest_effect"]

NONE = "–"
EXCESS = ("excess rate", "excess share")
"""Rates less those of their controls, which are therefore no figures to compare them with."""
HALF = 0.5
"""What guessing gives in tests whose attack and control can be read alike."""
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


def smallest_effect(name: str, result: Mapping[str, Any]) -> str:
    """What so many patients could have shown.

    Args:
        name: the test's id.
        result: its result in the record.
    """
    details = result["details"]
    if name == "gate_released" and "images" in details:
        least = figure_text(result["resolvable"])
        return f"Counted over {figure_text(details['images'])} images, of which one is {least}; no sample of patients."
    patients = f"{result['n']} patients" + (f" and {result['n_control']} others" if result["n_control"] else "")
    if result["resolvable"] == 0:
        return f"Counted over {patients}; nothing was estimated from a sample."
    if result["resolvable"] is None:
        return f"{patients}; the smallest effect that they could have shown is not stated."
    return (
        f"{patients} could have shown a distance of {figure_text(result['resolvable'])} or more from "
        f"{figure_text(result['baseline'])}; anything smaller would have gone unseen."
    )


def plain_finding(name: str, result: Mapping[str, Any], story: AttackStory) -> str:
    """A test's figure as a sentence of times in 100; "" of a measure that is not known.

    Args:
        name: the test's id.
        result: its result in the record.
        story: the test's words.
    """
    value, measure, details = result["value"], result["measure"], result["details"]
    if value is None:
        return "No figure could be computed."
    hundred = f"{abs(100 * value):.1f}".removesuffix(".0").replace("-", "−")
    more = "fewer" if value < 0 else "more"
    if measure == "AUROC":
        return f"Shown {story.cases}, the attacker is right {hundred} times in 100. Tossing a coin is right 50 times."
    if measure == "balanced accuracy":
        return (
            f"Asked about 50 training patients and 50 others, one by one, the attacker is right {hundred} times. "
            "Tossing a coin is right 50 times."
        )
    if measure == "excess rate":
        return f"In 100 tries it succeeds with {hundred} {more} training patients than others."
    if measure == "excess share":
        count = ""
        if {"near", "patients", "synthetic_images"} <= set(details):
            near, images, patients = (figure_text(details[key]) for key in ("near", "synthetic_images", "patients"))
            count = f" In all, {near} of {images} images are near-copies, of {patients} training patients."
        copies = f"Of 100 released images, {hundred} {more} are near-copies of training patients than of held-out ones."
        return copies + count
    if measure == "share" and story.kind == "screening":
        return f"Of 100 synthetic images, {hundred} lie nearer to a training patient than to others; by chance 50 do."
    if name == "gate_released" and {"images", "rejected"} <= set(details):
        return f"The gate rejects {figure_text(details['rejected'])} of {figure_text(details['images'])} images."
    if name == "k_same" and "smallest_group" in details:
        return _group_risk(details["smallest_group"]) + _spread_note(details)
    if measure in ("share", "rate"):
        return f"That is {hundred} in 100."
    if measure == "epsilon" and value > 0:
        return f"An epsilon below {figure_text(value)} is ruled out; how far above it the true one lies is not known."
    return "No epsilon above 0 is shown; the true one is not known." if measure == "epsilon" else ""


def comparison(result: Mapping[str, Any], kind: str) -> str:
    """Whether an effect is there, and what the control and two groups of strangers say to that; "" of safeguards.

    Args:
        result: the test's result in the record.
        kind: of the test's story.
    """
    baseline, (low, high) = result["baseline"], interval_ends(result["interval"])
    if kind == "safeguard" or baseline is None:
        return ""
    if low == -math.inf and high == math.inf:
        return "There is no interval, so that nothing follows from the figure."
    usual = "zero" if result["measure"] in EXCESS else "what guessing gives"
    if low > baseline:
        said = f"The whole interval lies above {usual}: the effect is there."
    elif high < baseline and kind == "screening":
        said = (
            f"The whole interval lies below {usual}: the images keep farther from training patients than from others."
        )
    elif high < baseline:
        said = (
            f"The whole interval lies below {usual}. Turned round the attack would work to this degree, or the two "
            "groups of patients differ for another reason."
        )
    else:
        said = f"The interval contains {usual}: no effect is shown."
    low, high = interval_ends(result["control_interval"])
    if baseline == HALF and not low <= baseline <= high:
        said += (
            " The control misses what guessing gives although nothing can be found there: by chance that happens in 1 "
            "of 20 tests."
        )
    low, high = interval_ends((result["details"].get("validation_against_testing") or {}).get("interval"))
    if not low <= baseline <= high:
        said += (
            " The same attack also tells validation from test patients, and the generator was trained on neither: "
            "groups of these patients differ by themselves, and the finding may have the same cause."
        )
    return said


def k_line(certificate: Mapping[str, Any]) -> str:
    """The nominal risk of the starting points, by the test ``k_same`` if it was run.

    Args:
        certificate: what ``certificate.json`` holds.
    """
    k = certificate["release"]["k"]
    if k is None:
        return (
            "The starting points of the synthetic images are not known to stand for groups of patients (no k-same), so "
            f"that there is no nominal risk 1/k to compare with the {K_LIMIT} of EMA Policy 0070 and Health Canada."
        )
    found = [test["result"]["details"] for test in certificate["tests"] if test["id"] == "k_same" and test["result"]]
    details = found[0] if found else {}
    return (
        f"{_group_risk(details.get('smallest_group', k))}{_spread_note(details)} It is about starting points only: the "
        "generator was trained on every patient."
    )


def _group_risk(smallest: int) -> str:
    relation = "within" if 1 / smallest <= K_LIMIT else "above"
    return (
        f"Behind each starting point of the synthetic images stand {smallest} patients or more: a nominal risk of "
        f"1/{smallest} = {figure_text(1 / smallest)}, {relation} the {K_LIMIT} of EMA Policy 0070 and Health Canada."
    )


def _spread_note(details: Mapping[str, Any]) -> str:
    if not details.get("spread"):
        return ""
    return (
        " The starting points were then drawn apart from the mean of their class: a patient can weigh more in one than "
        "this risk says, and each also holds the mean and the scatter of all patients of its class."
    )
