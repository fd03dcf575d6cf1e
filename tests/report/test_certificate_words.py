"""What is said of a whole certificate."""

import json

import pytest
from audit_records import case_of, passing_record, result, sample_record

from monai_plan.report import certificate_words, with_verdicts


def words_of(test):
    record = with_verdicts({**passing_record(), "tests": [test]})
    return certificate_words(record)["tests"][0]


@pytest.mark.parametrize(
    "limit, out_of_reach",
    [
        ({"at_most": 0.18}, False),
        ({"at_most": 0.185}, True),
        ({"at_most": 0.2}, True),
        ({"at_least": 0.2}, False),
        (None, False),
    ],
)
def test_what_copies_would_give(limit, out_of_reach):
    found = result("reidentification", 0.01, [0.0, 0.02], "excess rate", details={"attainable": 0.185})
    certificate = with_verdicts({**passing_record(), "tests": [case_of("reidentification", found, limit)]})
    words = certificate_words(certificate)
    assert words["tests"][0]["copies"] == "0.185" and words["tests"][0]["out_of_reach"] is out_of_reach
    reason = "Recognising a patient in a synthetic image: the limit cannot be broken; a release of nothing but copies"
    assert any(line.startswith(reason) for line in words["overall"]["reasons"]) is out_of_reach


def test_without_a_word_about_copies():
    words = words_of(case_of("inference", result("inference", 0.5, [0.4, 0.6]), {"at_most": 1}))
    assert words["copies"] == "–" and not words["out_of_reach"]


@pytest.mark.parametrize(
    "limit, expected",
    [({"at_most": 0.6}, "at most 0.600"), ({"at_least": 0.99}, "at least 0.990"), (None, "–")]
    + [({"at_most": 0.6, "at_least": 0.4}, "0.400 to 0.600")],
)
def test_limits(limit, expected):
    assert words_of(case_of("inference", result("inference", 0.5, [0.4, 0.6]), limit))["limit"] == expected


@pytest.mark.parametrize(
    "required, reason, step",
    [
        ([], "it has a limit, and was not run (no patient has two images)", "take its limit out of the settings"),
        (["linkability"], "required, and not run (no patient has two images)", "it is required"),
    ],
)
def test_what_was_not_run_is_listed_with_its_reason(required, reason, step):
    absent = case_of("linkability", "no patient has two images", {"at_most": 0.05})
    record = passing_record()
    certificate = with_verdicts({**record, "tests": [*record["tests"], absent]}, required)
    overall = certificate_words(certificate)["overall"]
    assert overall["verdict"] == "unclear"
    assert overall["reasons"] == [f"Linking two records of one person: {reason}"] and step in overall["todo"][1]


def test_small_groups_stand_last_and_have_no_figures():
    lines = certificate_words(with_verdicts(passing_record()))["utility"]["subgroups"]
    age = [line for line in lines if line["attribute"] == "age"]
    assert [line["group"] for line in age] == ["young"] * 3 + ["smaller groups"] * 3
    assert age[-1]["n"] == "7" and age[-1]["accuracy"] == age[-1]["auroc"] == "–"


def test_intervals_and_subgroups_are_those_of_the_first_seed():
    """As the utility table writes them."""
    record = passing_record()
    rows = record["utility"]["rows"]
    for name, row in rows.items():
        of_seed = {key: row.pop(key) for key in ("auroc_interval_95", "subgroups", "confusion")}
        rows[name] = {**row, "per_seed": [{**of_seed, "kappa_interval_95": [0.601, 0.812]}, {}]}
    words = certificate_words(with_verdicts(record))["utility"]
    assert words["rows"][0]["auroc"] == "0.921 (0.871 to 0.961)"
    assert words["rows"][0]["kappa"] == "0.722 (0.601 to 0.812)"
    assert {line["attribute"] for line in words["subgroups"]} == {"age", "sex"}


def test_real_images_mixed_in_are_named():
    record = passing_record()
    assert with_verdicts(record)["verdict"]["overall"] == "passed"
    record["utility"]["rows"]["plan"]["real_share"] = 0.25
    words = certificate_words(with_verdicts(record))
    assert words["overall"]["verdict"] == "unclear" and len(words["overall"]["reasons"]) == 1
    assert "'plan' was trained on 25 % real images" in words["overall"]["reasons"][0]
    assert any("on synthetic images alone, and repeat" in step for step in words["overall"]["todo"])
    names = [row["name"] for row in words["utility"]["rows"]]
    assert "Synthetic images (private walks), 25 % real images mixed in" in names and "Real images" in names


def test_one_remedy_for_tests_that_share_it():
    record = sample_record()
    for test in record["tests"][:2]:
        test["limit"] = {"at_most": 0.1}
    todo = certificate_words(with_verdicts(json.loads(json.dumps(record))))["overall"]["todo"]
    assert todo[0] == "Do not release." and "squeeze" not in todo[1] and todo[1].count("Nearness") == 2
