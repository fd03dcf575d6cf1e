"""Small worlds for the attacks' tests: patients as points, releases that leak and releases that do not."""

from __future__ import annotations

import torch

from monai_plan.metrics.attack_result import RealPatients


def patients(members: int, held_out: int, images: int = 1) -> RealPatients:
    """``images`` consecutive images a patient, members first; classes alternate by patient."""
    numbers = torch.arange((members + held_out) * images) // images
    return RealPatients(tuple(f"patient {n}" for n in numbers.tolist()), numbers < members, numbers % 2)


def world(
    seed: int, members: int = 40, held_out: int = 20, images: int = 1, synthetic: int = 80, leak: bool = False
) -> tuple[torch.Tensor, torch.Tensor, RealPatients]:
    """Synthetic points [S, 5], real points [N, 5] and their patients, all of one distribution.

    With a leak, the synthetic points are members' images, moved a little.
    """
    rng = torch.Generator().manual_seed(seed)
    real = patients(members, held_out, images)
    centres = torch.randn(members + held_out, 5, generator=rng)
    points = centres[real.numbers] + 0.2 * torch.randn(len(real), 5, generator=rng)
    released = torch.randn(synthetic, 5, generator=rng)
    if leak:
        released = points[torch.arange(synthetic) % (members * images)] + 0.02 * released
    return released, points, real


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]
