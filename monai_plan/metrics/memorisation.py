"""Whether samples lie nearer to the images that a generator was trained on than to images it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from monai_plan.metrics.nearest import nearest_rows
from monai_plan.utils import generator_for

__all__ = ["MemorisationResult", "memorisation_test"]

Groups = Sequence[Any] | torch.Tensor | None

# Bounds of work and memory; neither changes what is estimated.
_MAX_GALLERIES = 16
_DRAWS_AT_ONCE = 2**24


@dataclass(frozen=True)
class MemorisationResult:
    """What :func:`memorisation_test` found.

    Args:
        share: of the samples whose nearest real image is a training image, 0 .. 1.
        expected: that share if the samples knew nothing of the split: training images among all real images.
        score: ``(share - expected) / (1 - expected)``: 0 none, 1 every sample; below 0 by chance.
        p_value: how often so large an excess comes from a random split of the patients, in (0, 1].
        nearest_training: mean distance from a sample to the nearest of m training images, and ...
        nearest_held_out: ... to the nearest of m held-out images, m being the size of the smaller split.
    """

    share: float
    expected: float
    score: float
    p_value: float
    nearest_training: float
    nearest_held_out: float


def memorisation_test(
    samples: torch.Tensor,
    training: torch.Tensor,
    held_out: torch.Tensor,
    training_groups: Groups = None,
    held_out_groups: Groups = None,
    permutations: int = 1000,
    seed: int = 0,
) -> MemorisationResult:
    """Score training images and held-out images alike, as neighbours of the samples.

    Each sample's nearest real image is looked up among both splits. Had the split no influence on the samples, which
    patients are called "training" would be exchangeable, so a nearest image would be a training image with probability
    ``N_t / (N_t + N_h)``. The excess of training images' hits is compared with that of random splits into as many
    patients each: a Monte Carlo permutation test, ``p = (1 + #{excess >= observed}) / (1 + permutations)``, valid at
    any size. Whole patients are drawn, so that images which are near to everything (hubs), and several images of a
    patient, do not count as independent evidence. For the test alone, an image's hits enter by their square root, which
    keeps a few hubs from drowning the rest (Bartlett 1936). Related: the data-copying test of Meehan, Chaudhuri and
    Dasgupta (AISTATS 2020), which compares distances, cell by cell, by a rank test over independent points.

    Few held-out patients show gross copying only: with 20 beside 60, half the samples must be copies for p <= 0.01 in
    nine of ten cases. p cannot fall far below the share of splits with the same outcome: with one held-out patient of G
    it stays near 1/G or above. A generator that copies very few patients is seen in coverage, not here. The splits must
    come from one population by chance: a held-out hospital or other class shares let the score rise without any copy.

    The two mean distances are Euclidean. The larger split is shuffled by patient and cut into galleries of the smaller
    one's size (at most 16), and the mean over them is taken, because the nearest of more images is nearer.

    Args:
        samples: features of generated images, float [N, F], N >= 1.
        training: features of the real images that the generator was trained on, [N_t, F], N_t >= 1.
        held_out: features of real images that it never saw, [N_h, F], N_h >= 1.
        training_groups: the patient of each training image; ``None`` (for both) for one image a patient.
        held_out_groups: the patient of each held-out image; no patient may be in both splits.
        permutations: random splits.
        seed: of the random splits, the galleries and the order in which equally near images are preferred.

    Raises:
        ValueError: a split is empty or not finite, groups do not fit the images, or a patient is in both splits.
    """
    for name, rows in (("samples", samples), ("training", training), ("held_out", held_out)):
        if rows.ndim != 2 or not len(rows) or not torch.isfinite(rows).all():
            raise ValueError(
                f"{name} must be at least one row of finite features, [N, F]; got shape {tuple(rows.shape)}. Give "
                "images of that split, and check that generator and feature network give finite numbers"
            )
    is_training = np.arange(len(training) + len(held_out)) < len(training)
    group = _group_numbers(training_groups, held_out_groups, is_training)
    rng = generator_for(seed, "memorisation")

    real = torch.cat([training, held_out])
    order = torch.randperm(len(real), generator=rng)  # equally near images must not favour one split
    nearest = order[nearest_rows(samples, real[order.to(real.device)])[1].cpu()].numpy()
    hits = np.sqrt(np.bincount(nearest, minlength=len(real)))
    excess = torch.from_numpy(np.bincount(group, hits - hits.mean()))
    from_training = torch.from_numpy(np.bincount(group, is_training) > 0)
    observed = excess[from_training].sum() - 1e-9 * excess.abs().sum()  # ties, but for the order of summing
    random = _excess_of_random_splits(excess, int(from_training.sum()), permutations, rng)
    share, expected = float(is_training[nearest].mean()), float(is_training.mean())
    numbers = torch.from_numpy(group)
    distances = [
        _distance_at_size(samples, rows, part, min(len(training), len(held_out)), rng)
        for rows, part in ((training, numbers[: len(training)]), (held_out, numbers[len(training) :]))
    ]
    return MemorisationResult(
        share=share,
        expected=expected,
        score=(share - expected) / (1 - expected),
        p_value=(1 + int((random >= observed).sum())) / (1 + permutations),
        nearest_training=distances[0],
        nearest_held_out=distances[1],
    )


def _group_numbers(training: Groups, held_out: Groups, is_training: np.ndarray) -> np.ndarray:
    """A number 0 .. G - 1 for each image, training images first."""
    if training is None and held_out is None:
        return np.arange(len(is_training))
    counts = int(is_training.sum()), int((~is_training).sum())
    names = [
        None if ids is None else [str(name) for name in (ids.tolist() if isinstance(ids, torch.Tensor) else ids)]
        for ids in (training, held_out)
    ]
    for split, ids, count in zip(("training", "held_out"), names, counts, strict=True):
        if ids is None or len(ids) != count:
            raise ValueError(
                f"{split}_groups has {'no' if ids is None else len(ids)} entries for {count} images; give the patient "
                "of every image of both splits, or None for both if each image is a patient of its own"
            )
    both = set(names[0]) & set(names[1])  # type: ignore[arg-type]
    if both:
        raise ValueError(
            f"{len(both)} patients are in both splits; then held-out images say nothing about "
            "memorisation. Split by patient, and number the patients of both splits in one series"
        )
    return np.unique(names[0] + names[1], return_inverse=True)[1]  # type: ignore[operator]


def _excess_of_random_splits(
    excess: torch.Tensor, training_groups: int, permutations: int, rng: torch.Generator
) -> torch.Tensor:
    """The training side's summed excess for random choices of ``training_groups`` groups, [permutations]."""
    rows = max(1, _DRAWS_AT_ONCE // len(excess))
    parts = []
    for first in range(0, permutations, rows):
        draws = torch.rand(min(rows, permutations - first), len(excess), generator=rng, dtype=torch.float64)
        parts.append(excess[draws.argsort(dim=1)[:, :training_groups]].sum(dim=1))
    return torch.cat(parts) if parts else excess.new_empty(0)


def _distance_at_size(
    samples: torch.Tensor, rows: torch.Tensor, groups: torch.Tensor, size: int, rng: torch.Generator
) -> float:
    """Mean distance to the nearest of ``size`` rows, over disjoint galleries of neighbouring patients."""
    place = torch.randperm(int(groups.max()) + 1, generator=rng)[groups]
    galleries = rows[place.argsort(stable=True).to(rows.device)].split(size)[: min(len(rows) // size, _MAX_GALLERIES)]
    return float(torch.stack([nearest_rows(samples, gallery)[0].sqrt().mean() for gallery in galleries]).mean())
