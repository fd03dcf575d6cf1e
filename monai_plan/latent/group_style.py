"""Local style alignment of k-same anchors to the real images of their groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from monai_plan.latent.aggregation import Grouping
from monai_plan.latent.anchors import AnchorSet
from monai_plan.latent.style_alignment import FeatureMaps, StyleOptions, align_style
from monai_plan.networks.nets import StyleGenerator
from monai_plan.utils import PlanKeys, patient_of, pseudonym

__all__ = ["align_to_groups"]

Item = Mapping[str, Any]


def align_to_groups(
    centroids: AnchorSet,
    grouping: Grouping,
    items: Sequence[Item],
    load_image: Callable[[Item], Item],
    generator: StyleGenerator,
    feature_maps: FeatureMaps,
    options: StyleOptions | None = None,
    key: bytes | None = None,
    progress: bool = True,
) -> AnchorSet:
    """Give each centroid's image the local style of its group's images, see :func:`align_style`.

    Args:
        centroids: of :func:`~monai_plan.latent.group_centroids`, in the order of ``grouping.groups``.
        grouping: who is in which group.
        items: training items of the data list; those of a group's patients and class are read, all others are not.
        load_image: item -> the same with ``image`` [C, H, W] in [-1, 1].
        generator, feature_maps, options, progress: see :func:`align_style`. The maps must not be the gate's network.
        key: if the grouping holds keyed pseudonyms.

    Raises:
        ValueError: a group's patient has no image among the items, or the centroids are of another grouping.
    """
    if centroids.meta.get("ids") != [group.anchor for group in grouping.groups]:
        raise ValueError("the centroids are of another grouping: group_centroids(grouping, patients)")
    of_patient: dict[tuple[str, int], list[Item]] = {}
    for item in items:
        name = patient_of(item)
        kept = name if key is None else pseudonym(name, key)
        of_patient.setdefault((kept, int(item[PlanKeys.LABEL])), []).append(item)
    sources = []
    for group in grouping.groups:
        missing = [name for name in group.patients if (name, group.label) not in of_patient]
        if missing:
            raise ValueError(
                f"{len(missing)} patient(s) of anchor {group.anchor} have no image of class {group.label} in the "
                "datalist. Give the datalist that was inverted, and the key if it was inverted with pseudonyms"
            )
        loaded = [load_image(item)[PlanKeys.IMAGE] for name in group.patients for item in of_patient[name, group.label]]
        sources.append(torch.stack([torch.as_tensor(image).as_subclass(torch.Tensor) for image in loaded]))
    latents = align_style(centroids.latents, sources, generator, feature_maps, options, progress=progress)
    return replace(centroids, latents=latents.cpu(), meta={**centroids.meta, "style_aligned": True})
