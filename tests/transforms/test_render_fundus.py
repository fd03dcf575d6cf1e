"""The fundus phantoms: functions of their values alone, of any size, two eyes of a patient alike and not the same."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_plan.transforms import (
    FundusSpec,
    RenderFundus,
    RenderFundusD,
    RenderFundusd,
    RenderFundusDict,
    render_fundus_phantom,
)

TEXT = "fundus:seed=0,patient=12,eye=left,label=3"
RECORDED = [[0.165, 0.205, 0.129], [-0.378, -0.467, -0.5], [-0.786, -0.833, -0.845]]  # [3, 3]: colours by places


def blocks(picture: np.ndarray, size: int = 8) -> np.ndarray:
    """Block means of each colour."""
    step = picture.shape[1] // size
    return picture.reshape(3, size, step, size, step).mean((2, 4))


@pytest.mark.parametrize("image_size", [32, 33, 64, 100, 128, 256])
def test_shape_type_and_range(image_size):
    image = RenderFundus(image_size)(TEXT)
    assert type(image) is torch.Tensor and not isinstance(image, MetaTensor)
    assert image.shape == (3, image_size, image_size) and image.dtype == torch.float32
    assert image.min() == -1 and 0.2 < image.max() <= 1


def test_same_values_same_picture_whatever_was_drawn_before():
    first = render_fundus_phantom(3, 5, "right", 1)
    np.random.seed(0)
    torch.manual_seed(0)
    before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    render_fundus_phantom(4, 9, "left", 4)
    np.testing.assert_array_equal(render_fundus_phantom(3, 5, "right", 1), first)
    assert np.array_equal(np.random.get_state()[1], before) and torch.equal(torch.get_rng_state(), torch_before)


@pytest.mark.parametrize("changed", [(4, 5, "left", 3), (3, 6, "left", 3), (3, 5, "right", 3), (3, 5, "left", 2)])
def test_every_value_changes_the_picture(changed):
    difference = np.abs(render_fundus_phantom(3, 5, "left", 3) - render_fundus_phantom(*changed))
    assert difference.max() > 0.1


@pytest.mark.parametrize("image_size", [32, 128, 256])
@pytest.mark.parametrize("patient", [0, 1, 4])
def test_every_size_shows_the_same_picture(image_size, patient):
    small = torch.from_numpy(render_fundus_phantom(0, patient, "left", patient))
    other = torch.from_numpy(render_fundus_phantom(0, patient, "left", patient, image_size=image_size))
    pool = torch.nn.functional.adaptive_avg_pool2d
    assert (pool(small, 16) - pool(other, 16)).abs().max() < 0.1


@pytest.mark.parametrize("patient", range(6))
def test_black_outside_the_field_of_view(patient):
    axis = (np.arange(64) + 0.5) / 32 - 1
    outside = np.hypot(axis[None], axis[:, None]) > 1.04
    for eye in ("left", "right"):
        picture = render_fundus_phantom(0, patient, eye, patient % 5)
        assert (picture[:, outside] == -1).all()
        assert (picture[0, 8:56, 16:48] > -1).all()


def test_some_cameras_cut_the_circle_above_and_below():
    top = [render_fundus_phantom(0, patient, "left", 0)[0, 2, 32] == -1 for patient in range(24)]
    assert 6 <= sum(top) <= 22


def test_reads_as_a_left_and_a_right_eye():
    left, right = (
        np.mean([render_fundus_phantom(0, patient, eye, 0) for patient in range(12)], axis=0)
        for eye in ("left", "right")
    )
    for picture, disc in ((left, slice(8, 20)), (right, slice(44, 56))):
        other = slice(64 - disc.stop, 64 - disc.start)
        assert picture[1, 26:36, disc].mean() > picture[1, 26:36, other].mean() + 0.1
        assert picture[0, 16:48, 16:48].mean() > picture[1, 16:48, 16:48].mean() + 0.2
        assert picture[1, 16:48, 16:48].mean() > picture[2, 16:48, 16:48].mean() + 0.1


def test_two_eyes_of_a_patient_are_nearer_than_other_patients():
    patients = 24
    left = np.stack([blocks(render_fundus_phantom(0, i, "left", i % 5)).ravel() for i in range(patients)])
    right = np.stack([blocks(render_fundus_phantom(0, i, "right", i % 5)[..., ::-1]).ravel() for i in range(patients)])
    distance = np.linalg.norm(left[:, None] - right[None], axis=2)
    own = np.eye(patients, dtype=bool)
    assert distance[own].min() > 0.1
    assert distance[own].mean() < 0.5 * distance[~own].mean()
    assert (distance.argmin(1) == np.arange(patients)).mean() > 0.6


def test_grade_changes_the_retina_only():
    healthy, ill = (render_fundus_phantom(0, 3, "left", label) for label in (0, 3))
    assert np.array_equal(healthy == -1, ill == -1)
    assert np.median(np.abs(healthy - ill)) < 0.02


def test_pictures_stay_as_they_were_published():
    picture = render_fundus_phantom(0, 12, "left", 3, image_size=32)
    np.testing.assert_allclose(picture[:, 4:28:8, 16], RECORDED, atol=2e-3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fundus",
        "images/0001.png",
        "phantom:seed=0,patient=12,visit=1,label=1",
        "fundus:seed=0,patient=12,eye=left",
        "fundus:seed=0,patient=12,eye=middle,label=3",
        "fundus:seed=0,patient=12,eye=left,label=5",
        "fundus:seed=-1,patient=12,eye=left,label=3",
        "fundus:patient=12,seed=0,eye=left,label=3",
        TEXT + " ",
        None,
        7,
    ],
)
def test_malformed_spec(text):
    with pytest.raises(ValueError, match="is no fundus phantom: expected the form 'fundus:seed=0"):
        RenderFundus()(text)


@pytest.mark.parametrize("values", [(-1, 0, "left", 0), (0, -1, "left", 0), (0, 0, "both", 0), (0, 0, "left", 5)])
def test_values_out_of_range(values):
    with pytest.raises(ValueError, match="is no fundus phantom"):
        render_fundus_phantom(*values)


@pytest.mark.parametrize("image_size", [31, 257, 0, 64.0, True, "64", None])
@pytest.mark.parametrize("make", [RenderFundus, lambda size: RenderFundusd("image", size)])
def test_size_out_of_range(make, image_size):
    with pytest.raises(ValueError, match="image_size=.* 32 to 256"):
        make(image_size)


def test_spec_and_text_are_the_same():
    spec = FundusSpec(seed=0, patient=12, eye="left", label=3)
    assert str(spec) == TEXT and FundusSpec.parse(TEXT) == spec


def test_dictionary_transform_replaces_its_keys_only():
    item = {"image": TEXT, "label": 3}
    out = RenderFundusd(keys="image", image_size=32)(item)
    assert torch.equal(out["image"], RenderFundus(32)(TEXT))
    assert out["label"] == 3 and item["image"] == TEXT
    assert RenderFundusd is RenderFundusD is RenderFundusDict


def test_missing_key():
    with pytest.raises(KeyError):
        RenderFundusd("image")({"label": 1})
    assert RenderFundusd("image", allow_missing_keys=True)({"label": 1}) == {"label": 1}


def test_fast_enough_for_a_tutorial():
    render = RenderFundus(64)
    render(TEXT)
    start = time.process_time()
    for patient in range(20):
        render(f"fundus:seed=0,patient={patient},eye=left,label={patient % 5}")
    assert (time.process_time() - start) / 20 < 0.1  # about 0.01 s on a free core
