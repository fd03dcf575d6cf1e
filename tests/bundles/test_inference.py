"""The classifier as MONAI's tools run it: inference.json on phantoms, on a data list, on a folder of images."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import BUNDLES
from monai.bundle import ConfigParser, ConfigWorkflow

import monai_plan as plan
from monai_plan.data.class_names import names_from_training
from monai_plan.utils import root_cause, write_json

pytestmark = pytest.mark.skipif(not BUNDLES.is_dir(), reason="not a checkout")
BOTH = ("plan_tb", "plan_dr")
SHIPPED = {"ckpt_dir": "@models_dir", "image_size": 64, "resnet_widths": [24, 48, 96, 192]}
NETWORK = {"resnet_widths": [4, 4, 8, 8], "image_size": 32}
PATIENTS = {"plan_tb": {"visits": 2}, "plan_dr": {"kind": "fundus"}}
NAMES = {
    "plan_tb": ["normal", "tuberculosis"],
    "plan_dr": list(plan.data.read_splits("", kind="fundus")["labels"].values()),
}


def config_of(bundle, name="inference"):
    return json.loads((BUNDLES / bundle / "configs" / f"{name}.json").read_text())


@pytest.fixture
def make(tmp_path):
    """A function: bundle and settings -> its inference with an untrained tiny network in a folder of its own."""

    def workflow(bundle="plan_tb", **overrides):
        phantoms = {"patients_per_class": 4, "fractions": [0.5, 0.25, 0.25], **PATIENTS[bundle]}
        folders = {"ckpt_dir": str(tmp_path / "own"), "output_dir": str(tmp_path / "output")}
        parser = ConfigParser()
        parser.read_config(str(BUNDLES / bundle / "configs" / "inference.json"))
        parser.update(NETWORK)
        (tmp_path / "own").mkdir(exist_ok=True)
        torch.save(parser.get_parsed_content("network_def").state_dict(), tmp_path / "own" / "model.pt")
        return ConfigWorkflow(
            str(BUNDLES / bundle / "configs" / "inference.json"),
            workflow_type="infer",
            logging_file=False,
            **{**NETWORK, "phantoms": phantoms, **folders, "device": "$torch.device('cpu')", **overrides},
        )

    return workflow


def run(workflow):
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def table(folder):
    with (folder / "output" / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def accuracy(rows, wanted):
    return sum(row["predicted"] == name for row, name in zip(rows, wanted, strict=True)) / len(rows)


def write_classes(folder, names):
    return write_json(folder / "own" / "classes.json", names)


@pytest.mark.parametrize("bundle", BOTH)
def test_predictions_are_the_networks(make, tmp_path, monkeypatch, capfd, caplog, bundle):
    monkeypatch.chdir(tmp_path)
    workflow = make(bundle, batch_size=3)
    run(workflow)
    assert workflow.check_properties() == []
    items = workflow.parser.get_parsed_content("images")["testing"]
    images = torch.stack([workflow.parser.get_parsed_content("load_image")(item)["image"] for item in items])
    with torch.no_grad():
        wanted = workflow.parser.get_parsed_content("network").eval()(images).softmax(dim=1)
    rows = table(tmp_path)
    assert [row["file"] for row in rows] == [item["image"] for item in items] and len(rows) > 3
    assert list(rows[0]) == ["file", "predicted", *(f"probability_{name}" for name in NAMES[bundle])]
    found = torch.tensor([[float(row[f"probability_{name}"]) for name in NAMES[bundle]] for row in rows])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert [row["predicted"] for row in rows] == [NAMES[bundle][number] for number in wanted.argmax(dim=1)]
    printed = "".join(capfd.readouterr()) + caplog.text
    assert f"{len(rows)} images classified" in printed and "patient=" not in printed


def test_from_a_shell_in_another_directory(tmp_path):
    settings = {"output_dir": tmp_path / "output", "phantoms": {"patients_per_class": 10}}
    config = str(BUNDLES / "plan_tb" / "configs" / "inference.json")
    words = [sys.executable, "-m", "monai.bundle", "run", "--config_file", config]
    for name, value in settings.items():
        words += [f"--{name}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].endswith(str(tmp_path / "output" / "predictions.csv"))
    items = plan.data.phantom_datalist(patients_per_class=10)["testing"]
    assert accuracy(table(tmp_path), [NAMES["plan_tb"][item["label"]] for item in items]) > 0.7


def test_the_test_split_of_a_datalist_by_its_own_names(make, radiographs, tmp_path, caplog):
    plan.data.build_datalist(radiographs, radiographs / "datalist.json")
    run(make(dataset_dir=str(radiographs)))
    wanted = plan.data.load_datalist(radiographs)["testing"]
    assert [row["file"] for row in table(tmp_path)] == [item["image"] for item in wanted]
    assert list(table(tmp_path)[0])[2:] == ["probability_ill", "probability_well"]
    assert "the order of the data list is taken: 0: ill, 1: well" in caplog.text


def test_the_shipped_weights_are_right_about_a_datalist(make, radiographs, tmp_path):
    """Whose classes have other names and the other order."""
    plan.data.build_datalist(radiographs, radiographs / "datalist.json", fractions=(0.2, 0.2, 0.6))
    run(make(dataset_dir=str(radiographs), **SHIPPED))
    wanted = plan.data.load_datalist(radiographs)["testing"]
    assert accuracy(table(tmp_path), [("tuberculosis", "normal")[item["label"]] for item in wanted]) > 0.7


def test_the_names_of_the_training_go_with_its_weights(make, radiographs, tmp_path, caplog):
    names = write_classes(tmp_path, {"0": "ill", "1": "well"})
    run(make(dataset_dir=str(radiographs)))  # a folder of images
    assert list(table(tmp_path)[0])[2:] == ["probability_ill", "probability_well"]
    plan.data.build_datalist(radiographs, radiographs / "datalist.json")
    run(make(dataset_dir=str(radiographs)))
    assert str(names) not in caplog.text
    write_classes(tmp_path, {"0": "well", "1": "ill"})
    with pytest.raises(Exception) as caught:
        make(dataset_dir=str(radiographs)).initialize()
    assert "trained with the classes 0: well, 1: ill" in str(root_cause(caught.value))
    run(make(dataset_dir=str(radiographs), labels=["well", "ill"]))
    assert list(table(tmp_path)[0])[2:] == ["probability_well", "probability_ill"]


@pytest.mark.parametrize("content", ["{", "[]", '{"0": 1}'])
def test_damaged_names(tmp_path, content):
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(ValueError, match="classes.json' .*--labels"):
        names_from_training(tmp_path / "classes.json", None)


def test_junk_is_found_before_the_work(make, radiographs, tmp_path):
    (radiographs / "junk.png").write_bytes(b"junk")
    with pytest.raises(Exception) as caught:
        make(dataset_dir=str(radiographs)).initialize()
    assert "1 of 41 images cannot be used" in str(root_cause(caught.value)) and "junk.png" in str(
        caught.value.__cause__
    )


@pytest.mark.parametrize(
    ("settings", "names"),
    [({}, ["0", "1"]), ({"labels": ["ill", "well"]}, ["ill", "well"])],
    ids=["numbers", "own names"],
)
def test_a_folder_of_images(make, radiographs, tmp_path, settings, names):
    """Nobody has written down what the classes of one's own weights are called."""
    run(make(dataset_dir=str(radiographs), **settings))
    rows = table(tmp_path)
    assert len(rows) == 40 and list(rows[0])[2:] == [f"probability_{name}" for name in names]


def test_the_bundles_weights_on_real_images(make, radiographs, tmp_path, caplog):
    for file in sorted(radiographs.glob("*.png"))[2:]:
        file.unlink()
    run(make(dataset_dir=str(radiographs), **SHIPPED))
    assert list(table(tmp_path)[0])[2:] == [f"probability_{name}" for name in NAMES["plan_tb"]]
    assert "they were trained on: embedded procedural phantoms" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model_file": "/absent/model.pt"}, "no weights at '/absent/model.pt'"),
        ({"resnet_widths": [4, 4, 8, 16]}, "do not fit this network"),
        ({"num_classes": 3}, "num_classes is 3, and the phantoms have 2 classes"),
        ({"dataset_dir": "/absent"}, "no folder at '/absent'"),
        ({"labels": ["normal"]}, "give each of 0, 1 a name of its own"),
        ({"labels": {0: "normal", 1: "ill"}}, "keys that are text"),
        ({"predictions_file": "/dev/null/predictions.csv"}, "cannot write to the folder '/dev/null'"),
        ({"batch_size": 0}, "'batch_size' is 0"),
        ({"channels": 2}, "channels is 2"),
    ],
)
def test_faults_are_found_before_the_work(make, tmp_path, overrides, message):
    with pytest.raises(Exception) as caught:
        make(**overrides).initialize()
    assert message in str(root_cause(caught.value))
    assert not (tmp_path / "output" / "predictions.csv").exists()


@pytest.mark.parametrize("bundle", BOTH)
def test_what_inference_shares_with_training_is_the_same(bundle):
    """MONAI reads inference.json alone, so it repeats the network, the images' size and how they are read."""
    config, train = config_of(bundle), config_of(bundle, "train")
    own = {"imports", "ckpt_dir", "amp", "network", "check", "initialize", "run", "finalize"}
    assert {name for name in set(config) & set(train) if config[name] != train[name]} == own
    assert {"network_def", "load_image", "phantoms", "image_size", "model_file"} <= set(config) & set(train)


def test_bundles_differ_where_their_training_differs():
    tb, dr = map(config_of, BOTH)
    assert list(tb) == list(dr)
    assert {name for name in tb if tb[name] != dr[name]} == {"channels", "num_classes", "phantoms", "load_image"}
