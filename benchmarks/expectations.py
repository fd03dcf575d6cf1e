"""What a MONAI user expects of this plugin: each expectation with the tests that check it, run, as JSON and as a page.

The rows stand in expectations_rows.json. Their tests are run in one pytest; a row has passed if all of them have. Rows
that are not run keep the status that the JSON file has of them.

    python benchmarks/expectations.py --json benchmarks/results/expectations.json --page docs/expectations.md
    python benchmarks/expectations.py --only 3 4 --json benchmarks/results/expectations.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import torch
from common import about

from monai_plan.utils import atomic_path, write_json

REPOSITORY = Path(__file__).resolve().parent.parent
ROWS = Path(__file__).with_name("expectations_rows.json")
PASSED, FAILED, SKIPPED, NOT_RUN, BY_HAND = "passed", "failed", "skipped", "not run", "by hand"
HEAD = """# What a MONAI user expects, and which test checks it

Written by `python benchmarks/expectations.py --json benchmarks/results/expectations.json --page docs/expectations.md`,
which runs the tests. A row has passed if all its tests have.
"""


def load_rows() -> list[dict[str, Any]]:
    """The expectations: ``row``, ``expectation``, ``tests`` (pytest's ids), and where it differs ``most_seconds`` or,
    for what no test of one environment can show, ``by_hand``."""
    return json.loads(ROWS.read_text(encoding="utf-8"))


def run_tests(tests: Sequence[str]) -> dict[str, list[tuple[str, float]]]:
    """Run pytest once: id of each test to the outcome and the seconds of each of its cases."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1", f"--junitxml={report}"]
        subprocess.run([sys.executable, "-m", "pytest", *options, *tests], cwd=REPOSITORY, check=False)
        return read_report(report.read_text(encoding="utf-8")) if report.is_file() else {}


def read_report(text: str) -> dict[str, list[tuple[str, float]]]:
    """The cases of pytest's JUnit report, by the id of their test."""
    found: dict[str, list[tuple[str, float]]] = {}
    for case in ElementTree.fromstring(text).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = FAILED if kinds & {"failure", "error"} else SKIPPED if "skipped" in kinds else PASSED
        name = f"{case.get('file')}::{str(case.get('name')).partition('[')[0]}"
        found.setdefault(name, []).append((outcome, float(case.get("time") or 0)))
    return found


def status_of(row: Mapping[str, Any], found: Mapping[str, Sequence[tuple[str, float]]]) -> str:
    """The worst outcome of a row's tests; a test that pytest does not know has failed."""
    if not row["tests"]:
        return BY_HAND
    cases = [case for test in row["tests"] for case in found.get(test) or [(FAILED, 0.0)]]
    if any(seconds > row.get("most_seconds", seconds) for _, seconds in cases):
        return FAILED
    outcomes = {outcome for outcome, _ in cases}
    return next(outcome for outcome in (FAILED, SKIPPED, PASSED) if outcome in outcomes)


def page_text(rows: Sequence[Mapping[str, Any]], statuses: Mapping[int, str], made: str = "") -> str:
    """The page in Markdown."""
    lines = [HEAD, made, "", "| row | expectation | tests | status |", "|---|---|---|---|"]
    for row in rows:
        tests = "<br>".join(f"`{test}`" for test in row["tests"]) or row["by_hand"]
        lines.append(f"| {row['row']} | {row['expectation']} | {tests} | {statuses[row['row']]} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run, count, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=int, nargs="+", metavar="ROW", help="run these rows (default: all)")
    parser.add_argument("--json", type=Path, help="write the outcome here; rows that are not run are kept from it")
    parser.add_argument("--page", type=Path, help="write the page here")
    options = parser.parse_args()
    rows = load_rows()
    chosen = [row for row in rows if not options.only or row["row"] in options.only]
    if options.only and len(chosen) < len(set(options.only)):
        parser.error(f"--only takes rows from 1 to {len(rows)}, got {options.only}")
    statuses = {row["row"]: NOT_RUN if row["tests"] else BY_HAND for row in rows}
    if options.json and options.json.is_file():
        earlier = json.loads(options.json.read_text(encoding="utf-8"))
        statuses |= {row["row"]: row["status"] for row in earlier["table"]}
    found = run_tests(sorted({test for row in chosen for test in row["tests"]}))
    statuses.update({row["row"]: status_of(row, found) for row in chosen})
    for row in chosen:
        print(f"{row['row']:>3}  {statuses[row['row']]:<8}  {row['expectation']}")
    counts = Counter(statuses.values())
    print(", ".join(f"{number} {status}" for status, number in sorted(counts.items())))
    made = about(torch.device("cpu"))
    if options.json:
        table = [{**row, "status": statuses[row["row"]]} for row in rows]
        record = {"passed": counts[PASSED], "failed": counts[FAILED], "rows": len(rows), "table": table}
        write_json(options.json, {**record, "monai": monai.__version__, **made})
    if options.page:
        line = (
            f"Last run: {made['date'][:10]}, commit {made['commit']}, MONAI {monai.__version__}, torch {made['torch']}."
        )
        with atomic_path(options.page) as partial:
            partial.write_text(page_text(rows, statuses, line), encoding="utf-8")
    raise SystemExit(bool(counts[FAILED]))


if __name__ == "__main__":
    main()
