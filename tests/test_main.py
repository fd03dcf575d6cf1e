"""The command line: it works from a shell, and a user's fault is one message and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from monai_plan import __main__ as command_line
from monai_plan.__main__ import main

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


@pytest.mark.parametrize("words", [[], ["dtalist"], ["datalist"], ["datalist", ".", "--output"]])
def test_misuse_is_explained(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2 and "usage: python -m monai_plan" in capsys.readouterr().err


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["datalist", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for option in (
        "--output",
        "--table",
        "--image_folder",
        "--label_column",
        "--patient_tag",
        "--no_check",
        "example:",
    ):
        assert option in shown


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
    for name in ("run_bundle", "run_later"):
        monkeypatch.setattr(
            command_line, name, lambda place, overlays, name=name, **ids: heard.append((name, place, overlays, ids))
        )
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
    with pytest.raises(SystemExit) as caught:
        main(["generate", "--to", "there", "--per_class", "5", *words])
    assert caught.value.code == 2 and "usage: python -m monai_plan generate" in capsys.readouterr().err
