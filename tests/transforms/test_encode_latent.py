"""From images to latents, and from latents to the numbers of anchors."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, CopyItemsd
from torch import nn

from monai_plan.latent import AnchorSet, PatientLatents, group_centroids, group_patients
from monai_plan.networks.nets import LatentEncoder
from monai_plan.transforms import (
    EncodeLatent,
    EncodeLatentD,
    EncodeLatentd,
    EncodeLatentDict,
    NearestAnchor,
    NearestAnchorD,
    NearestAnchord,
    NearestAnchorDict,
)

IMAGE = torch.linspace(-1, 1, 16).reshape(1, 4, 4)
CORNERS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
LABELS = torch.tensor([0, 0, 1])
RANDOM = AnchorSet(CORNERS, LABELS, "random")
K_SAME = AnchorSet(CORNERS, LABELS, "k_same", {"ids": [5, 8, 6]})


def tiny_encoder(width: int = 5) -> nn.Module:
    """With batch norm, which refuses a single image unless in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, width))


KINDS = {
    "array": lambda img: img.numpy(),
    "float64 array": lambda img: img.double().numpy(),
    "tensor": lambda img: img,
    "meta tensor": lambda img: MetaTensor(img, meta={"filename_or_obj": "p7.png"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_latent_is_the_encoders_answer_in_evaluation_mode(kind):
    encoder = tiny_encoder().train()
    expected = encoder[2](IMAGE.reshape(1, 16) / (1 + 1e-5) ** 0.5)[0]  # batch norm with its first statistics
    latent = EncodeLatent(encoder)(KINDS[kind](IMAGE))
    assert type(latent) is torch.Tensor and latent.dtype == torch.float32 and not latent.requires_grad
    torch.testing.assert_close(latent, expected.detach(), rtol=1e-5, atol=1e-6)


def test_the_packages_encoder_answers_as_for_a_batch():
    torch.manual_seed(0)
    encoder = LatentEncoder(6, layers=(1, 1, 1, 1), block_inplanes=(2, 2, 2, 2)).eval()
    images = torch.rand(3, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = encoder(images)
    found = torch.stack([EncodeLatent(encoder)(image) for image in images])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_same_latent_under_autocast():
    encode = EncodeLatent(tiny_encoder())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latent = encode(IMAGE)
    assert torch.equal(latent, encode(IMAGE))


@pytest.mark.parametrize(
    "img, message",
    [
        (torch.zeros(4, 4), r"shape \(4, 4\)"),
        (torch.zeros(1, 1, 4, 4), "one image"),
        (IMAGE * 3, r"-3 \.\. 3 and must lie in \[-1, 1\]"),
        (torch.full((1, 4, 4), float("nan")), "NaN"),
    ],
)
def test_bad_images(img, message):
    with pytest.raises(ValueError, match=message):
        EncodeLatent(tiny_encoder())(img)


@pytest.mark.parametrize("make", [EncodeLatent, lambda encoder: EncodeLatentd("image", encoder)])
def test_an_encoder_that_is_none(make):
    with pytest.raises(TypeError, match="str.*LatentEncoder.load"):
        make("encoder.safetensors")


# the nearest anchor


@pytest.mark.parametrize(
    "latent, label, row",
    [
        ((0.1, 0.2), None, 0),
        ((0.9, 0.8), None, 1),
        ((0.8, 0.9), None, 2),
        ((0.8, 0.9), 0, 1),
        ((0.9, 0.1), 1, 2),
        ((0.9, 0.1), torch.tensor([1]), 2),
        ((0.9, 0.1), np.float32(1), 2),
    ],
)
@pytest.mark.parametrize("make", [torch.tensor, np.array, MetaTensor])
def test_nearest_by_hand(latent, label, row, make):
    assert NearestAnchor(RANDOM)(make(latent), label) == row
    found = NearestAnchor(K_SAME)(make(latent), label)
    assert found == (5, 8, 6)[row] and type(found) is int


def test_every_centroid_is_nearest_to_itself():
    rng = torch.Generator().manual_seed(0)
    patients = PatientLatents(
        torch.randn(24, 3, generator=rng), torch.arange(24) % 2, tuple(f"p{i:02d}" for i in range(24))
    )
    grouping = group_patients(patients, k=3, method="greedy")
    anchors = group_centroids(grouping, patients)
    found = [NearestAnchor(anchors)(*pair) for pair in zip(anchors.latents, anchors.labels, strict=True)]
    assert found == [group.anchor for group in grouping.groups]


@pytest.mark.parametrize(
    "latent, label, message",
    [
        (torch.zeros(3), None, r"shape \(2,\) expected, got shape \(3,\)"),
        (torch.zeros(1, 2), None, r"got shape \(1, 2\)"),
        (torch.tensor([0.0, float("nan")]), None, "1 values that are not finite"),
        (torch.zeros(2), 7, r"no anchor is of class 7, they are of \[0, 1\]"),
        (torch.zeros(2), torch.tensor([0, 1]), "one whole number"),
    ],
)
def test_bad_latents_and_labels(latent, label, message):
    with pytest.raises(ValueError, match=message):
        NearestAnchor(RANDOM)(latent, label)


def test_no_anchors():
    with pytest.raises(ValueError, match="no anchor"):
        NearestAnchor(AnchorSet(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "random"))


# the dictionary forms


def test_a_pipeline_from_image_to_anchor():
    encoder = tiny_encoder(2)
    transform = Compose(
        [
            CopyItemsd("image", times=2, names=["latent", "anchor"]),
            EncodeLatentd(["latent", "anchor"], encoder),
            NearestAnchord("anchor", K_SAME, label_key="label"),
        ]
    )
    transform = pickle.loads(pickle.dumps(transform))
    items = [{"image": IMAGE * sign, "label": label} for sign in (1, -1) for label in (0, 1)]
    (batch,) = DataLoader(Dataset(items, transform), batch_size=4)
    with torch.no_grad():
        latents = encoder(batch["image"])
    torch.testing.assert_close(batch["latent"], latents)
    own = torch.cdist(latents, CORNERS)
    expected = [int(own[i, :2].argmin()) if i % 2 == 0 else 2 for i in range(4)]
    assert batch["anchor"].tolist() == [[5, 8, 6][row] for row in expected]
    assert batch["anchor"].dtype == torch.int64 and set(items[0]) == {"image", "label"}


def test_without_a_label_key_all_anchors_count():
    item = {"latent": torch.tensor([0.1, 0.9]), "label": 0}
    assert NearestAnchord("latent", RANDOM)(item)["latent"] == 2
    assert NearestAnchord("latent", RANDOM, label_key="label")(item)["latent"] == 0


def test_aliases_and_missing_keys():
    assert EncodeLatentD is EncodeLatentd is EncodeLatentDict
    assert NearestAnchorD is NearestAnchord is NearestAnchorDict
    for make, options in ((EncodeLatentd, {"encoder": tiny_encoder(2)}), (NearestAnchord, {"anchors": RANDOM})):
        assert make("image", allow_missing_keys=True, **options)({"label": 1}) == {"label": 1}
        with pytest.raises(KeyError, match="image"):
            make("image", **options)({"label": 1})
    with pytest.raises(KeyError, match="no 'class' in an item with .*'label'"):
        NearestAnchord("latent", RANDOM, label_key="class")({"latent": torch.zeros(2), "label": 1})
