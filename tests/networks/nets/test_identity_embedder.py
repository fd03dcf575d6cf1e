"""The embedder: unit length, any size, file round trip."""

import pytest
import torch

from monai_plan.networks.nets import IdentityEmbedder


@pytest.mark.parametrize("channels, width, size", [(1, 8, 32), (3, 16, 48)])
def test_embeddings_have_unit_length(channels, width, size):
    embedder = IdentityEmbedder(channels, width, block_inplanes=(4, 4, 8, 8)).eval()
    embeddings = embedder(torch.rand(3, channels, size, size) * 2 - 1)
    assert embeddings.shape == (3, width)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))


def test_round_trip(tmp_path):
    embedder = IdentityEmbedder(1, 8, layers=(1, 2, 1, 1), block_inplanes=(4, 4, 8, 8)).eval()
    loaded = IdentityEmbedder.load(embedder.save(tmp_path / "embedder.safetensors"))
    images = torch.rand(2, 1, 32, 32)
    assert loaded.arguments == embedder.arguments and not loaded.training
    assert torch.equal(loaded(images), embedder(images))
