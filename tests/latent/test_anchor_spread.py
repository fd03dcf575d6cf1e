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
