"""Splits are inverted in order and kept under the right names; a killed run goes on and ends with the same bits."""

import importlib
import os
import stat

import pytest
import torch
from fakes import FakeGenerator
from monai.data import MetaTensor
from torch import nn

from monai_plan.latent import InversionOptions, InvertedImages, LatentPrior, invert_splits, latents_by_patient
from monai_plan.networks.nets import LatentEncoder, StyleGenerator
from monai_plan.utils import pseudonym

MODULE = importlib.import_module("monai_plan.latent.invert_splits")
OPTIONS = InversionOptions(iterations=6, learning_rate=0.05)
KEY = bytes(range(32))
TENSORS = ("latents", "labels", "perceptual_error", "pixel_error")


def items_of(split, count, first_label=0):
    return [
        {"image": f"/scans/{split}-{row}.png", "label": (first_label + row) % 2, "patient_id": f"{split} p{row // 2}"}
        for row in range(count)
    ]


SPLITS = {"training": items_of("training", 5), "validation": items_of("validation", 2, first_label=1)}
WORK = [item for items in SPLITS.values() for item in items]


class Loader:
    """Reads an image that its name decides, and notes which were read."""

    def __init__(self, fails_at="", gain=1.0, **changed):
        self.fails_at, self.gain, self.changed, self.seen = fails_at, gain, changed, []

    def __call__(self, item):
        name = item["image"]
        if name == self.fails_at:
            raise KeyboardInterrupt
        self.seen.append(name)
        rng = torch.Generator().manual_seed(sum(name.encode()))
        image = self.changed.get(name.split("/")[-1].split(".")[0].replace("-", "_"))
        if image is None:
            image = self.gain * (2 * torch.rand(1, 4, 4, generator=rng) - 1)
        return {**item, "image": MetaTensor(image)}


@pytest.fixture(scope="module")
def parts():
    """What every call needs, in order."""
    generator = FakeGenerator(gain=0.3).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = LatentEncoder(6, block_inplanes=(4, 4, 8, 8)).eval()
    return {"generator": generator, "features": nn.Flatten(), "encoder": encoder, "options": OPTIONS}


@pytest.fixture
def inverted(monkeypatch):
    """How many images were inverted, batch by batch."""
    seen = []

    def counted(images, *arguments):
        seen.append(len(images))
        return invert_batch(images, *arguments)

    invert_batch = MODULE.invert_batch
    monkeypatch.setattr(MODULE, "invert_batch", counted)
    return seen


def same(one, other):
    for name in TENSORS:
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name in ("patients", "images", "splits", "meta"):
        assert getattr(one, name) == getattr(other, name), name
    return True


def run(path, parts, splits=SPLITS, loader=None, **changed):
    return invert_splits(splits, loader or Loader(), path, **{**parts, "batch_size": 2, "progress": False, **changed})


def test_order_and_names(parts, tmp_path, inverted):
    path = tmp_path / "private" / "latents.safetensors"
    found = run(path, parts)
    assert found.images == tuple(item["image"] for item in WORK)
    assert found.patients == tuple(item["patient_id"] for item in WORK)
    assert found.splits == ("training",) * 5 + ("validation",) * 2
    assert found.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert found.latents.shape == (7, 6) and found.space == found.meta["space"] == "w"
    assert inverted == [2, 2, 2, 1]
    with torch.no_grad():
        shown = parts["generator"].synthesize(found.latents).clamp(-1, 1)
    pixels = torch.stack([Loader()(item)["image"].as_tensor() for item in WORK])
    torch.testing.assert_close(found.pixel_error, (shown - pixels).square().mean(dim=(1, 2, 3)))
    assert same(InvertedImages.load(path), found)
    assert [file.name for file in path.parent.iterdir()] == ["latents.safetensors"]
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_pseudonyms_hide_every_name(parts, tmp_path):
    plain, keyed = run(tmp_path / "plain", parts), run(tmp_path / "keyed", parts, key=KEY)
    assert keyed.patients == tuple(pseudonym(item["patient_id"], KEY) for item in WORK)
    assert keyed.images == tuple(pseudonym(item["image"], KEY) for item in WORK)
    assert keyed.splits == plain.splits and torch.equal(keyed.latents, plain.latents)
    for name in (b"scans", b".png", b" p0", b" p1"):
        assert name in (tmp_path / "plain").read_bytes() and name not in (tmp_path / "keyed").read_bytes()


def test_group_stands_in_for_the_patient(parts, tmp_path):
    items = [{**WORK[0], "patient_id": "", "group_id": "family"}]
    assert run(tmp_path / "latents", parts, {"training": items}).patients == ("family",)


def test_w_plus(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = StyleGenerator(8, 1, 2, 8, 8, channel_base=32, channel_max=4).eval()
        encoder = LatentEncoder(8, block_inplanes=(4, 4, 4, 4)).eval()
    options = InversionOptions(space="w+", iterations=2)
    items, loader = {"training": items_of("a", 3)}, Loader(**{f"a_{row}": torch.zeros(1, 8, 8) for row in range(3)})
    found = invert_splits(items, loader, tmp_path / "l", generator, nn.Flatten(), encoder, None, options)
    assert found.latents.shape == (3, generator.num_ws, 8) and found.space == found.meta["space"] == "w+"
    with pytest.raises(ValueError, match="inverted into W+"):
        latents_by_patient(found, generator)


@pytest.fixture
def part_of(parts, tmp_path, monkeypatch):
    """A run that was killed after 4 of 7 images."""
    monkeypatch.setattr(MODULE, "SAVED_EVERY", 0.0)
    path = tmp_path / "latents.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(path, parts, loader=Loader(fails_at=WORK[5]["image"]))
    assert [file.name for file in tmp_path.iterdir()] == ["latents.part.safetensors"]
    part = tmp_path / "latents.part.safetensors"
    assert len(InvertedImages.load(part)) == 4
    if os.name == "posix":
        assert stat.S_IMODE(part.stat().st_mode) == 0o600
    return part


def test_a_killed_run_goes_on_and_ends_alike(parts, part_of, tmp_path, inverted):
    loader = Loader()
    found = run(tmp_path / "latents.safetensors", parts, loader=loader)
    assert inverted == [2, 1] and not part_of.exists()
    # the first image is looked at, whether it is still the same
    assert loader.seen == [WORK[row]["image"] for row in (0, 4, 5, 6)]
    assert same(found, run(tmp_path / "other.safetensors", parts))
    assert same(found, InvertedImages.load(tmp_path / "latents.safetensors"))


@pytest.mark.parametrize(
    "changed",
    [
        {"options": InversionOptions(iterations=6)},
        {"seed": 1},
        {"batch_size": 4},
        {"key": KEY},
        {"prior": LatentPrior(torch.zeros(2, 6), torch.eye(6), torch.tensor(1.0))},
        {"generator": FakeGenerator(seed=1, gain=0.3).eval()},
        {"features": nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16))},
        {"loader": Loader(gain=0.9)},
        {"splits": {"training": SPLITS["training"], "testing": SPLITS["validation"]}},
        {"splits": {"training": [*SPLITS["training"][1:], SPLITS["training"][0]], "validation": WORK[5:]}},
        {"splits": {"training": [WORK[0], {**WORK[1], "image": "new"}, *WORK[2:5]], "validation": WORK[5:]}},
        {"splits": {"training": [WORK[0], {**WORK[1], "patient_id": "new"}, *WORK[2:5]], "validation": WORK[5:]}},
        {"splits": {"training": [{**item, "label": 1 - item["label"]} for item in WORK[:5]], "validation": WORK[5:]}},
    ],
    ids=[
        *("options", "seed", "batch", "key", "prior", "generator", "features", "pixels"),
        *("splits", "order", "image", "patient", "label"),
    ],
)
def test_other_inputs_begin_anew(changed, parts, part_of, tmp_path, inverted):
    found = run(tmp_path / "latents.safetensors", parts, **changed)
    assert sum(inverted) == len(found) == 7 and not part_of.exists()
    assert same(found, run(tmp_path / "other.safetensors", parts, **changed))


def truncate(part):
    part.write_bytes(part.read_bytes()[:-7])


def be_foreign(part):
    LatentPrior(torch.zeros(2, 6), torch.eye(6), torch.tensor(1.0)).save(part)


@pytest.mark.parametrize("spoil", [truncate, be_foreign, lambda part: part.write_bytes(b"")])
def test_a_broken_part_is_passed_over(spoil, parts, part_of, tmp_path, inverted, caplog):
    spoil(part_of)
    found = run(tmp_path / "latents.safetensors", parts)
    assert sum(inverted) == len(found) == 7 and not part_of.exists()
    assert "inverted from the first on" in caplog.text


def test_part_is_saved_now_and_then_only(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "SAVED_EVERY", 3600.0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "latents", parts, loader=Loader(fails_at=WORK[5]["image"]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("has_tqdm", [True, False])
def test_progress_bar(has_tqdm, parts, part_of, tmp_path, monkeypatch, capsys):
    if not has_tqdm:
        monkeypatch.setattr(MODULE, "tqdm", None)
        monkeypatch.setattr(MODULE, "has_tqdm", False)
    assert len(run(tmp_path / "latents.safetensors", parts, progress=True)) == 7
    shown = capsys.readouterr().err
    assert ("2/4" in shown and "4/4" in shown) if has_tqdm else shown == ""


def one(**changed):
    return {"training": [*WORK, {**WORK[0], **changed}]}


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"splits": {"training": []}}, r"splits \['training'\] hold no images"),
        ({"splits": one(patient_id=None)}, "neither group_id nor patient_id"),
        ({"splits": one(label=2)}, "label from 0 to 1"),
        ({"splits": one(label=-1)}, "label from 0 to 1"),
        ({"splits": one(label=None)}, "label from 0 to 1"),
        ({"batch_size": 0}, "'batch_size' is 0"),
        ({"key": b"short"}, "a key has 32 bytes"),
        ({"prior": LatentPrior(torch.zeros(1, 6), torch.eye(6), torch.tensor(1.0))}, r"1 class.*and the generator 2"),
        ({"prior": LatentPrior(torch.zeros(2, 5), torch.eye(5), torch.tensor(1.0))}, "of width 5"),
        ({"loader": Loader(training_0=torch.zeros(1, 5, 5))}, "'/scans/training-0.png' cannot be .* image_size=4"),
    ],
)
def test_refused_before_the_work(changed, words, parts, tmp_path, inverted):
    with pytest.raises(ValueError, match=words):
        run(tmp_path / "latents", parts, **changed)
    assert not inverted and not list(tmp_path.iterdir())


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 4), torch.full((1, 4, 4), torch.nan), torch.full((1, 4, 4), 200)])
def test_image_that_cannot_be_used_is_named(image, parts, part_of, tmp_path):
    with pytest.raises(ValueError, match="the image '/scans/validation-0.png' cannot be inverted"):
        run(tmp_path / "latents.safetensors", parts, loader=Loader(validation_0=image))
    assert part_of.exists()  # what is done is not lost


def test_unwritable_places_are_found_before_the_work(parts, tmp_path, inverted, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        run(tmp_path / "file" / "latents", parts)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        run(tmp_path, parts)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((1, 1) + (100,) * 8))  # 100 bytes free
    with pytest.raises(OSError, match="MiB left"):
        run(tmp_path / "latents", parts)
    assert not inverted


def test_latents_by_patient(parts, tmp_path):
    found = run(tmp_path / "latents", parts)
    patients = latents_by_patient(found, parts["generator"])
    assert patients.patients == ("training p0", "training p1", "training p2")
    # of two images of two classes, the higher class counts
    torch.testing.assert_close(patients.latents, found.latents[[1, 3, 4]])
    with pytest.raises(ValueError, match="another generator"):
        latents_by_patient(found, FakeGenerator(seed=1))
    with pytest.raises(ValueError, match="'training' was inverted, only of"):
        latents_by_patient(found.of_split("validation"), parts["generator"])
