"""Generator and discriminator: shapes, labels, files and errors (the function itself: test_published_weights)."""

from __future__ import annotations

import pytest
import torch

from monai_plan.networks.nets import StyleDiscriminator, StyleGenerator
from monai_plan.networks.nets.style_discriminator import minibatch_deviation
from monai_plan.networks.nets.style_generator import channels_at, resolutions

SMALL = {"image_size": 16, "num_classes": 3, "channel_base": 128, "channel_max": 16}


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return StyleGenerator(z_dim=8, w_dim=12, channels=3, **SMALL).eval()


@pytest.mark.parametrize(("size", "expected"), [(8, [4, 8]), (64, [4, 8, 16, 32, 64])])
def test_resolutions(size, expected):
    assert resolutions(size) == expected


@pytest.mark.parametrize("size", [0, 4, 12, 63, -8])
def test_impossible_sizes(size):
    with pytest.raises(ValueError, match=f"image_size is {size}"):
        resolutions(size)


def test_channels_at():
    assert [channels_at(size, 1024, 128) for size in (4, 8, 64)] == [128, 128, 16]
    with pytest.raises(ValueError, match="channel_base of at least 256"):
        channels_at(256, 128, 64)


@pytest.mark.parametrize("network", [StyleGenerator, StyleDiscriminator])
def test_too_few_channels_for_the_size(network):
    with pytest.raises(ValueError, match="channel_base 32"):
        network(image_size=64, channel_base=32)


@pytest.mark.parametrize("wrong", [{"num_classes": 0}, {"channels": 0}])
def test_generator_needs_a_class_and_a_channel(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        StyleGenerator(**wrong)


def test_shapes_and_layers(generator):
    z, labels = torch.randn(5, 8), torch.tensor([0, 1, 2, 0, 1])
    w = generator.map_latents(z, labels)
    assert w.shape == (5, 12) and generator.num_ws == 6  # 4: conv; 8, 16: two each; and the last to_image
    image = generator.synthesize(w)
    assert image.shape == (5, 3, 16, 16) and image.dtype == torch.float32
    torch.testing.assert_close(generator.synthesize(w.unsqueeze(1).expand(-1, 6, -1)), image)
    torch.testing.assert_close(generator(z, labels, noise="const"), image)


def test_every_w_vector_matters(generator):
    ws = torch.randn(1, 6, 12)
    image = generator.synthesize(ws)
    for layer in range(6):
        changed = ws.clone()
        changed[:, layer] += 1.0
        assert not torch.allclose(generator.synthesize(changed), image), layer


def test_truncation_pulls_to_the_mean(generator):
    generator.w_avg.fill_(2.0)
    z, labels = torch.randn(4, 8), torch.zeros(4, dtype=torch.long)
    w = generator.map_latents(z, labels)
    torch.testing.assert_close(generator.map_latents(z, labels, truncation=0.25), 2.0 + 0.25 * (w - 2.0))
    torch.testing.assert_close(generator.map_latents(z, labels, truncation=0.0), torch.full((4, 12), 2.0))


def test_the_label_matters_and_the_scale_of_z_does_not(generator):
    z = torch.randn(1, 8)
    first, second = (generator.map_latents(z, torch.tensor([label])) for label in (0, 1))
    assert not torch.allclose(first, second)
    torch.testing.assert_close(generator.map_latents(z * 10, torch.tensor([0])), first, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 11), (2, 5, 12), (12,)])
def test_foreign_latents_are_refused(generator, shape):
    with pytest.raises(ValueError, match="another generator"):
        generator.synthesize(torch.zeros(shape))


def test_save_and_load_give_the_same_images(generator, tmp_path):
    path = generator.save(tmp_path / "generator.safetensors", note="tiny")
    loaded = StyleGenerator.load(path).eval()
    w = torch.randn(2, 12)
    assert torch.equal(loaded.synthesize(w), generator.synthesize(w))
    assert loaded.config == generator.config


@pytest.mark.parametrize(("count", "group"), [(4, 4), (8, 4), (6, 3), (5, 1), (1, 1)])
def test_minibatch_deviation_by_hand(count, group):
    x = torch.arange(count, dtype=torch.float32).reshape(count, 1, 1, 1).expand(count, 2, 3, 3)
    result = minibatch_deviation(x, group_size=4)
    assert result.shape == (count, 3, 3, 3) and torch.equal(result[:, :2], x)
    for i in range(count):
        members = torch.arange(i % (count // group), count, count // group, dtype=torch.float32)
        expected = (members.var(unbiased=False) + 1e-8).sqrt()
        torch.testing.assert_close(result[i, 2], expected.expand(3, 3))


def test_discriminator_gives_one_logit_an_image_and_uses_the_label():
    torch.manual_seed(0)
    network = StyleDiscriminator(channels=1, mapping_layers=2, **SMALL)
    images = torch.randn(5, 1, 16, 16)
    logits = network(images, torch.zeros(5, dtype=torch.long))
    assert logits.shape == (5,) and torch.isfinite(logits).all()
    assert not torch.allclose(logits, network(images, torch.ones(5, dtype=torch.long)))
