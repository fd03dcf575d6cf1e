"""What this repository ships shows no real image of the sets that its figures are of, and names none of them."""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BUNDLES
from marked_images import FILE, Marker
from marker_scan import MarkerScan
from picture_scan import PictureScan
from PIL import Image

from monai_plan.transforms import LoadRadiograph
from monai_plan.utils import image_grid

ROOT = BUNDLES.parent
DATA = Path(os.environ.get("MONAI_PLAN_DATA", ROOT / ".." / "shared" / "data")).resolve()
SETS = ("shenzhen_cxr_128", "idrid_dr_256", "nih_cxr_256")
NETWORK_SIZE = 64
FRAME = 3
"""Pixels at the edge of a shown image that a frame may cover."""
PICTURES = {  # of which set, how large the images in it are shown, and what counts as the same image
    "table_shenzhen_samples": ("shenzhen_cxr_128", 81, 0.975),
    "table_shenzhen_walk_beside_line": ("shenzhen_cxr_128", 135, 0.975),
    "table_idrid_samples": ("idrid_dr_256", 81, 0.99),  # one fundus is much like another: up to 0.984
    "table_idrid_walk_beside_line": ("idrid_dr_256", 135, 0.99),
}

pytestmark = pytest.mark.skipif(not (DATA / SETS[0]).is_dir(), reason="no real data at MONAI_PLAN_DATA")


def rows_of(name: str) -> list[dict[str, str]]:
    with (DATA / name / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def shipped() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [path for name in listed.decode().split("\0") if name and (path := ROOT / name).is_file()]


def real_images(name: str) -> torch.Tensor:
    """All images of a set, as the networks of the figures saw them."""
    load = LoadRadiograph(NETWORK_SIZE, crop_to_field=name.startswith("idrid"))
    return torch.stack([load(DATA / name / row["file"]) for row in rows_of(name)])


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_of_results_on_real_data_shows_synthetic_images_alone(name):
    of_set, size, near = PICTURES[name]
    real = real_images(of_set)
    shown = torch.nn.functional.interpolate(real, size=(size, size), mode="bilinear")
    scan = PictureScan(shown[:, :, FRAME:-FRAME, FRAME:-FRAME], near, cells=8, step=2)
    with Image.open(ROOT / "docs" / "img" / f"{name}.png") as picture:
        grey = np.array(picture.convert("L"))
    planted = grey[:260, :340].copy()  # a part of it, with a real image in it: the scan can fail
    pixels = Image.fromarray(image_grid(real[7:8], columns=1).numpy()[..., 0])
    planted[33 : 33 + size, 101 : 101 + size] = pixels.resize((size, size), Image.Resampling.NEAREST)
    assert {found.row for found in scan.in_picture(planted, "a part")} == {7}
    assert not scan.in_picture(grey, name)


def test_no_file_names_a_real_image_or_its_patient():
    markers = []
    for name in SETS:
        for row in rows_of(name):
            stem = Path(row["file"]).stem
            whose = row["patient_id"] or row["group_id"]
            markers.append(Marker(FILE, name, stem, (stem.encode(), whose.encode())))
    scan, files = MarkerScan(markers), shipped()
    assert len(files) > 300 and any(path.suffix == ".html" for path in files)
    hits = [hit for path in files for hit in scan.of(path.read_bytes(), path.relative_to(ROOT).as_posix())]
    assert not hits, hits[:5]
    assert scan.of(f"see {rows_of(SETS[0])[3]['file']}".encode(), "anywhere")


@pytest.mark.parametrize("name", SETS)
def test_no_shipped_weights_or_certificate_hold_a_real_image(name):
    """At the size of the shipped networks; certificates have no picture unless somebody asks for real ones."""
    scan = PictureScan(real_images(name))
    held = [path for path in shipped() if path.suffix in (".safetensors", ".pt", ".html", ".ipynb")]
    assert not [found for path in held for found in scan.of_file(path)]
    assert scan.tensors > 300
