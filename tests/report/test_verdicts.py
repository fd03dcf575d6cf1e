"""The rule as a table."""

import math

import pytest

from monai_plan.report import missing_tests, overall_verdict, verdict_of
from monai_plan.report.verdicts import real_shares, require_limits

BELOW, BOTH, LEAST = {"at_most": 0.6}, {"figure": "value", "at_most": 0.6, "at_least": 0.4}, {"at_least": 0.99}


def ran(interval, limit, name="screening"):
    return {"id": name, "result": {"value": 0.5, "interval": interval}, "limit": limit, "not_run": None}


@pytest.mark.parametrize(
    "interval, limit, expected",
    [
        ([0.45, 0.55], BELOW, "passed"),
        ([0.45, 0.6], BELOW, "passed"),  # a limit belongs to what it allows
        ([0.45, 0.61], BELOW, "unclear"),
        ([0.6, 0.7], BELOW, "unclear"),
        ([0.61, 0.7], BELOW, "failed"),
        ([0.1, 0.2], BELOW, "passed"),
        ([0.1, 0.2], BOTH, "failed"),
        ([0.4, 0.6], BOTH, "passed"),
        ([0.3, 0.5], BOTH, "unclear"),
        ([0.3, 0.7], BOTH, "unclear"),
        ([0.7, 0.8], BOTH, "failed"),
        ([0.992, 0.999], LEAST, "passed"),
        ([0.98, 0.985], LEAST, "failed"),
        ([1 / 12, 1 / 12], {"at_most": 0.09}, "passed"),
        ([1 / 11, 1 / 11], {"at_most": 0.09}, "failed"),
        ([0.7, None], BELOW, "failed"),  # a bound on one side
        ([0.5, None], BELOW, "unclear"),
        ([0.5, math.inf], BELOW, "unclear"),
        ([math.nan, math.nan], BELOW, "unclear"),
        (None, BELOW, "unclear"),
        ([0.9, 0.99], None, "no limit"),
    ],
)
def test_verdict_of(interval, limit, expected):
    assert verdict_of(ran(interval, limit)) == expected


def test_not_run():
    assert verdict_of({"id": "linkability", "result": None, "not_run": "no halves", "limit": BELOW}) == "not run"


@pytest.mark.parametrize(
    "test, message",
    [
        (ran([0.4, 0.5], {}), "sets no bound"),
        (ran([0.4, 0.5], {"at_most": None}), "sets no bound"),
        (ran([0.4, 0.5], {"at_most": 0.4, "at_least": 0.6}), "swapped"),
        (ran([0.4, 0.5], {"at_most": math.nan}), "no finite number"),
        (ran([0.4, 0.5], {"at_most": math.inf}), "no finite number"),
        (ran([0.3, None], {"at_most": 1.0}, "canaries"), "no upper end"),
        (ran([0.4, 0.5], {"figure": "control", "at_most": 0.6}), "figure 'control'"),
        (ran([0.7, 0.5], BELOW), "reversed"),
        ({"id": "x", "result": None, "limit": {}}, "sets no bound"),
    ],
)
def test_senseless_limits_are_refused(test, message):
    with pytest.raises(ValueError, match=message):
        verdict_of(test)


PASSED, FAILED, UNCLEAR = (
    ran(interval, BELOW, name)
    for name, interval in (("screening/embedding", [0, 0.5]), ("inference", [0.7, 0.8]), ("linkability", [0.5, 0.7]))
)
FREE, ABSENT = ran([0.8, 0.9], None, "canaries"), {"id": "k_same", "result": None, "limit": BELOW, "not_run": "no k"}
UNASKED = {**ABSENT, "limit": None}


@pytest.mark.parametrize(
    "tests, required, expected",
    [
        ([PASSED], [], "passed"),
        ([PASSED, FREE], [], "passed"),
        ([PASSED, ABSENT], [], "unclear"),  # a limit that nothing was held to
        ([PASSED, FREE, UNASKED], [], "passed"),
        ([PASSED, ABSENT], ["k_same"], "unclear"),
        ([PASSED], ["never_heard_of"], "unclear"),
        ([PASSED], ["screening"], "passed"),
        ([PASSED], ["screening/embedding"], "passed"),
        ([PASSED], ["screening/lpips_squeeze"], "unclear"),
        ([PASSED, FREE], ["canaries"], "passed"),
        ([PASSED, UNCLEAR], [], "unclear"),
        ([PASSED, UNCLEAR, FAILED], [], "failed"),
        ([FAILED, ABSENT], ["k_same"], "failed"),
        ([FREE, ABSENT], [], "unclear"),  # nothing was judged
        ([], [], "unclear"),
    ],
)
def test_overall(tests, required, expected):
    assert overall_verdict(tests, required) == expected


@pytest.mark.parametrize(("tests", "expected"), [([PASSED], "unclear"), ([PASSED, FAILED], "failed")])
def test_real_images_mixed_in_keep_a_release_from_passing(tests, expected):
    rows = {"real": {}, "plan": {"real_share": 0.25}}
    assert real_shares({"utility": {"rows": rows}}) == {"plan": 0.25}
    assert real_shares({"utility": {"rows": {"plan": {}}}}) == real_shares({"utility": None}) == real_shares({}) == {}
    assert overall_verdict(tests, mixed={"plan": 0.25}) == expected


def test_missing_in_the_order_asked_for():
    assert missing_tests([PASSED, ABSENT], ["z", "k_same", "screening", "a"]) == ["z", "k_same", "a"]


TESTS = ("screening", "canaries", "k_same")


@pytest.mark.parametrize(
    "limits, required",
    [
        ({}, []),
        ({"screening": BELOW, "k_same": {"at_most": 0}}, ["screening", "screening/embedding", "canaries"]),
        ({"screening": {"at_most": 0.6, "at_least": 0.6}, "canaries": {"at_least": 0.0}}, []),
    ],
)
def test_limits_that_make_sense(limits, required):
    assert require_limits(limits, TESTS, required) is None


@pytest.mark.parametrize(
    "limit, message",
    [
        ({}, "sets no bound"),
        ({"at_least": None, "at_most": None}, "sets no bound"),
        ({"at_most": 0.4, "at_least": 0.6}, "swapped"),
        ({"at_most": math.nan}, "no finite number"),
        ({"at_least": -math.inf}, "no finite number"),
        ({"at_most": "0.6"}, "write it as"),
        ({"at_most": True}, "write it as"),
        ({"at_most": [0.4, 0.6]}, "write it as"),
        ({"most": 0.6}, "write it as"),
        ({"figure": "control", "at_most": 0.6}, "write it as"),
        (0.6, "write it as"),
        (None, "write it as"),
    ],
)
def test_limits_that_make_none(limit, message):
    with pytest.raises(ValueError, match=message):
        require_limits({"k_same": BELOW, "screening": limit}, TESTS)


@pytest.mark.parametrize(
    "limits, required, message",
    [
        ({"membership": BELOW}, [], "limits for membership, and the tests are screening, canaries, k_same"),
        ({"screening/embedding": BELOW}, [], "holds for every distance"),
        ({}, ["screening", "screenings"], "^screenings required"),
        ({}, ["canary/embedding"], "^canary/embedding required"),
        ({"canaries": {"at_most": 3}}, [], "no upper end"),
    ],
)
def test_names_and_the_figure_without_an_upper_end(limits, required, message):
    with pytest.raises(ValueError, match=message):
        require_limits(limits, TESTS, required)
