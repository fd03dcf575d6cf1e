"""From images to the generator's latent space, and from there to the nearest anchor."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import chain
from typing import Any, Protocol

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_tensor
from torch import nn

from monai_plan.transforms.single_item import class_number, label_in, signed_batch

__all__ = [
    "Anchors",
    "EncodeLatent",
    "EncodeLatentD",
    "EncodeLatentDict",
    "EncodeLatentd",
    "NearestAnchor",
    "NearestAnchorD",
    "NearestAnchorDict",
    "NearestAnchord",
]


class Anchors(Protocol):
    """What is needed of a :class:`~monai_plan.latent.AnchorSet`."""

    @property
    def latents(self) -> torch.Tensor:
        """float32 [N, D]."""

    @property
    def labels(self) -> torch.Tensor:
        """int64 [N]."""

    @property
    def meta(self) -> Mapping[str, Any]:
        """With the anchors' numbers in the ledger under ``"ids"``, if they have such."""


class EncodeLatent(Transform):
    """Replace an image by the point of W that an encoder takes it for.

    That is a first guess: the stage ``invert`` begins there and searches on. *The latent of a real image is personal
    data*, since the generator draws something like the image from it. It belongs into the private room.

    Args:
        encoder: images [B, C, H, W] in [-1, 1] -> latents [B, D], e.g. a
            :class:`~monai_plan.networks.nets.LatentEncoder`; put into evaluation mode for good. On a CUDA device it
            needs ``num_workers=0``.

    Raises:
        TypeError: the encoder is no network.

    Example:
        >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 8))  # in its place: LatentEncoder.load(path)
        >>> EncodeLatent(encoder)(torch.zeros(1, 64, 64)).shape
        torch.Size([8])
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]

    def __init__(self, encoder: nn.Module) -> None:
        if not isinstance(encoder, nn.Module):
            raise TypeError(
                f"encoder must be a network, got {type(encoder).__qualname__}; give "
                "monai_plan.networks.nets.LatentEncoder.load(path)"
            )
        self.encoder = encoder.eval()

    @torch.no_grad()
    def __call__(self, img: NdarrayOrTensor) -> torch.Tensor:
        """Encode ``img``, shape [C, H, W], range [-1, 1], of the size and channels of the encoder's training.

        Returns:
            A plain float32 tensor, shape [D], on the image's device.

        Raises:
            ValueError: the shape or a value is wrong.
        """
        images = signed_batch(img)
        first = next(chain(self.encoder.parameters(), self.encoder.buffers()), images)
        with torch.autocast(first.device.type, enabled=False):
            return self.encoder(images.to(first.device))[0].float().to(images.device)


class EncodeLatentd(MapTransform):
    """Dictionary form of :class:`EncodeLatent`: each key's image is replaced by its latent.

    Args:
        keys: the images; copy them first (``monai.transforms.CopyItemsd``) if they are needed, too.
        encoder: see :class:`EncodeLatent`.
        allow_missing_keys: do not raise when a key is missing.

    Raises:
        TypeError: the encoder is no network.

    Example:
        >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 8))  # in its place: LatentEncoder.load(path)
        >>> item = EncodeLatentd("image", encoder)({"image": torch.zeros(1, 64, 64), "label": 1})
        >>> item["image"].shape, item["label"]
        (torch.Size([8]), 1)
    """

    backend = EncodeLatent.backend

    def __init__(self, keys: KeysCollection, encoder: nn.Module, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.encode = EncodeLatent(encoder)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with latents in place of images; see :meth:`EncodeLatent.__call__`."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.encode(item[key])
        return item


EncodeLatentD = EncodeLatentDict = EncodeLatentd


class NearestAnchor(Transform):
    """Replace a latent by the number of the nearest anchor: the k-same group that the image would fall to.

    Euclidean distance in W. *Anchors of k-same are private data*: each is the mean of k patients or more, and stays
    inside, as do the numbers, under which the ledger lists the patients.

    Args:
        anchors: an :class:`~monai_plan.latent.AnchorSet`, e.g. of :func:`~monai_plan.latent.group_centroids`.

    Raises:
        ValueError: there is no anchor.

    Example:
        >>> from types import SimpleNamespace  # in its place: group_centroids(grouping, patients)
        >>> corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> anchors = SimpleNamespace(latents=corners, labels=torch.tensor([0, 0, 1]), meta={"ids": [5, 6, 7]})
        >>> nearest = NearestAnchor(anchors)
        >>> nearest(torch.tensor([0.2, 0.9])), nearest(torch.tensor([0.2, 0.9]), label=0)
        (7, 5)
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]

    def __init__(self, anchors: Anchors) -> None:
        if len(anchors.latents) == 0:
            raise ValueError("there is no anchor to be near to; group more patients, or choose a smaller k")
        self.anchors = anchors

    def __call__(self, latent: NdarrayOrTensor, label: Any = None) -> int:
        """Look up ``latent``, shape [D].

        Args:
            latent: a point of W.
            label: its class, one whole number: only anchors of this class are looked at. ``None``: all.

        Returns:
            The anchor's number in the ledger (``meta["ids"]``); its row in the set where anchors have no numbers.

        Raises:
            ValueError: the latent's shape is not the anchors', it is not finite, or the label is no class with anchors.
        """
        anchors = self.anchors.latents
        point = convert_to_tensor(latent, dtype=anchors.dtype, device=anchors.device, track_meta=False)
        if point.shape != anchors.shape[1:] or not bool(torch.isfinite(point).all()):
            raise ValueError(
                f"one finite latent of shape {tuple(anchors.shape[1:])} expected, got shape {tuple(point.shape)} with "
                f"{int((~torch.isfinite(point)).sum())} values that are not finite; put the transform behind "
                "EncodeLatent, with the encoder of the generator that the anchors were made for"
            )
        distances = (anchors - point).square().sum(dim=1)
        if label is not None:
            distances = distances.masked_fill(self._of_other_class(class_number(label)), torch.inf)
        row = int(distances.argmin())
        return int(self.anchors.meta.get("ids", range(len(anchors)))[row])

    def _of_other_class(self, label: int) -> torch.Tensor:
        other = self.anchors.labels != label
        if other.all():
            raise ValueError(
                f"no anchor is of class {label}, they are of {self.anchors.labels.unique().tolist()}; a class with "
                "fewer than k patients has none"
            )
        return other


class NearestAnchord(MapTransform):
    """Dictionary form of :class:`NearestAnchor`: each key's latent is replaced by the nearest anchor's number.

    Args:
        keys: the latents, as :class:`EncodeLatentd` leaves them.
        anchors: see :class:`NearestAnchor`.
        label_key: the item's class; only its anchors are looked at. ``None``: all.
        allow_missing_keys: do not raise when a key is missing.

    Raises:
        ValueError: there is no anchor.

    Example:
        >>> from types import SimpleNamespace  # in its place: group_centroids(grouping, patients)
        >>> corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> anchors = SimpleNamespace(latents=corners, labels=torch.tensor([0, 0, 1]), meta={"ids": [5, 6, 7]})
        >>> NearestAnchord("latent", anchors, label_key="label")({"latent": torch.tensor([0.9, 0.8]), "label": 0})
        {'latent': 6, 'label': 0}
    """

    backend = NearestAnchor.backend

    def __init__(
        self,
        keys: KeysCollection,
        anchors: Anchors,
        label_key: Hashable | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.nearest = NearestAnchor(anchors)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with anchors' numbers (int) in place of latents.

        Raises:
            KeyError: a key or the label is missing.
            ValueError: see :meth:`NearestAnchor.__call__`.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            label = None
            if self.label_key is not None:
                label = label_in(item, self.label_key, ", or None to look at all anchors")
            item[key] = self.nearest(item[key], label)
        return item


NearestAnchorD = NearestAnchorDict = NearestAnchord
