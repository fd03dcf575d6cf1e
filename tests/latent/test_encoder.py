"""The encoder's training: what it learns of a tiny generator, repeatability, refusals, and the file it is kept in."""

import importlib
import logging
import math

import pytest
import torch
from fakes import FakeGenerator

from monai_plan.latent import fit_encoder, saved_encoder
from monai_plan.networks.nets import LatentEncoder

MODULE = importlib.import_module("monai_plan.latent.encoder")
TRAINING = importlib.import_module("monai_plan.latent.small_training")
TINY = {"block_inplanes": (8, 8, 16, 16), "progress": False}
BRIEF = {**TINY, "iterations": 2, "batch_size": 4}


def state_of(encoder):
    return torch.cat([tensor.flatten().double() for tensor in encoder.state_dict().values()])


def test_learns_the_latents_of_unseen_samples():
    generator = FakeGenerator(gain=0.3).train()  # its dropout must be off
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    state = torch.get_rng_state()
    encoder = fit_encoder(generator, 100, learning_rate=1e-2, **TINY)
    assert torch.equal(state, torch.get_rng_state())
    assert generator.training and generator.dropout.training and not encoder.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())
    assert generator.weight.grad is None and generator.weight.requires_grad
    generator.eval()
    rng = torch.Generator().manual_seed(5)
    latents = generator.map_latents(torch.randn(400, 6, generator=rng), torch.arange(400) % 2)
    with torch.no_grad():
        found = encoder(generator.synthesize(latents).clamp(-1, 1))
    error = (found - latents).square().mean(dim=0) / latents.var(dim=0)
    assert float(error.mean()) < 0.7 and float(error.max()) < 0.9  # the mean of all latents would have 1


def test_outputs_have_the_latents_scale():
    encoder = fit_encoder(FakeGenerator(), **BRIEF)
    # half N(0, 1), half N(1, 1)
    torch.testing.assert_close(encoder.mean, torch.full((6,), 0.5), atol=0.1, rtol=0)
    torch.testing.assert_close(encoder.deviation, torch.full((6,), math.sqrt(1.25)), atol=0.1, rtol=0)


def test_equal_seeds_give_equal_encoders():
    encoders = [fit_encoder(FakeGenerator(), seed=seed, **BRIEF) for seed in (1, 1, 2)]
    assert torch.equal(state_of(encoders[0]), state_of(encoders[1]))
    assert not torch.allclose(state_of(encoders[0]), state_of(encoders[2]))


def test_trains_without_tqdm(monkeypatch):
    monkeypatch.setattr(TRAINING, "has_tqdm", False)
    monkeypatch.setattr(TRAINING, "trange", None)
    assert fit_encoder(FakeGenerator(), **{**BRIEF, "progress": True}).config["w_dim"] == 6


class Broken(FakeGenerator):
    """NaN latents, or NaN images."""

    def __init__(self, latents):
        super().__init__()
        self.latents = latents

    def map_latents(self, z, labels, truncation=1.0):
        return z * torch.nan if self.latents else z

    def synthesize(self, w, noise="const", rng=None):
        return super().synthesize(w) * torch.nan


@pytest.mark.parametrize(
    "generator, options, words",
    [
        (FakeGenerator(), {"iterations": 0}, "'iterations' is 0"),
        (FakeGenerator(), {"iterations": 2.5}, "'iterations' is 2.5"),
        (FakeGenerator(), {"batch_size": 1}, "'batch_size' is 1, and must be a whole number from 2 on"),
        (FakeGenerator(), {"learning_rate": -1.0}, "learning rate"),
        (FakeGenerator(), {"learning_rate": 1e30}, "lower its learning_rate"),
        (FakeGenerator(), {"layers": (1, 1)}, "four stages"),
        (Broken(latents=True), {}, "generator's latents hold NaN"),
        (Broken(latents=False), {}, "loss is nan.*images are not finite"),
    ],
)
def test_refuses(generator, options, words):
    with pytest.raises(ValueError, match=words):
        fit_encoder(generator, **{**BRIEF, **options})


@pytest.fixture
def trainings(monkeypatch):
    """The arguments of every training."""
    seen = []

    def recorded(generator, **options):
        seen.append(options)
        return fit_encoder(generator, **options)

    monkeypatch.setattr(MODULE, "fit_encoder", recorded)
    return seen


def test_saved_encoder_is_trained_once(trainings, tmp_path):
    path = tmp_path / "new folder" / "encoder.safetensors"
    first = saved_encoder(path, FakeGenerator(), **BRIEF)
    second = saved_encoder(path, FakeGenerator(), **BRIEF)
    assert trainings == [BRIEF] and not second.training
    assert torch.equal(state_of(first), state_of(second))


def test_saved_encoder_of_another_generator_or_training_is_replaced(trainings, tmp_path):
    path = tmp_path / "encoder.safetensors"
    saved_encoder(path, FakeGenerator(), **BRIEF)
    saved_encoder(path, FakeGenerator(seed=1), **BRIEF)
    last = saved_encoder(path, FakeGenerator(seed=1), **BRIEF, seed=3)
    assert len(trainings) == 3
    assert torch.equal(state_of(LatentEncoder.load(path)), state_of(last))


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, None], ids=["empty", "foreign", "truncated"])
def test_saved_encoder_that_is_broken_is_replaced(trainings, tmp_path, caplog, content):
    path = tmp_path / "encoder.safetensors"
    saved_encoder(path, FakeGenerator(), **BRIEF)
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    with caplog.at_level(logging.WARNING):
        saved_encoder(path, FakeGenerator(), **BRIEF)
    assert len(trainings) == 2 and "trained anew" in caplog.text
    LatentEncoder.load(path)


def test_unwritable_folder_is_found_before_the_training(trainings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        saved_encoder(tmp_path / "file" / "encoder.safetensors", FakeGenerator(), **BRIEF)
    assert not trainings
