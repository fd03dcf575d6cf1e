"""The W prior: the inverse activation and energies by hand, the mean of 1, refusals, file."""

import math

import pytest
import torch
from fakes import FakeGenerator

from monai_plan.latent import LatentPrior, gaussianised
from monai_plan.networks.layers.equalized import lrelu_
from monai_plan.networks.nets import StyleGenerator
from monai_plan.utils import save_tensors

ROOT = math.sqrt(2)


class ActivatedGenerator(FakeGenerator):
    """V is Gaussian with known moments, W its leaky ReLU; the classes' means in V are 0.5 and -1.5 everywhere."""

    DEVIATIONS = torch.tensor([2.0, 1.0, 1.0, 0.5, 0.25, 0.0])

    def map_latents(self, z, labels, truncation=1.0):
        assert truncation == 1.0 and not self.training
        return ROOT * lrelu_(z * self.DEVIATIONS + 0.5 - 2.0 * labels.unsqueeze(1))


def hand_made():
    """Two classes in two dimensions: means (0, 0) and (1, -1) in V, energy ``x^2 + 4 y^2`` of the deviation."""
    return LatentPrior(torch.tensor([[0.0, 0.0], [1.0, -1.0]]), torch.diag(torch.tensor([1.0, 2.0])), torch.tensor(0.5))


def test_gaussianised_undoes_the_mapping_networks_activation():
    v = torch.tensor([-2.0, -0.1, 0.0, 0.3, 4.0])
    torch.testing.assert_close(gaussianised(ROOT * lrelu_(v.clone())), v)
    assert gaussianised(torch.tensor([ROOT, -0.2 * ROOT])).tolist() == pytest.approx([1.0, -1.0])


@pytest.mark.parametrize(
    "w, label, energy",
    [
        ([0.0, 0.0], 0, 0.0),
        ([ROOT, 0.0], 0, 1.0),  # v = (1, 0)
        ([0.0, ROOT], 0, 4.0),
        ([0.0, -0.2 * ROOT], 0, 4.0),  # v = (0, -1)
        ([-0.4 * ROOT, 3 * ROOT], 0, 4.0 + 36.0),  # v = (-2, 3)
        ([ROOT, -0.2 * ROOT], 1, 0.0),
        ([0.0, 0.0], 1, 1.0 + 4.0),
    ],
)
def test_energy_by_hand(w, label, energy):
    found = hand_made().energy(torch.tensor([w, w]), torch.tensor([label, label]))
    assert found.tolist() == pytest.approx([energy, energy], abs=1e-5)


def test_energy_pulls_back_to_the_mean():
    w = torch.tensor([[ROOT, -0.2 * ROOT]], requires_grad=True)  # v = (1, -1)
    hand_made().energy(w, torch.tensor([0])).sum().backward()
    # dv/dw is 1 / sqrt 2 on the positive half and 5 / sqrt 2 on the negative one
    assert w.grad.flatten().tolist() == pytest.approx([2 * 1 / ROOT, 2 * 4 * -1 * 5 / ROOT])


def test_fit_finds_the_moments():
    generator = ActivatedGenerator().train()
    state = torch.get_rng_state()
    prior = LatentPrior.fit(generator, samples=20000, seed=1)
    assert torch.equal(state, torch.get_rng_state()) and generator.training
    assert torch.equal(prior.whitening, LatentPrior.fit(generator, samples=20000, seed=1).whitening)
    assert not torch.equal(prior.whitening, LatentPrior.fit(generator, samples=20000, seed=2).whitening)
    torch.testing.assert_close(prior.means, torch.tensor([[0.5] * 6, [-1.5] * 6]), atol=0.05, rtol=0)
    variance = generator.DEVIATIONS.square()
    shrunk = 0.7 * variance + 0.3 * variance.mean()
    precision = torch.diag(1 / shrunk) / (variance / shrunk).sum()  # so that the mean energy is 1
    torch.testing.assert_close(prior.whitening @ prior.whitening.T, precision, atol=0.02, rtol=0.05)


def test_scale_is_the_deviation_of_w_within_a_class():
    rng = torch.Generator().manual_seed(0)
    w = torch.cat(
        [
            FakeGenerator().eval().map_latents(torch.randn(50000, 6, generator=rng), torch.full((50000,), c))
            for c in (0, 1)
        ]
    )
    prior = LatentPrior.fit(FakeGenerator(), samples=20000)
    assert float(prior.scale) == pytest.approx(1.0, abs=0.01)  # the fake's W is N(label, 1)
    assert float(w.std()) > 1.1  # with the classes' distance it would be more


def test_new_samples_have_energy_1_and_what_lies_beyond_has_more():
    generator = StyleGenerator(8, 1, 2, z_dim=32, w_dim=32, channel_base=32, channel_max=8)
    prior = LatentPrior.fit(generator, samples=2048)
    rng = torch.Generator().manual_seed(7)
    labels = torch.arange(2000) % 2
    with torch.no_grad():
        w = generator.map_latents(torch.randn(2000, 32, generator=rng), labels)
    noise = prior.scale * torch.randn(w.shape, generator=rng)
    energies = {
        "middle": prior.energy((w[:-2] + w[2:]) / 2, labels[2:]),
        "prior": prior.energy(w, labels),
        "noise": prior.energy(w + noise, labels),
        "three": prior.energy(w + 3 * noise, labels),
    }
    means = {name: float(energy.mean()) for name, energy in energies.items()}
    assert means["prior"] == pytest.approx(1.0, abs=0.05)
    assert means["middle"] < 0.9 and means["noise"] > 2 and means["three"] > 3 * means["noise"]


def test_file_round_trip_and_device(tmp_path):
    prior = LatentPrior.fit(FakeGenerator(), samples=50)
    loaded = LatentPrior.load(prior.save(tmp_path / "prior.safetensors")).to("cpu")
    for name in ("means", "whitening", "scale"):
        assert torch.equal(getattr(loaded, name), getattr(prior, name))


def broken_file(tmp_path):
    return save_tensors(tmp_path / "p.safetensors", {"means": torch.zeros(2, 3)}, schema="latent_prior")


def test_broken_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds \['means'\]"):
        LatentPrior.load(broken_file(tmp_path))
    with pytest.raises(FileNotFoundError):
        LatentPrior.load(tmp_path / "none.safetensors")


class Constant(FakeGenerator):
    """A generator whose latents are all the same number."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def map_latents(self, z, labels, truncation=1.0):
        return torch.full_like(z, self.value)


ZERO = torch.zeros(2, 2)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: LatentPrior.fit(FakeGenerator(), samples=6), "6 samples.*6 coordinates.*samples to 4096"),
        (lambda: LatentPrior.fit(FakeGenerator(), samples=0), "got 0; 4096 is usual"),
        (lambda: LatentPrior.fit(Constant(math.nan), samples=10), "vary by nan"),
        (lambda: LatentPrior.fit(Constant(1.0), samples=10), "vary by 0.0"),
        (lambda: hand_made().energy(torch.zeros(2, 3), torch.zeros(2).long()), r"\[N, 2\].*another generator"),
        (lambda: hand_made().energy(ZERO, torch.zeros(3).long()), r"got \(2, 2\) and \(3,\)"),
        (lambda: hand_made().energy(ZERO, torch.tensor([0, 2])), r"0 \.\. 2, but the prior has 2 class"),
        (lambda: hand_made().energy(ZERO, torch.tensor([-1, 0])), r"-1 \.\. 0"),
        (lambda: hand_made().energy(ZERO / 0, torch.tensor([0, 0])), "NaN.*learning rate"),
        (lambda: LatentPrior(ZERO, torch.eye(3), torch.tensor(1.0)), r"\(2, 2\), \(3, 3\), \(\)"),
        (lambda: LatentPrior(ZERO[0], torch.eye(2), torch.tensor(1.0)), "expected, got"),
        (lambda: LatentPrior(ZERO.double(), torch.eye(2), torch.tensor(1.0)), "float32"),
        (lambda: LatentPrior(ZERO / 0, torch.eye(2), torch.tensor(1.0)), "NaN"),
        (lambda: LatentPrior(ZERO, torch.eye(2), torch.tensor(0.0)), r"scale \(0.0\)"),
    ],
)
def test_errors_name_the_cause(call, words):
    with pytest.raises(ValueError, match=words):
        call()
