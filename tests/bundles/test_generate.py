"""The stage generate: files from a bundle's weights, noted in the ledger, the same on one process and on two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import BUNDLE
from monai.data import load_decathlon_datalist

import monai_plan as plan
from monai_plan.transforms import LoadRadiograph
from monai_plan.utils import root_cause, sha256_of

pytestmark = pytest.mark.skipif(not BUNDLE.is_dir(), reason="not a checkout")
SMALL = {"generate#per_class": 5, "generate#shard_size": 4, "generate#batch_size": 4}
"""Shards of 2, 2 and 1 images of each class, where there are two."""


def run(workflow) -> None:
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_on_one_process_and_on_two(stage_run):
    job = stage_run("generate")
    run(job.workflow(**SMALL))
    folder = job.output / "generated"
    items = load_decathlon_datalist(folder / "datalist.json")
    assert Counter(item["label"] for item in items) == {0: 5, 1: 5}
    assert len({LoadRadiograph(32)(item["image"]).numpy().tobytes() for item in items}) == 10
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [entry["name"] for entry in manifest["classes"].values()] == ["normal", "tuberculosis"]
    assert manifest["settings"]["k"] == 2
    (noted,) = plan.latent.Ledger.load(job.models / "ledger.json").releases
    assert (noted.folder, noted.mode) == ("generated", "images")
    assert noted.files == {"export.json": sha256_of(folder / "export.json")}

    words = job.command(**SMALL, **{"generate#folder": str(job.output / "twice")})
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *words[1:]], cwd="/", capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert tree(job.output / "twice") == tree(folder)
    assert len(plan.latent.Ledger.load(job.models / "ledger.json").releases) == 2


@pytest.mark.parametrize("through", [True, False])
def test_a_datalist_that_is_not_there_is_not_announced(stage_run, tmp_path, capsys, through):
    """Process 0 may end before the last one has written it."""
    datalist = tmp_path / "datalist.json"
    if through:
        datalist.touch()
    run(stage_run("generate").workflow(**{"generate#written": str(datalist)}))
    assert (f"the images and their datalist: {datalist}" in capsys.readouterr().out) == through


def test_what_the_ledger_does_not_know_stays(stage_run):
    job = stage_run("generate")
    walks = plan.latent.WalkSet.load(job.models / "walks_private.safetensors")
    walks.meta["seed"] = 4711
    walks.save(job.models / "walks_private.safetensors")
    with pytest.raises(RuntimeError) as caught:
        run(job.workflow(**SMALL))
    assert "does not know the walks" in str(root_cause(caught.value)) and not (job.output / "generated").exists()
    (job.models / "ledger.json").unlink()  # phantoms are nobody's images, and ship without one
    run(job.workflow(**SMALL))
    assert (job.output / "generated" / "manifest.json").is_file()


def test_in_colour_as_dicom(dr_stage_run):
    pydicom = pytest.importorskip("pydicom")
    job = dr_stage_run("generate")
    settings = {**SMALL, "generate#per_class": 2, "generate#shard_size": 10}
    run(job.workflow(**settings, **{"generate#format": "dicom", "generate#spacing": 0.2}))
    items = load_decathlon_datalist(job.output / "generated" / "datalist.json")
    assert Counter(item["label"] for item in items) == dict.fromkeys(range(5), 2)
    header = pydicom.dcmread(items[0]["image"])
    assert header.PhotometricInterpretation == "RGB" and header.SyntheticData == "YES"
    assert LoadRadiograph(32, 3)(items[0]["image"]).shape == (3, 32, 32)
