"""Figures as words."""

import json

import pytest
from audit_records import case_of, passing_record, result, sample_record

from monai_plan.report import certificate_words, figure_text, interval_text, with_verdicts


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
        ("linkability", "excess rate", -0.02, [-0.1, 0.1], "2 times less often", "contains"),
        ("gate_false_rejections", "rate", 0.05, [0.02, 0.1], "That is 5 in 100.", ""),
        ("canaries", "epsilon", 0.3, [0.3, None], "lower bound of epsilon is 0.300", "lies above"),
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


def test_a_control_that_finds_something_is_named():
    odd = result("membership_distance", 0.6, [0.55, 0.65], control=0.6, control_interval=[0.55, 0.65])
    assert "groups of these patients differ" in words_of(case_of("membership_distance", odd))["comparison"]


@pytest.mark.parametrize(
    "resolvable, expected", [(0.0, "Counted over"), (None, "not stated"), (0.05, "0.050 or more from 0.500")]
)
def test_smallest_effect(resolvable, expected):
    words = words_of(case_of("inference", result("inference", 0.5, [0.4, 0.6], resolvable=resolvable)))
    assert expected in words["smallest"]


@pytest.mark.parametrize(
    "limit, expected",
    [({"at_most": 0.6}, "at most 0.600"), ({"at_least": 0.99}, "at least 0.990"), (None, "–")]
    + [({"at_most": 0.6, "at_least": 0.4}, "0.400 to 0.600")],
)
def test_limits(limit, expected):
    assert words_of(case_of("inference", result("inference", 0.5, [0.4, 0.6]), limit))["limit"] == expected


@pytest.mark.parametrize(
    "k, words", [(12, "1/12 = 0.083, within the 0.09"), (11, "above the 0.09"), (None, "no k-same")]
)
def test_k(k, words):
    record = with_verdicts({**sample_record(), "release": {"mode": "walks", "k": k}})
    assert words in certificate_words(record)["k_line"]


def test_one_remedy_for_tests_that_share_it():
    record = sample_record()
    for test in record["tests"][:2]:
        test["limit"] = {"at_most": 0.1}
    todo = certificate_words(with_verdicts(json.loads(json.dumps(record))))["overall"]["todo"]
    assert todo[0] == "Do not release." and "squeeze" not in todo[1] and todo[1].count("Nearness") == 2
