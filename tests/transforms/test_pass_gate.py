"""The gate within a pipeline: what it refuses stops the run or is missing from the batches."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, ScaleIntensityRanged
from torch import nn

from monai_plan.latent import PrivacyGate
from monai_plan.transforms import PassGate, PassGateD, PassGated, PassGateDict

GOOD, BAD = torch.full((1, 2, 2), 0.5), torch.full((1, 2, 2), -0.5)


class BrightGate:
    """Accepts an image of a positive mean; remembers what it saw."""

    def __init__(self):
        self.seen = []

    def accepts(self, images):
        self.seen.append(images)
        return images.mean(dim=(1, 2, 3)) > 0


class DistanceGate:
    """Gives distances in the place of verdicts: each would pass for true."""

    def accepts(self, images):
        return images.mean(dim=(1, 2, 3))


KINDS = {
    "array": lambda img: img.numpy(),
    "float64 array": lambda img: img.double().numpy(),
    "tensor": lambda img: img,
    "half tensor": lambda img: img.half(),
    "meta tensor": lambda img: MetaTensor(img, meta={"filename_or_obj": "a.png"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_accepted_images_pass_untouched_and_refused_ones_do_not(kind):
    gate = BrightGate()
    good, bad = KINDS[kind](GOOD), KINDS[kind](BAD)
    assert PassGate(gate)(good) is good
    (passed,) = PassGate(gate, on_refusal="skip")(good)
    assert passed is good
    assert PassGate(gate, on_refusal="skip")(bad) == []
    with pytest.raises(ValueError, match='the gate refused the image: .*on_refusal="skip"'):
        PassGate(gate)(bad)
    assert all(type(seen) is torch.Tensor and seen.dtype == torch.float32 for seen in gate.seen)
    assert {tuple(seen.shape) for seen in gate.seen} == {(1, 1, 2, 2)} and len(gate.seen) == 4


def test_a_real_gate_refuses_its_gallery():
    rng = torch.Generator().manual_seed(0)
    own, other = torch.rand(2, 1, 4, 4, generator=rng) * 2 - 1
    gate = PrivacyGate(nn.Flatten(), own.reshape(1, 16), threshold=0.1)
    assert PassGate(gate, "skip")(other) and not PassGate(gate, "skip")(own)
    assert (gate.accepted, gate.rejected) == (1, 1)


@pytest.mark.parametrize(
    "img, message",
    [
        (torch.zeros(2, 2), r"shape \(2, 2\)"),
        (torch.zeros(1, 1, 2, 2), r"shape \(1, 1, 2, 2\)"),
        (np.zeros((1, 0, 2)), "shape"),
        (GOOD * 255, r"0?127.5 \.\. 127.5 and must lie in \[-1, 1\].*ScaleIntensityRange"),
        (np.full((1, 2, 2), 7, dtype=np.uint8), "7 .. 7"),
        (torch.full((1, 2, 2), float("nan")), "NaN"),
        (torch.full((1, 2, 2), float("-inf")), "-inf"),
    ],
)
@pytest.mark.parametrize("on_refusal", ["raise", "skip"])
def test_images_that_cannot_be_judged_always_raise(img, message, on_refusal):
    with pytest.raises(ValueError, match=message):
        PassGate(BrightGate(), on_refusal)(img)


def test_rounding_is_forgiven():
    assert PassGate(BrightGate(), "skip")(torch.full((1, 2, 2), 1.0005))


@pytest.mark.parametrize(
    "gate, on_refusal, error, message",
    [
        (None, "raise", TypeError, "NoneType.*PrivacyGate.load"),
        (lambda images: images, "raise", TypeError, "accepts"),
        (BrightGate(), "drop", ValueError, "'raise', 'skip'.*'drop'"),
        (BrightGate(), None, ValueError, "None"),
    ],
)
@pytest.mark.parametrize("make", [PassGate, lambda *a: PassGated("image", *a)])
def test_bad_arguments(make, gate, on_refusal, error, message):
    with pytest.raises(error, match=message):
        make(gate, on_refusal)


def test_a_gate_that_gives_no_verdict():
    with pytest.raises(TypeError, match=r"bool \[1\], got torch.float32"):
        PassGate(DistanceGate())(GOOD)


# the dictionary form


@pytest.mark.parametrize(
    "images, passes", [((GOOD, GOOD), True), ((GOOD, BAD), False), ((BAD, GOOD), False), ((BAD, BAD), False)]
)
def test_all_keys_must_pass(images, passes):
    item = {"image": images[0], "other": images[1], "label": 1}
    skipped = PassGated(["image", "other"], BrightGate(), "skip")(item)
    assert skipped == ([item] if passes else [])
    strict = PassGated(["image", "other"], BrightGate())
    if passes:
        assert strict(item) == item and strict(item) is not item
    else:
        with pytest.raises(ValueError, match=f"the image '{'image' if images[0] is BAD else 'other'}'"):
            strict(item)


def test_aliases_and_missing_keys():
    assert PassGateD is PassGated is PassGateDict
    assert PassGated("image", BrightGate(), allow_missing_keys=True)({"label": 1}) == {"label": 1}
    with pytest.raises(KeyError, match="image"):
        PassGated("image", BrightGate())({"label": 1})


def brightness(*values: float) -> list[dict]:
    return [{"image": torch.full((1, 2, 2), value), "label": i} for i, value in enumerate(values)]


def test_compose_names_the_transform_and_keeps_the_reason():
    with pytest.raises(RuntimeError, match="PassGated") as caught:
        Compose([PassGated("image", BrightGate())])({"image": BAD})
    assert isinstance(caught.value.__cause__, ValueError) and "refused" in str(caught.value.__cause__)


@pytest.mark.parametrize("dataset", [Dataset, lambda items, f: CacheDataset(items, f, progress=False)])
def test_a_stock_loader_leaves_refused_items_out(dataset):
    """Also where the first item of a batch is refused, and with further transforms behind the gate."""
    to_unit = ScaleIntensityRanged("image", a_min=-1, a_max=1, b_min=0, b_max=1)
    data = dataset(
        brightness(-0.5, 0.5, 1, 0.25, -1, -0.25), Compose([PassGated("image", BrightGate(), "skip"), to_unit])
    )
    batches = list(DataLoader(data, batch_size=3))[:1]
    assert batches[0]["label"].tolist() == [1, 2]
    assert batches[0]["image"].mean(dim=(1, 2, 3)).tolist() == [0.75, 1.0]
    whole = list(DataLoader(data, batch_size=6))
    assert [batch["label"].tolist() for batch in whole] == [[1, 2, 3]]


def test_a_stock_loader_leaves_refused_arrays_out():
    data = Dataset([GOOD, BAD, GOOD], PassGate(BrightGate(), "skip"))
    assert [tuple(batch.shape) for batch in DataLoader(data, batch_size=3)] == [(2, 1, 2, 2)]


def test_a_batch_of_which_nothing_is_left_stops_the_run():
    """As the docstring says; should MONAI or torch learn to pass over it, say so there."""
    data = Dataset(brightness(-1, -1), PassGated("image", BrightGate(), "skip"))
    with pytest.raises(IndexError):
        list(DataLoader(data, batch_size=2))


def test_a_list_is_filtered_beforehand():
    items = brightness(-0.5, 0.5, -1, 1)
    check = Compose([PassGated("image", BrightGate(), on_refusal="skip")])
    assert [item["label"] for item in items if check(item)] == [1, 3]


def test_can_be_pickled_with_its_gate():
    gate = PrivacyGate(nn.Flatten(), torch.ones(1, 4), threshold=0.1)
    check = pickle.loads(pickle.dumps(PassGated("image", gate, "skip")))
    assert check({"image": BAD}) == [{"image": BAD}] and check({"image": GOOD}) == []
