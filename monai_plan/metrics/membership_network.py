"""Membership inference by an attacker network that sees what a downstream classifier says of an image."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from monai.utils import optional_import

from monai_plan.metrics.attack_result import AttackResult, RealPatients
from monai_plan.metrics.intervals import Z_95, accuracy_interval
from monai_plan.utils import generator_for

__all__ = ["classifier_outputs", "membership_network"]


def classifier_outputs(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What an attacker learns from a classifier's answer about an image whose class they know.

    Args:
        probabilities: float, shape [N, K].
        labels: true classes, int64, shape [N].

    Returns:
        The probabilities, the loss on the true class and the entropy (both in nats), shape [N, K + 2].

    Raises:
        ValueError: rows are no probabilities, or a label is out of range.
    """
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(
            f"probabilities {tuple(probabilities.shape)} and labels {tuple(labels.shape)}; give [N, K] and [N], N >= 1"
        )
    sums = probabilities.sum(dim=1)
    if not bool(((sums - 1).abs() < 1e-3).all()) or bool((probabilities < 0).any()):
        raise ValueError(
            f"rows of probabilities sum to {float(sums.min()):.3g} .. {float(sums.max()):.3g}, and must be >= 0 with "
            "sum 1; give the softmax of the classifier's outputs"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= probabilities.shape[1]:
        raise ValueError(
            f"labels {int(labels.min())} .. {int(labels.max())} for {probabilities.shape[1]} classes; count from 0"
        )
    logs = probabilities.clamp_min(1e-12).log()
    loss = -logs.gather(1, labels[:, None])
    entropy = -(probabilities * logs).sum(dim=1, keepdim=True)
    return torch.cat([probabilities, loss, entropy], dim=1)


def membership_network(outputs: torch.Tensor, real: RealPatients, seed: int, folds: int = 5) -> AttackResult:
    """A small network is trained to tell members from held-out patients by a classifier's outputs.

    As in PLAN's protocol, as far as the paper describes it. The attacker's training patients are others than those it
    judges: patients are dealt to ``folds`` parts, each judged by a network trained on the rest, in which both kinds
    weigh the same. A patient's images vote by their mean probability. Control: the same with one random half of the
    members' patients against the other, with an interval of its own.

    Patients judged by the same network, and networks that share most of their patients, err together. So the interval
    is as wide as for fewer patients, of each kind one in ``1 + folds / (folds - 1)`` (Nadeau and Bengio, Machine
    Learning 2003, for the variance of a mean over folds).

    Args:
        outputs: features, e.g. of :func:`classifier_outputs`, float, shape [N, F].
        real: whose the N images are; at least ``2 * folds`` members' patients and ``folds`` held-out ones.
        seed: of folds, networks and halves.
        folds: >= 2.

    Returns:
        Balanced accuracy over patients; its interval joins Wilson's of both rates (MOVER: Donner and Zou 2012), cut to
        so many patients.
        Details: ``true_positive_rate`` and ``true_negative_rate``.

    Raises:
        ValueError: the outputs do not fit, or there are too few patients.
        OptionalImportError: scikit-learn is not installed.
    """
    if outputs.ndim != 2 or len(outputs) != len(real) or not torch.isfinite(outputs).all():
        raise ValueError(
            f"outputs of shape {tuple(outputs.shape)} with {int((~torch.isfinite(outputs)).sum())} infinite or "
            f"undefined values, for {len(real)} real images; give one row of finite features for each"
        )
    if folds < 2 or real.members < 2 * folds or real.held_out < folds:
        raise ValueError(
            f"{folds} folds of {real.members} members' and {real.held_out} held-out patients; folds must be at least "
            f"2, with {2 * folds} and {folds} patients. Ask for fewer folds, or give more patients"
        )
    rows, numbers = outputs.double().cpu().numpy(), real.numbers.numpy()
    everyone = torch.arange(real.count)
    rates = _attack(rows, numbers, everyone[: real.members], everyone[real.members :], seed, folds)
    value, interval = _balanced(rates, (real.members, real.held_out), folds)
    half = real.members // 2
    control, control_interval = _balanced(
        _attack(rows, numbers, *real.halves(seed), seed + 1, folds), (half, half), folds
    )
    return AttackResult(
        name="membership_network",
        measure="balanced accuracy",
        value=value,
        interval=interval,
        baseline=0.5,
        control=control,
        control_interval=control_interval,
        n=real.members,
        n_control=real.held_out,
        resolvable=min(0.5, Z_95 * math.sqrt(_inflation(folds) * (1 / real.members + 1 / real.held_out)) / 4),
        seed=seed,
        details={"true_positive_rate": rates[0], "true_negative_rate": rates[1], "folds": folds},
    )


def _attack(
    rows: np.ndarray, numbers: np.ndarray, members: torch.Tensor, others: torch.Tensor, seed: int, folds: int
) -> tuple[float, float]:
    """Rates of right answers over ``members`` and over ``others`` (patients' numbers), each judged out of fold."""
    hint = "install the extra: pip install 'monai_plan[bundle]'"
    network, _ = optional_import("sklearn.neural_network", name="MLPClassifier", descriptor=hint)
    scaler, _ = optional_import("sklearn.preprocessing", name="StandardScaler", descriptor=hint)
    pipeline, _ = optional_import("sklearn.pipeline", name="make_pipeline", descriptor=hint)
    rng = generator_for(seed, "attacker network")
    fold = np.full(int(numbers.max()) + 1, -1)
    truth = np.zeros(len(fold), dtype=bool)
    for patients in (members, others):
        fold[patients[torch.randperm(len(patients), generator=rng)].numpy()] = np.arange(len(patients)) % folds
    truth[members.numpy()] = True
    image_fold, image_truth = fold[numbers], truth[numbers]
    votes = np.zeros(len(numbers))
    for part in range(folds):
        kinds = [np.flatnonzero((image_fold >= 0) & (image_fold != part) & (image_truth == kind)) for kind in (0, 1)]
        most = max(map(len, kinds))  # the smaller kind is repeated until both weigh the same
        train = np.concatenate(
            [np.resize(kind[torch.randperm(len(kind), generator=rng).numpy()], most) for kind in kinds]
        )
        judged = np.flatnonzero(image_fold == part)
        attacker = pipeline(
            scaler(), network((16,), solver="lbfgs", alpha=1.0, max_iter=100, random_state=seed % 2**32)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # stopping before convergence is meant: few patients are overfitted soon
            attacker.fit(rows[train], image_truth[train])
        votes[judged] = attacker.predict_proba(rows[judged])[:, 1]
    used = image_fold >= 0
    mean = np.bincount(numbers[used], votes[used], len(fold)) / np.maximum(
        np.bincount(numbers[used], None, len(fold)), 1
    )
    right = (mean > 0.5) == truth
    return float(right[members.numpy()].mean()), float(right[others.numpy()].mean())


def _inflation(folds: int) -> float:
    """Variance of a rate over all folds, in that of independent patients."""
    return 1 + folds / (folds - 1)


def _balanced(rates: tuple[float, float], counts: tuple[int, int], folds: int) -> tuple[float, tuple[float, float]]:
    """Mean of two rates, and its interval from Wilson's of each."""
    value = sum(rates) / 2
    effective = [count / _inflation(folds) for count in counts]
    bounds = [accuracy_interval(rate * count, count) for rate, count in zip(rates, effective, strict=True)]
    below = math.hypot(*(rate - low for rate, (low, _) in zip(rates, bounds, strict=True))) / 2
    above = math.hypot(*(high - rate for rate, (_, high) in zip(rates, bounds, strict=True))) / 2
    return value, (max(0.0, value - below), min(1.0, value + above))
