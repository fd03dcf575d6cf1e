"""The command line: it works from a shell, says what went wrong, and its exit code tells whose fault it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import monai_plan as plan
from monai_plan.__main__ import main, main_and_exit
from monai_plan.commands import images, results
from monai_plan.commands.parts import settings_of
from monai_plan.commands.program import build_program
from monai_plan.utils import RunError, sha256_of

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    lines = ["file,label,patient_id,age"]
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
        lines.append(f"{number}.png,{'ill' if number % 2 else 'well'},p{number},{number}")
    (root / "metadata.csv").write_text("\n".join(lines))
    return root


def test_datalist_from_a_shell_in_another_directory(source, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "monai_plan", "datalist", str(source), "--output", str(source)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"wrote {source / 'datalist.json'}" in done.stdout
    assert "training" in done.stdout and "ill: 7, well: 7" in done.stdout
    assert json.loads((source / "datalist.json").read_text())["num_classes"] == 2


def test_options_reach_the_datalist(source, tmp_path):
    output = tmp_path / "a.json"
    words = ["datalist", str(source), "--output", str(output), "--seed", "5", "--fractions", "0.5", "0.3", "0.2"]
    words += ["--keep", "age", "--image_column", "file", "--label_column", "label", "--patient_column", "patient_id"]
    words += ["--classes", "well", "ill"]
    assert main([*words, "--group_column", "age", "--no_check"]) == 0
    content = json.loads(output.read_text())
    assert (content["seed"], content["fractions"]) == (5, [0.5, 0.3, 0.2])
    assert [len(content[split]) for split in ("training", "validation", "testing")] == [10, 6, 4]
    assert all(record["age"] == record["group_id"] for record in content["training"])
    assert content["labels"] == {"0": "well", "1": "ill"}


@pytest.mark.parametrize(
    ("words", "essential"),
    [
        pytest.param(["datalist", "{d}/none", "--output", "{d}"], "no file or folder", id="no source"),
        pytest.param(["datalist", "{d}", "--output", "{d}", "--label_column", "y"], "no column 'y'", id="column"),
        pytest.param(["datalist", "{d}", "--output", "{d}/a.txt"], "must end in .json", id="output"),
        pytest.param(["datalist", "{d}", "--output", "{d}/0.png/a.json"], "0.png", id="output below a file"),
        pytest.param(["datalist", "{d}", "--output", "{d}", "--fractions", "1", "1", "1"], "sum to 1", id="fractions"),
    ],
)
def test_faults_are_one_message_and_code_2(source, capsys, words, essential):
    assert main([word.format(d=source) for word in words]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and essential in shown.err
    assert shown.err.splitlines()[-1].startswith("error: ") and "Traceback" not in shown.err
    assert not list(source.glob("*.json"))


@pytest.mark.parametrize("words", [["dtalist"], ["datalist"], ["datalist", ".", "--output"]])
def test_misuse_is_explained(words, capsys):
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("usage: python -m monai_plan") and "--help" in shown.err
    assert shown.err.splitlines()[-1].startswith("error: ") and "Traceback" not in shown.err


def test_no_command_shows_the_help(capsys):
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and "examples:" in shown.err and shown.err.endswith("error: no command was given\n")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["datalist", "--help"]])
def test_asked_for_help_is_no_fault(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0 and capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "exit_code", "essential"),
    [
        (ValueError("correct it"), 2, "error: correct it"),
        (OSError("disk full"), 2, "error: disk full"),
        (KeyError("a bug"), 70, "fault of monai_plan"),
        (RuntimeError("a bug"), 70, "nothing of private/"),
        (RunError("the gate rejected all"), 2, "error: the gate rejected all"),
        (BrokenPipeError(32, "Broken pipe"), 2, "A process that worked for this command"),
        (KeyboardInterrupt(), 130, "error: stopped by Ctrl-C: nothing half-made is left; the same command begins anew"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_exit_codes(monkeypatch, capsys, error, exit_code, essential, as_json):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(images, "build_datalist", fail)
    assert main(["datalist", "a", "--output", "b", *(["--json"] if as_json else [])]) == exit_code
    shown = capsys.readouterr()
    assert essential in shown.err and ("Traceback" in shown.err) is (exit_code == 70)
    assert shown.err.splitlines()[-1].startswith("error: ")
    document = json.loads(shown.out) if as_json else None
    assert document is None or (document["command"], document["exit_code"]) == ("datalist", exit_code)
    assert as_json or shown.out == ""


@pytest.mark.parametrize("command", ["pipeline", "generate", "ledger"])
def test_ctrl_c_leaves_a_run_that_goes_on(monkeypatch, capsys, command):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "Pipeline", stop)
    monkeypatch.setattr(results, "run_later", stop)
    words = {
        "pipeline": ["--bundle", "b"],
        "generate": ["--to", "t", "--per_class", "5"],
        "ledger": ["--withdraw", "p"],
    }
    assert main([command, "--output_dir", "here", *words[command]]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err


def test_the_place_of_a_fault_is_logged(monkeypatch, caplog):
    def fail(*_, **__):
        raise ValueError("correct it")

    monkeypatch.setattr(images, "build_datalist", fail)
    with caplog.at_level("DEBUG", logger="monai_plan"):
        assert main(["datalist", "a", "--output", "b"]) == 2
    assert "Traceback" in caplog.text and "in fail" in caplog.text


NOT_MEASURED = ["material", "targets", "image_features", "files"]
"""Parts of an audit that take long to make."""


@pytest.fixture
def stopped_audit(monkeypatch, tmp_path):
    """The words of an audit beside an earlier certificate, into which Ctrl-C comes while the attacks run."""

    def stop(*_, **arguments):
        assert len(arguments["config"]) > 1000
        raise KeyboardInterrupt

    monkeypatch.setattr(plan.report, "audit_release", stop)
    (tmp_path / "certificate").mkdir()
    for name in ("certificate.json", "config.json", "model_card.md"):
        (tmp_path / "certificate" / name).write_text(f"earlier {name}")
    bundle = Path(__file__).resolve().parent.parent / "bundles" / "plan_tb"
    settings = [*(f"audit#{name}=null" for name in NOT_MEASURED), "table=null"]
    return ["audit", "--bundle", str(bundle), "--output_dir", str(tmp_path), "--set", *settings]


def test_ctrl_c_leaves_the_earlier_certificate(stopped_audit, tmp_path, capsys):
    before = {path: sha256_of(path) for path in tmp_path.rglob("*") if path.is_file()}
    assert main(stopped_audit) == 130
    assert "nothing half-made is left" in capsys.readouterr().err
    assert {path: sha256_of(path) for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("trained", "warned"), [(None, False), ("another", True)])
def test_it_is_said_which_classifier_is_audited(stopped_audit, tmp_path, capsys, trained, warned):
    if trained:
        (tmp_path / "model.pt").write_text(trained)
    assert main(stopped_audit) == 130
    assert ("the classifier that is audited is" in capsys.readouterr().err) is warned


@pytest.mark.parametrize(
    ("words", "name", "values"),
    [
        (["audit", "--set", "a=1", "b=2", "--set", "c=3"], "set", ["a=1", "b=2", "c=3"]),
        (["datalist", "x", "--output", "y", "--table", "a", "--table", "b"], "table", ["a", "b"]),
        (["datalist", "x", "--output", "y", "--image_folder", "a", "--image_folder", "b"], "image_folder", ["a", "b"]),
        (["datalist", "x", "--output", "y", "--keep", "a", "--keep", "b"], "keep", ["a", "b"]),
        (["datalist", "x", "--output", "y", "--classes", "a", "--classes", "b"], "classes", ["a", "b"]),
    ],
)
def test_an_option_of_several_values_may_be_repeated(words, name, values):
    parser = build_program("monai-plan")
    for _ in range(2):  # the default is not changed by the first
        assert getattr(parser.parse_args(words), name) == values


def test_an_id_is_set_once():
    assert settings_of(["a=1", "b=x"]) == {"a": 1, "b": "x"}
    with pytest.raises(ValueError, match="--set got 'a' twice"):
        settings_of(["a=1", "b=x", "a=1"])


@pytest.mark.parametrize("words", [["--help"], ["audit"]])
def test_a_closed_pipe_ends_it_silently(monkeypatch, tmp_path, words):
    """As after ``| head``; stderr stands for a terminal, or is closed as well after ``2>&1 | head``."""
    reading, writing = os.pipe()
    os.close(reading)
    both = os.fdopen(writing, "w")
    monkeypatch.setattr(sys, "stdout", both)
    monkeypatch.setattr(sys, "stderr", both if words == ["audit"] else (tmp_path / "stderr").open("w"))
    monkeypatch.setattr(sys, "argv", ["monai_plan", *words])
    with pytest.raises(SystemExit) as caught:
        main_and_exit()
    assert caught.value.code == 141
    both.close()  # as at the end of the process: nothing is raised any more
    assert words == ["audit"] or not (tmp_path / "stderr").read_text()


def test_a_pipe_that_closes_during_the_work_ends_it_silently(monkeypatch):
    reading, writing = os.pipe()
    stdout = os.fdopen(writing, "w")

    def work(*_, **__):
        os.close(reading)
        print("a line", flush=True)

    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(images, "build_datalist", work)
    with pytest.raises(BrokenPipeError):
        main(["datalist", "a", "--output", "b"])
    with pytest.raises(BrokenPipeError):
        stdout.close()


def test_the_end_of_the_process_has_the_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/bin/monai-plan", "audit"])
    with pytest.raises(SystemExit) as caught:
        main_and_exit()
    assert caught.value.code == 2 and "say what to audit" in capsys.readouterr().err


def test_it_goes_by_the_name_that_was_typed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/bin/monai-plan"])
    assert main(["pack"]) == 2
    assert capsys.readouterr().err.startswith("usage: monai-plan pack")


@pytest.mark.parametrize(
    ("words", "essential"),
    [
        ([], "say what to audit"),
        (["--bundle", "nowhere"], "no config at"),
        (["--output_dir", "{d}"], "holds no run"),
        (["--bundle", "{bundle}", "--set", "audit#image=5"], "did you mean audit#images"),
        (["--bundle", "{bundle}", "--set", "audit#images"], "write ID=VALUE"),
        (["--bundle", "{bundle}", "--output_dir", "{d}", "--sign", "{d}/none.pem"], "none.pem"),
    ],
)
def test_an_audit_that_cannot_begin(source, capsys, words, essential):
    bundle = Path(__file__).resolve().parent.parent / "bundles" / "plan_tb"
    assert main(["audit", *(word.format(d=source, bundle=bundle) for word in words)]) == 2
    assert essential in capsys.readouterr().err


@pytest.mark.parametrize("source_option", ["--bundle", "--output_dir"])
def test_options_reach_the_export(tmp_path, monkeypatch, source_option):
    """What the config makes of them stands in tests/bundles/test_generate.py."""
    heard = []
    (tmp_path / "there").mkdir()
    settings = {"per_class": 5, "classes": {}, "format": "png", "image_size": 8, "channels": 1, "seed": 0}
    (tmp_path / "there" / "export.json").write_text(json.dumps({"settings": settings}))

    def run(name, place, overlays, **ids):
        heard.append((name, place, overlays, ids))
        return SimpleNamespace(get_parsed_content=ids.get)

    for name in ("run_bundle", "run_later"):
        monkeypatch.setattr(results, name, partial(run, name))
    monkeypatch.chdir(tmp_path)
    words = ["generate", source_option, "here", "--to", "there", "--per_class", "5", "--format", "dicom", "--seed", "3"]
    assert main([*words, "--shard_size", "50", "--spacing", "0.5", "--set", "generate#batch_size=8"]) == 0
    assert main(["generate", source_option, "here", "--to", "there", "--per_class", "5"]) == 0
    expected = {"folder": str(tmp_path / "there"), "per_class": 5, "format": "dicom", "seed": 3, "shard_size": 50}
    runner = "run_bundle" if source_option == "--bundle" else "run_later"
    given = {f"generate#{name}": value for name, value in {**expected, "spacing": 0.5, "batch_size": 8}.items()}
    assert heard[0] == (runner, "here", ("generate",), given)
    defaults = {**expected, "format": "png", "seed": 0, "shard_size": 1000, "spacing": None}
    assert heard[1] == (runner, "here", ("generate",), {f"generate#{name}": v for name, v in defaults.items()})


@pytest.mark.parametrize(
    ("words", "essential"),
    [
        (["--bundle", "nowhere"], "no config at"),
        (["--output_dir", "{d}"], "holds no run"),
        (["--bundle", "{bundle}", "--set", "generate#perclass=5"], "did you mean generate#per_class"),
        (["--bundle", "{bundle}", "--per_class", "0"], "'generate#per_class' is 0"),
        (["--bundle", "{bundle}", "--to", "{d}"], "holds files and is no export"),
        (["--bundle", "{bundle}", "--spacing", "0.5"], "PNG keeps no spacing"),
    ],
)
def test_an_export_that_cannot_begin(source, capsys, words, essential):
    bundle = Path(__file__).resolve().parent.parent / "bundles" / "plan_tb"
    before = sorted(source.parent.rglob("*"))
    words = [word.format(d=source, bundle=bundle) for word in words]
    assert main(["generate", "--to", str(source.parent / "to"), "--per_class", "2", *words]) == 2
    assert essential in capsys.readouterr().err and sorted(source.parent.rglob("*")) == before


@pytest.mark.parametrize("words", [[], ["--bundle", "a", "--output_dir", "b"], ["--bundle", "a", "--format", "jpeg"]])
def test_an_export_is_of_one_source_and_a_known_format(words, capsys):
    assert main(["generate", "--to", "there", "--per_class", "5", *words]) == 2
    assert "usage: python -m monai_plan generate" in capsys.readouterr().err
