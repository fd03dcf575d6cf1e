"""MONAI's own commands on the shipped bundles, and what ships with them."""

from __future__ import annotations

import json
import pydoc
import re
import shlex
import tempfile
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, download, load, onnx_export, verify_metadata
from monai.utils import optional_import, version_leq

import monai_plan as plan

REPOSITORY = Path(__file__).parents[2]
BUNDLES = sorted(path.parents[1] for path in (REPOSITORY / "bundles").glob("*/configs/metadata.json"))
CONFIGS = sorted((REPOSITORY / "bundles").glob("*/configs/*.json"))
LARGEST = 25 * 10**6
SCHEMA = {
    "type": "object",
    "required": [
        *("schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version", "name", "task"),
        *("required_packages_version", "description", "authors", "copyright", "network_data_format"),
    ],
    "properties": {
        "schema": {"type": "string"},
        "version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "changelog": {"type": "object", "additionalProperties": {"type": "string"}},
        "required_packages_version": {"type": "object", "additionalProperties": {"type": "string"}},
        "references": {"type": "array", "items": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "additionalProperties": {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {
                    "type": "object",
                    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
                    "properties": {
                        "num_channels": {"type": "integer", "minimum": 1},
                        "spatial_shape": {"type": "array"},
                        "value_range": {"type": "array"},
                    },
                },
            },
        },
    },
}
"""The mandatory parts of MONAI's metadata, in place of the file that it would download."""

each_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=[path.name for path in BUNDLES])


def targets_of(node):
    if isinstance(node, dict):
        yield from [node["_target_"]] if "_target_" in node else []
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
        yield from targets_of(child)


def test_targets_lead_somewhere():
    names = {target for config in CONFIGS for target in targets_of(ConfigParser.load_config_file(str(config)))}
    assert names and not [name for name in names if not callable(pydoc.locate(name))]


@each_bundle
def test_metadata_are_verified_offline(bundle, tmp_path):
    pytest.importorskip("jsonschema")
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    metadata = bundle / "configs" / "metadata.json"
    verify_metadata(meta_file=str(metadata), filepath=str(schema))
    broken = tmp_path / "metadata.json"
    broken.write_text(json.dumps({**json.loads(metadata.read_text()), "version": 1}))
    with pytest.raises(ValueError, match="against schema"):
        verify_metadata(meta_file=str(broken), filepath=str(schema))


def run_documented(bundle, command, folder, monkeypatch):
    """Run the command of the bundle's README as it stands there, but for where it writes."""
    fire = pytest.importorskip("fire")
    text = (bundle / "docs" / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(rf"^python -m monai.bundle ({command} .*)$", text, flags=re.M)
    monkeypatch.chdir(bundle)
    commands = {"ckpt_export": ckpt_export, "onnx_export": onnx_export, "download": download}
    words = shlex.split(line.replace("/path/to", str(folder)).replace("VERSION", version_of(bundle)))
    fire.Fire(commands, command=[str(folder) if word == "new" else word for word in words])


def version_of(bundle):
    return json.loads((bundle / "configs" / "metadata.json").read_text())["version"]


def network_and_images(bundle):
    """The shipped classifier and a batch of three images, as metadata.json describes them."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    network = plan.utils.load_weights(parser.get_parsed_content("network_def"), bundle / "models" / "model.pt").eval()
    return network, torch.rand(3, parser["channels"], parser["image_size"], parser["image_size"]) * 2 - 1


@each_bundle
def test_the_classifier_is_exported(bundle, tmp_path, monkeypatch):
    run_documented(bundle, "ckpt_export", tmp_path, monkeypatch)
    network, images = network_and_images(bundle)
    exported = torch.jit.load(str(tmp_path / "model.ts")).eval()
    with torch.no_grad():
        torch.testing.assert_close(exported(images), network(images), atol=1e-4, rtol=1e-4)


@each_bundle
def test_the_classifier_as_onnx(bundle, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    if version_leq("2.9", torch.__version__):
        pytest.importorskip("onnxscript")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    run_documented(bundle, "onnx_export", tmp_path, monkeypatch)
    assert not [path for path in temporary.rglob("*") if path.is_file()]  # no copy of the weights is left there
    exported = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(exported)
    network, images = network_and_images(bundle)
    onnxruntime, has_onnxruntime = optional_import("onnxruntime")
    if has_onnxruntime:
        session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    else:
        session = optional_import("onnx.reference")[0].ReferenceEvaluator(exported)
    (answers,) = session.run(["pred"], {"image": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(answers), network(images), atol=1e-4, rtol=1e-4)


@each_bundle
def test_all_properties_of_inference_are_there(bundle, tmp_path):
    config = str(bundle / "configs" / "inference.json")
    workflow = ConfigWorkflow(config, workflow_type="infer", logging_file=False, output_dir=str(tmp_path))
    workflow.initialize()
    assert workflow.check_properties() == []


@each_bundle
def test_an_archive_is_downloaded_loaded_and_run(bundle, tmp_path, monkeypatch):
    """From another folder, without what was made of single images, and with nothing else at hand."""
    assert plan.data.pack_bundle(bundle, tmp_path).name == f"{bundle.name}_v{version_of(bundle)}.zip"
    run_documented(bundle, "download", tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    unpacked = tmp_path / bundle.name
    assert not (unpacked / "private").exists()
    loaded = load(bundle.name, bundle_dir=tmp_path, workflow_type="inference", device="cpu").eval()
    network, images = network_and_images(bundle)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), network(images))
    phantoms = json.loads((unpacked / "configs" / "inference.json").read_text())["phantoms"]
    few = {**phantoms, "patients_per_class": 4, "fractions": [0.5, 0.25, 0.25]}
    workflow = ConfigWorkflow(
        str(unpacked / "configs" / "inference.json"), workflow_type="infer", logging_file=False, phantoms=few
    )
    for step in (workflow.initialize, workflow.run, workflow.finalize):
        step()
    lines = (unpacked / "output" / "predictions.csv").read_text().splitlines()
    assert len(lines) == 1 + len(workflow.parser.get_parsed_content("dataset")) > 2


@each_bundle
def test_all_weights_have_their_hashes(bundle):
    """`sha256sum -c weights.sha256` in the bundle's folder says the same."""
    lines = [line.split("  ") for line in (bundle / "weights.sha256").read_text().splitlines()]
    listed = {name: digest for digest, name in lines}
    files = [path for room in ("models", "private") for path in sorted((bundle / room).iterdir())]
    assert listed == {path.relative_to(bundle).as_posix(): plan.utils.sha256_of(path) for path in files}


def test_audited_weights_have_their_hashes():
    """The published certificate names what it audited: the weights that ship."""
    certificate = json.loads((REPOSITORY / "docs" / "certificates" / "phantoms.json").read_text())
    bundle = REPOSITORY / "bundles" / "plan_tb"
    shipped = {path.name: path for room in ("models", "private") for path in (bundle / room).iterdir()}
    audited = {name: file["sha256"] for name, file in certificate["files"].items() if name in shipped}
    assert {"generator.safetensors", "walks_private.safetensors", "gate.safetensors", "model.pt"} <= set(audited)
    assert {name: plan.utils.sha256_of(shipped[name]) for name in audited} == audited


def test_no_file_is_large():
    folders = ("benchmarks", "bundles", "docs", "monai_plan", "tests", "tutorials")
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*") if path.is_file()]
    assert files and not [path for path in files if path.stat().st_size > LARGEST]
