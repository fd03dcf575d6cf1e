"""What a gate finds and what it wrongly rejects: planted copies of training images, and patients never seen before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from monai_plan.metrics.attack_result import AttackResult
from monai_plan.metrics.intervals import clopper_pearson
from monai_plan.transforms.copy_alterations import COPY_ALTERATIONS, STRENGTHS, alterations_of, planted_copies

if TYPE_CHECKING:
    from monai_plan.latent.gate import PrivacyGate

__all__ = ["gate_false_rejections", "gate_planted_copies", "planted_sensitivity"]

SENSITIVITY = 0.99
"""Below it an alteration breaks the gate."""


def gate_planted_copies(
    gate: PrivacyGate,
    training_images: torch.Tensor,
    training_patients: Sequence[str],
    held_out_images: torch.Tensor,
    held_out_patients: Sequence[str],
    seed: int = 0,
    batch_size: int = 64,
) -> AttackResult:
    """Plant altered copies of training images: how many does the gate reject?

    ``value`` is the share of exact and lightly altered copies that are rejected, all alterations of
    :data:`~monai_plan.transforms.COPY_ALTERATIONS` weighing alike; every patient weighs alike too. ``control`` is the
    share of copies of held-out images, altered in the same ways (parts are pasted into other held-out images), that
    are rejected: no training image is in them, so a gate that tells copies from others rejects few, and one that
    rejects everything has a control of 1. ``baseline`` is what a gate would reject that guesses at the calibrated
    rate of false rejections. ``details`` has

    - ``planted``: of each alteration at each strength its ``amount``, ``rate``, ``interval_95`` and ``n`` (patients),
    - ``worst``, ``worst_rate``, ``worst_interval_95``: the light alteration that is found least (``value`` is the mean
      over all, and hides it),
    - ``breaks_down``: in words, each alteration's first strength that is found in less than 99 % of the patients.

    Args:
        gate: calibrated.
        training_images: images in the gate's gallery, [N, C, H, W] in [-1, 1].
        training_patients: whose they are, N names.
        held_out_images: of other patients, [M, C, H, W]; parts of training images are pasted into them.
        held_out_patients: whose they are, M names.
        seed: of the alterations; use another than the calibration's.
        batch_size: copies made and judged at once; a copy does not depend on it.

    Raises:
        ValueError: no images, or not one name for each.
        OptionalImportError: Pillow is missing (extra ``images``).
    """
    members = _places(training_images, training_patients)
    others = _places(held_out_images, held_out_patients)
    threshold, distances = gate.threshold, gate.distances
    found = _planted(distances, threshold, training_images, held_out_images, seed, batch_size)
    shares = {name: {s: _by_patient(hits, members) for s, hits in levels.items()} for name, levels in found.items()}
    hosts = None if len(held_out_images) > 1 else held_out_images  # one alone lies in itself
    control = _planted(distances, threshold, held_out_images, hosts, seed, batch_size, STRENGTHS[:1])
    light = torch.stack([levels[STRENGTHS[0]] for levels in shares.values()]).mean(dim=0)
    of_others = torch.stack([_by_patient(levels[STRENGTHS[0]], others) for levels in control.values()]).mean(dim=0)
    table = {name: {s: _row(name, s, share) for s, share in levels.items()} for name, levels in shares.items()}
    worst = min(table, key=lambda name: table[name][STRENGTHS[0]]["rate"])
    baseline = gate.calibration.get("false_rejection", 0.0)
    details = {
        "planted": table,
        "worst": worst,
        "worst_rate": table[worst][STRENGTHS[0]]["rate"],
        "worst_interval_95": table[worst][STRENGTHS[0]]["interval_95"],
        "breaks_down": _breaks_down(table),
        "threshold": threshold,
    }
    return AttackResult(
        name="gate_planted_copies",
        measure="rate",
        value=float(light.mean()),
        interval=_interval(light),
        baseline=baseline,
        control=float(of_others.mean()),
        control_interval=_interval(of_others),
        n=len(light),
        n_control=len(of_others),
        resolvable=_half_width(baseline, len(light)),
        seed=seed,
        details=details,
    )


def gate_false_rejections(
    gate: PrivacyGate, images: torch.Tensor, patients: Sequence[str], batch_size: int = 64
) -> AttackResult:
    """How many real patients, never used to train or calibrate the gate, would it reject?

    A patient counts with the share of its images that are rejected. ``baseline`` is the rate that was asked for when
    the gate was calibrated.

    Args:
        gate: calibrated.
        images: real ones of other patients than the gallery's and the hold-out's, [N, C, H, W] in [-1, 1].
        patients: whose they are, N names.
        batch_size: images judged at once.

    Raises:
        ValueError: no images, or not one name for each.
    """
    places = _places(images, patients)
    rejected = _by_patient(_distances(gate.distances, images, batch_size) < gate.threshold, places)
    baseline = gate.calibration.get("false_rejection", 0.0)
    return AttackResult(
        name="gate_false_rejections",
        measure="rate",
        value=float(rejected.mean()),
        interval=_interval(rejected),
        baseline=baseline,
        control=None,
        control_interval=None,
        n=len(rejected),
        n_control=0,
        resolvable=_half_width(baseline, len(rejected)),
        seed=None,
        details={"threshold": gate.threshold, "images": len(images)},
    )


def planted_sensitivity(
    distances: Callable[[torch.Tensor], torch.Tensor],
    threshold: float,
    images: torch.Tensor,
    hosts: torch.Tensor,
    seed: int,
    batch_size: int = 64,
) -> dict[str, dict[str, dict[str, Any]]]:
    """The share of altered copies of each kind that lie below a threshold, with 95 % intervals over images.

    Args:
        distances: images [B, C, H, W] -> distances [B], e.g. :meth:`~monai_plan.latent.PrivacyGate.distances`.
        threshold: copies below it are found.
        images: training images, [N, C, H, W] in [-1, 1].
        hosts: images of other patients, in which parts are pasted.
        seed: of the alterations.
        batch_size: copies made and judged at once; a copy does not depend on it.

    Returns:
        By alteration and strength: ``amount``, ``rate``, ``interval_95``, ``n`` (images).
    """
    found = _planted(distances, threshold, images, hosts, seed, batch_size)
    return {name: {s: _row(name, s, hits.double()) for s, hits in levels.items()} for name, levels in found.items()}


def _planted(
    distances: Callable[[torch.Tensor], torch.Tensor],
    threshold: float,
    images: torch.Tensor,
    hosts: torch.Tensor | None,
    seed: int,
    batch_size: int,
    strengths: Sequence[str] = STRENGTHS,
) -> dict[str, dict[str, torch.Tensor]]:
    """Which copies are found: bool [N] by alteration and strength."""
    chunks = [range(start, min(start + batch_size, len(images))) for start in range(0, len(images), batch_size)]
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, alteration in alterations_of(images.shape[1]).items():
        found[name] = {}
        for strength in strengths[: len(alteration.strengths)]:
            nearest = [distances(planted_copies(images, name, strength, seed, hosts, rows)).cpu() for rows in chunks]
            found[name][strength] = torch.cat(nearest) < threshold
    return found


def _distances(
    distances: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, batch_size: int
) -> torch.Tensor:
    return torch.cat([distances(batch).cpu() for batch in images.split(batch_size)])


def _places(images: torch.Tensor, patients: Sequence[str]) -> torch.Tensor:
    """The number of each image's patient, int64 [N]."""
    if not len(images) or len(images) != len(patients):
        raise ValueError(f"{len(images)} images and {len(patients)} patients' names; give one name for each image")
    number = {name: place for place, name in enumerate(dict.fromkeys(patients))}
    return torch.tensor([number[name] for name in patients])


def _by_patient(hits: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Each patient's share of hits, float64 [P]."""
    return torch.zeros(int(places.max()) + 1, dtype=torch.float64).scatter_reduce(
        0, places, hits.double(), "mean", include_self=False
    )


def _row(name: str, strength: str, shares: torch.Tensor) -> dict[str, Any]:
    return {
        "amount": COPY_ALTERATIONS[name].amount(strength),
        "rate": float(shares.mean()),
        "interval_95": list(_interval(shares)),
        "n": len(shares),
    }


def _breaks_down(table: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    said = []
    for name, levels in table.items():
        first = next((level for level in levels.values() if level["rate"] < SENSITIVITY), None)
        if first is not None:
            unit = COPY_ALTERATIONS[name].unit
            said.append(f"{name} of {first['amount']:g} ({unit}): {100 * first['rate']:.1f} % found")
    return said


def _interval(shares: torch.Tensor) -> tuple[float, float]:
    return clopper_pearson(min(float(shares.sum()), len(shares)), len(shares))


def _half_width(rate: float, count: int) -> float:
    low, high = clopper_pearson(rate * count, count)
    return (high - low) / 2
