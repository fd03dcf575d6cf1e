"""The table of expectations: every row names tests that exist, and the page shows them."""

import ast
import json
from pathlib import Path

import pytest

import monai_plan

REPOSITORY = Path(monai_plan.__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (REPOSITORY / "benchmarks").is_dir(), reason="not a checkout")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return __import__("expectations")


def test_every_row_names_tests_that_exist(script):
    rows = script.load_rows()
    assert [row["row"] for row in rows] == list(range(1, 36))
    assert [row["row"] for row in rows if not row["tests"]] == [row["row"] for row in rows if "by_hand" in row] == [35]
    tests = {test for row in rows for test in row["tests"]}
    known = set()
    for file in {test.partition("::")[0] for test in tests}:
        functions = ast.parse((REPOSITORY / file).read_text(encoding="utf-8")).body
        known |= {f"{file}::{node.name}" for node in functions if isinstance(node, ast.FunctionDef)}
    assert not tests - known


def test_the_page_shows_them(script):
    page = (REPOSITORY / "docs" / "expectations.md").read_text(encoding="utf-8")
    rows = script.load_rows()
    text = script.page_text(rows, {row["row"]: "" for row in rows})
    lines = [line.rpartition(" | ")[0] for line in text.splitlines()]
    assert not [line for line in lines if line not in page]


def test_the_result_counts_every_row():
    result = REPOSITORY / "benchmarks" / "results" / "expectations.json"
    if not result.is_file():
        pytest.skip("not run yet: python benchmarks/expectations.py --json benchmarks/results/expectations.json")
    record = json.loads(result.read_text())
    statuses = [row["status"] for row in record["table"]]
    assert record["rows"] == len(statuses) == 35
    assert (record["passed"], record["failed"]) == (statuses.count("passed"), statuses.count("failed"))


REPORT = """<testsuites><testsuite>
<testcase file="tests/test_a.py" classname="tests.test_a" name="test_one[1]" time="2.5" />
<testcase file="tests/test_a.py" classname="tests.test_a" name="test_one[2-[x]]" time="1" ><skipped /></testcase>
<testcase file="tests/test_a.py" classname="tests.test_a" name="test_two" time="3" ><failure /></testcase>
<testcase file="tests/test_a.py" classname="tests.test_a" name="test_three" time="4" />
</testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("names", "more", "expected"),
    [
        (["three"], {}, "passed"),
        (["one"], {}, "skipped"),
        (["one", "two"], {}, "failed"),
        (["never"], {}, "failed"),
        (["three"], {"most_seconds": 4}, "passed"),
        (["three"], {"most_seconds": 3}, "failed"),
        ([], {"by_hand": "somewhere"}, "by hand"),
    ],
)
def test_status_of_a_row(script, names, more, expected):
    found = script.read_report(REPORT)
    assert found["tests/test_a.py::test_one"] == [("passed", 2.5), ("skipped", 1.0)]
    assert script.status_of({"tests": [f"tests/test_a.py::test_{name}" for name in names], **more}, found) == expected
