"""What every attack on synthetic images returns, and the real patients that it is tried on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch

from monai_plan.utils import generator_for

__all__ = ["AttackResult", "RealPatients"]


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """One attack's outcome beside its baseline and its control.

    Args:
        name: the test's id, e.g. ``"membership_distance"``.
        measure: what ``value`` is, in words: ``"AUROC"``, ``"share"``, ``"excess rate"``, ``"epsilon"``, ...
        value: the figure itself.
        interval: 95 %, over patients, never over images. A bound on one side only has ``math.inf`` on the other.
        baseline: what guessing gives, e.g. 0.5 for an AUROC.
        control: the same attack where nothing can be found (member against member, or held-out patients).
        control_interval: 95 %, of the control.
        n: patients attacked (members).
        n_control: patients of the comparison (held out).
        resolvable: the smallest distance from the baseline that so many patients could have shown: half the
            interval's width at the baseline. ``math.inf`` if no distance could have been shown.
        seed: of every draw; ``None`` where nothing was drawn.
        details: plain JSON values: rates at thresholds, sub-figures.
        curve: points of an ROC curve (false positive rate, true positive rate), from (0, 0) to (1, 1).

    Raises:
        ValueError: a figure is not a number, or the value lies outside its interval.
    """

    name: str
    measure: str
    value: float
    interval: tuple[float, float]
    baseline: float
    control: float | None
    control_interval: tuple[float, float] | None
    n: int
    n_control: int
    resolvable: float
    seed: int | None
    details: dict[str, Any] = field(default_factory=dict)
    curve: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        low, high = self.interval
        if not math.isfinite(self.value) or not low - 1e-9 <= self.value <= high + 1e-9:
            raise ValueError(
                f"{self.name}: {self.measure} {self.value} in the interval {low} .. {high}; the value must be a "
                "number within its own interval. Check the scores or distances that the attack was given"
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: tuples become lists, and infinite or undefined numbers ``None``."""
        return _plain(asdict(self))


@dataclass(frozen=True)
class RealPatients:
    """The N real images that an attacker may hold: whose they are, and whether the generator was trained on them.

    Patients are numbered 0 .. P - 1, members first, each kind in the order of their first image.

    Args:
        patients: N names.
        member: bool, shape [N]; constant within a patient.
        labels: classes, int64, shape [N].

    Raises:
        ValueError: the lengths differ, fewer than two patients of a kind, or a patient of both kinds.
    """

    patients: tuple[str, ...]
    member: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        count = len(self.patients)
        if self.member.shape != (count,) or self.labels.shape != (count,) or self.member.dtype != torch.bool:
            raise ValueError(
                f"{count} patients' names, member {self.member.dtype} of shape {tuple(self.member.shape)}, labels of "
                f"shape {tuple(self.labels.shape)}; give one name, one bool and one class for each real image"
            )
        kinds: tuple[set[str], set[str]] = (set(), set())
        for name, member in zip(self.patients, self.member.tolist(), strict=True):
            kinds[member].add(name)
        both = kinds[0] & kinds[1]
        if both:
            raise ValueError(
                f"{len(both)} patients are both members and held out; an attack would call their "
                "held-out images members with good reason. Split by patient"
            )
        if min(map(len, kinds)) < 2:
            raise ValueError(
                f"{len(kinds[1])} members' patients and {len(kinds[0])} held-out patients; two of each are the least "
                "that an attack and its control need. Give images of the training split and of a held-out split"
            )

    def __len__(self) -> int:
        return len(self.patients)

    @cached_property
    def numbers(self) -> torch.Tensor:
        """Each image's patient, int64, shape [N]."""
        order = dict.fromkeys(name for name, member in zip(self.patients, self.member.tolist(), strict=True) if member)
        order.update(dict.fromkeys(self.patients))
        number = {name: place for place, name in enumerate(order)}
        return torch.tensor([number[name] for name in self.patients])

    @cached_property
    def count(self) -> int:
        """Patients of both kinds, P."""
        return int(self.numbers.max()) + 1

    @cached_property
    def members(self) -> int:
        """Members' patients; they have the numbers 0 .. members - 1."""
        return int(self.numbers[self.member].max()) + 1

    @property
    def held_out(self) -> int:
        """Held-out patients; they have the numbers members .. P - 1."""
        return self.count - self.members

    @cached_property
    def images(self) -> torch.Tensor:
        """Images of each patient, int64, shape [P]."""
        return torch.bincount(self.numbers)

    def part(self, rows: torch.Tensor) -> RealPatients:
        """Some of the images: bool [N]."""
        names = tuple(name for name, row in zip(self.patients, rows.tolist(), strict=True) if row)
        return RealPatients(names, self.member[rows], self.labels[rows])

    def per_patient(self, values: torch.Tensor, reduce: str = "amax") -> torch.Tensor:
        """Reduce the last axis from images to patients.

        Args:
            values: shape [..., N].
            reduce: ``"amax"``, ``"amin"`` or ``"mean"``.

        Returns:
            Shape [..., P].
        """
        index = self.numbers.to(values.device).expand(values.shape)
        out = values.new_zeros(*values.shape[:-1], self.count)
        return out.scatter_reduce(-1, index, values, reduce, include_self=False)

    @property
    def groups(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The numbers of the members' and of the held-out patients."""
        return torch.arange(self.members), torch.arange(self.members, self.count)

    def halves(self, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Two disjoint random halves of the members' patients, for a member-against-member control.

        Only one pair: over many, a figure that is turned round when the halves are exchanged has the mean that
        guessing gives, whatever the data.

        Returns:
            Patients' numbers, int64, shape [members // 2] each.
        """
        order = torch.randperm(self.members, generator=generator_for(seed, "member halves"))
        half = self.members // 2
        return order[:half], order[half : 2 * half]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
