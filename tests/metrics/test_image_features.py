"""Feature extractors: every way to their weights, without a network."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from monai_plan.metrics import ImageFeatures, load_image_features
from monai_plan.utils import import_torchvision

DEFAULT_FOLDER = Path(__file__).parents[2].parent / "shared" / "weights"
TRUE_WEIGHTS = Path(os.environ.get("MONAI_PLAN_WEIGHTS", DEFAULT_FOLDER)) / "squeezenet1_1_features.safetensors"
needs_torchvision = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))


def architecture(name: str, **options) -> nn.Module:
    import_torchvision()
    from torchvision import models

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(models, name)(weights=None, **options).eval()


def smooth_images(count: int, channels: int, size: int, seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return nn.functional.interpolate(coarse, size=size, mode="bilinear")


def imagenet(images: torch.Tensor) -> torch.Tensor:
    """As torchvision normalises, in other words."""
    from torchvision.transforms.functional import normalize

    return normalize((images.expand(-1, 3, -1, -1) + 1) / 2, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


class Seen(nn.Module):
    """Returns what it is given."""

    def forward(self, images):
        self.dtype, self.channels_last = images.dtype, images.is_contiguous(memory_format=torch.channels_last)
        return images.flatten(1) if self.training else images


def test_by_hand():
    """Pixels -1 and 1 are 0 and 1; less the mean, over the deviation, then averaged: (-0.5/0.25 + 0.5/0.25) / 2 = 0."""
    features = ImageFeatures(Seen(), "seen", mean=(0.5, 0.0, 1.0), std=(0.25, 0.5, 1.0))
    images = torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2)
    assert features(images).tolist() == [[0.0, 1.0, -0.5]]
    assert features.name == "seen, not resized"
    plain = ImageFeatures(Seen(), "seen")
    torch.testing.assert_close(plain(images + 0.25), torch.full((1, 3), 0.25))


def test_resizes_without_aliasing():
    features = ImageFeatures(Seen(), "seen", size=8, mean=(0.5,), std=(0.5,))
    assert features.name == "seen, bilinear antialiased to 8 px"
    stripes = torch.tensor([-1.0, 1.0]).repeat(32).expand(1, 1, 64, 64)
    with torch.no_grad():
        assert features.network(nn.functional.interpolate(stripes, size=8)).abs().min() == 1  # what it must not be
        shrunk = nn.functional.interpolate(stripes, size=(8, 8), mode="bilinear", antialias=True)
    assert features(stripes).shape == (1, 1) and shrunk.abs().max() < 0.1
    torch.testing.assert_close(features(stripes), shrunk.mean(dim=(2, 3)), atol=1e-6, rtol=0)


def test_stays_a_fixed_ruler():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    features = ImageFeatures(network, "own").train()
    assert network.training and network[0].weight.requires_grad  # the caller's network is left alone
    assert not any(module.training for module in features.modules())
    assert not any(parameter.requires_grad for parameter in features.parameters())
    images = smooth_images(4, 1, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = features(images.bfloat16().float())
    assert rows.dtype == torch.float32 and rows.shape == (4, 4)
    assert torch.equal(rows, features(images.bfloat16()))
    seen = ImageFeatures(Seen(), "seen")
    seen(images)
    assert seen.network.channels_last and seen.network.dtype == torch.float32


def test_random_features_are_the_same_everywhere_and_see_differences():
    state = torch.get_rng_state()
    features = load_image_features("random")
    assert torch.equal(state, torch.get_rng_state())
    assert features.name == "random convolutions, pooled, bilinear antialiased to 64 px"
    rows = features(smooth_images(6, 1, 64))
    assert rows.shape == (6, 256) and torch.equal(rows, load_image_features("random")(smooth_images(6, 1, 64)))
    assert torch.linalg.matrix_rank(rows) == 6
    # drawn by torch's generator, the same on any platform
    first = features.network[0].weight.flatten()[:3].tolist()
    assert first == pytest.approx([0.0400030, -0.0022459, -0.0971126], abs=1e-6)


@needs_torchvision
@pytest.mark.parametrize("prefix", ["", "features.", "module.features."])
def test_squeezenet_equals_torchvision(tmp_path, prefix):
    network = architecture("squeezenet1_1").features
    path = tmp_path / "squeezenet.safetensors"
    save_file({prefix + name: value for name, value in network.state_dict().items()}, path)
    images = smooth_images(2, 1, 64)
    expected = network(nn.functional.interpolate(imagenet(images), size=(96, 96), mode="bilinear", antialias=True))
    features = load_image_features("squeezenet", path, size=96)
    torch.testing.assert_close(features(images), expected.mean(dim=(2, 3)), atol=1e-4, rtol=1e-4)
    assert features.name == "squeezenet1_1 (squeezenet.safetensors), pooled, bilinear antialiased to 96 px"


@needs_torchvision
@pytest.mark.parametrize("wrapped", ["plain", "swav", "radimagenet"])
def test_resnet50_under_the_names_of_its_publishers(tmp_path, wrapped):
    network = architecture("resnet50")
    network.fc = nn.Identity()
    state = network.state_dict()
    if wrapped == "swav":  # a projection head and prototypes beside the network, no fc
        state = {f"module.{name}": value for name, value in state.items()} | {
            "module.prototypes.weight": torch.zeros(3, 3)
        }
    if wrapped == "radimagenet":  # Sequential of the children
        state = {f"backbone.{k}": v for k, v in nn.Sequential(*list(network.children())[:9]).state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    images = smooth_images(2, 3, 64)
    extractor = "radimagenet" if wrapped == "radimagenet" else "resnet50"
    seen = images if wrapped == "radimagenet" else imagenet(images)
    features = load_image_features(extractor, tmp_path / "weights.pth", size=64)
    torch.testing.assert_close(features(images), network(seen), atol=1e-4, rtol=1e-4)


@needs_torchvision
def test_inception_from_the_cache(monkeypatch, tmp_path):
    """The file as torchvision publishes it: with auxiliary head, head and their names."""
    network = architecture("inception_v3", init_weights=False)
    from torchvision.models import Inception_V3_Weights

    published = Inception_V3_Weights.DEFAULT.url
    cached = tmp_path / "hub" / "hub" / "checkpoints" / published.rsplit("/", 1)[-1]
    cached.parent.mkdir(parents=True)
    torch.save(network.state_dict(), cached)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **kwargs: torch.load(cached))  # other hash
    features = load_image_features("auto", size=75)
    network.fc, network.transform_input = nn.Identity(), False
    images = smooth_images(1, 1, 75)
    torch.testing.assert_close(features(images), network(imagenet(images)), atol=1e-4, rtol=1e-4)
    assert features.name == "inception_v3 (ImageNet), pooled, bilinear antialiased to 75 px"


@pytest.mark.skipif(not TRUE_WEIGHTS.is_file(), reason="no ImageNet weights of SqueezeNet 1.1 under MONAI_PLAN_WEIGHTS")
@needs_torchvision
def test_true_squeezenet():
    features = load_image_features("squeezenet", TRUE_WEIGHTS, size=64)
    network = architecture("squeezenet1_1").features
    network.load_state_dict(load_file(TRUE_WEIGHTS))
    images = smooth_images(3, 3, 64)
    torch.testing.assert_close(features(images), network(imagenet(images)).mean(dim=(2, 3)), atol=1e-4, rtol=1e-4)


def test_auto_says_that_it_falls_back():
    with pytest.warns(UserWarning, match="random network.*Name extractor"):
        features = load_image_features("auto", size=32)
    assert features.name.startswith("random convolutions")


def test_wrong_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no extractor 'vgg'"):
        load_image_features("vgg")
    with pytest.raises(ValueError, match="name the network of that file"):
        load_image_features("auto", "weights.pth")
    with pytest.raises(ValueError, match="one number for each channel"):
        ImageFeatures(Seen(), "seen", mean=(0.5,))
    with pytest.raises(ValueError, match=r"take the channels wanted"):
        ImageFeatures(Seen(), "seen", mean=(0.5,), std=(0.5,))(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"\[B, 1 or 3, H, W\]"):
        ImageFeatures(Seen(), "seen")(torch.zeros(1, 2, 8, 8))


@needs_torchvision
def test_wrong_weights_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="download=True"):
        load_image_features("squeezenet")
    with pytest.raises(FileNotFoundError, match="missing.pth"):
        load_image_features("resnet50", tmp_path / "missing.pth")
    with pytest.raises(FileNotFoundError, match="give their file"):
        load_image_features("radimagenet")
    save_file({"0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="(?s)other.safetensors.*resnet50"):
        load_image_features("resnet50", tmp_path / "other.safetensors")
    state = architecture("squeezenet1_1").features.state_dict()
    save_file(state | {"0.weight": torch.zeros(1)}, tmp_path / "shape.safetensors")
    with pytest.raises(ValueError, match="(?s)shape.safetensors.*size mismatch"):
        load_image_features("squeezenet", tmp_path / "shape.safetensors")
