"""The two rooms of a run: what may leave holds nothing of a patient, and is all that the sampler needs."""

from __future__ import annotations

import json
import os
import stat

import numpy as np
import pytest
import torch
from safetensors import safe_open

from monai_plan.__main__ import main
from monai_plan.data import PrivacyWalkDataset, PrivacyWalkSampler
from monai_plan.latent import InvertedImages, Ledger, WalkSet
from monai_plan.networks.nets import StyleGenerator
from monai_plan.utils import pseudonym, read_or_make_key


def files_below(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def vectors_in(file):
    """Every float32 vector of W's width in a tensor file, [N, 128]."""
    with safe_open(str(file), framework="pt") as handle:
        tensors = [handle.get_tensor(name) for name in handle.keys()]  # noqa: SIM118 (not a dict)
    rows = [tensor.float().reshape(-1, 128) for tensor in tensors if tensor.numel() and tensor.shape[-1:] == (128,)]
    return torch.cat(rows) if rows else torch.zeros(0, 128)


@pytest.fixture(scope="module", params=[False, True], ids=["names", "pseudonyms"])
def keyed(request):
    return request.param


@pytest.fixture
def run(pipeline_words, tmp_path, keyed):
    assert main(pipeline_words(f"pseudonyms={json.dumps(keyed)}", "walk#planner#label_network=null")) == 0
    return tmp_path / "output"


def test_the_rooms_of_a_run(run, keyed, capsys):
    datalist = json.loads((run / "datalist.json").read_text())
    items = [item for split in ("training", "validation", "testing") for item in datalist[split]]
    names = {item["patient_id"] for item in items}
    secrets = {*names, *(os.path.basename(item["image"]) for item in items), *(item["image"] for item in items)}
    private, release = run / "private", run / "release"

    # the private room: for its owner alone
    if os.name == "posix":
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        for name in ("ledger.json", "latents.safetensors", *(["pseudonyms.key"] if keyed else [])):
            assert stat.S_IMODE((private / name).stat().st_mode) == 0o600, name
    inverted = InvertedImages.load(private / "latents.safetensors")
    ledger = Ledger.load(private / "ledger.json")
    assert ledger.keyed == keyed and len(ledger.grouping.groups) >= 4
    for file in (private / "latents.safetensors", private / "ledger.json"):
        assert any(secret.encode() in file.read_bytes() for secret in secrets) is not keyed, file

    # the ledger answers for everybody, and the answers cover all that can be shown
    shown = {
        f"{path}:{point}"
        for path, point in WalkSet.load(private / "walks_private.safetensors").verified.nonzero().tolist()
    }
    key = read_or_make_key(private / "pseudonyms.key") if keyed else None
    touched = set()
    for item in datalist["training"]:
        name = pseudonym(item["patient_id"], key) if key else item["patient_id"]
        part = next((w for w in ledger.touched(name).walks if w.file == "walks_private.safetensors"), None)
        touched |= set(part.images) if part else set()
    assert shown and touched == shown
    patient = datalist["training"][0]["patient_id"]
    capsys.readouterr()
    assert main(["ledger", "--output_dir", str(run), "--patient", patient]) == 0
    said = capsys.readouterr().out
    assert "in anchor" in said and "risk 1/" in said and "in no release" in said
    assert main(["ledger", "--output_dir", str(run), "--patient", "nobody"]) == 2
    assert "knows no patient" in capsys.readouterr().err

    # the certificate, which goes to readers who know nobody
    capsys.readouterr()
    assert main(["audit", "--output_dir", str(run), "--set", "audit#images=24", "audit#iterations=2"]) == 0
    assert "verdict: " in capsys.readouterr().out
    for file in files_below(run / "certificate"):
        found = [secret for secret in (*secrets, str(run)) if secret.encode() in file.read_bytes()]
        assert not found, f"{file} holds {found}"

    # what may leave
    for mode in ("walks", "images"):
        assert main(["release", "--output_dir", str(run), "--mode", mode]) == 0
        files = files_below(release)
        assert {"walks": "generator.safetensors", "images": "labels.csv"}[mode] in {file.name for file in files}
        for file in files:
            content = file.read_bytes()
            found = [secret for secret in secrets if secret.encode() in content or secret in str(file.relative_to(run))]
            assert not found, f"{file} holds {found}"
            assert not any(latent.numpy().tobytes() in content for latent in inverted.latents), file
            if file.suffix == ".safetensors":
                vectors = vectors_in(file)
                assert len(vectors) and float(torch.cdist(vectors, inverted.latents).min()) > 1e-3, file
        if mode == "walks":
            dataset = PrivacyWalkDataset(release / "walks.safetensors", images_per_epoch=16)
            sampler = PrivacyWalkSampler(dataset, StyleGenerator.load(release / "generator.safetensors"), batch_size=8)
            batches = list(sampler)
            assert len(batches) == 2 and batches[0]["image"].shape == (8, 1, 32, 32)
            assert all(
                f"{int(p)}:{int(t)}" in shown for b in batches for p, t in zip(b["path_id"], b["position"], strict=True)
            )
    assert [release.mode for release in Ledger.load(private / "ledger.json").releases] == ["walks", "images"]


def test_a_withdrawal_from_the_command_line(run, keyed, pipeline_words, capsys):
    private = run / "private"
    datalist = json.loads((run / "datalist.json").read_text())
    before, walks = Ledger.load(private / "ledger.json"), WalkSet.load(private / "walks_private.safetensors")
    key = read_or_make_key(private / "pseudonyms.key") if keyed else None
    patients = [item["patient_id"] for item in datalist["training"]]
    patient = patients[0]
    name = pseudonym(patient, key) if key else patient
    assert main(["release", "--output_dir", str(run)]) == 0
    capsys.readouterr()
    assert main(["ledger", "--output_dir", str(run), "--withdraw", patient]) == 0
    said = capsys.readouterr()
    assert "planned anew" in said.out and ("released in release (walks" in said.out)
    after = Ledger.load(private / "ledger.json")
    assert after.withdrawn == (name,) and all(len(group.patients) >= 2 for group in after.grouping.groups)
    assert name not in InvertedImages.load(private / "latents.safetensors").patients
    assert name not in {member for group in after.grouping.groups for member in group.patients}
    changed = {g.anchor for g in before.grouping.groups} - {
        g.anchor for g in after.grouping.groups if g in before.grouping.groups
    }
    replanned = WalkSet.load(private / "walks_private.safetensors")
    stale = np.array([bool(changed.intersection(pair)) for pair in walks.meta["pairs"]])
    same = [torch.equal(a, b) for a, b in zip(walks.points, replanned.points, strict=True)]
    assert stale.any() and not any(same[path] for path in stale.nonzero()[0])
    assert all(same[path] for path in (~stale).nonzero()[0])
    touched = after.touched(name)
    assert touched.status == "withdrawn" and [release.mode for release in touched.releases] == ["walks"]

    # the images are still in the datalist: nothing may read them again
    assert main(pipeline_words(f"pseudonyms={json.dumps(keyed)}", "walk#planner#label_network=null")) == 2
    said = capsys.readouterr()
    assert f"withdrew their data, the first stands in the ledger as '{name}'" in said.err
    assert not (keyed and patient in said.err + said.out)
