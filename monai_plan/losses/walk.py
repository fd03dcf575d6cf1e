"""The terms of the walk's loss, as plain functions of points, logits and embeddings: the paper's three, and an
open-set identity term that can stand for ``L_id``.

Pennisi et al., "A Privacy-Preserving Walk in the Latent Space of Generative Models for Medical Applications",
MICCAI 2023 (arXiv 2307.02984): ``L = L_dist + 0.1 L_id + L_class``. Nothing is averaged over the batch here, so that
callers can weigh paths and points as they need.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

__all__ = ["identity_hinge", "identity_uniformity", "label_agreement", "spring_energy"]

UNIT = 1e-2
"""Lengths may differ by so much from 1: the rounding of half precision."""


def spring_energy(points: torch.Tensor) -> torch.Tensor:
    """``L_dist``: the sum over a path of the squared Euclidean distance between neighbours (a chain of springs).

    Args:
        points: paths in W, both ends included, shape [P, T, D], T >= 2.

    Returns:
        The energy of each path, shape [P], >= 0. Of all paths with the same ends and T points, the straight line with
        equal steps has the least: ``|end - start|^2 / (T - 1)``.

    Raises:
        ValueError: ``points`` is not [P, T, D] with T >= 2.
    """
    if points.ndim != 3 or points.shape[1] < 2:
        raise ValueError(f"points must be [P, T, D] with T >= 2, got {tuple(points.shape)}; add the missing dimension")
    return (points[:, 1:] - points[:, :-1]).square().sum(dim=(1, 2))


def identity_uniformity(logits: torch.Tensor) -> torch.Tensor:
    """``L_id``: ``KL(U || softmax(logits))`` with U uniform over the p identities.

    It is 0 where the identity network cannot tell whose image it sees and grows without bound as it rules one out.

    Args:
        logits: the identity network's outputs, shape [N, p], p >= 2.

    Returns:
        The divergence of each row in nats, shape [N], >= 0.

    Raises:
        ValueError: ``logits`` is not [N, p] with p >= 2.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"identity logits must be [N, p] with p >= 2 identities, got {tuple(logits.shape)}. With one identity "
            "every image is 'uniform' and the term protects nobody: train the identity network on all training patients"
        )
    # KL(U || q) = sum_i (1/p) (log(1/p) - log q_i) = -log p - mean_i log q_i
    return -math.log(logits.shape[1]) - F.log_softmax(logits, dim=1).mean(dim=1)


def identity_hinge(
    embeddings: torch.Tensor, gallery: torch.Tensor, limit: float, nearest: int = 1, rows_per_chunk: int = 8192
) -> torch.Tensor:
    """Open-set ``L_id``: how far an image's likeness to its nearest patients goes beyond a limit.

    Stands beside :func:`identity_uniformity` where the identity network gives embeddings instead of p logits: a new
    patient adds rows to the gallery, and nothing is trained again. Only the ``nearest`` rows found enter the gradient;
    the search before needs memory of ``N * rows_per_chunk``.

    Args:
        embeddings: of the images, unit length, float, shape [N, E].
        gallery: of the training images, unit length, the same dtype and device, shape [M, E], M >= 1.
        limit: cosine similarity up to which a likeness is harmless, -1 <= limit < 1. A Euclidean distance d between
            unit embeddings, such as a gate's threshold, is the similarity ``1 - d^2 / 2``.
        nearest: how many of the most similar gallery rows count, 1 .. M. With several images of a patient, or several
            patients alike, more than one keeps the gradient from jumping between them.
        rows_per_chunk: gallery rows compared at once; does not change the result.

    Returns:
        The mean over those rows of ``relu(similarity - limit)``, shape [N], from 0 to ``1 - limit``.

    Raises:
        ValueError: a shape, ``limit`` or ``nearest`` is out of range, or an embedding is not of unit length.
    """
    if embeddings.ndim != 2 or gallery.ndim != 2 or embeddings.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"embeddings [N, E] and a gallery [M, E] expected, got {tuple(embeddings.shape)} and "
            f"{tuple(gallery.shape)}; embed the gallery with the network that embeds the images"
        )
    if not 1 <= nearest <= len(gallery):
        raise ValueError(
            f"nearest is {nearest} and the gallery has {len(gallery)} row(s); nearest must lie in 1 .. M. An empty "
            "gallery protects nobody: embed all training images"
        )
    if not -1 <= limit < 1:
        raise ValueError(
            f"limit is a cosine similarity, -1 <= limit < 1, got {limit}. From a Euclidean distance d between unit "
            "embeddings take 1 - d**2 / 2"
        )
    _check_unit("embeddings", embeddings)
    index = _most_similar(embeddings.detach(), gallery.detach(), nearest, rows_per_chunk)
    similarity = torch.einsum("ne,nke->nk", embeddings, gallery[index])
    return F.relu(similarity - limit).mean(dim=1)


def _most_similar(embeddings: torch.Tensor, gallery: torch.Tensor, count: int, rows_per_chunk: int) -> torch.Tensor:
    """Indices of the ``count`` gallery rows with the largest inner products, int64 [N, count]: a running best list."""
    best = embeddings.new_empty(len(embeddings), 0)
    index = torch.empty(len(embeddings), 0, dtype=torch.int64, device=embeddings.device)
    for first in range(0, len(gallery), rows_per_chunk):
        rows = gallery[first : first + rows_per_chunk]
        _check_unit("the gallery", rows)
        similarity, place = (embeddings @ rows.T).topk(min(count, len(rows)), dim=1)
        best, index = torch.cat([best, similarity], dim=1), torch.cat([index, place + first], dim=1)
        best, keep = best.topk(min(count, best.shape[1]), dim=1)
        index = index.gather(1, keep)
    return index


def _check_unit(name: str, rows: torch.Tensor) -> None:
    lengths = torch.linalg.vector_norm(rows.detach(), dim=1)
    wrong = ~((lengths - 1).abs() <= UNIT)  # NaN is wrong too
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} of {len(rows)} rows of {name} are not of unit length, the first is "
            f"{float(lengths[wrong][0]):.4g} long; scale them with torch.nn.functional.normalize(x, dim=1). NaN means "
            "that the embedder or the walk diverged"
        )


def label_agreement(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """``L_class``: the cross-entropy of the label network to the path's label.

    Args:
        logits: the label network's outputs, shape [N, classes].
        labels: the wanted classes, int64, shape [N], in 0 .. classes - 1.

    Returns:
        The cross-entropy of each row in nats, shape [N], >= 0.

    Raises:
        ValueError: the shapes differ, or a label is out of range.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits [N, classes] and labels [N] expected, got {tuple(logits.shape)}, {tuple(labels.shape)}"
        )
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(
            f"labels lie in {int(labels.min())} .. {int(labels.max())}, but the label network has {logits.shape[1]} "
            "classes; it was probably trained on another labelling than the anchors"
        )
    return F.cross_entropy(logits, labels, reduction="none")
