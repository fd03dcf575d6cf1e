"""Parsers take what they are given or refuse it in our words: what fuzzing has found, what hypothesis makes up."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path

import pytest

import monai_plan

BENCHMARKS = Path(monai_plan.__file__).resolve().parent.parent / "benchmarks"
CORPUS = Path(__file__).parent / "corpus"
if not BENCHMARKS.is_dir():
    pytest.skip("not a checkout", allow_module_level=True)
hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")
for package in ("PIL", "pydicom", "nibabel", "cryptography"):
    pytest.importorskip(package)
sys.path.insert(0, str(BENCHMARKS))
from fuzz_targets import TARGETS, Fault, Target, check  # noqa: E402

sys.path.remove(str(BENCHMARKS))

STORED = sorted(CORPUS.glob("*/*"))
QUICK = hypothesis.settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["\0", "..", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(autouse=True)
def silence():
    """Parsers warn and print about damaged files."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_parsed(tmp_path, name):
    answers = [check(TARGETS[name], seed, tmp_path) for seed in TARGETS[name].seeds()]
    assert "taken" in answers or name == "run_record", answers


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}-{path.name[:8]}")
def test_what_was_found_stays_mended(tmp_path, path):
    check(TARGETS[path.parent.name], path.read_bytes(), tmp_path)


def test_the_corpus_is_of_known_parsers():
    assert STORED and {path.parent.name for path in STORED} <= set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_bytes(tmp_path, name):
    seeds = TARGETS[name].seeds()

    @QUICK
    @hypothesis.given(st.data())
    def damaged(data):
        seed = data.draw(st.sampled_from(seeds))
        start = data.draw(st.integers(0, len(seed)))
        end = data.draw(st.integers(start, min(len(seed), start + 8)))
        check(TARGETS[name], seed[:start] + data.draw(st.binary(max_size=8)) + seed[end:], tmp_path)

    damaged()


def json_of(seed: bytes):
    """The bytes before a seed's JSON, and what it says; None where there is none."""
    start = seed.find(b"{")
    try:
        return (seed[:start], json.loads(seed[start:])) if start in (0, 1) else None
    except ValueError:
        return None


def places(content, path=()):
    """The paths to all values."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path] + [deeper for key, value in inner for deeper in places(value, (*path, key))]


def replaced(content, path, value):
    if not path:
        return value
    copied = content.copy()
    copied[path[0]] = replaced(content[path[0]], path[1:], value)
    return copied


JSON_TARGETS = [name for name, target in TARGETS.items() if any(map(json_of, target.seeds()))]


@pytest.mark.parametrize("name", JSON_TARGETS)
def test_another_value_anywhere_in_the_json(tmp_path, name):
    seeds = [found for found in map(json_of, TARGETS[name].seeds()) if found]

    @QUICK
    @hypothesis.given(st.data())
    def changed(data):
        before, content = data.draw(st.sampled_from(seeds))
        path = data.draw(st.sampled_from(places(content)))
        text = json.dumps(replaced(content, path, data.draw(VALUES)))
        check(TARGETS[name], before + text.encode(), tmp_path)

    changed()


def test_parsers_of_json_are_found():
    assert {"datalist", "ledger", "labels", "release", "export", "run_record", "tensor_files"} <= set(JSON_TARGETS)


def raising(error):
    def parse(data, folder):
        raise error

    return Target(parse, list)


@pytest.mark.parametrize(
    "error", [KeyError("x"), ValueError(""), ValueError("raised by no code of ours"), MemoryError()]
)
def test_the_judge_sees_each_kind_of_fault(tmp_path, error):
    with pytest.raises(Fault):
        check(raising(error), b"", tmp_path)


def test_the_judge_sees_a_slow_parser(tmp_path, monkeypatch):
    monkeypatch.setattr("fuzz_targets.MOST_SECONDS", -1.0)
    with pytest.raises(Fault, match="it took"):
        check(Target(lambda data, folder: None, list), b"", tmp_path)
