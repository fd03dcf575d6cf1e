"""Inverted images: files that keep everything and are their owner's alone, choosing rows, refusals."""

import os
import stat

import pytest
import torch

from monai_plan.latent import InvertedImages
from monai_plan.utils import load_tensors, save_tensors

ODD_NAMES = ("Ünï", "1", " 1", 'a"b', "a,b", "a\nb", "\x00", "😀", "\udce9", "../x", "None", "")


def make(names=("anna", "bert", "anna", "carl"), splits=None, shape=(5,), seed=0, **changes):
    rng, count = torch.Generator().manual_seed(seed), len(names)
    columns = {
        "latents": torch.randn(count, *shape, generator=rng),
        "labels": torch.arange(count) % 2,
        "perceptual_error": torch.rand(count, generator=rng),
        "pixel_error": torch.rand(count, generator=rng),
        "patients": tuple(names),
        "images": tuple(f"{name}/{row}.png" for row, name in enumerate(names)),
        "splits": tuple(splits or ["training"] * count),
        "meta": {"generator": "abc", "space": "w"},
    }
    return InvertedImages(**{**columns, **changes})


def same(one, other):
    for name in ("latents", "labels", "perceptual_error", "pixel_error"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name in ("patients", "images", "splits", "meta"):
        assert getattr(one, name) == getattr(other, name), name
    return True


@pytest.mark.parametrize("shape, space", [((5,), "w"), ((3, 5), "w+")])
def test_file_round_trip(shape, space, tmp_path):
    images = make(ODD_NAMES, [f"split {row % 2}" for row in range(len(ODD_NAMES))], shape)
    loaded = InvertedImages.load(images.save(tmp_path / "new folder" / "latents.safetensors"))
    assert same(loaded, images) and loaded.space == space and len(loaded) == len(ODD_NAMES)
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["latents.safetensors"]


def test_no_images_are_a_file_too(tmp_path):
    none = InvertedImages.none((0, 3, 5), {"seed": 1})
    assert len(none) == 0 and none.space == "w+" and same(InvertedImages.load(none.save(tmp_path / "n")), none)


@pytest.mark.skipif(os.name != "posix", reason="no permissions")
def test_file_is_its_owners_alone(tmp_path):
    path = tmp_path / "latents.safetensors"
    path.write_bytes(b"")
    path.chmod(0o666)
    mask = os.umask(0)
    try:
        make().save(path)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_rows_of_a_split():
    images = make(splits=["training", "testing", "training", "testing"])
    part = images.of_split("testing")
    assert part.patients == ("bert", "carl") and part.images == ("bert/1.png", "carl/3.png")
    assert part.splits == ("testing", "testing") and part.meta == images.meta
    for name in ("latents", "labels", "perceptual_error", "pixel_error"):
        assert torch.equal(getattr(part, name), getattr(images, name)[[1, 3]])
    with pytest.raises(ValueError, match=r"'validation' was inverted, only of \['testing', 'training'\]"):
        images.of_split("validation")


def test_without_a_patient():
    images = make()
    rest = images.without("anna")
    assert rest.patients == ("bert", "carl") and torch.equal(rest.latents, images.latents[[1, 3]])
    assert images.patients == ("anna", "bert", "anna", "carl")
    assert same(images.without("ann"), images)  # a name is the whole name
    assert len(make(["anna"]).without("anna")) == 0


def test_joined_is_the_whole_in_order():
    images = make(splits=["a", "b", "a", "b"])
    parts = [images._rows([0]), images._rows([1, 2]), images._rows([]), images._rows([3])]
    whole = InvertedImages.none((0, 5), images.meta)
    for part in parts:
        whole = whole.joined(part)
    assert same(whole, images)


def foreign(tmp_path, tensors=None, **header):
    """A file of the schema with other content."""
    whole = make()
    names = ("latents", "labels", "perceptual_error", "pixel_error")
    meta = {"patients": whole.patients, "images": whole.images, "splits": whole.splits, "meta": {}} | header
    meta = {name: value for name, value in meta.items() if value is not None}
    tensors = {name: getattr(whole, name) for name in names} | (tensors or {})
    return save_tensors(tmp_path / "f", {k: v for k, v in tensors.items() if v is not None}, "inverted_images", 1, meta)


def test_foreign_file_is_well_made_otherwise(tmp_path):
    assert same(InvertedImages.load(foreign(tmp_path, meta=make().meta)), make())


def truncated(tmp_path):
    path = make().save(tmp_path / "t")
    path.write_bytes(path.read_bytes()[:-5])
    return path


@pytest.mark.parametrize(
    "file, words",
    [
        (truncated, "truncated"),
        (lambda tmp: foreign(tmp, {"labels": None}), "'pixel_error'] and .* are needed; invert the images again"),
        (lambda tmp: foreign(tmp, {"more": torch.zeros(1)}), "holds .*'more'"),
        (lambda tmp: foreign(tmp, patients=None), "are needed"),
        (lambda tmp: foreign(tmp, patients=["one"]), "'patients': 1"),
        (lambda tmp: save_tensors(tmp / "a", {"latents": torch.zeros(1)}, "anchor_set"), "two paths may be swapped"),
    ],
)
def test_broken_files(file, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        InvertedImages.load(file(tmp_path))


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        InvertedImages.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: make(latents=torch.zeros(4)), r"\[N, D\] or \[N, layers, D\], got \(4,\)"),
        (lambda: make(latents=torch.zeros(4, 1, 1, 1)), r"got \(4, 1, 1, 1\)"),
        (lambda: make(latents=torch.zeros(4, 5, dtype=torch.float64)), "float32"),
        (lambda: make(latents=torch.full((4, 5), torch.nan)), "NaN"),
        (lambda: make(labels=torch.zeros(3, dtype=torch.int64)), "one label a row"),
        (lambda: make(labels=torch.tensor([0, 1, -1, 0])), ">= 0, got -1"),
        (lambda: make(pixel_error=torch.zeros(3)), "'pixel_error': 3"),
        (lambda: make(pixel_error=torch.tensor([0.0, torch.nan, 0, 0])), "errors must be"),
        (lambda: make(perceptual_error=torch.tensor([0.0, -1, 0, 0])), "errors must be"),
        (lambda: make(perceptual_error=torch.zeros(4, 1)), r"errors must be .*\(4, 1\)"),
        (lambda: make(patients=("a",)), "'patients': 1"),
        (lambda: make(splits=("a",) * 5), "'splits': 5"),
        (lambda: make().joined(make(shape=(6,))), r"\(4, 5\) .* and \(4, 6\)"),
        (lambda: make().joined(make(shape=(3, 5))), "cannot be joined"),
        (lambda: make().joined(make(meta={"generator": "xyz"})), "generator abc .* of xyz"),
    ],
)
def test_refuses(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_header_tells_no_more_than_it_must(tmp_path):
    _, header = load_tensors(make().save(tmp_path / "latents"), "inverted_images")
    assert set(header) == {"patients", "images", "splits", "meta"}
