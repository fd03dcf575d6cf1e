"""Two ways of training compared on the same test patients, with classifiers of the same seeds."""

from __future__ import annotations

import math

import torch
from scipy.stats import t as student


def mean_with_interval(scores: torch.Tensor) -> tuple[float, tuple[float, float]]:
    """Mean and 95 % interval of scores that vary with the patient and with the seed, see :func:`_spread`.

    Args:
        scores: patients by seeds, float, shape [N, S], N >= 2. With one seed the interval is of patients alone.
    """
    mean, (error, freedom) = float(scores.double().mean()), _spread(scores.double())
    reach = float(student.ppf(0.975, freedom)) * error
    return mean, (mean - reach, mean + reach)


def paired_difference(first: torch.Tensor, second: torch.Tensor) -> dict[str, float | list[float]]:
    """``first`` minus ``second``, [N, S] each (the same patients and seeds in the same order): mean, interval, p.

    ``p`` is two-sided; 1 where nothing differs at all.
    """
    difference = first.double() - second.double()
    mean, interval = mean_with_interval(difference)
    error, freedom = _spread(difference)
    p = 2 * float(student.sf(abs(mean) / error, freedom)) if error > 0 else float(mean == 0)
    return {"difference": mean, "interval_95": list(interval), "p": p}


def _spread(scores: torch.Tensor) -> tuple[float, float]:
    """Standard error of the mean of [N, S], and its degrees of freedom.

    Patients and seeds are both a sample of more: the variance of the mean is that over patients plus that over seeds,
    less the noise of single cells, which both hold, but never below either (Gallas, Academic Radiology 2006, has this
    sum for readers and cases). Degrees of freedom by Satterthwaite.
    """
    patients, seeds = scores.shape
    by_patient, by_seed = scores.mean(dim=1), scores.mean(dim=0)
    of_patients = float(by_patient.var()) / patients
    of_seeds = float(by_seed.var()) / seeds if seeds > 1 else 0.0
    cells = scores - by_patient[:, None] - by_seed + scores.mean()
    of_cells = float(cells.square().sum()) / max(1, (patients - 1) * (seeds - 1)) / (patients * seeds)
    variance = max(of_patients + of_seeds - of_cells, of_patients, of_seeds)
    parts = of_patients**2 / (patients - 1) + (of_seeds**2 / (seeds - 1) if seeds > 1 else 0.0)
    return math.sqrt(variance), variance**2 / parts if parts else math.inf
