"""LPIPS as one distance, against the lpips package itself, with true weights where they are at hand."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from monai_plan.metrics import (
    EmbeddingFeatures,
    LPIPSFeatures,
    MapFeatures,
    load_perceptual_features,
    mean_minimal_distance,
    nearest_distances,
    nearest_lpips,
    pairwise_distances,
)
from monai_plan.utils import import_torchvision

if find_spec("lpips") is None:
    pytest.skip("lpips is not installed", allow_module_level=True)
import_torchvision()  # before lpips, which imports torchvision
DEFAULT_FOLDER = Path(__file__).parents[2].parent / "shared" / "weights"
TRUE_WEIGHTS = Path(os.environ.get("MONAI_PLAN_WEIGHTS", DEFAULT_FOLDER)) / "squeezenet1_1_features.safetensors"


@pytest.fixture(scope="module", params=["random", "true"])
def weights(request, tmp_path_factory):
    if request.param == "true":
        if not TRUE_WEIGHTS.is_file():
            pytest.skip("no ImageNet weights of SqueezeNet 1.1 under MONAI_PLAN_WEIGHTS")
        return TRUE_WEIGHTS
    from torchvision.models import squeezenet1_1

    with torch.random.fork_rng():
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
        save_file(squeezenet1_1(weights=None).state_dict(), path)  # names with "features.", as torchvision's file has
    return path


def reference(weights):
    """The lpips package with the same backbone, loaded by torchvision's own names."""
    import lpips
    from safetensors.torch import load_file
    from torchvision.models import squeezenet1_1

    plain = {k.removeprefix("features."): v for k, v in load_file(weights).items() if not k.startswith("classifier")}
    backbone = squeezenet1_1(weights=None).features
    backbone.load_state_dict(plain)
    model = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    for part in model.net.children():
        for number in list(part._modules):
            part._modules[number] = backbone[int(number)]
    return model.eval()


def smooth_images(count, channels, size, seed):
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 8, 8, generator=rng) * 2 - 1
    return nn.functional.interpolate(coarse, size=size, mode="bilinear")


@pytest.mark.parametrize("channels, size", [(1, 64), (3, 37)])
def test_equals_the_lpips_package(weights, channels, size):
    queries, gallery = smooth_images(3, channels, size, 0), smooth_images(4, channels, size, 1)
    model = reference(weights)
    with torch.no_grad():
        pairs = torch.stack([model(q.expand(4, 3, -1, -1), gallery.expand(-1, 3, -1, -1)).flatten() for q in queries])
    distances = nearest_distances(queries, gallery, LPIPSFeatures(weights), batch_size=2)
    torch.testing.assert_close(distances, pairs.min(dim=1).values, atol=1e-4, rtol=0)
    assert distances.min() > 1e-3


def test_small_blocks_change_nothing(weights, monkeypatch):
    features = LPIPSFeatures(weights)
    queries, gallery = smooth_images(3, 1, 32, 0), smooth_images(5, 1, 32, 1)
    whole = nearest_distances(queries, gallery, features, batch_size=2)
    monkeypatch.setattr(nearest_lpips, "HELD_BYTES", 2 * 4 * features(gallery[:1]).shape[1])
    torch.testing.assert_close(nearest_distances(queries, gallery, features, batch_size=1), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("held_bytes", [1, 2**30])
@pytest.mark.parametrize("counts", [(3, 5), (5, 3)])
def test_every_pair_as_the_lpips_package_has_it(weights, monkeypatch, counts, held_bytes):
    monkeypatch.setattr(nearest_lpips, "HELD_BYTES", held_bytes)
    queries, gallery = smooth_images(counts[0], 1, 64, 0), smooth_images(counts[1], 1, 64, 1)
    found = pairwise_distances(queries, gallery, LPIPSFeatures(weights), batch_size=2)
    model = reference(weights)
    with torch.no_grad():
        expected = torch.stack([model(queries, image[None].expand(len(queries), -1, -1, -1)) for image in gallery])
    torch.testing.assert_close(found, expected.flatten(1).T, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.min(dim=1).values, nearest_distances(queries, gallery, LPIPSFeatures(weights)))


def test_copies_have_no_distance_and_mean_is_mean(weights):
    gallery = smooth_images(3, 1, 32, 0)
    features = LPIPSFeatures(weights).train()
    assert not features.training and nearest_distances(gallery, gallery, features).max() < 1e-6
    queries = smooth_images(4, 1, 32, 5)
    expected = nearest_distances(queries, gallery, features).mean().item()
    assert mean_minimal_distance(queries, gallery, features) == pytest.approx(expected)


def test_building_leaves_the_global_random_state(weights):
    state = torch.get_rng_state()
    LPIPSFeatures(weights)
    assert torch.equal(state, torch.get_rng_state())


def test_pth_files_load_too(weights, tmp_path):
    from safetensors.torch import load_file

    torch.save(load_file(weights), tmp_path / "squeezenet.pth")
    images = smooth_images(1, 1, 32, 0)
    assert torch.equal(LPIPSFeatures(tmp_path / "squeezenet.pth")(images), LPIPSFeatures(weights)(images))


class Flatten(nn.Module):
    def forward(self, images):
        return images.flatten(1)


def test_fallback_is_named_and_never_hides_a_wrong_path(monkeypatch, tmp_path, weights):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.warns(UserWarning, match="not by LPIPS"):
        features, name = load_perceptual_features(fallback=Flatten())
    assert name == "embedding" and isinstance(features, EmbeddingFeatures)
    assert load_perceptual_features(weights)[1] == "lpips_squeeze"
    with pytest.raises(FileNotFoundError, match="download=True"):
        load_perceptual_features()
    with pytest.raises(FileNotFoundError, match="missing.pth"):
        load_perceptual_features(tmp_path / "missing.pth", fallback=Flatten())


def test_embedding_distance_by_hand():
    query, gallery = torch.zeros(1, 1, 1, 2), torch.zeros(2, 1, 1, 2)
    query[0, 0, 0] = torch.tensor([3.0, 0.0])
    gallery[:, 0, 0] = torch.tensor([[0.0, 1.0], [3.0, 4.0]])
    distance = nearest_distances(query, gallery, EmbeddingFeatures(Flatten()))
    assert distance.item() == pytest.approx((1 - 0.6) ** 2 + 0.8**2)


def test_wrong_input_is_refused(tmp_path, weights):
    save_file({"0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    images, features = torch.zeros(1, 1, 32, 32), EmbeddingFeatures(Flatten())
    with pytest.raises(ValueError, match="other.safetensors"):
        LPIPSFeatures(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="at least 32x32"):
        LPIPSFeatures(weights)(torch.zeros(1, 1, 16, 16))
    with pytest.raises(ValueError, match="gallery images must be finite"):
        nearest_distances(images, images[:0], features)
    with pytest.raises(ValueError, match="query images must be finite"):
        nearest_distances(images * torch.nan, images, features)
    with pytest.raises(ValueError, match="resize"):
        nearest_distances(images, torch.zeros(1, 1, 64, 64), features)


def test_map_distance_by_hand():
    class Maps(torch.nn.Module):
        def forward(self, images):
            return [images, torch.nn.functional.avg_pool2d(images, 2)]

    a, b = torch.zeros(2, 1, 2, 2, 2).unbind()
    a[:, 0], b[:, 0] = 3.0, 5.0
    b[0, :, 1, 1] = torch.tensor([0.0, 7.0])  # one of four pixels points the other way, and so a quarter of the mean
    pooled = torch.nn.functional.normalize(torch.tensor([15 / 4, 7 / 4]), dim=0)
    expected = 2 / 4 + float((pooled - torch.tensor([1.0, 0.0])).square().sum())
    distance = (MapFeatures(Maps())(a) - MapFeatures(Maps())(b)).square().sum()
    assert float(distance) == pytest.approx(expected)
