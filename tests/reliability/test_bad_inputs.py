"""Every bad and hostile input of the table ends with a clear message: in time, in bounded memory, leaving nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import monai_plan

BENCHMARKS = Path(monai_plan.__file__).resolve().parent.parent / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("not a checkout", allow_module_level=True)
for package in ("PIL", "pydicom", "nibabel", "cryptography"):
    pytest.importorskip(package)
sys.path.insert(0, str(BENCHMARKS))
import bad_input_trials  # noqa: E402
from bad_inputs import CASES, OUT, Case  # noqa: E402

sys.path.remove(str(BENCHMARKS))
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cases are judged in forked processes")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.entry}: {case.fault}")
def test_it_is_refused_in_words(tmp_path, case):
    found = bad_input_trials.trial(case, tmp_path)
    assert not found.fault, f"{found.fault}; the message was: {found.message}"


def test_the_table_is_wide_and_names_each_case_once():
    names = [(case.entry, case.fault) for case in CASES]
    assert len(set(names)) == len(names) >= 60
    assert all(case.says for case in CASES)
    entries = {"image", "table", "DICOM", "NIfTI", "datalist", "weights", "anchors", "walks", "bundle", "command line"}
    assert entries <= {case.entry for case in CASES}


def accept(folder):
    """What no product may do."""


def refuse_strangely(folder):
    raise KeyError("x")


def refuse(message):
    def call(folder):
        raise ValueError(message)

    return call


def leave_something(folder):
    (folder / OUT).mkdir()
    (folder / OUT / "half").write_text("x")
    raise ValueError("no")


def fill_the_memory(folder):
    assert len(bytes(700 * 2**20).replace(b"\0", b"x")) > 0
    raise ValueError("no")


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (accept, "it was accepted"),
        (refuse_strangely, "KeyError"),
        (refuse("yes"), "does not say ['no']"),
        (leave_something, "left behind: ['out/half']"),
        (fill_the_memory, "MiB"),
        (refuse("no"), ""),
    ],
)
def test_the_judge_sees_each_kind_of_fault(tmp_path, call, fault):
    found = bad_input_trials.trial(Case("a", "b", call, ("no",)), tmp_path)
    assert fault in found.fault and bool(fault) == bool(found.fault)


def test_the_figures_add_up(tmp_path, monkeypatch):
    cases = [Case("a", "1", refuse("no"), ("no",)), Case("b", "2", accept, ("no",))]
    monkeypatch.setattr(bad_input_trials, "CASES", cases)
    figures = bad_input_trials.measure(False, tmp_path)
    assert (figures["bad_inputs"], figures["bad_inputs_clear"]) == (2, 1)
    assert figures["bad_inputs_faults"] == {"b: 2": "it was accepted"}
    assert "1 of 2" in bad_input_trials.show(figures)
