"""Anchors, the fixed ends of walks: random latents of each class, or centroids made by k-same elsewhere."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.networks.utils import eval_mode

from monai_plan.latent.frozen import device_of
from monai_plan.latent.points import check_labelled_points
from monai_plan.networks.nets import StyleGenerator
from monai_plan.utils import generator_for, load_tensors, save_tensors

__all__ = ["AnchorPairs", "AnchorSet", "pair_anchors", "random_anchors", "require_pairs"]

ORIGINS = ("random", "k_same")


@dataclass(frozen=True)
class AnchorSet:
    """Latents between which walks may run.

    Attributes:
        latents: points in W, float32, shape [N, D].
        labels: their classes, int64, shape [N].
        origin: ``"random"`` (drawn from the generator's prior) or ``"k_same"`` (centroids of k real projections).
        meta: plain JSON values (seeds, k, hashes); never patients' names or ids.

    Raises:
        ValueError: a shape, dtype, value or the origin is wrong.
    """

    latents: torch.Tensor
    labels: torch.Tensor
    origin: str
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.latents.ndim != 2:
            raise ValueError(f"anchors must be [N, D], got {tuple(self.latents.shape)}")
        if self.origin not in ORIGINS:
            raise ValueError(
                f"the anchors' origin must be one of {ORIGINS}, got '{self.origin}'. Latents of single real images are "
                "refused on purpose: group them with k-same first"
            )
        check_labelled_points("anchors", self.latents, self.labels)

    def __len__(self) -> int:
        return len(self.latents)

    def pairs_of(self, rows: torch.Tensor) -> AnchorPairs:
        """The pairs between given anchors, int64 [P, 2], both of one class."""
        start, end = rows.to(self.latents.device).unbind(dim=1)
        return AnchorPairs(self.latents[start], self.latents[end], self.labels[start], rows.cpu())

    def save(self, path: str | os.PathLike) -> Path:
        """Write the anchors as tensors only (schema ``anchor_set``)."""
        tensors = {"latents": self.latents, "labels": self.labels}
        return save_tensors(path, tensors, schema="anchor_set", meta={"origin": self.origin, "meta": self.meta})

    @classmethod
    def load(cls, path: str | os.PathLike) -> AnchorSet:
        """Read a file of :meth:`save`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is broken or of another kind.
        """
        kinds = {"origin": str, "meta": dict}
        tensors, header = load_tensors(path, "anchor_set", names=("latents", "labels"), meta_kinds=kinds)
        return cls(tensors["latents"], tensors["labels"], header["origin"], header["meta"])


@dataclass(frozen=True)
class AnchorPairs:
    """The ends of P walks, both of one class.

    Attributes:
        start: float32, shape [P, D].
        end: float32, shape [P, D].
        labels: int64, shape [P].
        rows: which anchors of their set start and end are, int64, shape [P, 2]; ``None`` if they are of no set.

    Raises:
        ValueError: a shape, dtype or value is wrong.
    """

    start: torch.Tensor
    end: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.start.ndim != 2 or self.start.shape != self.end.shape:
            raise ValueError(
                f"start and end must both be [P, D], got {tuple(self.start.shape)} and {tuple(self.end.shape)}"
            )
        if self.rows is not None and (self.rows.dtype != torch.int64 or self.rows.shape != (len(self.start), 2)):
            raise ValueError(
                f"rows of {len(self.start)} pairs must be int64 [{len(self.start)}, 2], got {self.rows.dtype} "
                f"{tuple(self.rows.shape)}"
            )
        check_labelled_points("starts of pairs", self.start, self.labels)
        check_labelled_points("ends of pairs", self.end, self.labels)

    def __len__(self) -> int:
        return len(self.start)


def random_anchors(generator: StyleGenerator, per_class: int, seed: int, truncation: float = 1.0) -> AnchorSet:
    """Draw anchors of every class from the generator's prior.

    Args:
        generator: only ``z_dim``, ``num_classes`` and ``map_latents`` are used.
        per_class: anchors of each class, >= 1.
        seed: equal seeds give equal anchors; the global random state is not touched.
        truncation: 1 keeps the prior, 0 gives the mean latent (less variety, cleaner images).

    Returns:
        ``per_class * max(1, num_classes)`` anchors on the CPU, sorted by class.

    Raises:
        ValueError: ``per_class`` < 1.
    """
    if per_class < 1:
        raise ValueError(f"per_class must be >= 1, got {per_class}")
    device, latents, labels = device_of(generator), [], []
    with eval_mode(generator):
        for label in range(max(1, generator.num_classes)):
            z = torch.randn(per_class, generator.z_dim, generator=generator_for(seed, "anchors", label))
            of_class = torch.full((per_class,), label, dtype=torch.int64)
            latents.append(generator.map_latents(z.to(device), of_class.to(device), truncation=truncation).cpu())
            labels.append(of_class)
    meta = {"seed": seed, "per_class": per_class, "truncation": truncation}
    return AnchorSet(torch.cat(latents).float(), torch.cat(labels), "random", meta)


def pair_anchors(anchors: AnchorSet, pairs_per_class: int | Mapping[int, int], seed: int) -> AnchorPairs:
    """Choose random pairs of two different anchors of one class, no pair twice (in either direction).

    Args:
        anchors: the anchors; classes without any anchor are passed over.
        pairs_per_class: pairs of each class, >= 1, at most n (n - 1) / 2 of n anchors; or class -> pairs.
        seed: equal seeds give equal pairs; the global random state is not touched.

    Returns:
        The pairs, sorted by class.

    Raises:
        ValueError: a class has fewer than 2 anchors, or fewer different pairs than asked for.
    """
    if len(anchors) == 0:
        raise ValueError("there are no anchors to pair")
    first, second = [], []
    for label, wanted in pairs_by_class(anchors, pairs_per_class).items():
        members = torch.nonzero(anchors.labels == label).flatten()
        available = require_pairs(len(members), wanted, f"class {label}")
        # the first distinct values of a uniform stream are a uniform draw without replacement
        chosen: dict[int, None] = {}
        rng = generator_for(seed, "pairs", label)
        while len(chosen) < wanted:
            chosen.update(dict.fromkeys(torch.randint(available, (wanted,), generator=rng).tolist()))
        for code in list(chosen)[:wanted]:
            high = (1 + math.isqrt(1 + 8 * code)) // 2  # code = high (high - 1) / 2 + low, with 0 <= low < high
            first.append(members[code - high * (high - 1) // 2])
            second.append(members[high])
    return anchors.pairs_of(torch.stack([torch.stack(first), torch.stack(second)], dim=1))


def pairs_by_class(anchors: AnchorSet, pairs_per_class: int | Mapping[int, int]) -> dict[int, int]:
    """How many pairs each class of the anchors is to have, by class."""
    classes = anchors.labels.unique().tolist()
    if isinstance(pairs_per_class, Mapping):
        return {label: pairs_per_class[label] for label in classes}
    return dict.fromkeys(classes, pairs_per_class)


def require_pairs(anchors: int, pairs: int, name: str = "each class") -> int:
    """How many different pairs ``anchors`` anchors make, at least ``pairs``.

    Raises:
        ValueError: they make fewer, or one of the numbers is not a whole number from 1 on.
    """
    if not all(isinstance(number, int) and number >= 1 for number in (anchors, pairs)):
        raise ValueError(f"anchors and pairs of a class must be whole numbers from 1 on, got {anchors!r} and {pairs!r}")
    available = anchors * (anchors - 1) // 2
    if available < pairs:
        raise ValueError(
            f"{name} has {anchors} anchor(s), which make {available} different pair(s), and {pairs} were asked for. "
            "Draw more anchors of it (random_anchors(per_class=...), or a smaller k of k-same), or set "
            f"pairs_per_class={max(available, 1)}"
        )
    return available
