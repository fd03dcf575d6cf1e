"""Figures and findings as words."""

import pytest
from audit_records import case_of, passing_record, result, sample_record

from monai_plan.report import certificate_words, with_verdicts
from monai_plan.report.finding_words import figure_text, interval_text


@pytest.mark.parametrize(
    "value, expected",
    [
        (None, "–"),
        (0.12345, "0.123"),
        (-0.0123, "−0.012"),
        (-0.0, "0.000"),
        (0.00012, "1.2e−04"),
        (1234.5, "1234.5"),
        (1234567, "1\u202f234\u202f567"),
    ],
)
def test_figures(value, expected):
    assert figure_text(value) == expected


@pytest.mark.parametrize(
    "interval, expected",
    [
        (None, "–"),
        ([None, None], "–"),
        ([0.5, None], "0.500 or more"),
        ([None, 0.25], "0.250 or less"),
        ([-0.5, 0.25], "−0.500 to 0.250"),
    ],
)
def test_intervals(interval, expected):
    assert interval_text(interval) == expected


def words_of(test):
    record = with_verdicts({**passing_record(), "tests": [test]})
    return certificate_words(record)["tests"][0]


@pytest.mark.parametrize(
    "name, measure, value, interval, finding, comparison",
    [
        (
            "membership_distance",
            "AUROC",
            0.512,
            [0.45, 0.57],
            "right 51.2 times in 100",
            "contains what guessing gives",
        ),
        ("membership_distance", "AUROC", 0.7, [0.6, 0.8], "right 70 times in 100", "lies above"),
        ("membership_distance", "AUROC", 0.3, [0.2, 0.4], "right 30 times in 100", "Turned round"),
        ("screening", "share", 0.3, [0.2, 0.4], "Of 100 synthetic images, 30 lie nearer", "keep farther"),
        ("membership_network", "balanced accuracy", 0.507, [0.4, 0.6], "50 others, one by one", "contains what"),
        ("linkability", "excess rate", -0.02, [-0.1, 0.1], "with 2 fewer training patients than", "contains zero"),
        ("linkability", "excess rate", 0.032, [0.01, 0.1], "with 3.2 more training patients than", "above zero"),
        ("near_copies", "excess share", 0.05, [0.03, 0.07], "5 more are near-copies of training", "above zero"),
        ("near_copies", "excess share", -0.05, [-0.07, -0.03], "5 fewer are near-copies", "keep farther"),
        ("gate_false_rejections", "rate", 0.05, [0.02, 0.1], "That is 5 in 100.", ""),
        ("canaries", "epsilon", 0.3, [0.3, None], "An epsilon below 0.300 is ruled out", "lies above"),
        ("canaries", "epsilon", 0.0, [0.0, None], "No epsilon above 0 is shown", "no effect is shown"),
        ("canaries", "epsilon", None, None, "No figure", "There is no interval"),
    ],
)
def test_findings(name, measure, value, interval, finding, comparison):
    words = words_of(case_of(name, result(name, value, interval, measure)))
    assert (
        finding in words["finding"]
        and comparison in words["comparison"]
        and bool(comparison) == bool(words["comparison"])
    )


@pytest.mark.parametrize(
    "control, strangers, said, unsaid",
    [
        ([0.55, 0.65], [0.4, 0.6], "by chance that happens in 1 of 20", "differ by themselves"),
        ([0.45, 0.65], [0.55, 0.6], "groups of these patients differ by themselves", "1 of 20"),
        ([0.45, 0.65], [0.3, 0.49], "groups of these patients differ by themselves", "1 of 20"),
        ([0.45, 0.65], [0.4, 0.6], "the effect is there.", "differ"),
        ([0.45, 0.65], None, "the effect is there.", "differ"),
    ],
)
def test_what_the_control_and_two_groups_of_strangers_say(control, strangers, said, unsaid):
    details = {"validation_against_testing": {"value": 0.58, "interval": strangers}} if strangers else {}
    odd = result("membership_distance", 0.6, [0.55, 0.65], control=0.6, control_interval=control, details=details)
    words = words_of(case_of("membership_distance", odd))
    assert said in words["comparison"] and unsaid not in words["comparison"]
    assert words["strangers"] == (f"0.580 ({interval_text(strangers)})" if strangers else "")
    assert words["control_is"].startswith("one random half") and words["control_value"].startswith("0.600 (0.")


@pytest.mark.parametrize(
    "resolvable, expected",
    [(0.0, "Counted over 463 patients and 199 others;"), (None, "not stated"), (0.05, "0.050 or more from 0.500")],
)
def test_smallest_effect(resolvable, expected):
    words = words_of(case_of("inference", result("inference", 0.5, [0.4, 0.6], resolvable=resolvable)))
    assert expected in words["smallest"]


def counted(name, **details):
    return case_of(name, result(name, 0.0, [0.0, 0.0], "rate", details=details))


def test_figures_that_are_counted():
    words = words_of(counted("gate_released", images=2000, rejected=3))
    assert words["finding"] == "The gate rejects 3 of 2\u202f000 images." and words["comparison"] == ""
    assert words["smallest"] == "Counted over 2\u202f000 images, of which one is 0.048; no sample of patients."
    found = result("near_copies", 0.0, [0.0, 0.1], "excess share")
    found["details"] = {"near": 50, "patients": 5, "synthetic_images": 1000}
    finding = words_of(case_of("near_copies/pixels", found))["finding"]
    assert finding.endswith("In all, 50 of 1\u202f000 images are near-copies, of 5 training patients.")


@pytest.mark.parametrize(
    "k, details, said, unsaid",
    [
        (12, None, "stand 12 patients or more: a nominal risk of 1/12 = 0.083, within the 0.09", "drawn apart"),
        (12, {"smallest_group": 14, "spread": False}, "1/14 = 0.071, within the 0.09", "drawn apart"),
        (12, {"smallest_group": 12, "spread": True}, "a patient can weigh more in one than this risk says", "equal"),
        (11, {"smallest_group": 11}, "1/11 = 0.091, above the 0.09", "drawn apart"),
        (None, None, "no k-same", "1/12"),
    ],
)
def test_k(k, details, said, unsaid):
    tests = [*passing_record()["tests"][:1], *([counted("k_same", **details)] if details else [])]
    record = with_verdicts({**sample_record(), "tests": tests, "release": {"mode": "walks", "k": k}})
    words = certificate_words(record)
    assert said in words["k_line"] and unsaid not in words["k_line"]
    if details:
        assert words["tests"][1]["finding"] in words["k_line"]
