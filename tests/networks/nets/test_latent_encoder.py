"""The encoder network: shapes, scale of its outputs, file, refusals."""

import pytest
import torch

from monai_plan.networks.nets import LatentEncoder, StyleGenerator

TINY = {"layers": (1, 1, 1, 1), "block_inplanes": (4, 4, 8, 8)}


def images_of(channels, size, count=3):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("channels, size, w_dim", [(1, 32, 16), (3, 64, 5), (1, 8, 7)])
def test_images_of_any_size_and_colour_to_latents(channels, size, w_dim):
    encoder = LatentEncoder(w_dim, channels, **TINY).eval()
    found = encoder(images_of(channels, size))
    assert found.shape == (3, w_dim) and found.dtype == torch.float32
    assert not torch.allclose(found[0], found[1])


def test_standardise_sets_the_scale_of_the_outputs():
    encoder = LatentEncoder(3, **TINY).eval()
    images = images_of(1, 16)
    raw = encoder(images)  # mean 0 and deviation 1 unless told
    # means 2, 2, 5; deviations sqrt(2), sqrt(8) and 0, which becomes 1e-6
    encoder.standardise(torch.tensor([[1.0, 0.0, 5.0], [3.0, 4.0, 5.0]], dtype=torch.float64))
    expected = raw * torch.tensor([2**0.5, 8**0.5, 1e-6]) + torch.tensor([2.0, 2.0, 5.0])
    torch.testing.assert_close(encoder(images), expected)


def test_file_keeps_weights_scale_and_arguments(tmp_path):
    encoder = LatentEncoder(6, 3, **TINY).train()
    encoder(images_of(3, 32))  # moves the running statistics
    encoder.standardise(torch.randn(10, 6, generator=torch.Generator().manual_seed(1)))
    loaded = LatentEncoder.load(encoder.save(tmp_path / "encoder.safetensors"), w_dim=6)
    assert loaded.config == encoder.config == {"w_dim": 6, "channels": 3, **{k: list(v) for k, v in TINY.items()}}
    images = images_of(3, 32)
    assert torch.equal(loaded.eval()(images), encoder.eval()(images))


def test_other_files_and_sizes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has w_dim=6, and w_dim=7"):
        LatentEncoder.load(LatentEncoder(6, **TINY).save(tmp_path / "encoder.safetensors"), w_dim=7)
    generator = StyleGenerator(8, 1, 2, 8, 8, channel_base=32, channel_max=4)
    with pytest.raises(ValueError, match="'style_generator', and 'latent_encoder' is needed"):
        LatentEncoder.load(generator.save(tmp_path / "generator.safetensors"))


@pytest.mark.parametrize(
    "arguments",
    [(0,), (4, 0), (4, 1, (1, 1, 1)), (4, 1, (1, 1, 1, 0)), (4, 1, (1, 1, 1, 1), (8, 8)), (4, 1, (1,) * 4, (8,) * 5)],
)
def test_impossible_sizes(arguments):
    with pytest.raises(ValueError, match="four stages must be at least 1"):
        LatentEncoder(*arguments)
