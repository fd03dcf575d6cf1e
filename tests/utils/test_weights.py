"""Weights files that hold tensors only."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from monai_plan.utils import load_weights


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_weights_come_back(tmp_path):
    network = torch.nn.Linear(2, 3)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    other = torch.nn.Linear(2, 3)
    assert load_weights(other, tmp_path / "model.pt") is other
    assert torch.equal(other.weight, network.weight)


@pytest.mark.parametrize(
    ("write", "error", "message"),
    [
        (lambda path: None, FileNotFoundError, "no weights at"),
        (lambda path: path.write_bytes(b""), ValueError, r"\(0 bytes\).*truncated"),
        (lambda path: path.write_text("hello world\n"), ValueError, "truncated"),
        (lambda path: path.write_bytes(pickle.dumps(Payload())), ValueError, "more than tensors"),
        (lambda path: torch.save(Payload(), path), ValueError, "more than tensors"),
        (lambda path: torch.save([1], path), ValueError, "holds no state dict"),
        (lambda path: torch.save(torch.nn.Linear(2, 4).state_dict(), path), ValueError, "do not fit.*size mismatch"),
        (lambda path: torch.save({"other": torch.zeros(1)}, path), ValueError, "do not fit"),
    ],
)
def test_unusable_files_are_refused(tmp_path, monkeypatch, write, error, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pt"
    write(path)
    with pytest.raises(error, match=f"(?s){message}") as caught:
        load_weights(torch.nn.Linear(2, 3), path)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "executed").exists()
