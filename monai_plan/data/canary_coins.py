"""Patients whose presence in the training is decided by a coin, so that an audit can say whether it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from monai_plan.utils import PlanKeys, generator_for, patient_of, require_counts

__all__ = ["plant_canaries"]

LEAST = 3
"""Fewer leave no guess to make: a third is called trained on, a third not."""


def plant_canaries(splits: Mapping[str, Any], count: int, seed: int = 0) -> dict[str, Any]:
    """Throw a fair coin for each of some training patients, and take those with tails out of the training.

    What :func:`monai_plan.metrics.canary_audit` needs for a lower bound on epsilon from one training (Steinke, Nasr and
    Jagielski, NeurIPS 2023): independent coins, unknown to the training. The price is half of ``count`` patients, whose
    images nobody uses. Their images are as all others', so the bound is that of usual patients; images made to stand
    out would be remembered better.

    Args:
        splits: as :func:`monai_plan.data.read_splits` gives them; not changed.
        count: patients to throw a coin for, drawn at random, >= 3; 0 leaves the splits as they are.
        seed: of the draw and the coins; the same one in every stage of a run.

    Returns:
        The splits, with ``training`` without the patients taken out, and ``canaries``: the items of all these patients,
        each with ``canary``: True where it was left in.

    Raises:
        ValueError: there are not ``count`` patients, or a class would be left without any.
    """
    require_counts(0, canaries=count)
    if count == 0:
        return dict(splits)
    require_counts(LEAST, canaries=count)
    training = splits["training"]
    patients = list(dict.fromkeys(map(patient_of, training)))
    if count > len(patients):
        raise ValueError(
            f"canaries is {count}, and the training split has {len(patients)} patients, of whom half would be "
            "taken out. Ask for fewer, e.g. a fifth of the patients"
        )
    rng = generator_for(seed, "canaries")
    chosen = torch.randperm(len(patients), generator=rng)[:count].tolist()
    heads = torch.rand(count, generator=rng) < 0.5
    left_in = {patients[place]: bool(head) for place, head in zip(chosen, heads, strict=True)}
    kept = [item for item in training if left_in.get(patient_of(item), True)]
    if missing := {item["label"] for item in training} - {item["label"] for item in kept}:
        raise ValueError(f"the coins took every training image of class {sorted(missing)}; ask for fewer canaries")
    thrown = ((item, left_in.get(patient_of(item))) for item in training)
    canaries = [{**item, PlanKeys.CANARY.value: head} for item, head in thrown if head is not None]
    return {**splits, "training": kept, "canaries": canaries}
