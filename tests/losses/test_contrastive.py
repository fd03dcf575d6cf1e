"""The two-view loss: value, order of rows, and use in MONAI's trainer."""

import math

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn

from monai_plan.losses import TwoViewContrastiveLoss


def test_value_for_orthogonal_pairs():
    views = torch.eye(2).repeat(2, 1)  # both views of each image equal, images orthogonal
    expected = -math.log(math.exp(1 / 0.5) / (math.exp(1 / 0.5) + 2 * math.exp(0)))
    assert TwoViewContrastiveLoss(0.5)(views).item() == pytest.approx(expected, abs=1e-6)


def test_matching_views_beat_swapped_ones():
    first = torch.eye(4)
    loss = TwoViewContrastiveLoss()
    assert loss(torch.cat([first, first])) < loss(torch.cat([first, first.roll(1, 0)]))


@pytest.mark.parametrize("shape", [(3, 4), (2, 4), (4,)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="two stacked views"):
        TwoViewContrastiveLoss()(torch.zeros(shape))


def test_temperature_must_be_positive():
    with pytest.raises(ValueError, match="temperature"):
        TwoViewContrastiveLoss(0.0)


def test_trains_in_monai_trainer():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8))
    before = network[1].weight.detach().clone()
    image = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=[{"image": image, "label": torch.zeros(8)}],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=TwoViewContrastiveLoss(),
        decollate=False,
    )
    trainer.run()
    assert math.isfinite(trainer.state.output["loss"].item()) and not torch.equal(before, network[1].weight)
