"""The class signal of generators whose images carry the class entirely, not at all, or swapped."""

import random

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from torch import nn

from monai_plan.engines import AugmentedPrepareBatch, class_signal
from monai_plan.engines.class_signal import _figures, _FreshSamples


class Samples(nn.Module):
    """Noise of deviation 0.4 around ``signal`` * (-1 for class 0, 1 for class 1), beyond the range now and then."""

    z_dim, num_classes = 4, 2

    def __init__(self, signal=0.5):
        super().__init__()
        self.signal = nn.Parameter(torch.tensor(signal))
        self.seen = []

    def map_latents(self, z, labels):
        self.seen.append((z, labels))
        assert not self.training and not torch.is_grad_enabled()
        return torch.cat([z, (labels[:, None] * 2.0 - 1.0) * self.signal], dim=1)

    def synthesize(self, w, noise, rng):
        assert noise == "random"
        return w[:, -1, None, None, None] + 0.4 * torch.randn(len(w), 1, 4, 4, generator=rng)


def factory():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))


def real(signal=0.5, count=40):
    draw = torch.Generator().manual_seed(0)
    items = [
        {"image": signal * (2 * label - 1) + 0.4 * torch.randn(1, 4, 4, generator=draw), "label": label}
        for label in (i % 2 for i in range(count))
    ]
    return DataLoader(Dataset(items), batch_size=16)


def signal(generator, loader=None, **options):
    settings = {"epochs": 2, "iterations": 12, "batch_size": 16, "learning_rate": 0.02, **options}
    return class_signal(generator, factory, loader or real(), "cpu", **settings)


@pytest.mark.parametrize("amp", [False, True])
def test_a_generator_that_carries_the_class(amp):
    figures = signal(Samples(), amp=amp)
    assert set(figures) == {
        *("class_auroc", "class_accuracy", "class_balanced_accuracy", "class_validation_auroc"),
        *("class_recall_0", "class_recall_1", "class_shift_0", "class_shift_1"),
    }
    assert all(type(value) is float for value in figures.values())
    assert figures["class_auroc"] == figures["class_validation_auroc"] > 0.98
    assert min(figures["class_accuracy"], figures["class_recall_0"], figures["class_recall_1"]) > 0.9
    assert abs(figures["class_shift_0"]) < 0.25


def test_one_that_ignores_it_is_a_coin():
    """Faint signs of the class in the real images: a classifier that looks in random directions hardly sees them."""
    options = {"epochs": 1, "iterations": 4, "test_loader": real(0.08, count=200)}
    aurocs = [signal(Samples(0.0), seed=seed, **options)["class_auroc"] for seed in range(8)]
    assert np.mean(aurocs) == pytest.approx(0.5, abs=0.1)
    assert signal(Samples(0.5), test_loader=real(0.08, count=200))["class_auroc"] > 0.8


def test_one_that_swaps_it_is_found_out():
    assert signal(Samples(-0.5))["class_auroc"] < 0.02


def test_figures_of_the_test_images_where_they_are_given():
    turned = Dataset([{**item, "label": 1 - item["label"]} for item in real().dataset.data])
    figures = signal(Samples(), test_loader=DataLoader(turned, batch_size=16))
    assert figures["class_validation_auroc"] > 0.98 and figures["class_auroc"] < 0.02


def test_same_seed_same_figures_and_nothing_else_is_touched():
    generator, loader = Samples(0.05).train(), real()  # MONAI's DataLoader seeds torch anew when it is made
    torch.rand(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = signal(generator, loader, seed=3)
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()
    assert before[2] == random.getstate()
    assert generator.training and generator.signal.requires_grad and generator.signal.grad is None
    torch.manual_seed(1)
    assert signal(generator, loader, seed=3) == first != signal(generator, loader, seed=4)


def test_an_augmenting_prepare_batch_draws_the_same_each_time():
    prepare = AugmentedPrepareBatch(lambda images, rng: images + torch.rand(len(images), 1, 1, 1, generator=rng))
    first, again = (signal(Samples(0.05), prepare_batch=prepare) for _ in range(2))
    assert first == again != signal(Samples(0.05))


def test_no_latent_twice_and_labels_by_their_shares():
    generator = Samples()
    signal(generator, epochs=3, iterations=10, class_shares=[1, 3])
    latents = torch.cat([z for z, _ in generator.seen])
    assert latents.shape == (480, 4) and len(latents.unique(dim=0)) == 480
    share = torch.cat([labels for _, labels in generator.seen]).float().mean().item()
    assert share == pytest.approx(0.75, abs=0.08)


def test_samples_are_clamped():
    batch = next(iter(_FreshSamples(Samples(), 1, 64, torch.ones(2), "random", False, 0)))
    assert batch["image"].min() == -1 and batch["image"].max() == 1 and batch["image"].dtype == torch.float32


def test_figures_by_hand():
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]])
    figures = _figures(probabilities, torch.tensor([0, 0, 1, 0]))
    assert figures == pytest.approx(
        {
            "class_auroc": 2 / 3,  # the ill image is above two of three
            "class_accuracy": 3 / 4,
            "class_balanced_accuracy": (2 / 3 + 1) / 2,
            "class_recall_0": 2 / 3,
            "class_recall_1": 1.0,
            "class_shift_0": 0.5 - 0.75,
            "class_shift_1": 0.5 - 0.25,
        }
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"epochs": 0}, "epochs must be >= 1"),
        ({"class_shares": [1.0]}, r"each of the generator's 2 classes, e.g. \[0.5, 0.5\]"),
        ({"class_shares": [1.0, 0.0]}, "one positive number"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        signal(Samples(), **options)
