"""The walk's loss terms against values worked out by hand."""

import math

import pytest
import torch

from monai_plan.losses import identity_hinge, identity_uniformity, label_agreement, spring_energy


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


GALLERY = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
"""Similarities of [1, 0] to it: 1, 0.6, 0, -1; of [0, 1]: 0, 0.8, 1, 0; of [0, -1]: 0, -0.8, -1, 0."""


@pytest.mark.parametrize("rows_per_chunk", [1, 3, 100])
@pytest.mark.parametrize(
    "limit, nearest, expected",
    [
        (0.5, 1, [0.5, 0.5, 0.0]),
        (0.5, 2, [(0.5 + 0.1) / 2, (0.5 + 0.3) / 2, 0.0]),
        (0.5, 4, [(0.5 + 0.1) / 4, (0.5 + 0.3) / 4, 0.0]),  # rows below the limit do not pay for those above
        (-1.0, 1, [2.0, 2.0, 1.0]),
        (-0.5, 3, [(1.5 + 1.1 + 0.5) / 3, (1.5 + 1.3 + 0.5) / 3, (0.5 + 0.5 + 0.0) / 3]),
    ],
)
def test_identity_hinge_by_hand(limit, nearest, expected, rows_per_chunk):
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    hinge = identity_hinge(embeddings, GALLERY, limit, nearest, rows_per_chunk=rows_per_chunk)
    assert hinge.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("nearest, rows_per_chunk", [(1, 2), (3, 2), (3, 100), (7, 4)])
def test_identity_hinge_finds_the_rows_that_a_full_sort_finds(nearest, rows_per_chunk):
    rng = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(5, 6, generator=rng, dtype=torch.float64), dim=1)
    gallery = torch.nn.functional.normalize(torch.randn(23, 6, generator=rng, dtype=torch.float64), dim=1)
    expected = (embeddings @ gallery.T).sort(dim=1, descending=True).values[:, :nearest].sub(0.1).relu().mean(dim=1)
    hinge = identity_hinge(embeddings, gallery, 0.1, nearest, rows_per_chunk)
    torch.testing.assert_close(hinge, expected)
    assert torch.autograd.gradcheck(
        lambda rows: identity_hinge(rows, gallery, 0.1, nearest, rows_per_chunk), embeddings.requires_grad_(True)
    )


def test_a_step_down_the_identity_hinge_leaves_the_nearest_patient():
    embedding = torch.tensor([[0.8, -0.6]], requires_grad=True)
    identity_hinge(embedding, GALLERY, 0.5).sum().backward()
    assert embedding.grad.tolist() == [[1.0, 0.0]]  # the gallery row itself
    new_patient = torch.cat([GALLERY, embedding.detach()])
    assert identity_hinge(embedding, new_patient, 0.5).item() == pytest.approx(0.5)  # was 0.3, nothing retrained


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
        (lambda: identity_hinge(torch.zeros(2), GALLERY, 0.5), r"\[N, E\].*got \(2,\)"),
        (lambda: identity_hinge(torch.eye(3), GALLERY, 0.5), r"\(3, 3\) and \(4, 2\)"),
        (lambda: identity_hinge(torch.eye(2), GALLERY[:0], 0.5), r"0 row\(s\).*protects nobody"),
        (lambda: identity_hinge(torch.eye(2), GALLERY, 0.5, nearest=5), "nearest is 5.*4 row"),
        (lambda: identity_hinge(torch.eye(2), GALLERY, 0.5, nearest=0), "nearest is 0"),
        (lambda: identity_hinge(torch.eye(2), GALLERY, 1.2), r"got 1.2.*1 - d\*\*2 / 2"),
        (lambda: identity_hinge(3 * torch.eye(2), GALLERY, 0.5), "2 of 2 rows of embeddings.* 3 long"),
        (lambda: identity_hinge(torch.eye(2) * math.nan, GALLERY, 0.5), "nan long"),
        (lambda: identity_hinge(torch.eye(2), 2 * GALLERY, 0.5), "rows of the gallery.* 2 long"),
        (lambda: label_agreement(torch.zeros(2, 3), torch.tensor([0, 3])), "3 classes"),
        (lambda: label_agreement(torch.zeros(2, 3), torch.tensor([-1, 0])), "-1"),
        (lambda: label_agreement(torch.zeros(2, 3), torch.tensor([0])), "labels"),
    ],
)
def test_errors_name_the_cause(call, words):
    with pytest.raises(ValueError, match=words):
        call()
