"""Latents become images behind MONAI's interface, and a refused image never comes out."""

from __future__ import annotations

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from monai.utils import CommonKeys
from torch import nn

from monai_plan.inferers import PrivacyWalkInferer
from monai_plan.latent import PrivacyGate
from monai_plan.networks.nets import StyleGenerator


class Painter(nn.Module):
    """A latent of 16 numbers is the image, 4 x 4, less something in training mode."""

    w_dim = 16

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def synthesize(self, w, noise="const", rng=None):
        assert noise == "const" and not torch.is_autocast_enabled("cpu")
        return (w * self.scale).view(-1, 1, 4, 4) - float(self.training)


class BrightOnes:
    """Accepts images whose first pixel is above 0, and keeps all that it saw."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def accepts(self, images):
        self.seen.append(images.clone())
        return images[:, 0, 0, 0] > 0


def latents(*first):
    """One latent for each first pixel."""
    values = torch.linspace(-0.9, 0.9, 16).repeat(len(first), 1)
    values[:, 0] = torch.tensor(first)
    return values


def test_accepted_images_are_the_renderings():
    inferer, network = PrivacyWalkInferer(BrightOnes()), Painter().train()
    given = latents(0.5, 1.0, 0.1)
    given[0, 1], given[0, 2] = 3.0, -3.0  # beyond [-1, 1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = inferer(given, network)
    assert isinstance(inferer, Inferer) and network.training and images.dtype == torch.float32
    assert torch.equal(images, given.clamp(-1, 1).view(3, 1, 4, 4)) and not images.requires_grad
    assert torch.equal(inferer.gate.seen[0], images)


def test_refused_images_never_come_out():
    given = latents(0.5, -0.5, 0.1, -0.2)
    with pytest.raises(RuntimeError, match=r"refused 2 of 4 images \(rows 1, 3\)"):
        PrivacyWalkInferer(BrightOnes())(given, Painter())
    images = PrivacyWalkInferer(BrightOnes(), refused="nan")(given, Painter())
    assert torch.equal(images[[0, 2]], given[[0, 2]].view(2, 1, 4, 4)) and images[[1, 3]].isnan().all()


@pytest.mark.parametrize("refused", ["raise", "nan"])
def test_images_that_are_none_are_an_error(refused):
    network = Painter()
    network.scale.data.fill_(float("inf"))
    gate = BrightOnes()
    with pytest.raises(RuntimeError, match="NaN or infinite"):
        PrivacyWalkInferer(gate, refused)(latents(0.5), network)
    assert not gate.seen


@pytest.mark.parametrize(
    ("given", "network", "error", "message"),
    [
        (torch.zeros(2, 8), Painter(), ValueError, r"latents \[B, 16\], got \(2, 8\)"),
        (torch.zeros(2, 1, 4, 4), Painter(), ValueError, r"got \(2, 1, 4, 4\)"),
        (torch.full((2, 16), torch.nan), Painter(), ValueError, "diverged"),
        (torch.zeros(2, 16), nn.Identity(), TypeError, "got Identity; give a StyleGenerator"),
        (torch.zeros(2, 16), lambda w: w, TypeError, "got function"),
    ],
)
def test_what_cannot_be_rendered_is_refused(given, network, error, message):
    with pytest.raises(error, match=message):
        PrivacyWalkInferer(BrightOnes())(given, network)


def test_a_gate_is_needed():
    with pytest.raises(TypeError, match="got NoneType; give a PrivacyGate"):
        PrivacyWalkInferer(None)
    with pytest.raises(ValueError, match="'drop'"):
        PrivacyWalkInferer(BrightOnes(), "drop")
    wrong = BrightOnes()
    wrong.accepts = lambda images: torch.ones(1, dtype=torch.bool)
    with pytest.raises(TypeError, match=r"must give bool \[2\]"):
        PrivacyWalkInferer(wrong)(latents(1.0, 1.0), Painter())


@pytest.mark.parametrize("refused", ["raise", "nan"])
def test_in_a_supervised_evaluator(refused):
    """A loader of latents, decollated as MONAI does; some of the rows are refused in mode "nan"."""
    firsts = (0.5, 0.4, 0.3, 0.2) if refused == "raise" else (0.5, -0.4, 0.3, -0.2)
    given = latents(*firsts)
    items = [{"image": MetaTensor(row), "label": number % 2} for number, row in enumerate(given)]
    made = []
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items), batch_size=2),
        network=Painter().train(),
        inferer=PrivacyWalkInferer(BrightOnes(), refused),
        postprocessing=lambda item: made.append(item[CommonKeys.PRED]) or item,
    )
    evaluator.run()
    assert len(made) == 4
    for first, row, image in zip(firsts, given, made, strict=True):
        assert image.shape == (1, 4, 4)
        assert torch.equal(torch.as_tensor(image).flatten(), row) if first > 0 else image.isnan().all()


def test_with_a_real_gate_and_generator():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = StyleGenerator(8, 1, 2, z_dim=8, w_dim=8, channel_base=64, channel_max=8).eval()
    points = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = generator.synthesize(points).clamp(-1, 1)
    flat = expected.flatten(1)
    gate = PrivacyGate(nn.Flatten(), flat[:1], threshold=0.0)
    distances = gate.distances(expected)
    gate.threshold = float(distances.sort().values[2])
    images = PrivacyWalkInferer(gate, "nan")(points, generator)
    refused = distances < gate.threshold
    assert int(refused.sum()) == 2 and bool(refused[0])
    assert images[refused].isnan().all() and torch.equal(images[~refused], expected[~refused])
