"""The walks' file and its refusals."""

import pytest
import torch

from monai_plan.latent import WalkSet


def arguments(**changes):
    verified = torch.zeros(2, 4, dtype=torch.bool)
    verified[0, 1] = True
    return {
        "points": torch.rand(2, 4, 3),
        "labels": torch.tensor([0, 1]),
        "verified": verified,
        "kind": "private",
    } | changes


def test_round_trip(tmp_path):
    walks = WalkSet(**arguments(meta={"seed": 1}))
    loaded = WalkSet.load(walks.save(tmp_path / "walks.safetensors"))
    assert torch.equal(loaded.points, walks.points) and torch.equal(loaded.verified, walks.verified)
    assert torch.equal(loaded.labels, walks.labels) and (loaded.kind, loaded.meta) == ("private", {"seed": 1})


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"points": torch.zeros(2, 2, 3)}, "T >= 3"),
        ({"points": torch.full((2, 4, 3), torch.nan)}, "NaN"),
        ({"points": torch.zeros(2, 4, 3, dtype=torch.float64)}, "float32"),
        ({"labels": torch.tensor([0])}, "one label"),
        ({"verified": torch.zeros(2, 4)}, "bool"),
        ({"verified": torch.zeros(2, 3, dtype=torch.bool)}, "bool"),
        ({"verified": torch.ones(2, 4, dtype=torch.bool)}, "ends"),
    ],
)
def test_wrong_walks_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        WalkSet(**arguments(**changes))
