"""Augmentation of whole batches."""

from __future__ import annotations

import pytest
import torch

from monai_plan.engines import AugmentedPrepareBatch, TaughtPrepareBatch, TwoViewPrepareBatch

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


@pytest.mark.parametrize(
    "kind",
    [
        AugmentedPrepareBatch,
        TwoViewPrepareBatch,
        lambda augment, seed: TaughtPrepareBatch(augment, [Teacher(0.5)], seed=seed),
    ],
)
def test_replays_from_the_seed_and_moves_on(kind):
    first, again, other = kind(add_noise, 1), kind(add_noise, 1), kind(add_noise, 2)
    before = torch.get_rng_state()
    a, b = first(BATCH, torch.device("cpu"))[0], first(BATCH, torch.device("cpu"))[0]
    assert torch.equal(a, again(BATCH, torch.device("cpu"))[0])
    assert not torch.equal(a, b)
    assert not torch.equal(a, other(BATCH, torch.device("cpu"))[0])
    assert torch.equal(before, torch.get_rng_state())


class Teacher(torch.nn.Module):
    """Says how bright an image is; in training mode something else."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(slope))

    def forward(self, images):
        brightness = images.mean(dim=(1, 2, 3)) * self.slope
        return torch.stack([brightness, -brightness], dim=1) + float(self.training)


def test_teachers_see_the_augmented_images_and_are_averaged():
    prepare = TaughtPrepareBatch(lambda images, rng: images + 1, [Teacher(0.5), Teacher(-0.25)], mix=False)
    images, labels = prepare(BATCH, torch.device("cpu"))
    assert torch.equal(images, torch.ones(3, 1, 4, 4))
    expected = (torch.tensor(1.0).sigmoid() + torch.tensor(-0.5).sigmoid()) / 2
    assert torch.allclose(labels[:, 0], expected.expand(3)) and torch.allclose(labels.sum(dim=1), torch.ones(3))
    assert not labels.requires_grad and not any(t.training or t.slope.requires_grad for t in prepare.teachers)


def test_no_teacher_is_refused():
    with pytest.raises(ValueError, match="AugmentedPrepareBatch"):
        TaughtPrepareBatch(add_noise, [])


def test_blends_keep_half_of_each_image_or_more_and_are_what_the_teachers_see():
    batch = {"image": torch.eye(4).view(4, 1, 2, 2), "label": torch.zeros(4, dtype=torch.long)}
    images, labels = TaughtPrepareBatch(lambda images, rng: images, [Teacher(0.5)])(batch, torch.device("cpu"))
    own = images.flatten(1).diagonal()
    assert bool(((own >= 0.5) & (own <= 1)).all()) and len(own.unique()) > 1
    assert torch.allclose(images.flatten(1).sum(dim=1), torch.ones(4))
    assert torch.allclose(labels, Teacher(0.5).eval()(images).softmax(dim=1))
