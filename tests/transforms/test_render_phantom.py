"""The phantoms: functions of their numbers alone, of any size, with patients that can be told apart."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_plan.transforms import (
    PhantomSpec,
    RenderPhantom,
    RenderPhantomD,
    RenderPhantomd,
    RenderPhantomDict,
    render_chest_phantom,
)

TEXT = "phantom:seed=0,patient=12,visit=1,label=1"


def blurred(picture: np.ndarray, size: int = 16) -> np.ndarray:
    """Block means, standardised so that exposure does not count."""
    step = picture.shape[0] // size
    means = picture.reshape(size, step, size, step).mean((1, 3))
    return (means - means.mean()) / means.std()


@pytest.mark.parametrize("image_size", [32, 33, 64, 100, 128, 256])
def test_shape_type_and_range(image_size):
    image = RenderPhantom(image_size)(TEXT)
    assert type(image) is torch.Tensor and not isinstance(image, MetaTensor)
    assert image.shape == (1, image_size, image_size) and image.dtype == torch.float32
    assert -1 <= image.min() < -0.5 and 0.5 < image.max() <= 1


def test_same_numbers_same_picture_whatever_was_drawn_before():
    first = render_chest_phantom(3, 5, 1, 1)
    np.random.seed(0)
    torch.manual_seed(0)
    before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    render_chest_phantom(4, 9, 0, 0)
    np.testing.assert_array_equal(render_chest_phantom(3, 5, 1, 1), first)
    assert np.array_equal(np.random.get_state()[1], before) and torch.equal(torch.get_rng_state(), torch_before)


@pytest.mark.parametrize("changed", [(4, 5, 1, 1), (3, 6, 1, 1), (3, 5, 2, 1), (3, 5, 1, 0)])
def test_every_number_changes_the_picture(changed):
    difference = np.abs(render_chest_phantom(3, 5, 1, 1) - render_chest_phantom(*changed))
    assert difference.max() > 0.1


@pytest.mark.parametrize("image_size", [32, 128, 256])
@pytest.mark.parametrize("patient", [0, 1])
def test_every_size_shows_the_same_picture(image_size, patient):
    small = torch.from_numpy(render_chest_phantom(0, patient, 0, patient))[None, None]
    other = torch.from_numpy(render_chest_phantom(0, patient, 0, patient, image_size=image_size))[None, None]
    pool = torch.nn.functional.adaptive_avg_pool2d
    assert (pool(small, 16) - pool(other, 16)).abs().max() < 0.08


def test_label_changes_the_lungs_only():
    changed = np.zeros((64, 64), dtype=bool)
    for patient in range(12):
        pair = [render_chest_phantom(0, patient, 0, label) for label in (0, 1)]
        changed |= np.abs(pair[0] - pair[1]) > 0.1
    assert changed[8:40, 12:52].any()
    assert not changed[:6].any() and not changed[54:].any() and not changed[:, :6].any() and not changed[:, -6:].any()


def test_reads_as_a_chest_radiograph():
    mean = np.mean([render_chest_phantom(0, patient, 0, 0) for patient in range(16)], axis=0)
    air, abdomen, spine = mean[1:4, 6:16].mean(), mean[52:60, 20:44].mean(), mean[24:34, 30:34].mean()
    lungs = np.concatenate([mean[16:32, 16:22], mean[16:32, 42:48]]).mean()
    assert air < lungs - 0.3 and lungs < spine - 0.5 and lungs < abdomen - 0.5


def test_visits_of_a_patient_are_nearer_than_other_patients():
    patients, visits = 24, 3
    pictures = np.stack(
        [
            blurred(render_chest_phantom(0, patient, visit, patient % 2)).ravel()
            for patient in range(patients)
            for visit in range(visits)
        ]
    )
    owner = np.repeat(np.arange(patients), visits)
    distance = np.linalg.norm(pictures[:, None] - pictures[None], axis=2)
    same = owner[:, None] == owner[None]
    np.fill_diagonal(distance, np.inf)
    assert distance[same & np.isfinite(distance)].mean() < 0.6 * distance[~same].mean()
    assert (owner[distance.argmin(1)] == owner).mean() > 0.8


@pytest.mark.parametrize(
    "text",
    [
        "",
        "phantom",
        "images/0001.png",
        "phantom:seed=0,patient=12,visit=1",
        "phantom:seed=0,patient=12,visit=1,label=2",
        "phantom:seed=-1,patient=12,visit=1,label=1",
        "phantom:patient=12,seed=0,visit=1,label=1",
        TEXT + " ",
        None,
        7,
    ],
)
def test_malformed_spec(text):
    with pytest.raises(ValueError, match="is no phantom: expected the form 'phantom:seed=0"):
        RenderPhantom()(text)


@pytest.mark.parametrize("numbers", [(-1, 0, 0, 0), (0, -1, 0, 0), (0, 0, -1, 0), (0, 0, 0, 2)])
def test_numbers_out_of_range(numbers):
    with pytest.raises(ValueError, match="is no phantom"):
        render_chest_phantom(*numbers)


@pytest.mark.parametrize("image_size", [31, 257, 0, -64, 64.0, True, "64", None])
@pytest.mark.parametrize("make", [RenderPhantom, lambda size: RenderPhantomd("image", size)])
def test_size_out_of_range(make, image_size):
    with pytest.raises(ValueError, match="image_size=.* 32 to 256"):
        make(image_size)


def test_spec_and_text_are_the_same():
    spec = PhantomSpec(seed=0, patient=12, visit=1, label=1)
    assert str(spec) == TEXT and PhantomSpec.parse(TEXT) == spec


def test_dictionary_transform_replaces_its_keys_only():
    item = {"image": TEXT, "label": 1}
    out = RenderPhantomd(keys="image", image_size=32)(item)
    assert torch.equal(out["image"], RenderPhantom(32)(TEXT))
    assert out["label"] == 1 and item["image"] == TEXT
    assert RenderPhantomd is RenderPhantomD is RenderPhantomDict


def test_missing_key():
    with pytest.raises(KeyError):
        RenderPhantomd("image")({"label": 1})
    assert RenderPhantomd("image", allow_missing_keys=True)({"label": 1}) == {"label": 1}


def test_fast_enough_for_a_tutorial():
    render = RenderPhantom(64)
    render(TEXT)
    start = time.process_time()
    for patient in range(50):
        render(f"phantom:seed=0,patient={patient},visit=0,label={patient % 2}")
    assert (time.process_time() - start) / 50 < 0.05  # about 0.004 s on a free core
