"""Inversion of a batch: how near it comes, when it stops, and what must not change."""

import math
from dataclasses import replace

import pytest
import torch
from fakes import FakeGenerator
from torch import nn

from monai_plan.latent import InversionOptions, LatentPrior, invert_batch
from monai_plan.latent.inversion import energy_of
from monai_plan.networks.nets import LatentEncoder, StyleGenerator

PIXELS = InversionOptions(perceptual_weight=0.0, prior_weight=0.0)
FLAT = nn.Flatten()


class Guess(nn.Module):
    """An encoder that gives what it was told."""

    def __init__(self, latents):
        super().__init__()
        self.register_buffer("latents", latents)

    def forward(self, images):
        return self.latents[: len(images)]


def samples(generator, count, seed=5, truncation=1.0):
    """Latents, labels and images of the generator."""
    labels = torch.arange(count) % 2
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    training = generator.training
    with torch.no_grad():
        latents = generator.eval().map_latents(z, labels, truncation)
        images = generator.synthesize(latents, noise="const").clamp(-1, 1)
    generator.train(training)
    return latents, labels, images


def rough(latents, seed=1):
    """Guesses at some distance from latents."""
    return Guess(latents + 0.7 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)))


def pixel_errors(generator, latents, images):
    with torch.no_grad():
        return (generator.eval().synthesize(latents, noise="const").clamp(-1, 1) - images).square().mean(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def fake():
    generator = FakeGenerator(gain=0.3).eval()
    return generator, LatentPrior.fit(generator)


@pytest.fixture(scope="module")
def style():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = StyleGenerator(16, 1, 2, z_dim=16, w_dim=16, channel_base=128, channel_max=16).eval()
        encoder = LatentEncoder(16, 1, block_inplanes=(4, 4, 8, 8)).eval()
    encoder.standardise(samples(generator, 100)[0])
    return generator, encoder, LatentPrior.fit(generator, samples=1000)


def test_an_image_of_the_generator_is_found_again(style):
    generator, encoder, prior = style
    latents, labels, images = samples(generator, 4)
    found = invert_batch(images, labels, generator, FLAT, encoder, prior, InversionOptions(perceptual_weight=0.001))
    with torch.no_grad():
        guess = encoder(images)
    before, after = (pixel_errors(generator, w, images) for w in (guess, found.latents))
    assert (after < 0.05 * before).all() and float(before.min()) > 0.01
    assert ((found.latents - latents).norm(dim=1) < (guess - latents).norm(dim=1)).all()
    torch.testing.assert_close(found.pixel_error, after)
    torch.testing.assert_close(found.perceptual_error, after * 16 * 16, rtol=1e-4, atol=1e-6)
    assert found.latents.shape == (4, 16) and found.steps.dtype == torch.int64


def test_w_plus_comes_nearer_to_an_image_that_is_none_of_the_generators(style):
    generator, encoder, prior = style
    ramp = torch.linspace(-1, 1, 16)
    images = torch.stack([ramp.expand(1, 16, 16), (ramp[:, None] * ramp)[None]])
    options = replace(PIXELS, iterations=80, jitter=0.0)
    labels = torch.tensor([0, 1])
    narrow, wide = (
        invert_batch(images, labels, generator, FLAT, encoder, prior, replace(options, space=space))
        for space in ("w", "w+")
    )
    assert wide.latents.shape == (2, generator.num_ws, 16)
    assert (wide.pixel_error < 0.9 * narrow.pixel_error).all()
    assert (wide.latents - wide.latents[:, :1]).abs().max() > 0.01
    with torch.no_grad():
        shown = generator.synthesize(wide.latents, noise="const").clamp(-1, 1)
    torch.testing.assert_close((shown - images).square().mean(dim=(1, 2, 3)), wide.pixel_error)


@pytest.mark.parametrize("rate", [0.2, 1e4])
def test_nothing_is_worse_than_the_guess(fake, rate):
    generator, prior = fake
    images = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(2)) * 2 - 1
    latents, labels, _ = samples(generator, 12)
    options = replace(PIXELS, learning_rate=rate, iterations=40)
    found = invert_batch(images, labels, generator, FLAT, rough(latents), prior, options)
    before = pixel_errors(generator, rough(latents).latents, images)
    assert (found.pixel_error <= before).all()
    torch.testing.assert_close(found.pixel_error, pixel_errors(generator, found.latents, images))
    torch.testing.assert_close(found.perceptual_error, 16 * found.pixel_error)
    kept = (found.latents == rough(latents).latents).all(dim=1)
    assert kept.any() == (rate == 1e4)  # such steps lead nowhere


def test_a_perfect_image_is_done_at_once(fake):
    generator, prior = fake
    latents, labels, images = samples(generator, 4)
    guess = latents.clone()
    guess[1::2] = rough(latents).latents[1::2]
    found = invert_batch(images, labels, generator, FLAT, Guess(guess), prior, PIXELS)
    # a quarter of 150 steps, rounded, with noise, and the patience of 20
    assert found.steps[::2].tolist() == [58, 58] and (found.steps[1::2] > 58).all()
    assert torch.equal(found.latents[::2], latents[::2])
    calm = invert_batch(images, labels, generator, FLAT, Guess(guess), prior, replace(PIXELS, jitter=0.0, patience=5))
    assert calm.steps[::2].tolist() == [5, 5]


def test_tolerance_stops_what_hardly_improves(fake):
    generator, prior = fake
    latents, labels, images = samples(generator, 6)
    steps = []
    for tolerance in (0.0, 0.02, 0.5):
        options = replace(PIXELS, jitter=0.0, patience=5, tolerance=tolerance)
        steps.append(invert_batch(images, labels, generator, FLAT, rough(latents), prior, options).steps)
    assert (steps[0] >= steps[1]).all() and (steps[1] >= steps[2]).all()
    assert steps[0].sum() > 1.2 * steps[2].sum()


def test_every_step_counts(fake):
    generator, prior = fake
    latents, labels, images = samples(generator, 6)
    before = pixel_errors(generator, rough(latents).latents, images)
    single = replace(PIXELS, jitter=0.0, learning_rate=0.02, iterations=1)
    found = invert_batch(images, labels, generator, FLAT, rough(latents), prior, single)
    assert (found.pixel_error < before).all() and found.steps.tolist() == [1] * 6
    # Adam's first step is the learning rate's length along every axis
    moved = (found.latents - rough(latents).latents).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.02 * float(prior.scale)), rtol=1e-3, atol=1e-5)
    hasty = invert_batch(images, labels, generator, FLAT, rough(latents), prior, replace(PIXELS, jitter=0, patience=1))
    assert (hasty.pixel_error < 0.9 * before).all() and (hasty.steps > 1).all()


def test_images_do_not_depend_on_their_neighbours(fake):
    generator, prior = fake
    latents, labels, images = samples(generator, 5)
    guess = rough(latents).latents
    other, other_labels, others = samples(generator, 5, seed=78, truncation=0.3)  # their energies are below 1
    options = InversionOptions(iterations=60, prior_weight=0.5)
    own = invert_batch(images, labels, generator, FLAT, Guess(guess), prior, options)
    mixed = [torch.cat([b[:3], a[3:]]) for a, b in ((images, others), (labels, other_labels), (guess, other))]
    again = invert_batch(mixed[0], mixed[1], generator, FLAT, Guess(mixed[2]), prior, options)
    assert again.steps.tolist() == [35, 35, 35, 60, 60]  # those that began perfect left the batch early
    torch.testing.assert_close(again.latents[3:], own.latents[3:], atol=1e-4, rtol=1e-3)
    swapped = invert_batch(images, 1 - labels, generator, FLAT, Guess(guess), prior, options)
    assert not torch.allclose(swapped.latents[3:], own.latents[3:], atol=0.01)  # the class is heeded


def test_prior_keeps_latents_likely(fake):
    generator, prior = fake
    images = torch.where(torch.arange(16).view(1, 1, 4, 4) % 2 == 0, 1.0, -1.0).repeat(3, 1, 1, 1)
    latents, labels, _ = samples(generator, 3)
    energy = []
    for weight in (0.0, 0.02, 1.0):
        options = replace(PIXELS, prior_weight=weight)
        found = invert_batch(images, labels, generator, FLAT, Guess(latents), prior, options)
        energy.append(prior.energy(found.latents, labels))
    assert (energy[0] > 1.5 * energy[1]).all() and (energy[1] > energy[2]).all()
    assert float(energy[0].min()) > 2 and float(energy[2].max()) < 1.5


def test_energy_of_layers():
    prior = LatentPrior(torch.zeros(1, 2), torch.eye(2), torch.tensor(0.5))
    labels = torch.tensor([0])
    w = torch.tensor([[math.sqrt(2), 2 * math.sqrt(2)]])  # v = (1, 2)
    assert energy_of(w, labels, prior).tolist() == pytest.approx([5])
    same = w.unsqueeze(1).repeat(1, 4, 1)
    assert energy_of(same, labels, prior).tolist() == pytest.approx([5])
    same[:, 0], same[:, 1] = same[:, 0] + 0.3, same[:, 1] - 0.3  # half of the layers lie 0.3 from the mean
    assert energy_of(same, labels, prior).tolist() == pytest.approx([5 + 0.5 * 0.09 / 0.25])


def test_networks_and_the_random_state_stay_as_they_were():
    generator = FakeGenerator(gain=0.3).train()
    generator.dropout.p = 0.9
    prior = LatentPrior.fit(generator)
    latents, labels, images = samples(generator, 5)
    features = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(0.5)).train()
    encoder = LatentEncoder(6, block_inplanes=(4, 4, 8, 8)).train()
    encoder.network.bn1.eval()
    features[1].bias.requires_grad_(False)
    networks = (generator, features, encoder)
    weights = [{name: tensor.clone() for name, tensor in network.state_dict().items()} for network in networks]
    modes = [[module.training for module in network.modules()] for network in networks]
    gradients = [[parameter.requires_grad for parameter in network.parameters()] for network in networks]
    state = torch.get_rng_state()
    options = InversionOptions(iterations=12)
    found = invert_batch(images, labels, generator, features, encoder, prior, options)
    assert torch.equal(state, torch.get_rng_state())
    for network, before in zip(networks, weights, strict=True):
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())
    assert modes == [[module.training for module in network.modules()] for network in networks]
    assert gradients == [[parameter.requires_grad for parameter in network.parameters()] for network in networks]
    calm = invert_batch(images, labels, generator.eval(), features.eval(), encoder.eval(), prior, options)
    assert torch.equal(found.latents, calm.latents) and not found.latents.requires_grad
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        inside = invert_batch(images, labels, generator, features, encoder, prior, options)
    assert torch.equal(found.latents, inside.latents)


def test_seeds(fake):
    generator, prior = fake
    latents, labels, images = samples(generator, 3)
    options = replace(PIXELS, iterations=20)
    runs = [invert_batch(images, labels, generator, FLAT, rough(latents), prior, options, seed) for seed in (1, 1, 2)]
    assert torch.equal(runs[0].latents, runs[1].latents) and not torch.equal(runs[0].latents, runs[2].latents)


class Steep(nn.Module):
    """The pixels as features; without a gradient for images whose first pixel is dark, as LPIPS where all is 0."""

    def forward(self, images):
        flat = images.flatten(1)
        bright = (flat[:, :1] >= 0).float()
        return flat + (0 * flat + bright).sqrt() - bright


def test_an_image_without_a_gradient_leaves_the_others_alone(fake):
    generator, prior = fake
    latents, labels, images = samples(generator, 8)
    options = InversionOptions(iterations=10, jitter=0.0, learning_rate=0.02)
    found, plain = (
        invert_batch(images, labels, generator, features, rough(latents), prior, options)
        for features in (Steep(), FLAT)
    )
    dark = (images[:, 0, 0, 0] < -0.2) & (rough(latents).latents @ generator.weight[0] < -0.2)
    bright = (images[:, 0, 0, 0] > 0.2) & (rough(latents).latents @ generator.weight[0] > 0.2)
    assert dark.any() and bright.any()
    assert torch.equal(found.latents[dark], rough(latents).latents[dark])
    torch.testing.assert_close(found.latents[bright], plain.latents[bright])
    assert (plain.pixel_error[dark] < found.pixel_error[dark]).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_images_and_prior_on_the_cpu_with_networks_on_a_gpu(style):
    generator, encoder, prior = style
    _, labels, images = samples(generator, 3)
    networks = generator.to("cuda"), FLAT, encoder.to("cuda")
    try:
        found = invert_batch(images, labels, *networks, prior, replace(PIXELS, iterations=5))
    finally:
        generator.to("cpu"), encoder.to("cpu")
    assert found.latents.device.type == found.steps.device.type == "cpu"


BATCH = {"images": torch.zeros(2, 1, 4, 4), "labels": torch.tensor([0, 1])}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"images": torch.zeros(2, 1, 8, 8)}, r"\(2, 1, 8, 8\) and \(2,\); read them .* image_size=4"),
        ({"images": torch.zeros(2, 3, 4, 4)}, r"images \[N, 1, 4, 4\]"),
        ({"images": torch.zeros(1, 4, 4)}, "expected"),
        ({"images": torch.zeros(0, 1, 4, 4), "labels": torch.zeros(0).long()}, "N >= 1"),
        ({"labels": torch.tensor([0])}, r"and \(1,\)"),
        ({"labels": torch.tensor([0, 2])}, "0 .. 2, but the prior has 2 class"),
        ({"labels": torch.tensor([-1, 0])}, "-1 .. 0"),
        ({"images": torch.full((2, 1, 4, 4), math.nan)}, r"nan .. nan and must lie in \[-1, 1\]"),
        ({"images": torch.full((2, 1, 4, 4), math.inf)}, "inf"),
        ({"images": torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)}, "255 .. 255"),
        ({"encoder": Guess(torch.tensor([[0.0] * 6, [math.nan] * 6]))}, "of 1 of 2 images the encoder's guess"),
        ({"features": lambda images: images.flatten(1) * math.nan}, "of 2 of 2 images the loss .* perceptual features"),
        ({"prior": LatentPrior(torch.zeros(2, 5), torch.eye(5), torch.tensor(1.0))}, "another generator"),
    ],
)
def test_batches_that_cannot_be_inverted(change, words, fake):
    generator, prior = fake
    arguments = {**BATCH, "generator": generator, "features": FLAT, "encoder": Guess(torch.zeros(2, 6)), "prior": prior}
    with pytest.raises(ValueError, match=words):
        invert_batch(**{**arguments, **change})


def test_encoder_of_another_generator(style):
    generator, _, prior = style
    _, labels, images = samples(generator, 2)
    with pytest.raises(ValueError, match="may belong to another generator"):
        invert_batch(images, labels, generator, FLAT, Guess(torch.zeros(2, 17)), prior)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"space": "z"}, r"one of \('w', 'w\+'\), got 'z'"),
        ({"iterations": 0}, "'iterations' is 0"),
        ({"iterations": 10.5}, "'iterations' is 10.5"),
        ({"patience": 0}, "'patience' is 0"),
        ({"learning_rate": 0.0}, "above 0 and finite, got 0.0"),
        ({"learning_rate": math.nan}, "got nan"),
        *(({name: -1.0}, "weights, jitter") for name in ("perceptual_weight", "pixel_weight", "prior_weight")),
        ({"prior_weight": math.inf}, "finite"),
        ({"jitter": math.nan}, "weights, jitter"),
        ({"tolerance": 1.0}, "tolerance < 1"),
        ({"tolerance": -0.1}, "tolerance"),
        ({"perceptual_weight": 0, "pixel_weight": 0}, "both 0"),
    ],
)
def test_options_out_of_range(options, words):
    with pytest.raises(ValueError, match=words):
        InversionOptions(**options)
