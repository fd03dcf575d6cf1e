"""Bundles as one file: what is packed, what stays behind, and what is refused."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import BUNDLES

from monai_plan.data import pack_bundle
from monai_plan.data.release import verified_alone
from monai_plan.latent.walk_set import WalkSet

VERIFIED = torch.tensor([[False, True, False, False], [False, True, True, False]])
WALKS = WalkSet(
    torch.arange(1, 25.0).reshape(2, 4, 3), torch.tensor([0, 1]), VERIFIED, "private", {"k": 5, "generator": "f00d"}
)


def bytes_of(walks):
    with tempfile.TemporaryDirectory() as room:
        return walks.save(Path(room) / "walks.safetensors").read_bytes()


FILES = {
    "LICENSE": b"Apache",
    "configs/inference.json": b'{"model_file": "$@ckpt_dir + \'/model.pt\'"}',
    "configs/logging.conf": b"[loggers]",
    "configs/metadata.json": b'{"version": "1.2.3", "changelog": {"1.2.3": "first"}}',
    "configs/train.json": b'{"gate_file": "$@private_dir + \'/gate.safetensors\'", '
    b'"walk_file": "$@models_dir + \'/walks.safetensors\'"}',
    "docs/README.md": b"# Model",
    "docs/data_license.txt": b"none",
    "models/model.pt": b"weights",
    "models/walks.safetensors": bytes_of(verified_alone(WALKS)),
    "private/gate.safetensors": b"gallery",
}
LISTED = ("models/model.pt", "models/walks.safetensors", "private/gate.safetensors")


def lines_of(*names, contents=FILES):
    return "".join(f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n" for name in names)


@pytest.fixture
def bundle(tmp_path):
    """A bundle of few bytes."""
    for name, content in FILES.items():
        path = tmp_path / "tiny_bundle" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "tiny_bundle" / "weights.sha256").write_text(lines_of(*LISTED))
    return tmp_path / "tiny_bundle"


def contents_of(archive):
    with zipfile.ZipFile(archive) as stream:
        return {name: stream.read(name) for name in stream.namelist()}


def test_private_files_and_results_stay_behind(bundle, tmp_path):
    for name in ("output/table.json", "output/datalist.json", "release/manifest.json", "private/ledger.json"):
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_text("{}")
    packed = pack_bundle(bundle, tmp_path / "hub")
    assert packed == tmp_path / "hub" / "tiny_bundle_v1.2.3.zip" and os.listdir(packed.parent) == [packed.name]
    found = contents_of(packed)
    assert list(found) == sorted(found)
    assert found.pop("tiny_bundle/weights.sha256").decode() == lines_of(*LISTED[:2])
    assert found == {f"tiny_bundle/{name}": content for name, content in FILES.items() if "private" not in name}


def test_private_files_on_request_are_not_quiet(bundle, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = contents_of(pack_bundle(bundle, tmp_path, private=True))
    assert found["tiny_bundle/private/gate.safetensors"] == b"gallery"
    assert found["tiny_bundle/weights.sha256"].decode() == lines_of(*LISTED)
    assert "private/ (1 files)" in caplog.text and "Give it away only if these are phantoms" in caplog.text


def test_the_same_bytes_every_time(bundle, tmp_path, monkeypatch):
    first = pack_bundle(bundle, tmp_path / "a").read_bytes()
    for number, path in enumerate(sorted(bundle.rglob("*"), reverse=True)):
        os.utime(path, (number, 10**9 - number))
        path.chmod(0o700)
    monkeypatch.chdir(bundle)
    assert pack_bundle(".", tmp_path / "b").read_bytes() == first
    (bundle / "LICENSE").write_text("another")
    assert pack_bundle(bundle, tmp_path / "b").read_bytes() != first  # and the earlier one is replaced


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("models/latents.safetensors", "{}", "not on the list"),
        ("models/model.ts", "{}", "not on the list"),
        ("models/.model.part-x.pt", "{}", "not on the list"),
        ("private/ledger.json", "{}", "not on the list"),
        ("private/pseudonyms.key", "{}", "not on the list"),
        ("docs/patient.png", "{}", "not on the list"),
        ("docs/patients.txt", "P0042", "not on the list"),
        ("docs/run.md", "P0042", "not on the list"),
        ("docs/more/README.md", "{}", "not on the list"),
        ("configs/more/train.json", "{}", "not on the list"),
        ("datalist.json", "{}", "not on the list"),
        ("notes/names.txt", "{}", "not on the list"),
        ("output", "{}", "not on the list"),  # a file of that name
        ("configs/my.json", '{"testing": [{"image": "P0042.png"}]}', "a data list, which names patients"),
        ("configs/folds.json", '{"a": {"fold0": [1, {"image": "P0042.png"}]}}', "a data list, which names patients"),
        ("configs/people.json", '{"a": [[{"Patient_ID": "P0042"}]]}', "a data list, which names patients"),
        ("configs/ledger.json", '{"schema": "ledger", "patients": ["P0042"]}', "no config"),
        ("configs/list.json", '["P0042"]', "no config"),
        (
            "configs/logging.conf",
            "[loggers]\nkeys=root\n[patients]\nP0042=1",
            "not a configuration of Python's logging",
        ),
        ("configs/logging.conf", "P0042", "not a configuration of Python's logging"),
    ],
)
def test_what_is_not_expected_is_refused(bundle, tmp_path, name, content, fault):
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text(content)
    if name.startswith("models/l"):  # listed, but no config knows it in this folder
        (bundle / "weights.sha256").write_text(lines_of(*LISTED, name, contents={**FILES, name: b"{}"}))
    with pytest.raises(ValueError, match=f"{name}: {fault}"):
        pack_bundle(bundle, tmp_path / "hub", private=True)
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("name", ["docs/README.md", "models/model.pt", "docs", "configs/linked.json", "data"])
def test_links_are_refused(bundle, tmp_path, name):
    outside = tmp_path / "outside"
    if (bundle / name).exists():
        (bundle / name).rename(outside)
    else:
        outside.mkdir()
    (bundle / name).symlink_to(outside)
    with pytest.raises(ValueError, match=f"{name}: a link"):
        pack_bundle(bundle, tmp_path / "hub")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("configs/metadata.json", None, "is no bundle"),
        ("configs/metadata.json", b"{", "is no bundle"),
        ("configs/metadata.json", b'{"version": "1.2", "changelog": {"1.2": ""}}', "three numbers as 0.6.0"),
        ("configs/metadata.json", b'{"version": "1.2.4", "changelog": {"1.2.3": ""}}', "what is new in it"),
        ("configs/train.json", b"{", "configs/train.json: not JSON"),
        ("configs/train.json", b'{"\xff": 1}', "train.json' is not text in UTF-8"),
        ("weights.sha256", b"\xff", "weights.sha256' is not text in UTF-8"),
        ("LICENSE", None, "lacks LICENSE"),
        ("models/walks.safetensors", None, "lacks models/walks.safetensors"),
        ("models/model.pt", b"of patients", "models/model.pt in .* is not what weights.sha256 lists"),
        ("private/gate.safetensors", b"of patients", "private/gate.safetensors in .* is not what"),
        (
            "weights.sha256",
            None,
            "no '.*weights.sha256', which lists .* `python -m monai_plan release` that .*: sha256sum",
        ),
        ("weights.sha256", b"", "lists no file in it"),
        ("weights.sha256", lines_of(*LISTED[:2]).encode(), "lists no file in it"),
        ("weights.sha256", lines_of(*LISTED[1:]).encode(), "models/model.pt: not on the list"),
        ("weights.sha256", f"{'0' * 64}  private/ledger.json\n".encode(), "line 1: '0+  private/ledger.json' is no"),
        ("weights.sha256", f"{'0' * 64}  models/../private/gate.pt\n".encode(), "is no SHA-256 with the name"),
    ],
)
def test_what_is_missing_or_changed(bundle, tmp_path, name, content, message):
    (bundle / name).unlink()
    if content is not None:
        (bundle / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        pack_bundle(bundle, tmp_path / "hub", private=True)
    assert not (tmp_path / "hub").exists()


def with_walks(bundle, content):
    (bundle / "models" / "walks.safetensors").write_bytes(content)
    changed = {**FILES, "models/walks.safetensors": content}
    (bundle / "weights.sha256").write_text(lines_of(*LISTED, contents=changed))
    return changed


def test_of_walks_the_verified_points_alone_are_packed(bundle, tmp_path, caplog):
    changed = with_walks(bundle, bytes_of(WALKS))
    with caplog.at_level(logging.INFO):
        found = contents_of(pack_bundle(bundle, tmp_path))
    assert found["tiny_bundle/models/walks.safetensors"] == FILES["models/walks.safetensors"]
    assert found["tiny_bundle/weights.sha256"].decode() == lines_of(*LISTED[:2])
    assert "walks.safetensors: packed without its unverified points" in caplog.text
    assert WALKS.points[0, 0].numpy().tobytes() not in found["tiny_bundle/models/walks.safetensors"]
    with_private = contents_of(pack_bundle(bundle, tmp_path, private=True))
    assert with_private["tiny_bundle/models/walks.safetensors"] == changed["models/walks.safetensors"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes_of(replace(WALKS, meta={})), "never verified.*release"),
        (bytes_of(replace(WALKS, verified=torch.zeros_like(VERIFIED))), "never verified.*release"),
        (b"walks", "walks.safetensors' is no readable safetensors file"),
    ],
    ids=["no generator", "no point", "damaged"],
)
def test_walks_that_may_not_leave(bundle, tmp_path, content, message):
    with_walks(bundle, content)
    with pytest.raises(ValueError, match=message):
        pack_bundle(bundle, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("folder", [".", "dist", "models"])
def test_the_archive_does_not_lie_in_its_bundle(bundle, folder, monkeypatch):
    monkeypatch.chdir(bundle)
    with pytest.raises(ValueError, match="is in the bundle.* Give a folder outside it"):
        pack_bundle(".", folder)
    for _ in range(2):
        assert pack_bundle(".", "output/dist").parent == bundle.resolve() / "output" / "dist"


def test_a_name_that_monai_would_cut(bundle, tmp_path):
    renamed = bundle.rename(tmp_path / "tiny.bundle")
    with pytest.raises(ValueError, match="'tiny.bundle'"):
        pack_bundle(renamed, tmp_path / "hub")


@pytest.mark.skipif(not BUNDLES.is_dir(), reason="not a checkout")
@pytest.mark.parametrize("name", ["plan_tb", "plan_dr"])
def test_the_shipped_bundles_are_packed_whole(name, tmp_path):
    found = contents_of(pack_bundle(BUNDLES / name, tmp_path, private=True))
    rooms = ("configs", "docs", "models", "private")
    files = {path.relative_to(BUNDLES).as_posix() for room in rooms for path in (BUNDLES / name / room).iterdir()}
    assert set(found) == files | {f"{name}/LICENSE", f"{name}/weights.sha256"}
    assert found[f"{name}/weights.sha256"] == (BUNDLES / name / "weights.sha256").read_bytes()
    metadata = json.loads(found[f"{name}/configs/metadata.json"])
    assert "no patient's image" in metadata["data_source"]


@pytest.mark.skipif(not BUNDLES.is_dir(), reason="not a checkout")
def test_the_shipped_walks_leave_without_their_ends(tmp_path):
    found = contents_of(pack_bundle(BUNDLES / "plan_tb", tmp_path))
    (tmp_path / "walks.safetensors").write_bytes(found["plan_tb/models/walks_private.safetensors"])
    walks = WalkSet.load(tmp_path / "walks.safetensors")
    assert walks.verified.any() and not walks.points[~walks.verified].any()
    digest = hashlib.sha256(found["plan_tb/models/walks_private.safetensors"]).hexdigest()
    assert f"{digest}  models/walks_private.safetensors\n" in found["plan_tb/weights.sha256"].decode()
