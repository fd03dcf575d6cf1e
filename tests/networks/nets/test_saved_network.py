"""Networks come back from their files as they were made; other files are refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from monai_plan.networks.nets import StyleDiscriminator, StyleGenerator

SMALL = {"image_size": 8, "channels": 3, "num_classes": 3, "channel_base": 64, "channel_max": 8, "mapping_layers": 1}


@pytest.mark.parametrize("network", [StyleGenerator, StyleDiscriminator])
def test_weights_and_arguments_come_back(network, tmp_path):
    made = network(clamp=256.0, **SMALL)
    loaded = network.load(made.save(tmp_path / "network.safetensors", note="tiny"), image_size=8, num_classes=3)
    assert type(loaded) is network and loaded.config == made.config and loaded.config["clamp"] == 256.0
    state = made.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())


@pytest.mark.parametrize("network", [StyleGenerator, StyleDiscriminator])
def test_config_names_every_argument_of_the_constructor(network):
    assert network(**network().config).config == network().config
    assert set(network().config) == set(network.__init__.__annotations__) - {"return"}


@pytest.mark.parametrize("network", [StyleGenerator, StyleDiscriminator])
def test_another_size_than_asked_for(network, tmp_path):
    path = network(**SMALL).save(tmp_path / "network.safetensors")
    with pytest.raises(ValueError, match=f"the {network.schema} in .* has image_size=8, and image_size=64 is asked"):
        network.load(path, image_size=64)


def test_swapped_files(tmp_path):
    path = StyleDiscriminator(**SMALL).save(tmp_path / "network.safetensors")
    with pytest.raises(ValueError, match="holds 'style_discriminator', and 'style_generator' is needed"):
        StyleGenerator.load(path)


def test_several_threads_may_load_at_once(tmp_path):
    path = StyleGenerator(**SMALL).save(tmp_path / "network.safetensors")
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: StyleGenerator.load(path), range(12)))
    assert all(network.config == loaded[0].config for network in loaded)
