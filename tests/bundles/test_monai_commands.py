"""MONAI's own commands on the shipped bundles, and what ships with them."""

from __future__ import annotations

import json
import pydoc
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_metadata

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


@each_bundle
def test_the_classifier_is_exported(bundle, tmp_path):
    configs = bundle / "configs"
    ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "train.json"),
    )
    parser = ConfigParser()
    parser.read_config(str(configs / "train.json"))
    network = plan.utils.load_weights(parser.get_parsed_content("network_def"), bundle / "models" / "model.pt").eval()
    images = torch.rand(2, parser["channels"], parser["image_size"], parser["image_size"]) * 2 - 1
    exported = torch.jit.load(str(tmp_path / "model.ts")).eval()
    with torch.no_grad():
        torch.testing.assert_close(exported(images), network(images), atol=1e-4, rtol=1e-4)


@each_bundle
def test_all_properties_of_inference_are_there(bundle):
    config = bundle / "configs" / "inference.json"
    if not config.is_file():
        pytest.skip(f"{bundle.name} has no inference.json yet")
    workflow = ConfigWorkflow(str(config), workflow_type="infer", logging_file=False)
    workflow.initialize()
    assert workflow.check_properties() == []


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
