"""The three terms of the walk's loss, as plain functions of points and logits.

Pennisi et al., "A Privacy-Preserving Walk in the Latent Space of Generative Models for Medical Applications",
MICCAI 2023 (arXiv 2307.02984): ``L = L_dist + 0.1 L_id + L_class``. Nothing is averaged over the batch here, so that
callers can weigh paths and points as they need.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

__all__ = ["identity_uniformity", "label_agreement", "spring_energy"]


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
