"""How near the images of a Ray dataset come to patients' images: what an audit compares, for millions of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from monai.networks.utils import eval_mode
from safetensors.torch import load, save

from monai_plan.data.ray_cluster import RayActors, connected_ray
from monai_plan.metrics.nearest import nearest_rows
from monai_plan.networks.nets import IdentityEmbedder
from monai_plan.utils import PlanKeys, require_counts

__all__ = ["nearest_distances_with_ray"]

_EMBEDDER, _REFERENCE = "embedder.", "reference."
_TOLERANCE = 1e-3  # of lengths and pixels


def nearest_distances_with_ray(
    images: Any,
    embedder: IdentityEmbedder,
    references: Mapping[str, torch.Tensor],
    actors: int | None = None,
    num_gpus: float = 0,
    batch_size: int = 256,
) -> Any:
    """How far each image of a Ray dataset lies from the nearest row of each set of reference embeddings.

    With an audit's own network these are the distances that its tests ``screening`` and ``near_copies`` are made of,
    for millions of images instead of thousands::

        network = material.verification  # of an AuditMaterial
        member = material.real.member
        found = nearest_distances_with_ray(
            exported_dataset(folder),
            network.network,
            {"training": network.embed(material.real_images[member]),
             "held_out": network.embed(material.real_images[~member])},
        )
        found.mean("nearest_training")  # mmL

    Where the two sets are of equally many patients, the share of rows with ``nearest_training`` below
    ``nearest_held_out`` is ``screening``'s, and that with ``nearest_training`` up to a threshold is ``near_copies``'s;
    the nearest of more patients is nearer. Intervals are over patients and remain the audit's. With a gate's embedder
    and gallery the distances are those that it compares with its threshold.

    The cluster's object store then holds the network and the reference embeddings, and a full one spills to the nodes'
    disks: both were made of patients' images and belong to the private room, like the distances. Ray's logs do not
    show them.

    Args:
        images: a ``ray.data.Dataset`` with ``image``, float [C, H, W] in [-1, 1], e.g. of
            :func:`~monai_plan.data.exported_dataset` or :func:`~monai_plan.data.synthetic_dataset`.
        embedder: trained; it travels as tensors.
        references: name to embeddings of unit length, float [N, E], N >= 1.
        actors: see :func:`~monai_plan.data.export_images_with_ray`, also for ``num_gpus``.
        batch_size: images embedded at once, >= 1.

    Returns:
        The dataset without ``image``, with a float32 column ``nearest_<name>`` for each set: Euclidean distances of
        unit embeddings, 0 .. 2, up to rounding those of ``Verification.distances``.

    Raises:
        OptionalImportError: Ray is not installed (extra ``ray``).
        TypeError: the embedder is no :class:`~monai_plan.networks.nets.IdentityEmbedder`.
        ValueError: there is no reference, or it is of another width or not of unit length. While the dataset is
            consumed: images are of another kind, hold NaN, or leave [-1, 1].
    """
    on_actors = RayActors(actors, num_gpus)
    require_counts(batch_size=batch_size)
    if not isinstance(embedder, IdentityEmbedder):
        raise TypeError(
            f"embedder must be an IdentityEmbedder, got {type(embedder).__qualname__}; networks travel as tensors "
            "beside their arguments, and only this one's are known"
        )
    width = embedder.arguments["embedding_size"]
    for name, rows in references.items():
        if rows.ndim != 2 or not len(rows) or rows.shape[1] != width or not torch.isfinite(rows).all():
            raise ValueError(
                f"the references '{name}' are {tuple(rows.shape)}, and finite embeddings [N, {width}], N >= 1, are "
                "needed; embed the images with this very network"
            )
        lengths = rows.detach().float().norm(dim=1)
        if (lengths - 1).abs().max() > _TOLERANCE:
            raise ValueError(
                f"the references '{name}' have lengths from {lengths.min():.3g} to {lengths.max():.3g} instead of "
                "1, as if another layer had made them. Give what the network itself returns, which has this length"
            )
    if not references:
        raise ValueError('no reference was given; name one set at least, e.g. {"training": embeddings}')
    tensors = {_EMBEDDER + name: tensor for name, tensor in embedder.state_dict().items()}
    tensors |= {_REFERENCE + name: rows.float() for name, rows in references.items()}
    packed = save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()})
    ray = connected_ray()
    return on_actors.map(images, _NearestFinder, batch_size, arguments=embedder.arguments, packed=ray.put(packed))


class _NearestFinder:
    """Images in, distances out."""

    def __init__(self, arguments: Mapping[str, Any], packed: Any, device: str) -> None:
        self.arguments, self.packed, self.device = arguments, packed, torch.device(device)

    @cached_property
    def networks(self) -> tuple[IdentityEmbedder, dict[str, torch.Tensor]]:
        tensors = load(connected_ray().get(self.packed))
        weights, references = (
            {name.removeprefix(kind): tensor for name, tensor in tensors.items() if name.startswith(kind)}
            for kind in (_EMBEDDER, _REFERENCE)
        )
        embedder = IdentityEmbedder(**self.arguments)
        embedder.load_state_dict(weights)
        return embedder.to(self.device), {name: rows.to(self.device) for name, rows in references.items()}

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        embedder, references = self.networks
        columns = dict(batch)
        images = torch.tensor(columns.pop(str(PlanKeys.IMAGE)))
        if images.ndim != 4 or not images.is_floating_point() or not torch.isfinite(images).all():
            raise ValueError(
                f"images must be finite, float [C, H, W] in [-1, 1], got {images.dtype} {tuple(images.shape[1:])}; "
                "divide 8 bits by 127.5, subtract 1 and put the channels first"
            )
        if images.abs().max() > 1 + _TOLERANCE:
            raise ValueError(
                f"images must lie in [-1, 1], got {images.min():.4g} .. {images.max():.4g}; divide 8 bits by 127.5 and "
                "subtract 1, and do not scale them otherwise"
            )
        with eval_mode(embedder):
            embeddings = embedder(images.to(self.device).float())
            for name, rows in references.items():
                columns[f"nearest_{name}"] = nearest_rows(embeddings, rows)[0].sqrt().cpu().numpy()
        return columns
