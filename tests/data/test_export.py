"""An export holds exactly what was asked for, goes on after a kill as if nothing had happened, and trusts no folder."""

from __future__ import annotations

import csv
import errno
import json
import multiprocessing
import os
import signal
from collections import Counter, namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import load_decathlon_datalist
from monai.transforms import LoadImaged
from torch import nn
from walk_fakes import RuleGate, SpellingGenerator, spelling_walks

from monai_plan import __version__
from monai_plan.data import export, export_images, folder_lock, image_export
from monai_plan.data.image_export import encode_png
from monai_plan.data.image_shards import EncodedImage, ImageShards
from monai_plan.latent.ledger import ReleaseRecord
from monai_plan.utils import sha256_of, weights_digest

Image = pytest.importorskip("PIL.Image")

ALL = dict.fromkeys(range(6), (1, 2, 3, 4))
DEFAULTS = {"per_class": 10, "shard_size": 8, "batch_size": 3, "progress": False}
"""Twenty images: shards of 8, 8 and 4."""


class Gate(nn.Module):
    """The fake gate with weights and a threshold, as an export wants to name it."""

    def __init__(self, threshold: float = 0.5, **rule) -> None:
        super().__init__()
        self.rule, self.threshold = RuleGate(**rule), threshold
        self.weight = nn.Parameter(torch.ones(1))

    def accepts(self, images):
        return self.rule.accepts(images)


def run(folder, walks=None, generator=None, gate="rule", **options):
    gate = Gate(low=2.0, banned=(1,)) if gate == "rule" else gate
    walks = spelling_walks(ALL) if walks is None else walks
    return export_images(walks, generator or SpellingGenerator(), gate, folder, **{**DEFAULTS, **options})


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(folder: Path) -> list[dict[str, str]]:
    rows = []
    for file in sorted(folder.glob("images/*/index.csv")):
        with file.open(encoding="utf-8", newline="") as stream:
            rows += [{**row, "at": f"{file.parent.relative_to(folder).as_posix()}"} for row in csv.DictReader(stream)]
    return rows


def never(*_, **__):
    raise AssertionError("work was begun")


# what is written


def test_exactly_what_was_asked_for(tmp_path):
    datalist = run(tmp_path / "given", labels=["normal", "ill"])
    assert datalist == tmp_path / "given" / "datalist.json"
    names = sorted(tree(tmp_path / "given"))
    expected = [f"images/{index // 8:05d}/{index:09d}.png" for index in range(20)]
    expected += [f"images/{shard:05d}/index.csv" for shard in range(3)]
    assert names == sorted([*expected, "datalist.json", "export.json", "manifest.json"])
    rows = rows_of(tmp_path / "given")
    assert Counter(row["label"] for row in rows) == {"0": 10, "1": 10}
    for shard, each in (("images/00000", 4), ("images/00001", 4), ("images/00002", 2)):
        assert Counter(row["label"] for row in rows if row["at"] == shard) == {"0": each, "1": each}
    for row in rows:
        file = tmp_path / "given" / row["at"] / row["file"]
        assert file.stat().st_size == int(row["bytes"]) and sha256_of(file) == row["sha256"]


def test_every_image_is_its_place_on_its_walk_and_passed_the_gate(tmp_path):
    """The fake's images spell out path, position and class; the gate bans path 1 and positions below 2."""
    gate = Gate(low=2.0, banned=(1,))
    run(tmp_path, gate=gate, per_class=40)
    assert gate.rule.rejected > 0
    places = set()
    for row in rows_of(tmp_path):
        pixels = np.asarray(Image.open(tmp_path / row["at"] / row["file"])).astype(float) / 127.5 - 1
        path, position = int(row["path"]), float(row["position"])
        assert path != 1 and 2.0 <= position <= 4.0
        assert np.abs(pixels - [[path / 10, position / 10], [float(row["label"]), 0]]).max() < 0.005
        assert (path < 3) == (row["label"] == "0")
        places.add((path, position))
    assert len(places) == 80  # no image twice, also from shard to shard
    assert {path for path, _ in places} == {0, 2, 3, 4, 5}


def test_refused_images_are_never_encoded(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(image_export, "encode_png", lambda image: seen.append(image.clone()) or encode_png(image))
    run(tmp_path)
    judge = RuleGate(low=2.0, banned=(1,))
    assert len(seen) == 21 and all(judge.accepts(image[None]).item() for image in seen[1:])  # first: noise, to weigh


def test_a_gate_that_refuses_all_leaves_no_image(tmp_path):
    with pytest.raises(RuntimeError, match="rejected all 50 attempts"):
        run(tmp_path, gate=Gate(low=98.0))
    assert set(tree(tmp_path)) == {"export.json"}


def test_without_a_gate_verified_points_are_taken_once_each(tmp_path):
    walks = spelling_walks({0: (1, 3), 2: (2, 4), 4: (1, 2, 3, 4)})
    run(tmp_path, walks, gate=None, per_class=4)
    places = {(int(row["path"]), float(row["position"])) for row in rows_of(tmp_path)}
    assert places == {(0, 1), (0, 3), (2, 2), (2, 4), (4, 1), (4, 2), (4, 3), (4, 4)}
    assert "privacy gate was not at hand" in json.loads((tmp_path / "manifest.json").read_text())["about"][1]
    with pytest.raises(ValueError, match="class '0' has 4 of them for per_class=5"):
        run(tmp_path / "more", walks, gate=None, per_class=5)
    with pytest.raises(ValueError, match="verified with another generator"):
        run(tmp_path / "other", replace(walks, meta={}), gate=None, per_class=4)
    assert not (tmp_path / "more").exists() and not (tmp_path / "other").exists()


def test_a_class_without_walks_is_left_out_and_said_so(tmp_path, caplog):
    walks = spelling_walks(dict.fromkeys(range(3), (1, 2, 3, 4)), labels=(1, 1, 1))
    run(tmp_path, walks, labels=["normal", "ill"], gate=Gate())
    assert json.loads((tmp_path / "manifest.json").read_text())["classes"] == {"1": {"name": "ill", "images": 10}}
    assert "no image is written of class(es) 'normal'" in caplog.text
    assert {row["label"] for row in rows_of(tmp_path)} == {"1"}


def test_monai_loads_the_datalist_at_once(tmp_path):
    datalist = run(tmp_path, labels=["normal", "ill"])
    items = load_decathlon_datalist(datalist)  # its defaults
    assert len(items) == 20 and Counter(item["label"] for item in items) == {0: 10, 1: 10}
    rows = {str(tmp_path / row["at"] / row["file"]): row for row in rows_of(tmp_path)}
    load = LoadImaged("image", ensure_channel_first=True)
    for item in items:
        row = rows[item["image"]]
        assert (item["label"], item["group"]) == (int(row["label"]), f"path-{row['path']}")
    assert load(items[0])["image"].shape == (1, 2, 2)
    head = json.loads(datalist.read_text())
    assert (head["labels"], head["numTraining"]) == ({"0": "normal", "1": "ill"}, 20)


def test_manifest(tmp_path):
    walks = replace(spelling_walks(ALL), meta={"k": 12, "seed": 4711, "about": "Jane Roe"})
    run(tmp_path / "jroe", walks, seed=3)
    folder = tmp_path / "jroe"
    manifest = json.loads((folder / "manifest.json").read_text())
    settings = manifest["settings"]
    assert settings == json.loads((folder / "export.json").read_text())["settings"]
    assert (manifest["schema"], manifest["version"], manifest["images"]) == ("export", 1, 20)
    assert manifest["about"][1] == "Every image passed the privacy gate before it was written."
    assert manifest["classes"] == {label: {"name": label, "images": 10} for label in ("0", "1")}
    expected = {"per_class": 10, "format": "png", "seed": 3, "shard_size": 8, "image_size": 2, "channels": 1, "k": 12}
    assert {name: settings[name] for name in expected} == expected and settings["monai_plan"] == __version__
    assert settings["generator"] == weights_digest(SpellingGenerator()) and len(settings["gate"]) == 64
    assert manifest["files"] == {name: sha256_of(folder / name) for name in manifest["files"]}
    assert set(manifest["files"]) == {"datalist.json", *(f"images/{shard:05d}/index.csv" for shard in range(3))}
    said = b"".join(content for name, content in tree(folder).items() if not name.endswith(".png"))
    assert not [secret for secret in (b"4711", b"Roe", b"roe", str(tmp_path).encode()) if secret in said]


def test_the_ledger_hears_of_it_once_and_first(tmp_path):
    heard = []

    def record(files):
        assert not (tmp_path / "export.json").exists() and not (tmp_path / "images").exists()
        heard.append(files)

    run(tmp_path, record=record)
    run(tmp_path, record=record)
    assert heard == [{"export.json": sha256_of(tmp_path / "export.json")}]
    ReleaseRecord("given", "images", "0" * 64, "2026-03-31", heard[0])  # the ledger takes it as it is


def test_a_ledger_that_refuses_stops_it(tmp_path):
    def record(files):
        raise ValueError("the ledger does not know these walks")

    with pytest.raises(ValueError, match="does not know"):
        run(tmp_path, record=record)
    assert not tree(tmp_path)


@pytest.mark.parametrize("image_format, suffix", [("nifti", ".nii"), ("dicom", ".dcm")])
def test_other_formats(tmp_path, image_format, suffix):
    pytest.importorskip({"nifti": "nibabel", "dicom": "pydicom"}[image_format])
    run(tmp_path, image_format=image_format, spacing=0.5, per_class=4)
    files = sorted(path for path in tmp_path.rglob(f"*{suffix}"))
    assert len(files) == 8
    if image_format == "dicom":
        import pydicom

        headers = {int(file.stem): pydicom.dcmread(file) for file in files}
        assert len({str(header.SOPInstanceUID) for header in headers.values()}) == 8
        rows = {int(Path(row["file"]).stem): row["path"] for row in rows_of(tmp_path)}
        assert all(h.PatientID == f"SYNTHETIC-path-{rows[i]}" and h.InstanceNumber == i + 1 for i, h in headers.items())
        run(tmp_path / "other", image_format=image_format, spacing=0.5, per_class=4, seed=1)
        other = {str(pydicom.dcmread(path).SOPInstanceUID) for path in (tmp_path / "other").rglob("*.dcm")}
        assert not other & {str(header.SOPInstanceUID) for header in headers.values()}


# the same images, whatever happens


def test_a_seed_is_an_export(tmp_path):
    run(tmp_path / "a")
    run(tmp_path / "b")
    run(tmp_path / "c", seed=1)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert rows_of(tmp_path / "a") != rows_of(tmp_path / "c")


@pytest.mark.parametrize("call", [1, 3, 4, 6, 8])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_export_goes_on(tmp_path, call, error):
    run(tmp_path / "whole")

    class Breaking(SpellingGenerator):
        def synthesize(self, w, noise="const", rng=None):
            if self.calls + 1 == call:
                raise error("injected fault")
            return super().synthesize(w, noise, rng)

    with pytest.raises(error, match="injected fault"):
        run(tmp_path / "given", generator=Breaking())
    done = tree(tmp_path / "given")
    assert "manifest.json" not in done and not any(".part" in name for name in done)
    generator = SpellingGenerator()
    run(tmp_path / "given", generator=generator)
    assert tree(tmp_path / "given") == tree(tmp_path / "whole")
    assert set(done.items()) <= set(tree(tmp_path / "given").items())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("at", [1, 5, 12, 20])
def test_a_killed_export_goes_on(tmp_path, at, monkeypatch):
    """Killed outright while image ``at`` is written: nothing can clean up after it."""
    run(tmp_path / "whole")
    write, count = Path.write_bytes, []

    def killed(self, content):
        count.append(self)
        if len(count) == at:
            write(self, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", killed)
    child = multiprocessing.get_context("fork").Process(target=run, args=(tmp_path / "given",))
    child.start()
    child.join(60)
    monkeypatch.undo()
    assert child.exitcode == -signal.SIGKILL
    shards = sorted(path.name.partition("-")[0] for path in (tmp_path / "given" / "images").iterdir())
    assert shards == [f".{(at - 1) // 8:05d}.part", *(f"{shard:05d}" for shard in range((at - 1) // 8))]
    run(tmp_path / "given")
    assert tree(tmp_path / "given") == tree(tmp_path / "whole")


def test_a_complete_export_renders_nothing(tmp_path):
    run(tmp_path)
    before, generator = tree(tmp_path), SpellingGenerator()
    run(tmp_path, generator=generator)
    assert generator.calls == 0 and tree(tmp_path) == before


@pytest.mark.parametrize("spoil", ["missing", "shorter", "index", "empty index", "left behind"])
def test_what_a_crash_has_spoilt_is_made_again(tmp_path, spoil):
    """A power cut may leave files of no length under their final names."""
    run(tmp_path)
    whole = tree(tmp_path)
    image, index = tmp_path / "images" / "00001" / "000000009.png", tmp_path / "images" / "00001" / "index.csv"
    if spoil == "missing":
        image.unlink()
    elif spoil == "shorter":
        image.write_bytes(b"")
    elif spoil == "index":
        index.write_text(index.read_text()[:-100])
    elif spoil == "empty index":
        index.write_bytes(b"\0\0\0")
    else:
        (tmp_path / ".manifest.part-x1y2.json").write_text("{")
        (tmp_path / ".writable-x1y2").write_text("")
    generator = SpellingGenerator()
    run(tmp_path, generator=generator)
    assert tree(tmp_path) == whole
    assert (generator.calls > 0) == (spoil != "left behind")


# several processes


@pytest.fixture
def as_rank(monkeypatch):
    """A function: pretend to be process ``rank`` of ``world``."""

    def pretend(rank, world):
        monkeypatch.setattr(export.idist, "get_rank", lambda: rank)
        monkeypatch.setattr(export.idist, "get_world_size", lambda: world)
        monkeypatch.setattr(export.idist, "barrier", lambda: None)

    return pretend


@pytest.mark.parametrize("order", [(0, 1), (0, 2, 1)])
def test_processes_share_the_shards(tmp_path, order, as_rank):
    run(tmp_path / "whole")
    world, held = len(order), []
    for rank in order:
        as_rank(rank, world)
        before = {path.name for path in (tmp_path / "given" / "images").glob("*")}
        run(tmp_path / "given")
        held.append({int(path.name) for path in (tmp_path / "given" / "images").glob("*")} - {*map(int, before)})
        assert (tmp_path / "given" / "manifest.json").exists() == (rank == order[-1])
    assert held == [set(range(rank, 3, world)) for rank in order]
    assert tree(tmp_path / "given") == tree(tmp_path / "whole")


def test_processes_that_do_not_know_of_each_other_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes were launched.*initialize\('gloo'\)"):
        run(tmp_path / "given")
    assert not (tmp_path / "given").exists()


# several runs


@pytest.fixture
def needs_locks():
    pytest.importorskip("fcntl", reason="this system locks no files")


class Meddling(SpellingGenerator):
    """Calls ``meddle`` at its second batch, in the midst of the first shard."""

    def __init__(self, meddle) -> None:
        super().__init__()
        self.meddle = meddle

    def synthesize(self, w, noise="const", rng=None):
        if self.calls == 1:
            self.meddle()
        return super().synthesize(w, noise, rng)


def test_a_second_run_is_refused_and_harms_nothing(tmp_path, needs_locks):
    def second():
        before = tree(tmp_path / "given")
        with pytest.raises(ValueError, match="another run is at work in .*given'.*Wait until it has ended"):
            run(tmp_path / "given")
        assert tree(tmp_path / "given") == before and any(".part-" in name for name in before)

    run(tmp_path / "whole")
    run(tmp_path / "given", generator=Meddling(second))
    assert tree(tmp_path / "given") == tree(tmp_path / "whole")


def test_no_run_begins_before_all_processes_have_left(tmp_path, needs_locks):
    """Process 0 may be through long before the others."""
    walks, generator = spelling_walks(ALL), SpellingGenerator()
    export_ = export.ImageExport(walks, generator, Gate(low=2.0, banned=(1,)), tmp_path, 10, shard_size=8, batch_size=3)
    with export_.begun():
        other = export_.folder.joined()
        other.__enter__()
    with pytest.raises(ValueError, match="another run is at work"):
        run(tmp_path)
    with export_.folder.joined():  # a process of the same run
        pass
    other.__exit__(None, None, None)
    run(tmp_path)
    assert ".lock" not in tree(tmp_path)


def test_a_lock_that_a_kill_has_left_is_no_run(tmp_path, needs_locks):
    run(tmp_path / "whole")
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / ".lock").touch()
    run(tmp_path / "given")
    assert tree(tmp_path / "given") == tree(tmp_path / "whole")


def test_a_disk_without_locks_is_said(tmp_path, needs_locks, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(folder_lock.fcntl, "flock", flock)
    run(tmp_path)
    assert "keeps no locks" in caplog.text and (tmp_path / "manifest.json").is_file()


def shards_in(root: Path) -> ImageShards:
    return ImageShards(root / "images", ".png", 2, 5, 5)


def ten_images(meddle):
    for index in range(10):
        if index == 5:
            meddle()
        yield EncodedImage(index % 2, index, 0.0, b"x" * 100)


def test_two_writers_of_one_shard_both_leave_it_whole(tmp_path):
    """As where an actor was thought lost and is alive; or where the disk keeps no locks."""
    shards_in(tmp_path).write(0, ten_images(lambda: shards_in(tmp_path).write(0, ten_images(lambda: None))))
    assert len(list(shards_in(tmp_path).rows(0))) == 10
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["00000"]
    before = tree(tmp_path)
    shards_in(tmp_path).tidy()
    assert tree(tmp_path) == before


def test_a_shard_with_too_few_files_never_gets_its_name(tmp_path):
    def delete():
        next((tmp_path / "images").rglob("*.png")).unlink()

    with pytest.raises(OSError, match="changed by another program"):
        shards_in(tmp_path).write(0, ten_images(delete))
    assert not tree(tmp_path)


def test_a_datalist_is_never_shorter_than_the_manifest_says(tmp_path):
    walks, generator = spelling_walks(ALL), SpellingGenerator()
    run(tmp_path)
    (tmp_path / "datalist.json").unlink()
    index = tmp_path / "images" / "00001" / "index.csv"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:-1]))
    export_ = export.ImageExport(walks, generator, Gate(low=2.0, banned=(1,)), tmp_path, 10, shard_size=8, batch_size=3)
    with pytest.raises(ValueError, match="lists 7 images instead of 8"):
        export_.folder.finish()
    assert not (tmp_path / "datalist.json").exists()


@pytest.mark.skipif(os.name != "posix", reason="syncs no folders")
def test_a_shard_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced, rename = [], Path.rename
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))

    def renamed(self, target):
        assert {path.stat().st_ino for path in (self, *self.iterdir())} == {*synced} and len(synced) == 12
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    shards_in(tmp_path).write(0, ten_images(lambda: None))
    assert synced[-1] == (tmp_path / "images").stat().st_ino


# memory


def test_nothing_is_of_the_size_of_the_export(tmp_path, monkeypatch):
    """Ten million images: what is made before the first one is as for ten."""
    made = []
    original = export.PrivacyWalkDataset

    def watched(walks, images_per_epoch, seed):
        made.append(images_per_epoch)
        return original(walks, images_per_epoch, seed)

    def stop(self, number, images):
        made.append(len(list(images)))
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "PrivacyWalkDataset", watched)
    monkeypatch.setattr(export.ImageShards, "write", stop)
    space = namedtuple("space", "f_bavail f_frsize")(10**9, 4096)
    monkeypatch.setattr(os, "statvfs", lambda _: space)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, per_class=5 * 10**6, shard_size=1000, batch_size=200)
    assert made == [1000, 1000]


# refusals


@pytest.mark.parametrize(
    "options, message",
    [
        ({"per_class": 0}, "'per_class' is 0"),
        ({"per_class": 2.5}, "'per_class' is 2.5"),
        ({"shard_size": 0}, "'shard_size' is 0"),
        ({"batch_size": 0}, "'batch_size' is 0"),
        ({"seed": -1}, "'seed' is -1"),
        ({"shard_size": 1}, "images of all 2 classes, and shard_size is 1"),
        ({"image_format": "jpeg"}, "got 'jpeg'"),
        ({"spacing": 0.5}, "PNG keeps no spacing"),
        ({"labels": ["one"]}, "2 classes and their names"),
        ({"walks": spelling_walks(labels=(0, 0, 2))}, "label 2 and the generator 2 classes"),
        ({"walks": spelling_walks(labels=())}, "the walk set is empty"),
    ],
)
def test_refuses_before_anything_is_begun(tmp_path, options, message, monkeypatch):
    monkeypatch.setattr(SpellingGenerator, "synthesize", never)
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "given", **options)
    assert not (tmp_path / "given").exists()


class OtherWeights(SpellingGenerator):
    def __init__(self) -> None:
        super().__init__()
        self.scale.data.fill_(0.5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seed": 1}, "seed was 0 and now is 1"),
        ({"per_class": 11}, "per_class was 10 and now is 11"),
        ({"shard_size": 10}, "shard_size was 8 and now is 10"),
        ({"batch_size": 4}, "batch_size was 3 and now is 4"),
        ({"labels": ["a", "b"]}, "classes was"),
        ({"generator": OtherWeights()}, "generator was"),
        ({"walks": spelling_walks({**ALL, 0: (1, 2)})}, "walks was"),
        ({"gate": Gate(threshold=0.6)}, "gate was"),
    ],
)
def test_other_settings_are_refused(tmp_path, options, message, monkeypatch):
    run(tmp_path)
    before = tree(tmp_path)
    monkeypatch.setattr(SpellingGenerator, "synthesize", never)
    with pytest.raises(ValueError, match=f"begun with other settings: .*{message}.*Nothing was touched"):
        run(tmp_path, **options)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "name, message",
    [
        ("patients.csv", "is no export"),
        ("manifest.json", "is no export"),
        ("images/00000/000000000.png", "is no export"),
        (".datalist.part-x1/notes.txt", "is no export"),
        (".lock/notes.txt", "is no export"),
    ],
)
def test_a_strangers_folder_is_not_touched(tmp_path, name, message, monkeypatch):
    monkeypatch.setattr(SpellingGenerator, "synthesize", never)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{message}.*Nothing was touched"):
        run(tmp_path)
    assert tree(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize("content", ["not JSON", "[]", '{"schema": "release", "settings": {}}', '{"schema": "export"}'])
def test_another_programs_settings_are_not_touched(tmp_path, content):
    (tmp_path / "export.json").write_text(content)
    with pytest.raises(ValueError, match="damaged, or of another program"):
        run(tmp_path)
    assert tree(tmp_path) == {"export.json": content.encode()}


@pytest.mark.parametrize(
    "name",
    [
        *("notes.txt", "images/notes.txt", "images/00003/000000020.png", "images/00000/notes.txt"),
        *(".datalist.part-x1/notes.txt", ".lock/notes.txt"),
        *("images/.00001.part-x1/notes.txt", "images/00000/000000009.png", "images/more/000000000.png"),
    ],
)
def test_a_strangers_file_in_an_export_is_kept(tmp_path, name, monkeypatch):
    run(tmp_path)
    (tmp_path / "images" / "00001" / "000000009.png").unlink()  # something is to be made again
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = tree(tmp_path)
    monkeypatch.setattr(SpellingGenerator, "synthesize", never)
    with pytest.raises(ValueError, match="is not of this export.*[Nn]othing was touched"):
        run(tmp_path)
    assert tree(tmp_path) == before


def test_a_link_in_a_shards_place_is_not_followed(tmp_path):
    run(tmp_path / "given")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "index.csv").write_text("mine")
    shard = tmp_path / "given" / "images" / "00002"
    for file in shard.iterdir():
        file.unlink()
    shard.rmdir()
    shard.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is not of this export"):
        run(tmp_path / "given")
    assert (tmp_path / "elsewhere" / "index.csv").read_text() == "mine"


def test_a_link_in_the_images_place_is_not_followed(tmp_path):
    run(tmp_path / "given")
    (tmp_path / "given" / "images").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "00000" / "000000000.png").unlink()  # the shard would be made again
    (tmp_path / "given" / "images").symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="images' is not of this export"):
        run(tmp_path / "given")
    assert tree(tmp_path / "elsewhere") == before


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "given").write_text("mine")
    with pytest.raises(ValueError, match="is a file, and a folder is needed"):
        run(tmp_path / "given")
    assert (tmp_path / "given").read_text() == "mine"


@pytest.mark.parametrize("fault", ["no folder", "no space"])
def test_unwritable_places_are_refused_before_anything_is_rendered(tmp_path, fault, monkeypatch):
    monkeypatch.setattr(SpellingGenerator, "synthesize", never)
    folder = tmp_path / "given"
    if fault == "no folder":
        (tmp_path / "file").write_text("")
        folder = tmp_path / "file" / "given"
    else:  # twenty files take a block of 4 KiB each
        space = namedtuple("space", "f_bavail f_frsize")(20, 4096)
        monkeypatch.setattr(os, "statvfs", lambda _: space)
    with pytest.raises(OSError, match="cannot write|MiB left"):
        run(folder)
    assert not folder.exists() or not tree(folder)


def test_only_the_missing_shards_need_space(tmp_path, monkeypatch):
    run(tmp_path)
    (tmp_path / "images" / "00002" / "index.csv").unlink()
    space = namedtuple("space", "f_bavail f_frsize")(6, 4096)
    monkeypatch.setattr(os, "statvfs", lambda _: space)
    run(tmp_path)
    assert (tmp_path / "images" / "00002" / "index.csv").is_file()


def test_progress_is_shown_by_the_first_process_alone(tmp_path, as_rank, capsys):
    pytest.importorskip("tqdm")
    as_rank(0, 2)
    run(tmp_path, progress=True)
    assert "12/12" in capsys.readouterr().err  # shards 0 and 2
    as_rank(1, 2)
    run(tmp_path, progress=True)
    assert "generate" not in capsys.readouterr().err
