"""Our generator and discriminator compute the published StyleGAN2-ADA function."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from monai_plan.__main__ import main
from monai_plan.networks.nets import (
    StyleDiscriminator,
    StyleGenerator,
    discriminator_state_from_published,
    generator_from_published,
    generator_state_from_published,
)

FIXTURE = (
    Path(os.environ.get("MONAI_PLAN_FIXTURES", Path(__file__).parents[4] / "shared" / "fixtures"))
    / "stylegan2ada_reference.safetensors"
)
pytestmark = pytest.mark.skipif(not FIXTURE.is_file(), reason="the published reference outputs are not at hand")
SIZES = {"image_size": 32, "channels": 1, "num_classes": 2, "channel_base": 1024, "channel_max": 64}


@pytest.fixture(scope="module")
def reference():
    return load_file(FIXTURE)


def part(reference, prefix):
    return {name[2:]: tensor for name, tensor in reference.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def generator(reference):
    network = StyleGenerator(z_dim=64, w_dim=64, mapping_layers=2, **SIZES).eval()
    network.load_state_dict(generator_state_from_published(part(reference, "G.")))
    return network


@torch.no_grad()
@pytest.mark.parametrize(("truncation", "expected"), [(1.0, "ws"), (0.7, "ws_truncated")])
def test_mapping(reference, generator, truncation, expected):
    w = generator.map_latents(reference["z"], reference["c"].argmax(1), truncation)
    assert reference[expected].shape[1] == generator.num_ws
    assert (w.unsqueeze(1) - reference[expected]).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("noise", ["const", "none"])
def test_synthesis(reference, generator, noise):
    images = generator.synthesize(reference["ws"], noise=noise)
    assert (images - reference[f"image_{noise}"]).abs().max() < 1e-4


@torch.no_grad()
def test_discriminator(reference):
    network = StyleDiscriminator(**SIZES).eval()
    network.load_state_dict(discriminator_state_from_published(part(reference, "D."), 32))
    logits = network(reference["x"], reference["c"].argmax(1))
    assert (logits - reference["logits"].squeeze(1)).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "G.", "G_ema."])
def test_sizes_are_read_off_the_weights(reference, generator, prefix):
    state = {f"{prefix}{name}": tensor for name, tensor in part(reference, "G.").items()}
    made = generator_from_published(state)
    assert made.config == generator.config
    assert torch.equal(made.synthesize(reference["ws"]), generator.synthesize(reference["ws"]))


def test_converts_from_the_command_line(reference, generator, tmp_path, capsys):
    torch.save(part(reference, "G."), tmp_path / "weights.pt")
    assert main(["convert", str(tmp_path / "weights.pt"), "--output", str(tmp_path / "generator.safetensors")]) == 0
    assert "image_size=32" in capsys.readouterr().out
    made = StyleGenerator.load(tmp_path / "generator.safetensors")
    assert torch.equal(made.synthesize(reference["ws"]), generator.synthesize(reference["ws"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("mapping.embed.weight"), "lack mapping.embed.weight.*class-conditional"),
        (lambda state: state.pop("synthesis.b8.conv0.weight"), "do not fit.*blocks.1.up.weight"),
        (lambda state: state.clear(), "lack mapping.embed.weight"),
    ],
)
def test_refuses_other_weights(reference, change, message):
    state = part(reference, "G.")
    change(state)
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        generator_from_published(state)


@pytest.mark.parametrize("content", [pickle.dumps(object), b"", b"{}"])
def test_refuses_what_is_no_state_dict(content, tmp_path, capsys):
    (tmp_path / "network.pkl").write_bytes(content)
    assert main(["convert", str(tmp_path / "network.pkl"), "--output", str(tmp_path / "out.safetensors")]) == 2
    assert "no readable weights file" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
