"""A release holds what was verified, runs by itself, and replaces nothing but an earlier release."""

from __future__ import annotations

import copy
import csv
import json
import os
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from walk_fakes import RuleGate

from monai_plan import __version__
from monai_plan.data import PrivacyWalkDataset, PrivacyWalkSampler, build_datalist, release
from monai_plan.data.release import write_release
from monai_plan.latent.ledger import ReleaseRecord
from monai_plan.latent.walk_set import WalkSet
from monai_plan.networks.nets import StyleGenerator
from monai_plan.utils import sha256_of, weights_digest

Image = pytest.importorskip("PIL.Image")

NAMES = ["normal", "ill, or so"]
LABELS = (0, 1, 0, 1, 0, 1, 0, 1)
STEPS = 6
SECRETS = {"seed": 4711, "pairs": [[31337, 31338]], "about": "Jane Roe", "coverage": {"x": 1}, "run": "/home/jroe/run"}


@pytest.fixture(scope="module")
def generator() -> StyleGenerator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = StyleGenerator(32, 1, 2, channel_base=128, channel_max=16).train()
        with torch.no_grad():
            network.blocks[-1].to_image.bias.fill_(0.4)  # some pixels beyond 1, hence to be clamped
            for name, strength in network.named_parameters():
                if name.endswith("noise_strength"):
                    strength.fill_(0.3)  # so that constant noise, random noise and none differ
    return network


@pytest.fixture(scope="module")
def walks(generator) -> WalkSet:
    """Eight paths of four inner points, of which one to three are verified; path 6 has none, path 7 neighbours."""
    points = torch.randn(len(LABELS), STEPS, generator.w_dim, generator=torch.Generator().manual_seed(1))
    verified = torch.zeros(len(LABELS), STEPS, dtype=torch.bool)
    for path, shown in enumerate([(1,), (2, 4), (3,), (1, 3), (4,), (2,), (), (1, 2, 3)]):
        verified[path, list(shown)] = True
    verified[0, 2] = True
    counts = {"inner": 32, "gate_rejected": 777001, "verified": 12}
    meta = {**SECRETS, "k": 5, "counts": counts, "generator": weights_digest(generator)}
    return WalkSet(points, torch.tensor(LABELS), verified, "private", meta)


def shown_points(walks) -> list[tuple[int, int]]:
    return [tuple(place) for place in walks.verified.nonzero().tolist()]


def tree(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, hidden names too."""
    return {
        path.relative_to(folder).as_posix(): b"" if path.is_dir() else path.read_bytes() for path in folder.rglob("*")
    }


def never(*_, **__):
    raise AssertionError("work was begun")


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def sampler(walks, generator, gate=None, images=20):
    return PrivacyWalkSampler(PrivacyWalkDataset(walks, images, seed=3), generator, gate, batch_size=8, shuffle=True)


def assert_same_stream(first, second, epochs=2):
    for _ in range(epochs):
        for a, b in zip(first, second, strict=True):
            assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# the walks' release


def test_sampler_runs_from_the_folder_alone_and_makes_the_same_images(tmp_path, walks, generator):
    files = write_release(walks, generator, tmp_path / "given")
    assert sorted(files) == ["generator.safetensors", "manifest.json", "walks.safetensors"] and generator.training
    loaded = StyleGenerator.load(tmp_path / "given" / "generator.safetensors")
    outside = sampler(tmp_path / "given" / "walks.safetensors", loaded)
    assert_same_stream(outside, sampler(walks, copy.deepcopy(generator)))


def test_even_with_a_gate_nothing_is_drawn_from_what_was_removed(tmp_path, walks, generator):
    write_release(walks, generator, tmp_path / "given")
    released = WalkSet.load(tmp_path / "given" / "walks.safetensors")
    loaded = StyleGenerator.load(tmp_path / "given" / "generator.safetensors")
    gate = RuleGate()
    gate.accepts = lambda images: torch.ones(len(images), dtype=torch.bool)
    assert_same_stream(sampler(released, loaded, gate), sampler(walks, loaded, gate))


def test_no_byte_of_an_unverified_point_leaves(tmp_path, walks, generator):
    write_release(walks, generator, tmp_path / "given")
    held = b"".join(tree(tmp_path / "given").values())
    for path in range(len(walks)):
        for point in range(STEPS):
            begin = walks.points[path, point, :2].numpy().tobytes()
            assert (begin in held) == bool(walks.verified[path, point]), (path, point)
    released = WalkSet.load(tmp_path / "given" / "walks.safetensors")
    assert torch.equal(released.verified, walks.verified) and torch.equal(released.labels, walks.labels)
    assert torch.equal(released.points[walks.verified], walks.points[walks.verified])
    assert (released.points[~walks.verified] == 0).all()


@pytest.mark.parametrize("mode", ["walks", "images"])
def test_nothing_is_said_but_what_is_allowed(tmp_path, walks, generator, mode):
    folder = tmp_path / "jroe" / "given"
    write_release(replace(walks, kind="Jane Roe's"), generator, folder, mode, NAMES, progress=False)
    held = b"".join(content for name, content in tree(folder).items() if not name.endswith(".png"))
    for secret in (b"4711", b"31337", b"777001", b"Roe", b"roe", b"pairs", b"seed", str(tmp_path).encode()):
        assert secret not in held, secret
    if mode == "walks":
        released = WalkSet.load(folder / "walks.safetensors")
        counts = {"inner": 32, "verified": 12}
        assert released.meta == {"k": 5, "counts": counts, "generator": weights_digest(generator)}
        assert released.kind == "other"


def test_known_kinds_are_kept(tmp_path, walks, generator):
    write_release(walks, generator, tmp_path / "given")
    assert WalkSet.load(tmp_path / "given" / "walks.safetensors").kind == "private"


# the images' release


def test_pictures_are_the_renderings_of_the_verified_points(tmp_path, walks, generator):
    write_release(walks, generator, tmp_path / "given", "images", batch_size=5)
    names = {path.name for path in (tmp_path / "given" / "images").iterdir()}
    assert names == {f"{path}-{point}.png" for path, point in shown_points(walks)}
    extremes = 0
    for batch in sampler(walks, copy.deepcopy(generator), images=100):
        for image, path, position in zip(batch["image"], batch["path_id"], batch["position"], strict=True):
            with Image.open(tmp_path / "given" / "images" / f"{path}-{int(position)}.png") as picture:
                pixels = np.asarray(picture)
            assert picture.mode == "L" and pixels.dtype == np.uint8
            exact = (image[0].numpy() + 1) * 127.5
            assert np.abs(pixels - exact).max() <= 0.501
            extremes += int((pixels == 255).sum())
    assert extremes  # the clamp was needed


def test_what_the_caller_switched_on_does_not_reach_the_pictures(tmp_path, walks, generator, monkeypatch):
    seen, original = set(), StyleGenerator.synthesize

    def watched(self, w, noise="const", rng=None):
        seen.add((self.training, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), len(w), noise))
        return original(self, w, noise, rng)

    monkeypatch.setattr(StyleGenerator, "synthesize", watched)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        files = write_release(walks, generator, tmp_path / "given", "images", batch_size=6)
    assert seen == {(False, False, False, 6, "const")} and generator.training
    assert files == write_release(walks, generator, tmp_path / "plain", "images", batch_size=6)


def test_colour_is_kept(tmp_path):
    generator = StyleGenerator(32, 3, 2, channel_base=128, channel_max=16)
    points = torch.randn(2, 3, generator.w_dim)
    verified = torch.tensor([[False, True, False]] * 2)
    walks = WalkSet(points, torch.tensor([0, 1]), verified, "linear", {"generator": weights_digest(generator)})
    write_release(walks, generator, tmp_path / "given", "images")
    with torch.no_grad():
        exact = (generator.synthesize(points[:1, 1]).clamp(-1, 1)[0].permute(1, 2, 0).numpy() + 1) * 127.5
    with Image.open(tmp_path / "given" / "images" / "0-1.png") as picture:
        assert picture.mode == "RGB" and np.abs(np.asarray(picture) - exact).max() <= 0.501


def test_pictures_hold_pixels_and_nothing_else(tmp_path, walks, generator):
    write_release(walks, generator, tmp_path / "given", "images")
    for path in (tmp_path / "given" / "images").iterdir():
        data, at, chunks = path.read_bytes(), 8, set()
        while at < len(data):
            chunks.add(data[at + 4 : at + 8])
            at += 12 + int.from_bytes(data[at : at + 4], "big")
        assert chunks == {b"IHDR", b"IDAT", b"IEND"}


def test_a_datalist_of_the_folder_keeps_paths_together(tmp_path, walks, generator, caplog):
    verified = torch.zeros_like(walks.verified)
    verified[:, 1:-1] = True
    full = replace(walks, verified=verified)
    write_release(full, generator, tmp_path / "given", "images", dict(zip("01", NAMES, strict=True)))
    content = build_datalist(tmp_path / "given", tmp_path / "list.json")
    assert "name neither a group nor a patient" not in caplog.text
    assert set(content["labels"].values()) == set(NAMES)
    splits_of: dict[int, set[str]] = {}
    for split in ("training", "validation", "testing"):
        for record in content[split]:
            path, _ = map(int, Path(record["image"]).stem.split("-"))
            splits_of.setdefault(path, set()).add(split)
            assert content["labels"][str(record["label"])] == NAMES[LABELS[path]] and record["patient_id"] == ""
    assert len(splits_of) == 8 and all(len(splits) == 1 for splits in splits_of.values())
    assert sum(len(content[split]) for split in ("training", "validation", "testing")) == 32


@pytest.mark.parametrize("labels, expected", [(None, ["0", "1"]), (NAMES, NAMES), ({"1": "b", "0": " a"}, ["a", "b"])])
def test_table_of_labels(tmp_path, walks, generator, labels, expected):
    write_release(walks, generator, tmp_path / "given", "images", labels)
    with (tmp_path / "given" / "labels.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["file", "label", "path", "point", "group"]
    assert [(int(row["path"]), int(row["point"])) for row in rows] == shown_points(walks)
    for row in rows:
        assert row["file"] == f"images/{row['path']}-{row['point']}.png"
        assert row["label"] == expected[LABELS[int(row["path"])]] and row["group"] == f"path-{row['path']}"


# the manifest


@pytest.mark.parametrize("mode", ["walks", "images"])
@pytest.mark.parametrize("k", [5, None])
def test_manifest_and_digests(tmp_path, walks, generator, mode, k):
    meta = {name: value for name, value in walks.meta.items() if name != "k"} | ({"k": k} if k else {})
    files = write_release(replace(walks, meta=meta), generator, tmp_path / "given", mode, NAMES)
    assert files == {name: sha256_of(tmp_path / "given" / name) for name in files}
    assert set(files) == {name for name in tree(tmp_path / "given") if name != "images"}
    manifest = manifest_of(tmp_path / "given")
    about = manifest.pop("about")
    assert manifest == {
        "schema": "release",
        "version": 1,
        "monai_plan": __version__,
        "mode": mode,
        "k": k,
        "images": 12,
        "paths": 7,
        "classes": {"0": {"name": "normal", "images": 4}, "1": {"name": "ill, or so", "images": 8}},
        "audit": {
            "verdict": None,
            "certificate_sha256": None,
            "says": "Nobody looked for an audit's certificate when this was released.",
        },
        "files": {name: digest for name, digest in files.items() if name != "manifest.json"},
    }
    assert len(about) == 4 and ("at least 5 patients" in " ".join(about)) == (k == 5)
    assert ("can render more than the verified points" in about[3]) == (mode == "walks")
    ReleaseRecord("given", mode, "0" * 64, "2026-03-31", files)  # the ledger takes it as it is


def test_the_same_release_is_the_same_to_the_byte(tmp_path, walks, generator):
    for mode in ("walks", "images"):
        assert write_release(walks, generator, tmp_path / "a", mode) == write_release(
            walks, generator, tmp_path / "b", mode
        )


# whole or not at all


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("old", ["walks", "images", "empty", None])
@pytest.mark.parametrize("mode, place", [("walks", "save"), ("images", "save_png"), ("walks", "rename")])
def test_interrupted_writing_leaves_what_was_there(tmp_path, walks, generator, monkeypatch, mode, place, old, error):
    folder = tmp_path / "given"
    if old == "empty":
        folder.mkdir()
    elif old is not None:
        write_release(walks, generator, folder, old)
    before, calls = tree(tmp_path), []

    def interrupted(original, at):
        def call(*args, **options):
            calls.append(args)
            if len(calls) == at:
                raise error("injected fault")
            return original(*args, **options)

        return call

    if place == "save":
        monkeypatch.setattr(WalkSet, "save", interrupted(WalkSet.save, 1))
    elif place == "save_png":
        monkeypatch.setattr(release, "save_png", interrupted(release.save_png, 3))
    else:  # the new one's, after the old one has been moved away
        monkeypatch.setattr(Path, "rename", interrupted(Path.rename, 1 if old is None else 2))
    with pytest.raises(error, match="injected fault"):
        write_release(walks, generator, folder, mode)
    assert calls and tree(tmp_path) == before


@pytest.mark.parametrize("again", ["walks", None])
def test_a_kill_between_two_releases_loses_none(tmp_path, walks, generator, again):
    """The earlier one had been moved away, its successor was not yet there; it comes back, or is replaced."""
    write_release(walks, generator, tmp_path / "given", "images")
    before = tree(tmp_path / "given")
    (tmp_path / "given").rename(tmp_path / ".given.before")
    if again is None:
        with pytest.raises(RuntimeError):
            write_release(walks, generator, tmp_path / "given", "walks", record=lambda _: torch.zeros(1).view(2))
        assert tree(tmp_path / "given") == before
    else:
        write_release(walks, generator, tmp_path / "given", again)
        assert manifest_of(tmp_path / "given")["mode"] == "walks"
    assert os.listdir(tmp_path) == ["given"]


@pytest.mark.parametrize("old, new", [("walks", "images"), ("images", "walks"), (None, "walks")])
def test_a_release_takes_the_place_of_an_earlier_one(tmp_path, walks, generator, old, new):
    (tmp_path / "given").mkdir()
    if old is not None:
        write_release(walks, generator, tmp_path / "given", old)
    files = write_release(walks, generator, tmp_path / "given", new)
    assert set(files) == {name for name in tree(tmp_path / "given") if name != "images"}
    assert os.listdir(tmp_path) == ["given"]


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps no such permissions")
def test_permissions_follow_the_umask(tmp_path, walks, generator):
    before = os.umask(0o027)
    try:
        write_release(walks, generator, tmp_path / "given")
    finally:
        os.umask(before)
    assert (tmp_path / "given").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize(
    "content",
    [
        {"patients.csv": "Jane Roe"},
        {"manifest.json": '{"schema": "other", "files": {}}'},
        {"manifest.json": '["schema"]'},
        {"manifest.json": "not JSON"},
        {"sub/deep.txt": "mine"},
    ],
)
def test_a_strangers_folder_is_not_touched(tmp_path, walks, generator, content, monkeypatch):
    monkeypatch.setattr(StyleGenerator, "save", never)  # it is refused before the work
    for name, text in content.items():
        (tmp_path / "given" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "given" / name).write_text(text)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="is no release.*Nothing was touched"):
        write_release(walks, generator, tmp_path / "given")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("late", [False, True])
def test_a_strangers_file_in_a_release_is_kept(tmp_path, walks, generator, late, monkeypatch):
    write_release(walks, generator, tmp_path / "given")
    name = "given/images/datalist.json"

    def add():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("mine")

    def save(self, path):
        add()
        return original(self, path)

    original = WalkSet.save
    if late:  # while the new one is being made
        monkeypatch.setattr(WalkSet, "save", save)
    else:
        add()
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"1 files in it are not of it, e.g. 'images/datalist.json'"):
        write_release(walks, generator, tmp_path / "given")
    assert tree(tmp_path) == before | ({"given/images": b"", name: b"mine"} if late else {})


def test_a_file_in_the_folders_place_and_a_mounted_disk_are_refused(tmp_path, walks, generator):
    (tmp_path / "given").write_text("mine")
    with pytest.raises(ValueError, match="is no release"):
        write_release(walks, generator, tmp_path / "given")
    assert (tmp_path / "given").read_text() == "mine"
    if Path("/proc").is_mount():
        with pytest.raises(ValueError, match="a disk is mounted"):
            write_release(walks, generator, "/proc")


@pytest.mark.parametrize("mode", ["walks", "images"])
@pytest.mark.parametrize("fault", ["no folder", "no space"])
def test_unwritable_places_are_refused_before_anything_is_rendered(
    tmp_path, walks, generator, mode, fault, monkeypatch
):
    monkeypatch.setattr(StyleGenerator, "synthesize", never)
    monkeypatch.setattr(StyleGenerator, "save", never)
    folder = tmp_path / "given"
    if fault == "no folder":
        (tmp_path / "file").write_text("")
        folder = tmp_path / "file" / "given"
    else:  # a picture of 32 x 32 pixels is 1 KiB, and there are 12
        space = namedtuple("space", "f_bavail f_frsize")(12, 1024)
        monkeypatch.setattr(os, "statvfs", lambda _: space)
    with pytest.raises(OSError, match="cannot write|MiB left"):
        write_release(walks, generator, folder, mode)
    assert not folder.exists()


# refusals


def bare(walks, *paths):
    verified = walks.verified.clone()
    verified[list(paths)] = False
    return replace(walks, verified=verified)


@pytest.mark.parametrize(
    "change, options, message",
    [
        ({}, {"mode": "gallery"}, "'gallery'"),
        ({}, {"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({}, {"labels": ["normal"]}, r"2 classes and their names are \{'0': 'normal'\}"),
        ({}, {"labels": ["a", "b", "c"]}, "2 classes"),
        ({}, {"labels": ["a", "a"]}, "a name of its own"),
        ({}, {"labels": ["a", " "]}, "a name of its own"),
        ({}, {"labels": {"0": "a", "2": "b"}}, "2 classes"),
        ({"paths": range(8)}, {}, "none of the 8 paths has a verified point"),
        ({"paths": (1, 3, 5, 7)}, {"labels": NAMES}, "class 'ill, or so' is verified"),
        ({"labels": torch.tensor([0, 1, 0, 1, 0, 1, 0, 2])}, {}, "label 2 and the generator 2 classes"),
        ({"meta": {"generator": "0" * 64}}, {}, "verified with another generator"),
        ({"meta": {}}, {}, "verified with another generator"),
        ({"k": 1}, {}, "k is 1, and"),
        ({"k": "Jane Roe"}, {}, "k is 'Jane Roe', and"),
        ({"k": True}, {}, "k is True, and"),
    ],
)
def test_refuses(tmp_path, walks, generator, change, options, message):
    if "paths" in change:
        walks = bare(walks, *change["paths"])
    elif "k" in change:
        walks = replace(walks, meta=walks.meta | change)
    else:
        walks = replace(walks, **change)
    with pytest.raises(ValueError, match=message):
        write_release(walks, generator, tmp_path / "new" / "given", **options)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("mode", ["walks", "images"])
def test_other_weights_are_refused(tmp_path, walks, generator, mode):
    other = StyleGenerator(**generator.config)
    other.load_state_dict(generator.state_dict())
    other.w_avg[0] += 1e-3
    with pytest.raises(ValueError, match="verified with another generator"):
        write_release(walks, other, tmp_path / "given", mode)
    assert not os.listdir(tmp_path)


def test_images_that_are_none_are_refused(tmp_path, walks, generator):
    broken = StyleGenerator(**generator.config)
    torch.nn.init.constant_(broken.blocks[0].const, float("nan"))
    broken_walks = replace(walks, meta={"generator": weights_digest(broken)})
    with pytest.raises(ValueError, match="NaN or infinite"):
        write_release(broken_walks, broken, tmp_path / "given", "images")
    wide = StyleGenerator(32, 2, 2, channel_base=128, channel_max=16)
    with pytest.raises(ValueError, match="makes 2 channels"):
        write_release(replace(walks, meta={"generator": weights_digest(wide)}), wide, tmp_path / "given", "images")
    assert not os.listdir(tmp_path)
