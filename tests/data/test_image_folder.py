"""The images that a classifier is asked about."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from monai_plan.data import build_datalist, images_to_classify, phantom_datalist
from monai_plan.data.image_folder import require_readable

SMALL = {"patients_per_class": 4, "fractions": [0.5, 0.25, 0.25]}


def test_phantoms_by_default():
    found = images_to_classify("", "", 2, **SMALL)
    assert found["testing"] == phantom_datalist(**SMALL)["testing"]
    assert found["labels"] == {"0": "normal", "1": "tuberculosis"}


@pytest.mark.parametrize("by_path", [False, True])
def test_the_test_split_of_a_datalist(radiographs, tmp_path, by_path):
    target = (tmp_path if by_path else radiographs) / "datalist.json"
    written = build_datalist(radiographs, target)
    found = images_to_classify("" if by_path else str(radiographs), str(target) if by_path else "", 2)
    assert [item["image"] for item in found["testing"]] == [
        str(radiographs.resolve() / item["image"]) for item in written["testing"]
    ]
    assert found["labels"] == {"0": "ill", "1": "well"}
    with pytest.raises(ValueError, match="num_classes is 5"):
        images_to_classify(str(radiographs), str(target), 5)


def test_all_images_of_a_folder(tmp_path, caplog):
    names = ("b/2.PNG", "a/1.png", "c.nii.gz", ".hidden.png", ".thumbnails/1.png", "notes.txt")
    for name in (*names, "b/no_suffix"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(128) + b"DICM" if name == "b/no_suffix" else b"x")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    with caplog.at_level(logging.WARNING):
        found = images_to_classify(str(tmp_path), num_classes=2)
    wanted = [str(tmp_path.resolve() / name) for name in ("a/1.png", "b/2.PNG", "b/no_suffix", "c.nii.gz")]
    assert found == {"testing": [{"image": path} for path in wanted], "labels": None}
    assert "4 files or folders" in caplog.text  # gone.png, notes.txt, linked/ and .thumbnails/


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "1.png").write_bytes(b"x")
    scandir = os.scandir

    def closed(path):  # permissions do not keep the superuser out
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PermissionError, match="closed' cannot be read .*would be left out"):
        images_to_classify(str(tmp_path))


def test_bad_images_are_named_together():
    def read(path):
        if path != "good":
            raise ValueError(f"'{path}' is damaged")

    items = [{"image": name} for name in ("first", "good", *map(str, range(20)))]
    require_readable(items[1:2], read)
    with pytest.raises(ValueError, match="(?s)21 of 22 images cannot be used:\n  'first' is.*'8' is damaged$"):
        require_readable(items, read)


@pytest.mark.parametrize(("name", "message"), [("", "no image in"), ("absent", "no folder at")])
def test_nothing_to_classify(tmp_path, name, message):
    with pytest.raises(ValueError, match=f"{message} .*--dataset_dir DIR"):
        images_to_classify(str(tmp_path / name))
