"""Real images replaced by synthetic ones: how often, by which, and never without a mark."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, RandFlipd

from monai_plan.transforms import (
    RandSyntheticImage,
    RandSyntheticImageD,
    RandSyntheticImaged,
    RandSyntheticImageDict,
)

SHAPE = (1, 2, 3)
REAL = torch.full(SHAPE, 0.25)
META = {"filename_or_obj": "p7.png", "affine": torch.diag(torch.tensor([2.0, 2, 1, 1]))}


class NumberedSource:
    """Images of their class and, in the last pixel, their number; remembers what was asked for."""

    def __init__(self, shape=SHAPE, classes=(0, 1)):
        self.shape, self.classes, self.asked = shape, classes, []

    def __call__(self, label, number):
        self.asked.append((label, number))
        if label not in self.classes:
            raise ValueError(f"there is no walk of class {label}")
        image = torch.full(self.shape, float(label))
        image.view(-1)[-1] = number / 2**31
        return image


def meta_tensor() -> MetaTensor:
    return MetaTensor(REAL.clone(), meta=dict(META), applied_operations=[{"class": "Resize"}])


KINDS = {
    "array": lambda: REAL.numpy().copy(),
    "float64 array": lambda: REAL.double().numpy(),
    "tensor": lambda: REAL.clone(),
    "half tensor": lambda: REAL.half(),
    "meta tensor": meta_tensor,
}


def values(img) -> np.ndarray:
    return np.asarray(img.as_tensor() if isinstance(img, MetaTensor) else img, dtype=np.float64)


@pytest.mark.parametrize("prob", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_type_dtype_and_shape_are_kept(kind, prob):
    img = KINDS[kind]()
    before = copy.deepcopy(img)
    out = RandSyntheticImage(NumberedSource(), prob)(img, label=1)
    assert type(out) is type(img) and out.dtype == img.dtype and tuple(out.shape) == SHAPE
    np.testing.assert_array_equal(values(img), values(before))
    assert (values(out).ravel()[:-1] == (1 if prob else 0.25)).all()


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_meta_data_are_kept_and_say_which_kind_it_is(prob):
    img = meta_tensor()
    out = RandSyntheticImage(NumberedSource(), prob)(img, label=0)
    assert out.meta["is_synthetic"] is bool(prob)
    assert out.meta["filename_or_obj"] == "p7.png" and torch.equal(out.affine, img.affine)
    assert out.applied_operations == img.applied_operations
    assert "is_synthetic" not in img.meta


@pytest.mark.parametrize("prob, least, most", [(0.0, 0, 0), (0.3, 45, 75), (1.0, 200, 200)])
def test_as_often_as_the_probability_says(prob, least, most):
    replace = RandSyntheticImage(NumberedSource(), prob).set_random_state(0)
    assert least <= sum(float(replace(REAL, 1)[0, 0, 0]) == 1 for _ in range(200)) <= most


def test_numbers_differ_and_repeat_with_the_seed():
    sources = [NumberedSource() for _ in range(3)]
    for source, seed in zip(sources, (5, 5, 6), strict=True):
        replace = RandSyntheticImage(source, 0.5).set_random_state(seed)
        for _ in range(20):
            replace(REAL, 1)
    first, again, other = ([number for _, number in source.asked] for source in sources)
    assert first == again != other and len(set(first)) == len(first) > 4
    assert all(0 <= number < 2**31 for number in first)


def test_the_last_draw_holds_unless_randomised():
    source = NumberedSource()
    replace = RandSyntheticImage(source, 1.0).set_random_state(0)
    replace(REAL, 1)
    replace(REAL, 1, randomize=False)
    replace(REAL, 1)
    assert source.asked[0] == source.asked[1] != source.asked[2]


@pytest.mark.parametrize(
    "label", [1, 1.0, True, np.int64(1), np.array([1]), torch.tensor(1), torch.tensor([[1.0]]), MetaTensor([1])]
)
def test_labels_of_any_type(label):
    source = NumberedSource()
    RandSyntheticImage(source, 1.0)(REAL, label)
    assert source.asked[0][0] == 1


@pytest.mark.parametrize("label", [0.5, "ill", None, [0, 1], torch.tensor([0.0, 1.0]), float("nan"), float("inf"), []])
def test_labels_that_are_no_class(label):
    with pytest.raises(ValueError, match="one whole number"):
        RandSyntheticImage(NumberedSource(), 1.0)(REAL, label)


@pytest.mark.parametrize(
    "source, img, label, message",
    [
        (NumberedSource((1, 4, 4)), REAL, 1, r"shape \(1, 4, 4\) and this one has \(1, 2, 3\)"),
        (NumberedSource((3, 2, 3)), REAL.numpy(), 1, "set the source's channels"),
        (NumberedSource(), REAL.repeat(1, 1, 1, 1), 1, "shape"),
        (NumberedSource(), REAL, 7, "no walk of class 7"),
        (NumberedSource(), torch.zeros(SHAPE, dtype=torch.uint8), 1, "torch.uint8 cannot hold"),
        (NumberedSource(), np.zeros(SHAPE, dtype=np.int16), 1, "int16 cannot hold"),
    ],
)
def test_bad_images_and_labels(source, img, label, message):
    with pytest.raises(ValueError, match=message):
        RandSyntheticImage(source, 1.0)(img, label)


@pytest.mark.parametrize(
    "source, prob, error, message",
    [
        (None, 0.5, TypeError, "NoneType.*SyntheticSource"),
        ([REAL], 0.5, TypeError, "list"),
        (NumberedSource(), -0.1, ValueError, "prob .*-0.1"),
        (NumberedSource(), 1.5, ValueError, "prob .*1.5"),
        (NumberedSource(), float("nan"), ValueError, "prob .*nan"),
    ],
)
@pytest.mark.parametrize("make", [RandSyntheticImage, lambda *a: RandSyntheticImaged("image", "label", *a)])
def test_bad_arguments(make, source, prob, error, message):
    with pytest.raises(error, match=message):
        make(source, prob)


# the dictionary form


def test_all_keys_get_the_same_image_and_a_mark():
    item = {"image": meta_tensor(), "copy": REAL.numpy(), "label": 1, "patient_id": "p7"}
    out = RandSyntheticImaged(["image", "copy"], "label", NumberedSource(), 1.0)(item)
    assert out["image_is_synthetic"] is True and out["copy_is_synthetic"] is True
    assert out["image"].meta["is_synthetic"] and out["label"] == 1 and out["patient_id"] == "p7"
    np.testing.assert_array_equal(values(out["image"]), values(out["copy"]))
    assert set(item) == {"image", "copy", "label", "patient_id"} and float(item["image"].max()) == 0.25


def test_images_that_stay_are_marked_too():
    out = RandSyntheticImaged("image", "label", NumberedSource(), 0.0)({"image": REAL, "label": 1})
    assert out["image"] is REAL and out["image_is_synthetic"] is False


def test_aliases_and_missing_keys():
    assert RandSyntheticImageD is RandSyntheticImaged is RandSyntheticImageDict
    make = RandSyntheticImaged
    assert make("image", "label", NumberedSource(), 1.0, allow_missing_keys=True)({"label": 1}) == {"label": 1}
    with pytest.raises(KeyError, match="image"):
        make("image", "label", NumberedSource(), 1.0)({"label": 1})
    with pytest.raises(KeyError, match="no 'label' in an item with .*'class', 'image'.*label_key"):
        make("image", "label", NumberedSource(), 1.0)({"image": REAL, "class": 1})


def pipeline(source=None, prob=0.5) -> Compose:
    return Compose(
        [RandFlipd("image", prob=0.5), RandSyntheticImaged("image", "label", source or NumberedSource(), prob)]
    )


def test_a_seeded_pipeline_repeats_itself_also_pickled():
    first, again, other = pipeline(), pickle.loads(pickle.dumps(pipeline())), pipeline()
    for transform, seed in ((first, 3), (again, 3), (other, 4)):
        transform.set_random_state(seed)
    outs = [[f({"image": REAL, "label": 1}) for _ in range(20)] for f in (first, again, other)]
    kinds = [[item["image_is_synthetic"] for item in out] for out in outs]
    assert kinds[0] == kinds[1] != kinds[2] and 0 < sum(kinds[0]) < 20
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(outs[0], outs[1], strict=True))


def test_global_random_state_is_left_alone():
    np.random.seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    pipeline().set_random_state(1)({"image": REAL, "label": 1})
    assert np.array_equal(np.random.get_state()[1], before[0]) and torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("dataset", [Dataset, lambda items, f: CacheDataset(items, f, progress=False)])
@pytest.mark.parametrize("make", [REAL.clone, meta_tensor], ids=["tensor", "meta tensor"])
def test_batches_of_both_kinds_collate_with_their_marks(dataset, make):
    items = [{"image": make(), "label": i % 2} for i in range(16)]
    loader = DataLoader(dataset(items, pipeline().set_random_state(0)), batch_size=16)
    for _ in range(2):
        (batch,) = loader
        marks = batch["image_is_synthetic"]
        assert marks.dtype == torch.bool and 0 < int(marks.sum()) < 16
        assert torch.equal(batch["image"][marks][:, 0, 0, 0], batch["label"][marks].float())
        assert (batch["image"][~marks] == 0.25).all()
        if isinstance(batch["image"], MetaTensor):
            assert torch.equal(torch.as_tensor(batch["image"].meta["is_synthetic"]), marks)
