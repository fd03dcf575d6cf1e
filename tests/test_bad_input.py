"""Bad input, one row a case: the message says what was seen, why, and what to type; nothing half-made is left.

Faults of a datalist's source and of a datalist itself have longer tables in tests/data/test_datalist.py.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from monai_plan.__main__ import main
from monai_plan.data import build_datalist
from monai_plan.networks.nets import StyleGenerator
from monai_plan.utils import load_tensors, root_cause, save_tensors

# what both commands read: the images and their table


def first_image(folder: Path) -> Path:
    return sorted(folder.glob("*.png"))[0]


def spoil_image(pixels: np.ndarray | bytes | None):
    """Replace the first image by pixels, by bytes, or by nothing."""

    def edit(folder: Path) -> None:
        image = first_image(folder)
        image.unlink()
        if isinstance(pixels, bytes):
            image.write_bytes(pixels)
        elif pixels is not None:
            Image.fromarray(pixels).save(image)

    return edit


def nifti(pixels: np.ndarray):
    """Replace the first image by a NIfTI file."""

    def edit(folder: Path) -> None:
        nibabel = pytest.importorskip("nibabel")
        image = first_image(folder)
        volume = image.with_suffix(".nii.gz")
        nibabel.save(nibabel.Nifti1Image(pixels.astype(np.float32), np.eye(4)), volume)
        table = folder / "metadata.csv"
        table.write_text(table.read_text().replace(image.name, volume.name))

    return edit


def edit_table(old: str, new: str, count: int = -1):
    def edit(folder: Path) -> None:
        table = folder / "metadata.csv"
        text = table.read_text()
        assert old in text
        table.write_text(text.replace(old, new, count))

    return edit


def truncated_image(folder: Path) -> None:
    image = first_image(folder)
    image.write_bytes(image.read_bytes()[:200])


NOISE = np.random.default_rng(0).integers(0, 256, (32, 32, 4)).astype(np.uint8)
SOURCES = {  # an edit of the user's folder, and what the message must say
    "missing image": (spoil_image(None), ["-00000-0.png", "moved", "--dataset_dir DIR"]),
    "corrupt image": (truncated_image, ["(200 bytes) cannot be decoded", "Copy it once more"]),
    "no image at all": (spoil_image(b"no picture"), ["(10 bytes)", "another format"]),
    "wrong channels": (nifti(np.stack([NOISE[:, :, :1]] * 7, -1)), ["7 channels", "grey or RGB"]),
    "too small": (spoil_image(NOISE[:8, :8, 0]), ["8 x 8 pixels", "16 is the least", "thumbnail"]),
    "constant image": (spoil_image(NOISE[:, :, 0] * 0 + 7), ["is constant", "Leave the image out"]),
    "NaN": (nifti(np.where(NOISE[:, :, 0] == 9, np.nan, NOISE[:, :, 0])), [".nii.gz'", "NaN"]),
    "one class": (edit_table(",well,", ",ill,"), ["every image", "has the label 'ill'", "--label_column"]),
    "unreadable label": (edit_table(",well,", ",,", 1), ["line 2", "the label is empty"]),
    "class too rare": (edit_table(",well,", ",other,", 1), ["class 'other' has 1 images of only 1 patients"]),
    "no label column": (edit_table("file,label", "file,kind"), ["file, kind, patient_id", "--label_column"]),
}


def assert_refused(words: list[str], capsys, essentials) -> None:
    """Exit code 2, one readable message, no traceback."""
    assert main(words) == 2
    shown = capsys.readouterr().err
    message = shown.rpartition("error: ")[2]
    for essential in essentials:
        assert essential in message, message
    assert "Traceback" not in shown


def assert_nothing_made(output: Path, allowed=("datalist.json",)) -> None:
    """No weights, records or tables; nothing under a temporary name; a datalist is whole."""
    files = [path for path in output.rglob("*") if path.is_file()] if output.is_dir() else []
    assert {path.name for path in files} <= set(allowed)
    for path in files:
        json.loads(path.read_text())


@pytest.mark.parametrize("name", SOURCES)
def test_sources_for_datalist(radiographs, tmp_path, capsys, name):
    edit, essentials = SOURCES[name]
    edit(radiographs)
    output = tmp_path / "lists"
    output.mkdir()
    assert_refused(["datalist", str(radiographs), "--output", str(output)], capsys, essentials)
    assert_nothing_made(output, ())


@pytest.mark.parametrize("name", SOURCES)
def test_sources_for_pipeline(radiographs, pipeline_words, tmp_path, capsys, name):
    edit, essentials = SOURCES[name]
    edit(radiographs)
    assert_refused(pipeline_words(), capsys, essentials)
    assert_nothing_made(tmp_path / "output")


# a given datalist


def record_of(split: str, **entries):
    return lambda content: content[split][0].update(entries)


def leaked(content) -> None:
    content["testing"][0]["patient_id"] = content["training"][0]["patient_id"]


def without_class(content) -> None:
    content["validation"] = [record for record in content["validation"] if record["label"]]


DATALISTS = {
    "patient in two splits": (leaked, ["is in training and in testing", "python -m monai_plan datalist"]),
    "empty class in a split": (without_class, ["validation has no image of class 'ill'"]),
    "unreadable label": (record_of("testing", label="ill?"), ["testing[0] needs", "label as number"]),
    "label out of range": (record_of("testing", label=7), ["has label 7, outside 0 to 1"]),
    "missing image": (record_of("testing", image="none.png"), ["do not exist", "none.png", "--dataset_dir DIR"]),
    "no split": (lambda content: content.pop("testing"), ["non-empty lists training, validation, testing"]),
}


def spoiled_datalist(radiographs: Path, edit) -> Path:
    content = build_datalist(radiographs, radiographs, check_images=False)
    edit(content)
    (radiographs / "datalist.json").write_text(json.dumps(content))
    return radiographs / "datalist.json"


@pytest.mark.parametrize("name", DATALISTS)
def test_datalists_for_pipeline(radiographs, pipeline_words, tmp_path, capsys, name):
    edit, essentials = DATALISTS[name]
    datalist = spoiled_datalist(radiographs, edit)
    assert_refused([*pipeline_words(), *["--datalist", str(datalist)]], capsys, essentials)
    assert_nothing_made(tmp_path / "output", ())


@pytest.mark.parametrize("name", DATALISTS)
def test_datalists_for_bundle(radiographs, stage_run, name):
    edit, essentials = DATALISTS[name]
    datalist = spoiled_datalist(radiographs, edit)
    job = stage_run("train")
    before = files_of(job.models)
    with pytest.raises(RuntimeError) as caught:
        job.workflow(dataset_dir=str(radiographs), datalist=str(datalist)).initialize()
    for essential in essentials:
        assert essential in str(root_cause(caught.value))
    assert files_of(job.models) == before and not list(job.output.iterdir())


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# settings, for every stage before the first one starts

SETTINGS = {  # stage that has it, id, value, essentials
    "image_size no power of two": ("train_gan", "image_size", 48, ["image_size is 48", "power of two", "64"]),
    "image_size is text": (
        "train",
        "image_size",
        "big",
        ["'image_size' is 'big'", "whole number", "image_size=NUMBER"],
    ),
    "image_size of 0": ("train", "image_size", 0, ["'image_size' is 0", "whole number from 1"]),
    "two channels": ("train", "channels", 2, ["channels is 2", "1 (grey) or 3 (colour)"]),
    "no epochs": ("train", "epochs", 0, ["'epochs' is 0", "epochs=NUMBER"]),
    "batch of half an image": ("train", "batch_size", 0.5, ["'batch_size' is 0.5"]),
    "seeds not a list": ("train", "seeds", 3, ["'seeds' is 3", "must be a list", "'[0,1,2]'"]),
    "a seed twice": ("train", "seeds", [1, 1], ["'seeds' is [1, 1]", "different"]),
    "classes": ("train", "num_classes", 3, ["num_classes is 3", "2 classes", "--num_classes 2"]),
    "negative learning rate": ("train", "learning_rate", -1, ["Invalid learning rate: -1"]),
    "no images": ("train_gan", "gan#images", 0, ["'gan#images' is 0", "--set gan#images=NUMBER"]),
    "batch larger than the split": ("train_gan", "gan#batch_size", 64, ["training split has", "batch of 64", "Set a"]),
    "no epochs of the gate": ("train_gate", "embedder#epochs", 0, ["'embedder#epochs' is 0"]),
    "no epochs of the identities": ("train_identity", "identity#epochs", -1, ["'identity#epochs' is -1"]),
    "a gate that cannot be shown": ("train_gate", "false_rejection", 0.001, ["held-out images", "1000 are needed"]),
    "false rejection of all": ("train_gate", "false_rejection", 1.5, ["between 0 and 1, got 1.5", "0.05 is usual"]),
    "no points": ("walk", "walk#points_per_class", 0, ["'walk#points_per_class' is 0"]),
    "groups of one": ("walk", "k", 1, ["whole number from 2 on, got 1"]),
    "groups larger than a class": ("walk", "k", 8, ["two groups of k=8 need 16", "random_anchors.json"]),
    "no encoder": ("invert", "inversion#encoder_iterations", 0, ["'inversion#encoder_iterations' is 0"]),
    "unknown space": ("invert", "inversion#options#space", "z", ["one of ('w', 'w+'), got 'z'"]),
    "no iterations": ("walk", "walk#iterations", 0, ["iterations and points_per_chunk must be >= 1, got 0"]),
    "unknown pairing": ("walk", "walk#pairing", "neighbors", ["'neighbors'", "'random', 'neighbours'"]),
    "negative repairs": ("walk", "walk#repair_attempts", -1, ["repair_attempts must be >= 0, got -1"]),
    "negative weight": ("walk", "walk#identity_weight", -1.0, ["must be >= 0", "-1.0"]),
    "no guide": ("walk", "walk#guide_latents", 1, ["'walk#guide_latents' is 1", "from 2 on"]),
    "more pairs than there are": ("walk", "walk#pairs_per_class", 7, ["4 anchor(s)", "6 different pair(s)", "7 were"]),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_for_pipeline(pipeline_words, tmp_path, capsys, name):
    _, key, value, essentials = SETTINGS[name]
    assert_refused(pipeline_words(f"{key}={json.dumps(value)}"), capsys, essentials)
    assert_nothing_made(tmp_path / "output")


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_for_bundle(stage_run, name):
    stage, key, value, essentials = SETTINGS[name]
    job = stage_run(stage)
    before = files_of(job.models)
    with pytest.raises(RuntimeError) as caught:
        job.workflow(**{key: value}).initialize()
    for essential in essentials:
        assert essential in str(root_cause(caught.value))
    assert files_of(job.models) == before


# files of earlier stages


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def replace_points(change):
    def edit(file: Path) -> None:
        tensors, meta = load_tensors(file, "walk_set")
        save_tensors(file, {**tensors, "points": change(tensors["points"])}, "walk_set", meta=meta)

    return edit


def other_generator(**arguments):
    small = {"image_size": 32, "channel_base": 128, "channel_max": 16}
    return lambda file: StyleGenerator(**{**small, **arguments}).save(file)


def later_version(file: Path) -> None:
    tensors, meta = load_tensors(file, "privacy_gate")
    save_tensors(file, tensors, "privacy_gate", version=9, meta=meta)


def malicious(file: Path) -> None:
    file.write_bytes(pickle.dumps(Malicious(file.parent / "executed")))


def malicious_archive(file: Path) -> None:
    torch.save({"weights": Malicious(file.parent / "executed")}, file)


FILES = {  # stage that reads it, file, edit, essentials
    "truncated generator": ("train", "generator.safetensors", truncate, ["bytes", "truncated", "run its stage again"]),
    "truncated walks": ("train", "walks_private.safetensors", truncate, ["walks_private", "truncated"]),
    "truncated gate": ("walk", "gate.safetensors", truncate, ["gate.safetensors", "truncated"]),
    "truncated weights": ("walk", "label.pt", truncate, ["label.pt", "truncated", "run its stage again"]),
    "pickle": ("walk", "identity.pt", malicious, ["identity.pt", "more than tensors"]),
    "pickle in an archive": ("walk", "label.pt", malicious_archive, ["label.pt", "more than tensors"]),
    "text": ("train", "gate.safetensors", lambda file: file.write_text("gate"), ["4 bytes", "another format"]),
    "missing generator": (
        "walk",
        "generator.safetensors",
        Path.unlink,
        ["no file at", "python -m monai_plan pipeline"],
    ),
    "missing weights": ("walk", "identity.pt", Path.unlink, ["no weights at", "python -m monai_plan pipeline"]),
    "version from the future": (
        "train",
        "gate.safetensors",
        later_version,
        ["has version 9", "pip install -U monai_plan"],
    ),
    "walks in float64": (
        "train",
        "walks_private.safetensors",
        replace_points(torch.Tensor.double),
        ["float64", ".float()"],
    ),
    "walks in integers": (
        "train",
        "walks_linear.safetensors",
        replace_points(torch.Tensor.long),
        ["int64", ".float()"],
    ),
    "walks with NaN": ("train", "walks_private.safetensors", replace_points(lambda p: p / 0), ["NaN or infinite"]),
    "generator of another width": (
        "train",
        "generator.safetensors",
        other_generator(w_dim=64),
        ["64", "128", "another generator"],
    ),
    "generator of another size": (
        "train",
        "generator.safetensors",
        other_generator(image_size=64),
        ["image_size=64", "image_size=32", "Set image_size to 64"],
    ),
    "generator of other classes": ("walk", "generator.safetensors", other_generator(num_classes=5), ["num_classes=5"]),
    "networks swapped": (
        "walk",
        "label.pt",
        lambda file: file.write_bytes((file.parent / "identity.pt").read_bytes()),
        ["do not fit"],
    ),
    "files swapped": (
        "train",
        "gate.safetensors",
        lambda file: file.write_bytes((file.parent / "walks_linear.safetensors").read_bytes()),
        ["holds 'walk_set'", "'privacy_gate' is needed", "swapped"],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_earlier_stages(stage_run, name):
    stage, file, edit, essentials = FILES[name]
    job = stage_run(stage)
    edit(job.models / file)
    before = files_of(job.models)
    with pytest.raises(RuntimeError) as caught:
        workflow = job.workflow()
        workflow.initialize()
        workflow.run()
    for essential in essentials:
        assert essential in str(root_cause(caught.value))
    assert files_of(job.models) == before, "something was written, or executed"
    assert not [path for path in job.output.rglob("*") if path.is_file()] if job.output.is_dir() else True


CHECKPOINTS = {
    "truncated": (truncate, ["no readable checkpoint", "truncated or foreign"]),
    "pickle": (malicious, ["no readable checkpoint", "truncated or foreign"]),
    "foreign": (lambda file: torch.save({"weights": torch.zeros(2)}, file), ["no readable checkpoint", "foreign"]),
    "from the future": (lambda file: edit_checkpoint(file, version=9), ["has version 9", "Update monai_plan"]),
    "of another run": (lambda file: edit_checkpoint(file, state={"generator": {}}), ["holds ['generator']"]),
}


def edit_checkpoint(file: Path, **entries) -> None:
    torch.save({**torch.load(file, weights_only=True), **entries}, file)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_of_the_generator(stage_run, name):
    edit, essentials = CHECKPOINTS[name]
    job = stage_run("train_gan")
    workflow = job.workflow()
    workflow.initialize()
    workflow.run()
    edit(job.output / "train_gan" / "checkpoint.pt")
    (job.models / "generator.safetensors").unlink()
    before = files_of(job.models)
    with pytest.raises(RuntimeError) as caught:
        again = job.workflow()
        again.initialize()
        again.run()
    for essential in [*essentials, "checkpoint.pt", "Delete '"]:
        assert essential in str(root_cause(caught.value))
    assert files_of(job.models) == before and not (job.output / "train_gan" / "executed").exists()


def test_a_broken_checkpoint_for_pipeline(pipeline_words, tmp_path, capsys):
    assert main(pipeline_words()) == 0
    output = tmp_path / "output"
    (output / "private" / "generator.safetensors").unlink()  # as if it had been killed before its end
    truncate(output / "private" / "train_gan" / "checkpoint.pt")
    capsys.readouterr()
    assert_refused(pipeline_words(), capsys, ["checkpoint.pt", "truncated or foreign", "Delete '"])
    assert not (output / "private" / "generator.safetensors").exists()


# folders and disks


def test_unwritable_output(radiographs, pipeline_words, stage_run, tmp_path, capsys):
    below = tmp_path / "file" / "output"
    (tmp_path / "file").write_text("a regular file")
    essentials = ["cannot write to the folder", str(below), "Choose another one"]
    assert_refused(["datalist", str(radiographs), "--output", str(below / "a.json")], capsys, essentials)
    assert_refused(pipeline_words() + ["--output_dir", str(below)], capsys, essentials)
    job = stage_run("train")
    with pytest.raises(RuntimeError) as caught:
        job.workflow(output_dir=str(below)).initialize()
    assert all(essential in str(root_cause(caught.value)) for essential in essentials)
    assert (tmp_path / "file").read_text() == "a regular file"


def test_no_space(radiographs, pipeline_words, stage_run, tmp_path, capsys, monkeypatch):
    job = stage_run("train")
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=3, f_frsize=1024))
    essentials = ["has 0 MiB left", "needs about", "Free some space"]
    assert_refused(["datalist", str(radiographs), "--output", str(tmp_path / "a.json")], capsys, essentials)
    assert not (tmp_path / "a.json").exists()
    assert_refused(pipeline_words(), capsys, essentials)
    assert_nothing_made(tmp_path / "output", ())
    with pytest.raises(RuntimeError) as caught:
        job.workflow().initialize()
    assert all(essential in str(root_cause(caught.value)) for essential in essentials)


@pytest.mark.parametrize(
    ("words", "essentials"),
    [
        (["--bundle", "{tmp}/none"], ["no config at", "--bundle takes the folder", "bundles/plan_tb"]),
        (["--dataset_dir", "{tmp}/none"], ["no folder at", "--dataset_dir DIR"]),
        (["--datalist", "{tmp}/none.json"], ["no datalist at", "python -m monai_plan datalist"]),
    ],
)
def test_missing_folders_for_pipeline(pipeline_words, tmp_path, capsys, words, essentials):
    assert_refused([*pipeline_words(), *(word.format(tmp=tmp_path) for word in words)], capsys, essentials)
    assert_nothing_made(tmp_path / "output", ())


# MONAI's own runner wraps errors; its last line is readable all the same


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ({"image_sise": 64}, "has the id 'image_sise'; did you mean image_size"),
        ({"seeds": 3}, "error: 'seeds' is 3, and must be a list"),
        ({"num_classes": 4}, "error: num_classes is 4, and the phantoms have 2 classes"),
    ],
)
def test_last_line_of_monais_runner(stage_run, options, last):
    job = stage_run("train")
    before = files_of(job.models)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(job.command(**options), cwd="/", capture_output=True, text=True, env=environment)
    assert done.returncode not in (0, None) and last in done.stderr.strip().splitlines()[-1], done.stderr[-2000:]
    assert files_of(job.models) == before and not [path for path in job.output.rglob("*") if path.is_file()]
