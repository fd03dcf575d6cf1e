"""Centroids drawn apart: by hand, and what stays as it was."""

import math

import pytest
import torch

from monai_plan.latent import AnchorSet, PatientLatents, group_centroids, group_patients, spread_centroids


def patients_at(points, labels):
    return PatientLatents(torch.tensor(points), torch.tensor(labels), tuple(f"p{row}" for row in range(len(points))))


def test_by_hand():
    # class 0: the mean is (2, 0), patients lie 3, 1, 1 and 3 from it, centroids 2 and 2: sqrt(5) / 2
    # class 1: on one point already
    points = [[-1.0, 0.0], [1.0, 0.0], [3.0, 0.0], [5.0, 0.0], [7.0, 7.0], [7.0, 7.0]]
    patients = patients_at(points, [0, 0, 0, 0, 1, 1])
    centroids = AnchorSet(
        torch.tensor([[0.0, 0.0], [4.0, 0.0], [7.0, 7.0]]),
        torch.tensor([0, 0, 1]),
        "k_same",
        {"k": 2, "ids": [0, 1, 2]},
    )
    spread = spread_centroids(centroids, patients)
    root = math.sqrt(5)
    torch.testing.assert_close(spread.latents, torch.tensor([[2 - root, 0.0], [2 + root, 0.0], [7.0, 7.0]]))
    assert spread.meta == {"k": 2, "ids": [0, 1, 2], "spread": {"0": pytest.approx(root / 2), "1": 1.0}}
    assert spread.labels.tolist() == [0, 0, 1] and spread.origin == "k_same"
    assert centroids.latents[0, 0] == 0 and "spread" not in centroids.meta, "the centroids are left alone"


@pytest.mark.parametrize("k", [2, 5, 12])
def test_anchors_vary_as_patients_do(k):
    rng = torch.Generator().manual_seed(k)
    labels = torch.arange(97) % 2
    patients = patients_at((torch.randn(97, 8, generator=rng) + 3 * labels[:, None]).tolist(), labels.tolist())
    centroids = group_centroids(group_patients(patients, k), patients)
    spread = spread_centroids(centroids, patients)
    for label in (0, 1):
        members = patients.latents[labels == label]
        mean = members.mean(dim=0)
        scatter = [
            (rows - mean).square().sum(dim=1).mean() for rows in (members, spread.latents[spread.labels == label])
        ]
        torch.testing.assert_close(scatter[1], scatter[0])
        directions = [(a.latents[a.labels == label] - mean).double() for a in (centroids, spread)]
        cosines = torch.nn.functional.cosine_similarity(*directions)
        torch.testing.assert_close(cosines, torch.ones_like(cosines))
        assert spread.meta["spread"][str(label)] > 1


def test_other_patients_are_refused():
    patients = patients_at([[0.0], [1.0], [2.0], [3.0]], [0, 0, 0, 0])
    centroids = group_centroids(group_patients(patients, 2), patients)
    with pytest.raises(ValueError, match="no patient is of class 0"):
        spread_centroids(centroids, patients_at([[0.0], [1.0]], [1, 1]))


def test_other_widths_are_refused():
    patients = patients_at([[0.0], [1.0], [2.0], [3.0]], [0, 0, 0, 0])
    centroids = AnchorSet(torch.zeros(2, 3), torch.tensor([0, 0]), "k_same")
    with pytest.raises(ValueError, match="width 3 and patients' latents of width 1"):
        spread_centroids(centroids, patients)


@pytest.mark.parametrize("count", [2, 3, 7, 23])
def test_a_single_group_stays_where_it_is(count):
    # its centroid is the class's mean but for rounding, which must not be blown up
    points = torch.randn(count, 8, generator=torch.Generator().manual_seed(count)) + 3
    centroids = AnchorSet(points.double().mean(dim=0, keepdim=True).float(), torch.tensor([0]), "k_same")
    spread = spread_centroids(centroids, patients_at(points.tolist(), [0] * count))
    torch.testing.assert_close(spread.latents, centroids.latents)
    assert spread.meta["spread"] == {"0": 1.0}


def test_classes_do_not_mix():
    patients = patients_at([[0.0], [2.0], [6.0], [8.0], [100.0], [101.0], [107.0], [108.0]], [0] * 4 + [1] * 4)
    mixed = AnchorSet(torch.tensor([[107.5], [1.0], [100.5], [7.0]]), torch.tensor([1, 0, 1, 0]), "k_same")
    both = spread_centroids(mixed, patients)
    for label in (0, 1):
        of_class = mixed.labels == label
        alone = spread_centroids(AnchorSet(mixed.latents[of_class], mixed.labels[of_class], "k_same"), patients)
        torch.testing.assert_close(both.latents[of_class], alone.latents)
        assert both.meta["spread"][str(label)] == alone.meta["spread"][str(label)]
