"""The walk's loss terms against values worked out by hand."""

import math

import pytest
import torch

from monai_plan.losses import identity_uniformity, label_agreement, spring_energy


@pytest.mark.parametrize(
    "path, energy",
    [
        ([[0.0, 0.0], [3.0, 4.0]], 25.0),
        ([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]], 2.0),  # the line: 2^2 / 2
        ([[0.0, 0.0], [0.0, 0.0], [2.0, 0.0]], 4.0),  # unequal steps cost more
        ([[1.0, 1.0], [1.0, 2.0], [3.0, 2.0], [3.0, 5.0]], 1 + 4 + 9.0),
    ],
)
def test_spring_energy_of_known_paths(path, energy):
    assert spring_energy(torch.tensor([path, path])).tolist() == [energy, energy]


@pytest.mark.parametrize(
    "probabilities, divergence",
    [
        ([0.25] * 4, 0.0),
        ([0.5, 0.5], 0.0),
        ([0.8, 0.2], 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)),
        ([0.7, 0.2, 0.1], sum(math.log(1 / 3 / q) / 3 for q in (0.7, 0.2, 0.1))),
    ],
)
def test_identity_uniformity_is_kl_from_uniform(probabilities, divergence):
    logits = torch.tensor([probabilities]).log() + 5.0  # a constant shift changes nothing
    assert identity_uniformity(logits).item() == pytest.approx(divergence, abs=1e-6)


def test_label_agreement_is_cross_entropy_per_row():
    logits = torch.tensor([[0.9, 0.1], [0.3, 0.7]]).log()
    expected = [-math.log(0.9), -math.log(0.3)]
    assert label_agreement(logits, torch.tensor([0, 0])).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: spring_energy(torch.zeros(4, 3)), "P, T, D"),
        (lambda: spring_energy(torch.zeros(1, 1, 3)), "T >= 2"),
        (lambda: identity_uniformity(torch.zeros(5, 1)), "one identity"),
        (lambda: label_agreement(torch.zeros(2, 3), torch.tensor([0, 3])), "3 classes"),
        (lambda: label_agreement(torch.zeros(2, 3), torch.tensor([-1, 0])), "-1"),
        (lambda: label_agreement(torch.zeros(2, 3), torch.tensor([0])), "labels"),
    ],
)
def test_errors_name_the_cause(call, words):
    with pytest.raises(ValueError, match=words):
        call()
