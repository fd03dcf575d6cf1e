"""From a folder of images to the table: each stage once, again where its inputs changed, and on after a kill."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time

import pytest
import torch

from monai_plan.__main__ import main
from monai_plan.latent import InvertedImages, PrivacyGate, WalkSet
from monai_plan.networks.nets import StyleGenerator
from monai_plan.pipeline import RUN, STAGES, run_later
from monai_plan.utils import sha256_of, write_json

NAMES = [stage.name for stage in STAGES]


def stages_run(shown: str) -> list[str]:
    """Names of the stages that were started, in order."""
    return [line.split(", ")[1].split(":")[0] for line in shown.splitlines() if ": started" in line]


def state(output) -> dict[str, tuple[int, str]]:
    """Every file's time of change and hash."""
    files = [path for path in sorted(output.rglob("*")) if path.is_file()]
    return {path.relative_to(output).as_posix(): (path.stat().st_mtime_ns, sha256_of(path)) for path in files}


def check_complete(output) -> None:
    """Everything is there, can be read, and nothing is left under a temporary name."""
    table = json.loads((output / "table.json").read_text())
    assert all(0 <= table[row][name] <= 1 for row in ("real", "linear", "plan") for name in ("accuracy", "auroc"))
    StyleGenerator.load(output / "private" / "generator.safetensors", image_size=32)
    PrivacyGate.load(output / "private" / "gate.safetensors")
    assert len(WalkSet.load(output / "private" / "walks_private.safetensors")) == 4
    for name in ("identity", "label", "model"):
        torch.load(output / "private" / f"{name}.pt", weights_only=True)
    for name in NAMES:
        record = json.loads((output / "stages" / f"{name}.json").read_text())
        assert {"inputs", "outputs", "kept", "seconds"} == set(record) and record["seconds"] >= 0
        assert record["outputs"] and all(sha256_of(path) == digest for path, digest in record["outputs"].items())


def test_every_stage_once_and_again_only_where_something_changed(pipeline_words, radiographs, tmp_path, capsys):
    output = tmp_path / "output"
    assert main(pipeline_words()) == 0
    shown = capsys.readouterr().out
    assert stages_run(shown) == NAMES and "train_gan: started; less than a minute" in shown
    assert shown.splitlines()[-1].startswith("all 7 stages complete") and str(output) in shown.splitlines()[-1]
    check_complete(output)
    assert [path.name for path in output.rglob(".*") if path.is_file()] == [".ledger.json.lock"]
    before = state(output)

    assert main(pipeline_words()) == 0  # nothing changed
    assert stages_run(capsys.readouterr().out) == [] and state(output) == before

    assert main(pipeline_words("walk#iterations=3")) == 0  # one setting: its stage and those after it
    assert stages_run(capsys.readouterr().out) == ["walk", "train"]
    after = state(output)
    assert after["private/walks_private.safetensors"] != before["private/walks_private.safetensors"]
    for name in ("generator.safetensors", "gate.safetensors", "identity.pt", "label.pt"):
        assert after[f"private/{name}"] == before[f"private/{name}"]

    assert main(pipeline_words("walk#iterations=3", "seeds=[2]")) == 0  # only the table has seeds
    assert stages_run(capsys.readouterr().out) == ["train"]
    assert main(pipeline_words("walk#iterations=3")) == 0
    assert stages_run(capsys.readouterr().out) == ["train"]

    (output / "private" / "label.pt").unlink()  # a file was lost: it is made again, to the same bits
    assert main(pipeline_words("walk#iterations=3")) == 0
    assert stages_run(capsys.readouterr().out) == ["train_label"]

    image = sorted(radiographs.glob("*.png"))[0]
    image.write_bytes(sorted(radiographs.glob("*.png"))[1].read_bytes())  # a picture was replaced: everything
    assert main(pipeline_words("walk#iterations=3")) == 0
    assert stages_run(capsys.readouterr().out) == NAMES
    assert state(output)["private/generator.safetensors"][1] != before["private/generator.safetensors"][1]
    check_complete(output)


def test_a_checkpoint_of_other_inputs_is_not_continued(pipeline_words, tmp_path, capsys):
    """A finished checkpoint would otherwise end the new training at once, with the old weights."""
    assert main(pipeline_words()) == 0
    first = sha256_of(tmp_path / "output" / "private" / "generator.safetensors")
    assert main(pipeline_words("gan#learning_rate=0.01")) == 0
    shown = capsys.readouterr().out
    assert stages_run(shown) == [*NAMES, "train_gan", "invert", "walk", "train"]
    assert sha256_of(tmp_path / "output" / "private" / "generator.safetensors") != first


def test_a_corrected_table_makes_another_split(pipeline_words, radiographs, tmp_path, capsys):
    assert main(pipeline_words("epochs=0")) == 2
    table = radiographs / "metadata.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line for line in lines if not line.startswith("phantom-0-00000")))
    assert main(pipeline_words("epochs=0")) == 2
    made = json.loads((tmp_path / "output" / "datalist.json").read_text())
    assert sum(len(made[split]) for split in ("training", "validation", "testing")) == 38
    assert "'epochs' is 0" in capsys.readouterr().err


def test_a_killed_run_is_continued_by_the_same_command(pipeline_words, tmp_path, capsys):
    output = tmp_path / "output"
    words = pipeline_words("gan#images=128")
    rng = random.Random(0)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for waits_for in ("stages/train_gan.json", "private/generator.safetensors"):
        process = subprocess.Popen(
            [sys.executable, "-m", "monai_plan", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        try:
            deadline = time.monotonic() + 120
            while not (output / waits_for).exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 1))
            assert process.poll() is None, "it ended before it could be killed"
        finally:
            process.kill()
            process.wait()
        for path in output.rglob("*.safetensors"):
            if not path.name.startswith("."):  # whole, if there under its name
                networks = {"generator", "discriminator", "gate", "encoder", "guide", "teachers"}
                assert path.stem in networks or (
                    InvertedImages.load(path) if path.name.startswith("latents") else WalkSet.load(path)
                )
    assert main(words) == 0
    check_complete(output)
    assert stages_run(capsys.readouterr().out)[-1] == "train"
    assert main(words) == 0
    assert stages_run(capsys.readouterr().out) == []


def test_a_given_datalist_and_other_columns(pipeline_words, radiographs, tmp_path, capsys):
    table = radiographs / "metadata.csv"
    table.write_text(table.read_text().replace("file,label,patient_id", "picture,finding_x,who"))
    words = pipeline_words()
    where = words.index("--set")
    assert main(words) == 2
    assert "no column that looks like the image's" in capsys.readouterr().err
    named = ["--image_column", "picture", "--label_column", "finding_x", "--patient_column", "who"]
    # the split is made before the settings are looked at, and stays
    assert main([*words[:where], *named, *pipeline_words("epochs=0")[where:]]) == 2
    capsys.readouterr()
    made = json.loads((tmp_path / "output" / "datalist.json").read_text())
    assert len(made["training"]) == 28 and made["num_classes"] == 2
    (radiographs / "datalist.json").write_bytes((tmp_path / "output" / "datalist.json").read_bytes())
    assert main(pipeline_words("epochs=-3")) == 2
    assert "'epochs' is -3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pair", "hint"),
    [
        ("image_sise=64", "did you mean image_size"),
        ("gan#image=5", "did you mean gan#images"),
        ("zzzzzz=5", "config id 'zzzzzz'. Correct --set zzzzzz="),
    ],
)
def test_unknown_ids_are_refused_with_a_suggestion(pipeline_words, tmp_path, capsys, pair, hint):
    assert main(pipeline_words(pair)) == 2
    shown = capsys.readouterr().err
    assert "no stage of" in shown and hint in shown
    assert not (tmp_path / "output").exists()


def test_a_table_in_another_place_is_refused_before_the_work(pipeline_words, tmp_path, capsys):
    assert main(pipeline_words(f"table_file={tmp_path / 'mine.json'}")) == 2
    assert "table_file is '" in capsys.readouterr().err and not (tmp_path / "output" / "stages").exists()


def test_a_place_may_be_given_as_an_expression(tmp_path):
    """A later command asks the config that was run, and does not guess from what was typed."""
    config = {"output_dir": "", "private_dir": "", "ledger_file": "$@private_dir + '/ledger.json'", "run": []}
    write_json(tmp_path / "bundle" / "configs" / "train.json", config)
    settings = {"ledger_file": "$@output_dir + '/mine.json'"}
    write_json(tmp_path / RUN, {"bundle": str(tmp_path / "bundle"), "settings": settings})
    assert run_later(tmp_path, ()).get_parsed_content("ledger_file") == str(tmp_path / "mine.json")


def test_set_without_a_value_is_explained(pipeline_words, capsys):
    assert main(pipeline_words("image_size")) == 2
    assert "--set got 'image_size'; write ID=VALUE" in capsys.readouterr().err
