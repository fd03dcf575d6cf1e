"""Centroids drawn apart again: averaging k latents leaves a part of their variance, and images that are much alike."""

from __future__ import annotations

from dataclasses import replace

from monai_plan.latent.aggregation import PatientLatents
from monai_plan.latent.anchors import AnchorSet

__all__ = ["spread_centroids"]

ROUNDING = 1e-9
"""Share of the patients' scatter below which centroids differ from the class's mean by float32 rounding only."""


def spread_centroids(centroids: AnchorSet, patients: PatientLatents) -> AnchorSet:
    """Draw the centroids of each class apart, until they vary as much as its patients do.

    The mean of k latents keeps about a k-th of their variance, so centroids crowd around the class's mean image and
    walks between them show little else. Each is moved away from the mean of the class by one factor a class,
    ``sqrt(mean |patient - mean|^2 / mean |centroid - mean|^2)``. An anchor is still a function of its group's mean, in
    which all k weigh the same, and of the class's mean and scatter, which belong to all its patients; but each patient
    weighs ``factor / k`` in it, so it needs the gate's verdict more than the plain centroid does.

    Args:
        centroids: of :func:`group_centroids`.
        patients: the latents that were grouped; those left over count too.

    Returns:
        Anchors in the same order, on the same device; ``meta["spread"]`` has the factors by class, as text. A class
        whose centroids are all its mean, as that of a single group, has no direction to go: its factor is 1.

    Raises:
        ValueError: a class of the centroids has no patient, or the latents have another width.
    """
    latents, factors = centroids.latents.double(), {}
    if patients.latents.shape[1] != latents.shape[1]:
        raise ValueError(
            f"centroids of width {latents.shape[1]} and patients' latents of width {patients.latents.shape[1]}; give "
            "what was grouped"
        )
    for label in centroids.labels.unique().tolist():
        anchors, members = centroids.labels == label, patients.latents[patients.labels == label].to(latents)
        if len(members) == 0:
            raise ValueError(f"no patient is of class {label}, of which there are centroids; give what was grouped")
        mean = members.mean(dim=0)
        apart = latents[anchors] - mean
        scatter = (members - mean).square().sum(dim=1).mean()
        own = apart.square().sum(dim=1).mean()
        factors[str(label)] = factor = float((scatter / own).sqrt()) if own > ROUNDING * scatter else 1.0
        latents[anchors] = mean + factor * apart
    return replace(centroids, latents=latents.float(), meta={**centroids.meta, "spread": factors})
