"""``--json``: stdout carries one document, with what the page in docs/ says, whatever is printed on the way."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from monai_plan.__main__ import main
from monai_plan.commands import exchange, images, results
from monai_plan.latent.aggregation import Group, Grouping
from monai_plan.latent.ledger import Ledger
from monai_plan.pipeline import RUN, STAGES
from monai_plan.utils import write_json

PAGE = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text(encoding="utf-8")


def promised(command: str) -> set[str]:
    """The keys that the page names for a command's document, those of its parts left out."""
    text = re.search(rf"^### {command}\n.*?^JSON: (.*?)(?=\n\n|\Z)", PAGE, flags=re.M | re.S)[1]
    text = re.sub(r"\([^()]*\)", "", text).partition(" with what was made")[0]
    return set(re.findall(r"`(\w+)`", text))


@pytest.fixture
def document(capsys):
    """A function: words -> exit code, the one document on stdout, and stderr."""

    def run(*words) -> tuple[int, dict, str]:
        exit_code = main([*map(str, words), "--json"])
        shown = capsys.readouterr()
        content = json.loads(shown.out)
        assert content["exit_code"] == exit_code
        if exit_code in (0, 1):
            assert set(content) == {"command", "exit_code", "written", *promised(content["command"])}
            assert all(Path(path).is_absolute() and Path(path).is_file() for path in content["written"])
        return exit_code, content, shown.err

    return run


@pytest.fixture
def a_run(tmp_path):
    """A folder that a pipeline has left."""
    write_json(tmp_path / RUN, {"bundle": "bundles/plan_tb", "settings": {}})
    return tmp_path


def faked(monkeypatch, module, name, act):
    """Let ``run_bundle`` or ``run_later`` act, and print as a config does; returns the calls.

    What ``act`` returns is taken for the config's parsed content.
    """
    calls = []

    def run(place, overlays, **overrides):
        calls.append((name, str(place), overlays, overrides))
        print("said by the config")
        logging.getLogger("a.library").info("said by a library")
        return SimpleNamespace(get_parsed_content=(act() or {}).get)

    monkeypatch.setattr(module, name, run)
    return calls


def test_datalist(tmp_path, document):
    image = pytest.importorskip("PIL.Image")
    for number in range(20):
        folder = tmp_path / "data" / ("ill" if number % 2 else "well")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16)).astype(np.uint8)
        image.fromarray(pixels).save(folder / f"{number}.png")
    exit_code, content, _ = document("datalist", tmp_path / "data", "--output", tmp_path / "a.json")
    assert exit_code == 0 and content["written"] == [str(tmp_path / "a.json")] and content["left_out"] == 0
    assert content["splits"]["training"] == {"images": 14, "groups": 14, "labels": {"ill": 7, "well": 7}}


class FakePipeline:
    """Writes what a pipeline leaves, as it reports on the way."""

    def __init__(self, *, output_dir, overrides, **_):
        self.output = Path(output_dir)
        assert overrides == {"seeds": [0, 1], "k": 5}

    def run(self) -> SimpleNamespace:
        for stage in STAGES:
            print(f"stage {stage.name}: started")
            write_json(self.output / "stages" / f"{stage.name}.json", {"seconds": 1.5})
        write_json(self.output / "table.json", {"plan": {"accuracy": 0.5}})
        (self.output / "table.txt").write_text("the table\n")
        return SimpleNamespace(get_parsed_content={"output_dir": str(self.output)}.get)


@pytest.mark.parametrize("quiet", [False, True])
def test_pipeline(tmp_path, document, monkeypatch, capsys, quiet):
    monkeypatch.setattr(images, "Pipeline", FakePipeline)
    (tmp_path / "stages").mkdir()
    words = ["pipeline", "--bundle", "b", "--output_dir", tmp_path, "--set", "seeds=[0,1]", "k=5"]
    words += ["--quiet"] if quiet else []
    _, content, shown = document(*words)
    assert content["stages"] == {stage.name: 1.5 for stage in STAGES} and content["table"]["plan"]["accuracy"] == 0.5
    assert ("stage walk: started" in shown) is not quiet

    assert main([str(word) for word in words]) == 0  # in words: reported on the way, or the result alone
    said = capsys.readouterr().out
    assert ("stage walk: started" in said) is not quiet and said.count("the table") == int(quiet)


@pytest.mark.parametrize("verdict", ["passed", "failed", "unclear"])
@pytest.mark.parametrize("source", ["--bundle", "--output_dir"])
def test_audit(tmp_path, document, monkeypatch, verdict, source):
    result = {"measure": "auroc", "value": 0.5, "interval": [0.4, 0.6], "control": None, "n": 7}
    tests = [
        {"id": "screening", "verdict": "passed", "result": result, "not_run": None, "limit": {}},
        {"id": "k_same", "verdict": "unclear", "result": None, "not_run": "no ledger", "limit": {}},
    ]
    place = tmp_path / "anywhere"
    certificate = {"tests": tests, "verdict": {"overall": verdict}}

    def act():
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / "notes.json", "of the user")
        return {"audit#written": {"certificate.json": write_json(place / "certificate.json", certificate)}}

    name = "run_bundle" if source == "--bundle" else "run_later"
    calls = faked(monkeypatch, results, name, act)
    exit_code, content, shown = document("audit", source, tmp_path, "--exit_code", "--set", "audit#images=5")
    assert exit_code == (0 if verdict == "passed" else 1) and content["verdict"] == verdict
    assert content["tests"][0] == {
        **{"id": "screening", "verdict": "passed", "not_run": None},
        **{name: value for name, value in result.items() if name != "n"},
    }
    assert content["tests"][1]["not_run"] == "no ledger" and content["tests"][1]["value"] is None
    assert content["written"] == [str(place / "certificate.json")] and "said by a library" in shown
    settings = {"audit#show_real_images": False, "audit#signing_key": "", "audit#images": 5}
    assert calls == [(name, str(tmp_path), ("evaluate",), settings)]
    assert document("audit", source, tmp_path)[0] == 0, "only --exit_code makes a verdict an exit code"


def test_release(a_run, document, monkeypatch):
    counts = {"mode": "images", "k": 12, "images": 3, "paths": 2, "classes": {"0": {"name": "well", "images": 3}}}
    counts["audit"] = {"verdict": None, "certificate_sha256": None, "says": "NOT AUDITED"}

    def act():
        folder = a_run / "anywhere"
        folder.mkdir(exist_ok=True)
        (folder / "labels.csv").write_text("")
        write_json(folder / "manifest.json", {"schema": "release", **counts, "files": {"labels.csv": "ab"}})
        return {"release_dir": str(folder)}

    calls = faked(monkeypatch, results, "run_later", act)
    _, content, _ = document("release", "--output_dir", a_run, "--mode", "images")
    assert {name: content[name] for name in counts} == counts
    assert content["written"] == [str(a_run / "anywhere" / name) for name in ("manifest.json", "labels.csv")]
    assert calls == [("run_later", str(a_run), ("release",), {"release#mode": "images"})]


def test_generate(tmp_path, document, monkeypatch):
    settings = {"per_class": 5, "format": "dicom", "image_size": 32, "channels": 1, "seed": 3, "spacing": None}
    settings["classes"] = {"0": "well", "1": "ill"}

    def act():
        (tmp_path / "to").mkdir(exist_ok=True)
        write_json(tmp_path / "to" / "datalist.json", {})
        write_json(tmp_path / "to" / "export.json", {"settings": settings})
        return {"generate#folder": str(tmp_path / "to")}

    faked(monkeypatch, results, "run_bundle", act)
    words = ("generate", "--bundle", "b", "--to", tmp_path / "to", "--per_class", "5", "--format", "dicom")
    _, content, _ = document(*words)
    assert content["written"] == [str(tmp_path / "to" / "datalist.json")] and content["images"] == 10
    assert content["classes"] == ["well", "ill"] and content["format"] == "dicom"


@pytest.mark.parametrize("option", ["--patient", "--withdraw"])
def test_ledger(a_run, document, monkeypatch, option):
    grouping = Grouping(k=2, groups=(Group(3, 0, ("a", "b")),), left_over=("c",))
    ledger = Ledger(grouping, False, (), (), ())
    calls = faked(monkeypatch, results, "run_later", lambda: {"touched": ledger.touched("a")})
    _, content, _ = document("ledger", "--output_dir", a_run, option, "a")
    assert content["withdrawn"] is (option == "--withdraw")
    assert (content["touched"]["status"], content["touched"]["anchor"], content["touched"]["share"]) == (
        "grouped",
        3,
        0.5,
    )
    overlays = [("touched",), *([("walk", "withdraw")] if option == "--withdraw" else [])]
    assert [call[2] for call in calls] == overlays and all(call[3] == {"patient": "a"} for call in calls)
    faked(monkeypatch, results, "run_later", lambda: ledger.touched("nobody"))
    assert "knows no patient" in document("ledger", "--output_dir", a_run, option, "nobody")[1]["error"]


def test_convert(tmp_path, document, monkeypatch):
    network = SimpleNamespace(config={"image_size": 32}, save=lambda path: Path(path).write_text(""))
    monkeypatch.setattr(exchange, "read_weights", lambda path: {})
    monkeypatch.setattr(exchange, "published_networks", lambda state: ())
    monkeypatch.setattr(exchange, "generator_from_published", lambda state, clamp: network)
    _, content, _ = document("convert", "w.pt", "--output", tmp_path / "g.safetensors")
    assert content["network"] == "generator" and content["config"] == {"image_size": 32}


@pytest.mark.parametrize("private", [False, True])
def test_pack(tmp_path, document, monkeypatch, capsys, private):
    def pack_bundle(bundle, folder, private=False):
        packed = Path(folder) / f"{bundle}_v1{'_private' if private else ''}.zip"
        packed.write_bytes(b"123")
        return packed

    monkeypatch.setattr(exchange, "pack_bundle", pack_bundle)
    words = ["pack", "--bundle", "plan_tb", "--to", str(tmp_path), *(["--private"] if private else [])]
    _, content, _ = document(*words)
    packed = str(tmp_path / f"plan_tb_v1{'_private' if private else ''}.zip")
    assert content["written"] == [packed] and (content["bytes"], content["private"]) == (3, private)
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"wrote {packed}: ") and ("without private/" in said) is not private


@pytest.mark.parametrize(
    ("words", "command", "essential"),
    [
        (["audit"], "audit", "say what to audit"),
        (["dtalist"], "dtalist", "invalid choice"),
        (["pack"], "pack", "required: --bundle"),
        ([], None, "no command"),
    ],
)
def test_faults(document, words, command, essential):
    exit_code, content, shown = document(*words)
    assert exit_code == 2 and set(content) == {"command", "exit_code", "error"} and content["command"] == command
    assert essential in content["error"] and content["error"] in shown


def test_the_first_process_alone_prints(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert main(["audit", "--json"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and "say what to audit" in shown.err
