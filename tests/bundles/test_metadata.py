"""What a bundle carries beside its configs: metadata, licence, logging, docs in the model zoo's sections."""

from __future__ import annotations

import json
import logging.config
from pathlib import Path

import pytest
from monai.bundle import verify_net_in_out

from monai_plan._version import __version__

REPOSITORY = Path(__file__).parents[2]
BUNDLES = sorted(path.parents[1] for path in (REPOSITORY / "bundles").glob("*/configs/metadata.json"))
MANDATORY = {
    *("schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version"),
    *("required_packages_version", "task", "description", "authors", "copyright", "network_data_format"),
    *("supported_apps", "name", "data_source", "data_type", "image_classes", "label_classes", "pred_classes"),
    *("eval_metrics", "intended_use", "references"),
}
SECTIONS = ("# Model Overview", "## Data", "### Preprocessing", "## Training configuration", "### Input", "### Output")
SECTIONS += ("## Performance", "## MONAI Bundle Commands", "# References", "# License")

pytestmark = pytest.mark.parametrize("bundle", BUNDLES, ids=[path.name for path in BUNDLES])


def test_metadata_is_complete(bundle):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert not MANDATORY - set(metadata)
    assert next(iter(metadata["changelog"])) == metadata["version"]
    assert metadata["required_packages_version"]["monai_plan"] == __version__


def test_the_network_is_as_the_metadata_says(bundle):
    configs = bundle / "configs"
    verify_net_in_out(
        "network_def", meta_file=str(configs / "metadata.json"), config_file=str(configs / "train.json"), device="cpu"
    )
    formats = json.loads((configs / "metadata.json").read_text())["network_data_format"]
    config = json.loads((configs / "train.json").read_text())
    assert formats["inputs"]["image"]["spatial_shape"] == [config["image_size"]] * 2
    assert formats["outputs"]["pred"]["num_channels"] == len(formats["outputs"]["pred"]["channel_def"])


def test_papers_are_there(bundle):
    assert (bundle / "LICENSE").read_text() == (REPOSITORY / "LICENSE").read_text()
    assert (bundle / "docs" / "data_license.txt").read_text().strip()
    lines = (bundle / "docs" / "README.md").read_text(encoding="utf-8").splitlines()
    assert not [section for section in SECTIONS if section not in lines]


def test_logging_goes_to_the_console(bundle):
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    try:
        logging.config.fileConfig(bundle / "configs" / "logging.conf", disable_existing_loggers=False)
        assert root.level == logging.INFO and isinstance(root.handlers[0], logging.StreamHandler)
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
