"""Augmentation of whole batches."""

from __future__ import annotations

import pytest
import torch

from monai_plan.engines import AugmentedPrepareBatch, TwoViewPrepareBatch

BATCH = {"image": torch.zeros(3, 1, 4, 4), "label": torch.tensor([0, 1, 1])}


def add_noise(images, rng):
    return images + torch.randn(images.shape, generator=rng)


def test_augments_images_and_keeps_labels():
    images, labels = AugmentedPrepareBatch(lambda images, rng: images + 1)(BATCH, torch.device("cpu"))
    assert torch.equal(images, torch.ones(3, 1, 4, 4))
    assert torch.equal(labels, BATCH["label"])


def test_two_views_are_stacked_and_differ():
    images, _ = TwoViewPrepareBatch(add_noise)(BATCH, torch.device("cpu"))
    assert images.shape == (6, 1, 4, 4)
    assert not torch.equal(images[:3], images[3:])


@pytest.mark.parametrize("kind", [AugmentedPrepareBatch, TwoViewPrepareBatch])
def test_replays_from_the_seed_and_moves_on(kind):
    first, again, other = kind(add_noise, 1), kind(add_noise, 1), kind(add_noise, 2)
    before = torch.get_rng_state()
    a, b = first(BATCH, torch.device("cpu"))[0], first(BATCH, torch.device("cpu"))[0]
    assert torch.equal(a, again(BATCH, torch.device("cpu"))[0])
    assert not torch.equal(a, b)
    assert not torch.equal(a, other(BATCH, torch.device("cpu"))[0])
    assert torch.equal(before, torch.get_rng_state())
