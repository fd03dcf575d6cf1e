"""The classifier's training on a problem with a known answer."""

import pytest
import torch
from monai.data import DataLoader, Dataset
from torch import nn

from monai_plan.engines import BestEpoch, predict, train_classifier


def loader(values, labels, batch_size=4):
    items = [{"image": torch.full((1, 2, 2), float(v)), "label": c} for v, c in zip(values, labels, strict=True)]
    return DataLoader(Dataset(items), batch_size=batch_size)


class Scores(nn.Module):
    """Logits [-x, x] * weight of the image's first pixel x, after a dropout that only evaluation mode switches off."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.dropout = nn.Dropout(0.5)

    def forward(self, images):
        x = self.weight * self.dropout(images)[:, 0, 0, 0]
        return torch.stack([-x, x], dim=1)


SEPARABLE = ([-1, -0.5, 0.5, 1], [0, 0, 1, 1])


@pytest.mark.parametrize("amp", [False, True])
def test_predicts_in_evaluation_mode_and_restores_the_mode(amp):
    network = Scores().train()
    probabilities, labels = predict(network, loader([0, 1], [1, 0]), "cpu", amp=amp)
    assert probabilities.dtype == torch.float32 and labels.tolist() == [1, 0]
    assert torch.allclose(probabilities[:, 1], torch.sigmoid(torch.tensor([0.0, 2.0])))
    assert network.training


def test_empty_loader_is_refused():
    with pytest.raises(ValueError, match="no images to predict"):
        predict(Scores(), [], "cpu")


@pytest.mark.parametrize("amp", [False, True])
def test_learns_the_sign(amp):
    network = Scores(-0.1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        best = train_classifier(
            network, loader(*SEPARABLE), loader(*SEPARABLE), 10, 0.1, "cpu", amp=amp, weight_decay=0.0
        )
    assert best.auroc == 1.0 and network.weight > 0


def test_keeps_the_first_of_equally_good_epochs():
    """Validation labels are turned round: every step towards the training labels harms, from AUROC 1 to 0."""
    network = Scores(-0.25)
    turned = loader(SEPARABLE[0], [1, 1, 0, 0])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        best = train_classifier(network, loader(*SEPARABLE), turned, 6, 0.1, "cpu", weight_decay=0.0)
    assert best == BestEpoch(auroc=1.0, epoch=1)
    assert network.weight.item() == pytest.approx(-0.15, abs=1e-3)  # AdamW's first step is the learning rate


def test_prepare_batch_is_for_training_only():
    seen = []

    def spy(batch, device, non_blocking, **kwargs):
        seen.append(len(batch["label"]))
        return batch["image"].to(device), batch["label"].to(device)

    train_classifier(Scores(), loader(*SEPARABLE, 2), loader(*SEPARABLE), 2, 0.01, "cpu", prepare_batch=spy)
    assert seen == [2, 2, 2, 2]


@pytest.mark.parametrize(
    "values, validation, epochs, message",
    [
        (SEPARABLE[0], SEPARABLE, 0, "epochs must be >= 1"),
        (SEPARABLE[0], ([0, 1], [1, 1]), 1, "lack images of some class"),
        ([float("nan")] * 4, SEPARABLE, 1, "loss is nan"),
    ],
)
@pytest.mark.filterwarnings("ignore:y values can not be all")
def test_refuses(values, validation, epochs, message):
    with pytest.raises(ValueError, match=message):
        train_classifier(Scores(), loader(values, SEPARABLE[1]), loader(*validation), epochs, 0.1, "cpu")
