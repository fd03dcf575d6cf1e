"""Nearest rows against brute force, in any chunking, and exact for near copies."""

import pytest
import torch

from monai_plan.metrics import nearest_rows


@pytest.mark.parametrize("rows_per_chunk", [1, 7, 1000])
def test_equals_brute_force(rows_per_chunk):
    rng = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(11, 5, generator=rng), torch.randn(30, 5, generator=rng)
    squared, index = nearest_rows(queries, gallery, rows_per_chunk)
    expected = torch.cdist(queries.double(), gallery.double()).square().min(dim=1)
    torch.testing.assert_close(squared.double(), expected.values, atol=1e-5, rtol=1e-5)
    assert torch.equal(index, expected.indices)


def test_small_distances_keep_their_digits():
    gallery = torch.full((1, 4), 100.0)
    assert nearest_rows(gallery + 0.5, gallery)[0].item() == 1.0
    assert nearest_rows(gallery, gallery)[0].item() == 0.0


@pytest.mark.parametrize("gallery", [torch.zeros(0, 3), torch.zeros(2, 4), torch.zeros(3)])
def test_wrong_galleries_are_refused(gallery):
    with pytest.raises(ValueError, match="gallery"):
        nearest_rows(torch.zeros(2, 3), gallery)
