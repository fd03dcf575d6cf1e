"""Finding the running bundle, and explaining what went wrong in it."""

from __future__ import annotations

import json
import os
import sys

import pytest
from monai.bundle import ConfigWorkflow

from monai_plan.utils import (
    RunError,
    explain_errors,
    find_bundle_root,
    knows_id,
    refuse_unknown_options,
    root_cause,
    running_config,
    similar_ids,
)


@pytest.fixture
def bundle(tmp_path):
    (tmp_path / "bundle" / "configs").mkdir(parents=True)
    (tmp_path / "bundle" / "configs" / "metadata.json").write_text("{}")
    return tmp_path / "bundle"


@pytest.mark.parametrize("folder", ["configs", "."])
def test_the_root_is_that_of_the_running_config(bundle, tmp_path, monkeypatch, folder):
    config = bundle / folder / "train.json"
    nodes = {"imports": ["$import monai_plan"], "bundle_root": "$monai_plan.utils.find_bundle_root()"}
    config.write_text(json.dumps({**nodes, "initialize": ["$print(@bundle_root)"], "run": []}))
    monkeypatch.chdir(bundle)
    workflow = ConfigWorkflow(
        os.path.relpath(config), logging_file=False, meta_file=str(bundle / "configs/metadata.json")
    )
    workflow.initialize()  # before MONAI puts the bundle into sys.path
    assert workflow.parser.get_parsed_content("bundle_root") == os.path.realpath(bundle)


def test_the_config_that_runs_with_what_was_overridden(bundle):
    config = bundle / "configs" / "train.json"
    nodes = {"imports": ["$import monai_plan"], "epochs": 1, "seen": "$dict(monai_plan.utils.running_config())"}
    config.write_text(json.dumps({**nodes, "initialize": ["@seen"], "run": []}))
    workflow = ConfigWorkflow(str(config), logging_file=False, epochs=7)
    workflow.initialize()
    assert workflow.parser.get_parsed_content("seen")["epochs"] == 7


def test_without_a_workflow_monais_default():
    assert find_bundle_root() == "." and running_config() == {}


CONFIG = {"epochs": 3, "train": {"trainer": {"_target_": "a.B", "device": "cpu"}, "handlers": [{"name": 1}]}}


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("epochs", True),
        ("train#handlers#0#name", True),
        ("train#trainer#amp", True),  # an argument that the component may take
        ("epoch", False),
        ("train#handler", False),
        ("train#handlers#1", False),
        ("_target_", False),
    ],
)
def test_ids_that_change_something(name, known):
    assert knows_id(CONFIG, name) is known


def test_similar_ids_are_offered():
    assert similar_ids("epoch", [CONFIG]) == "; did you mean epochs?"
    assert similar_ids("zzz", [CONFIG]) == ""


@pytest.mark.parametrize(
    ("program", "words", "refused"),
    [
        ("monai/bundle/__main__.py", ["run", "--epoch", "3"], "epoch"),
        ("monai/bundle/__main__.py", ["run", "--train#handler=1"], "train#handler"),
        ("monai/bundle/__main__.py", ["run", "--epochs", "3", "--config_file", "x", "--meta-file", "y"], None),
        ("monai/bundle/__main__.py", ["run", "--epochs=3", "--train::trainer::amp", "True"], None),
        ("monai/bundle/__main__.py", ["run", "--args_file", "a.json", "--epoch", "3"], None),
        ("monai/bundle/__main__.py", ["ckpt_export", "--epoch", "3"], None),
        ("pytest", ["run", "--epoch", "3"], None),
    ],
)
def test_unknown_options_are_refused(bundle, monkeypatch, program, words, refused):
    (bundle / "configs" / "train.json").write_text(json.dumps(CONFIG))
    monkeypatch.setattr(sys, "argv", [program, *words])
    if refused is None:
        refuse_unknown_options(str(bundle))
    else:
        with pytest.raises(ValueError, match=f"has the id '{refused}'; did you mean .*Correct --{refused};"):
            refuse_unknown_options(str(bundle))


def test_without_configs_nothing_is_refused(bundle, tmp_path, monkeypatch):
    (bundle / "configs" / "train.json").write_text(json.dumps(CONFIG))
    monkeypatch.setattr(sys, "argv", ["monai/bundle/__main__.py", "run", "--config_file", "x.json", "--epoch", "3"])
    with pytest.raises(ValueError, match="epoch"):
        refuse_unknown_options(str(bundle))
    assert refuse_unknown_options(str(tmp_path / "elsewhere")) is None


def wrapped(cause: BaseException) -> BaseException:
    for text in ("Failed to instantiate", "Failed to evaluate"):
        error = RuntimeError(text)
        error.__cause__, cause = cause, error
    return cause


def run_error() -> RunError:
    error = RunError("seven")
    error.__cause__ = OSError("what led to it")
    return error


@pytest.mark.parametrize("cause", [ValueError("seven"), RuntimeError("seven"), run_error()])
def test_the_root_cause_is_the_last_line(cause, monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    explain_errors()
    explain_errors()
    error = wrapped(cause)
    assert root_cause(error) is cause and root_cause(cause) is cause
    sys.excepthook(type(error), error, None)
    shown = capsys.readouterr().err.splitlines()
    assert shown[-2:] == ["RuntimeError: Failed to evaluate", "error: seven"] and shown.count("error: seven") == 1
    sys.excepthook(type(cause), cause, None)
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"{type(cause).__name__}: seven")


def test_a_cause_below_another_error_stays_there():
    outer = ValueError("the file is broken")
    outer.__cause__ = KeyError("x")
    assert root_cause(wrapped(outer)) is outer
