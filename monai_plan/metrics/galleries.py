"""Galleries of equal numbers of patients, and how far a figure moves when other patients are met.

The nearest of more patients is nearer, so members and held-out patients are compared in galleries of the same size.
Where one kind has more patients, what a random gallery of them would give is known exactly; nothing is drawn.

Spreads come from random halves of the patients, never from a bootstrap: a patient drawn twice is no nearer than once,
so that a bootstrap's galleries hold fewer patients (63 %) and its spread is too small. Over halves drawn without
replacement, a mean has the spread that it has over new patients (Politis, Romano and Wolf, Subsampling, 1999).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from scipy.stats import hypergeom

from monai_plan.metrics.attack_result import RealPatients
from monai_plan.utils import generator_for

__all__ = [
    "chance_of_any",
    "chance_of_one",
    "excess_spread",
    "half_sample_spread",
    "permutation_spread",
    "require_distances",
]

Statistic = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@lru_cache(maxsize=64)
def chance_of_any(patients: int, drawn: int) -> torch.Tensor:
    """Chance that a random gallery holds at least one of r patients.

    Args:
        patients: to draw from.
        drawn: size of the gallery, drawn without replacement.

    Returns:
        float64, for r = 0 .. ``patients``.
    """
    return torch.from_numpy(hypergeom.sf(0, patients, np.arange(patients + 1), drawn))


@lru_cache(maxsize=64)
def chance_of_one(patients: int, drawn: int) -> torch.Tensor:
    """Chance that a random gallery holds exactly one of r patients; arguments and shape as :func:`chance_of_any`."""
    return torch.from_numpy(hypergeom.pmf(1, patients, np.arange(patients + 1), drawn))


def half_sample_spread(
    statistic: Statistic, members: torch.Tensor, held_out: torch.Tensor, seed: int, draws: int = 200
) -> torch.Tensor:
    """Standard deviation of figures over random halves of two groups of patients.

    Args:
        statistic: takes the numbers of some patients of the first group and of some of the second, returns figures, any
            shape.
        members: numbers of the first group's patients.
        held_out: of the second group's.
        seed: of the halves.
        draws: pairs of halves.

    Returns:
        Of the figures' shape. For a mean over patients it estimates the standard error at the full number.
    """
    rng = generator_for(seed, "half samples")
    figures = []
    for _ in range(draws):
        halves = (
            group[torch.randperm(len(group), generator=rng)[: max(1, len(group) // 2)]] for group in (members, held_out)
        )
        figures.append(statistic(*halves))
    return torch.stack(figures).std(dim=0)


def permutation_spread(
    statistic: Statistic, members: torch.Tensor, held_out: torch.Tensor, seed: int, draws: int = 200
) -> torch.Tensor:
    """Standard deviation of figures where chance alone says who is of which group; arguments as above."""
    rng = generator_for(seed, "permutations")
    everyone = torch.cat([members, held_out])
    figures = []
    for _ in range(draws):
        order = everyone[torch.randperm(len(everyone), generator=rng)]
        figures.append(statistic(order[: len(members)], order[len(members) :]))
    return torch.stack(figures).std(dim=0)


def excess_spread(
    rates: Statistic,
    rates_of_halves: Statistic,
    over_images: torch.Tensor,
    members: torch.Tensor,
    held_out: torch.Tensor,
    seed: int,
) -> tuple[torch.Tensor, float]:
    """Standard deviations of a rate of members, of the same of held-out patients, and of the first minus the second.

    Args:
        rates: the three figures of some patients and of others, [3].
        rates_of_halves: the same of half the patients of both kinds, brought to the size of all.
        over_images: variances of the three over synthetic images, [3].
        members: numbers of the members' patients.
        held_out: of the held-out patients.
        seed: of halves and permutations.

    Returns:
        Deviations [3], over patients and images, that of the difference not below what random labels of the patients
        give; and the latter.
    """
    by_chance = (permutation_spread(rates, members, held_out, seed)[2] ** 2 + over_images[2]).sqrt()
    spread = (half_sample_spread(rates_of_halves, members, held_out, seed) ** 2 + over_images).sqrt()
    spread[2] = torch.maximum(spread[2], by_chance)
    return spread, float(by_chance)


def require_distances(real: RealPatients, **matrices: torch.Tensor) -> None:
    """Refuse matrices that are no distances to the real images.

    Args:
        real: N real images.
        matrices: by name, for the message: float, shape [>= 1, N]; one called ``among_real``, [N, N].

    Raises:
        ValueError: a shape does not fit, or a value is not finite or below 0.
    """
    for name, values in matrices.items():
        rows = len(real) if name == "among_real" else None
        if values.ndim != 2 or values.shape[1] != len(real) or rows not in (None, len(values)) or not len(values):
            raise ValueError(
                f"{name} has the shape {tuple(values.shape)}, for {len(real)} real images; give one row for each "
                f"{'real' if rows else 'synthetic'} image and one column for each real image, in the patients' order"
            )
        if not values.is_floating_point() or not torch.isfinite(values).all() or (values < 0).any():
            raise ValueError(
                f"{name} ({values.dtype}) must hold finite distances >= 0, and has "
                f"{int((~torch.isfinite(values)).sum())} infinite or undefined and {int((values < 0).sum())} negative "
                "ones; check the images and the network that the distances were made with"
            )
