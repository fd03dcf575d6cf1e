"""Our generator and discriminator compute the published StyleGAN2-ADA function."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from monai_plan.__main__ import main
from monai_plan.networks.nets import (
    StyleDiscriminator,
    StyleGenerator,
    discriminator_from_published,
    discriminator_state_from_published,
    generator_from_published,
    generator_state_from_published,
    published_networks,
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


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "D."])
def test_a_discriminator_is_read_off_its_weights(reference, prefix):
    state = {f"{prefix}{name}": tensor for name, tensor in part(reference, "D.").items()}
    made = discriminator_from_published(state)
    assert made.config == {**SIZES, "mapping_layers": 8, "group_size": 4, "clamp": None}
    logits = made(reference["x"], reference["c"].argmax(1))
    assert (logits - reference["logits"].squeeze(1)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["G.synthesis.b4.const", "D.b4.out.weight"], ["generator", "discriminator"]),
        (["G_ema.synthesis.b4.const"], ["generator"]),
        (["synthesis.b4.const"], ["generator"]),
        (["b4.out.weight"], ["discriminator"]),
        (["conv1.weight"], []),
    ],
)
def test_which_networks_a_file_holds_is_told_by_its_names(names, expected):
    assert published_networks(dict.fromkeys(names, torch.zeros(1))) == expected


def test_the_averaged_generator_is_preferred(reference):
    state = {f"G.{name}": torch.zeros_like(tensor) for name, tensor in part(reference, "G.").items()}
    state |= {f"G_ema.{name}": tensor for name, tensor in part(reference, "G.").items()}
    assert torch.equal(generator_from_published(state).w_avg, reference["G.mapping.w_avg"])


@torch.no_grad()
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_converts_a_generator_from_the_command_line(reference, tmp_path, capsys, suffix):
    target = tmp_path / "generator.safetensors"
    written(part(reference, "G."), tmp_path / f"weights{suffix}")
    assert main(["convert", str(tmp_path / f"weights{suffix}"), "--output", str(target)]) == 0
    assert "generator, image_size=32" in capsys.readouterr().out
    made = StyleGenerator.load(target, image_size=32, channels=1, num_classes=2).eval()
    z, labels = reference["z"], reference["c"].argmax(1)
    for noise in ("const", "none"):
        assert (made(z, labels, noise=noise) - reference[f"image_{noise}"]).abs().max() < 1e-4
    w = made.map_latents(z, labels, truncation=0.7)
    assert (w.unsqueeze(1) - reference["ws_truncated"]).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("words", [[], ["--network", "discriminator"]])
def test_converts_a_discriminator_from_the_command_line(reference, tmp_path, capsys, words):
    """Alone in its file it is found; beside a generator it is asked for."""
    target = tmp_path / "discriminator.safetensors"
    written(reference if words else part(reference, "D."), tmp_path / "weights.safetensors")
    assert main(["convert", str(tmp_path / "weights.safetensors"), "--output", str(target), *words]) == 0
    assert "discriminator, image_size=32" in capsys.readouterr().out
    made = StyleDiscriminator.load(target, image_size=32).eval()
    logits = made(reference["x"], reference["c"].argmax(1))
    assert (logits - reference["logits"].squeeze(1)).abs().max() < 1e-4


def written(state, path):
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)


def test_what_no_weight_tells_is_taken_from_the_command_line(reference, tmp_path):
    words = ["--clamp", "256", "--network", "discriminator", "--group_size", "8"]
    assert main(["convert", str(FIXTURE), "--output", str(tmp_path / "out.safetensors"), *words]) == 0
    config = StyleDiscriminator.load(tmp_path / "out.safetensors").config
    assert (config["clamp"], config["group_size"]) == (256, 8)


def test_no_group_at_all_is_refused(reference):
    with pytest.raises(ValueError, match="group_size is 0"):
        discriminator_from_published(reference, group_size=0)


def test_a_file_with_both_gives_the_generator(tmp_path):
    assert main(["convert", str(FIXTURE), "--output", str(tmp_path / "out.safetensors")]) == 0
    assert StyleGenerator.load(tmp_path / "out.safetensors").config["image_size"] == 32


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 4, 8])
def test_any_number_of_mapping_layers(reference, layers):
    """Against the same mapping written out: normalise, concatenate, ``layers`` times leaky ReLU of a linear map."""
    state, draw = part(reference, "G."), torch.Generator().manual_seed(0)
    state = {name: tensor for name, tensor in state.items() if not name.startswith("mapping.fc")}
    for i in range(layers):
        state[f"mapping.fc{i}.weight"] = torch.randn(64, 64 if i else 128, generator=draw) * 100
        state[f"mapping.fc{i}.bias"] = torch.randn(64, generator=draw) * 10
    made = generator_from_published(state)
    assert made.config["mapping_layers"] == layers
    label = reference["c"] @ state["mapping.embed.weight"].t() / 2**0.5 + state["mapping.embed.bias"]
    x = torch.cat([row / (row.square().mean(1, keepdim=True) + 1e-8).sqrt() for row in (reference["z"], label)], dim=1)
    for i in range(layers):
        x = x @ state[f"mapping.fc{i}.weight"].t() * (0.01 / x.shape[1] ** 0.5) + 0.01 * state[f"mapping.fc{i}.bias"]
        x = torch.where(x > 0, x, 0.2 * x) * 2**0.5
    torch.testing.assert_close(made.map_latents(reference["z"], reference["c"].argmax(1)), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("G.mapping.embed.weight"), "is unconditional.*trained with labels"),
        (lambda state: state.pop("G.synthesis.b8.conv0.weight"), "do not fit.*blocks.1.up.weight"),
        (lambda state: state.update({"G.synthesis.b8.torgb.weight": torch.zeros(1, 5, 1, 1)}), "feature maps.*8: 5"),
        (lambda state: [state.pop(name) for name in list(state) if ".torgb." in name], "skip architecture.*'G_ema'"),
        (lambda state: state.clear(), "lack mapping.embed.weight.*class-conditional"),
    ],
)
def test_refuses_other_generators(reference, change, message):
    state = dict(reference)
    change(state)
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        generator_from_published(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("D.mapping.embed.weight"), "is unconditional.*trained with labels"),
        (lambda state: state.pop("D.b8.conv0.weight"), "do not fit.*blocks.2.conv0.weight"),
        (lambda state: [state.pop(name) for name in list(state) if ".skip." in name], "b8.skip.weight.*resnet"),
        (lambda state: state.pop("D.b32.fromrgb.weight"), "b32.fromrgb.weight.*resnet"),
        (lambda state: state.clear(), "lack mapping.embed.weight.*class-conditional"),
    ],
)
def test_refuses_other_discriminators(reference, change, message):
    state = dict(reference)
    change(state)
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        discriminator_from_published(state)


@pytest.mark.parametrize("content", [pickle.dumps(object), b"", b"{}"])
def test_refuses_what_is_no_state_dict(content, tmp_path, capsys):
    (tmp_path / "network.pkl").write_bytes(content)
    assert main(["convert", str(tmp_path / "network.pkl"), "--output", str(tmp_path / "out.safetensors")]) == 2
    assert "no readable weights file" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
