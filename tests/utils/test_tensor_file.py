"""Tensors-only files: what goes in comes out, and everything else is refused."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file

from monai_plan.utils import load_tensors, save_tensors


@pytest.fixture
def path(tmp_path):
    return save_tensors(tmp_path / "file.safetensors", {"x": torch.arange(3)}, "walk", version=2, meta={"n": 1})


def test_round_trip(tmp_path):
    shared = torch.randn(4, 4)
    tensors = {
        "long": torch.tensor([1, -2]),
        "bool": torch.tensor([True, False]),
        "half": torch.randn(3).bfloat16(),
        "empty": torch.zeros(0, 5),
        "scalar": torch.tensor(2.5),
        "transposed": shared.t(),
        "shared": shared,
        "learned": torch.nn.Parameter(torch.ones(2)),
    }
    meta = {"size": 64, "nested": {"a": [1, 2]}, "none": None}
    loaded, found = load_tensors(save_tensors(tmp_path / "a" / "b.safetensors", tensors, "walk", meta=meta), "walk")
    assert found == meta and loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype
        assert not loaded[name].requires_grad
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["b.safetensors"]


def test_equal_content_equal_bytes(tmp_path):
    first, second = (
        save_tensors(tmp_path / name, {"x": torch.ones(2)}, "walk", meta={"b": 1, "a": 2}) for name in ("1", "2")
    )
    assert first.read_bytes() == second.read_bytes()


def test_older_versions_are_read(path):
    assert load_tensors(path, "walk", version=3)[1] == {"n": 1}


def foreign(path, header):
    save_file({"x": torch.zeros(1)}, str(path), metadata=header)


@pytest.mark.parametrize(
    ("write", "error", "message"),
    [
        (lambda path: path.unlink(), FileNotFoundError, "no file at"),
        (lambda path: (path.unlink(), path.mkdir()), FileNotFoundError, "no file at"),
        (lambda path: path.write_bytes(b""), ValueError, r"\(0 bytes\).*truncated"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), ValueError, "truncated"),
        (lambda path: path.write_bytes(path.read_bytes()[:20]), ValueError, "truncated"),
        (lambda path: path.write_text("hello world, this is text"), ValueError, "truncated or of another format"),
        (lambda path: path.write_bytes(pickle.dumps({"x": 1})), ValueError, "truncated or of another format"),
        (lambda path: torch.save({"x": torch.zeros(1)}, path), ValueError, "truncated or of another format"),
        (lambda path: foreign(path, None), ValueError, "not written by monai_plan.*'walk'"),
        (lambda path: foreign(path, {"format": "pt"}), ValueError, "not written by monai_plan"),
        (lambda path: foreign(path, {"monai_plan": "no json"}), ValueError, "damaged"),
        (lambda path: foreign(path, {"monai_plan": "[1]"}), ValueError, "damaged"),
        (lambda path: foreign(path, {"monai_plan": "{}"}), ValueError, "damaged"),
        (lambda path: save_tensors(path, {}, "gate"), ValueError, "holds 'gate', and 'walk' is needed"),
        (lambda path: save_tensors(path, {}, "walk", version=3), ValueError, "version 3 .* up to 2.*pip install -U"),
    ],
)
def test_unusable_files_are_refused(path, write, error, message):
    write(path)
    with pytest.raises(error, match=message) as caught:
        load_tensors(path, "walk", version=2)
    assert str(path) in str(caught.value)


def test_a_failing_save_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        save_tensors(tmp_path / "file", {"x": torch.zeros(1)}, "walk", meta={"x": object()})
    assert list(tmp_path.iterdir()) == []
