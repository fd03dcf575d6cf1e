"""Replace real images by synthetic ones of the same class, some of the time or always."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor

from monai_plan.transforms.single_item import class_number, label_in
from monai_plan.utils.synthetic import SYNTHETIC_MARK

__all__ = [
    "ImageSource",
    "RandSyntheticImage",
    "RandSyntheticImageD",
    "RandSyntheticImageDict",
    "RandSyntheticImaged",
]

_NUMBERS = 2**31 - 1  # what numpy draws on every platform


class ImageSource(Protocol):
    """What is needed of a :class:`~monai_plan.data.synthetic_source.SyntheticSource`."""

    def __call__(self, label: int, number: int) -> torch.Tensor:
        """A class and a number from 0 on -> float [C, H, W]; the same image for the same two."""


class RandSyntheticImage(RandomizableTransform):
    """Replace an image by a synthetic one of its class, with a probability.

    With ``prob=1`` no real pixel passes, but the real image is still read: where the trainer must not open one, swap
    the loader for a :class:`~monai_plan.data.PrivacyWalkSampler` instead. Labels that lie over the image (masks, boxes)
    no longer fit a replaced one, so this is for classification.

    A MetaTensor keeps its meta data (affine, spacing, *and the replaced image's file name*), and its
    ``meta["is_synthetic"]`` says from then on what it holds. An array or a plain tensor has no place for that; the
    dictionary form has.

    Args:
        source: a class and a number -> an image of that class, which has passed the gate; e.g. a
            :class:`~monai_plan.data.synthetic_source.SyntheticSource`. Its images must have the range of the images
            that they replace: put the transform where these lie in [-1, 1], or give the source a ``value_range``. A
            source on a CUDA device needs ``num_workers=0``.
        prob: share of images that are replaced, 0 .. 1.

    Raises:
        TypeError: ``source`` cannot be called.
        ValueError: ``prob`` is out of range.

    Example:
        >>> def source(label, number):  # in its place: SyntheticSource(walks, generator, gate)
        ...     return torch.full((1, 64, 64), float(label))
        >>> replace = RandSyntheticImage(source, prob=1.0).set_random_state(seed=0)
        >>> replaced = replace(MetaTensor(torch.zeros(1, 64, 64)), label=1)
        >>> float(replaced.mean()), replaced.meta["is_synthetic"]
        (1.0, True)
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]

    def __init__(self, source: ImageSource, prob: float = 0.1) -> None:
        if not callable(source):
            raise TypeError(
                f"source must be called with a class and a number, got {type(source).__qualname__}; give "
                "monai_plan.data.synthetic_source.SyntheticSource(walks, generator, gate)"
            )
        if not 0 <= prob <= 1:
            raise ValueError(f"prob is the share of images that are replaced, 0 to 1; got {prob}")
        super().__init__(prob)
        self.source = source
        self._number = 0

    @property
    def replaces(self) -> bool:
        """Whether the last draw was to replace the image."""
        return bool(self._do_transform)

    def randomize(self, data: Any = None) -> None:
        """Draw whether to replace the next image, and the number of its replacement."""
        super().randomize(None)
        self._number = int(self.R.randint(_NUMBERS))

    def __call__(  # type: ignore[override]
        self, img: NdarrayOrTensor, label: Any, randomize: bool = True
    ) -> NdarrayOrTensor:
        """Replace ``img``, or return it.

        Args:
            img: floating-point, shape [C, H, W].
            label: its class, one whole number: an int, or an array or tensor of one element.
            randomize: draw anew; otherwise the last draw holds.

        Returns:
            An image of the same type, dtype and shape, on the same device; ``img`` itself is left as it was.

        Raises:
            ValueError: ``img`` is not of floating-point numbers, ``label`` is no class or one that the source does not
                know, or the source's image has another shape.
        """
        if randomize:
            self.randomize()
        _check_floating(img)
        if not (self.replaces or isinstance(img, MetaTensor)):
            return img
        pixels = self._replacement(img, label) if self.replaces else convert_to_tensor(img, track_meta=False)
        out = convert_to_dst_type(pixels, img)[0]  # with a copy of the meta data
        if isinstance(out, MetaTensor):
            out.meta[SYNTHETIC_MARK] = self.replaces
        return out

    def _replacement(self, img: NdarrayOrTensor, label: Any) -> torch.Tensor:
        image = self.source(class_number(label), self._number)
        if tuple(image.shape) != tuple(img.shape):
            raise ValueError(
                f"the source makes images of shape {tuple(image.shape)} and this one has {tuple(img.shape)}; put the "
                "transform behind Resize to the generator's size, and where channels differ set the source's channels"
            )
        return image


class RandSyntheticImaged(RandomizableTransform, MapTransform):
    """Dictionary form of :class:`RandSyntheticImage`; writes for each key, replaced or not, ``<key>_is_synthetic``.

    All keys of an item are replaced together, by the same image. With the marker, and the one in a MetaTensor's meta
    data, nobody need mistake the one kind for the other, nor count real images that are none.

    Args:
        keys: the images.
        label_key: the item's class, one whole number; before it is made one-hot.
        source: see :class:`RandSyntheticImage`.
        prob: share of items whose images are replaced, 0 .. 1.
        allow_missing_keys: do not raise when one of ``keys`` is missing.

    Raises:
        TypeError: ``source`` cannot be called.
        ValueError: ``prob`` is out of range.

    Example:
        >>> def source(label, number):  # in its place: SyntheticSource(walks, generator, gate)
        ...     return torch.full((1, 64, 64), float(label))
        >>> replace = RandSyntheticImaged("image", "label", source, prob=0.5).set_random_state(seed=4)
        >>> items = [replace({"image": torch.zeros(1, 64, 64), "label": 1}) for _ in range(4)]
        >>> [(item["image_is_synthetic"], float(item["image"].mean())) for item in items]
        [(False, 0.0), (True, 1.0), (False, 0.0), (False, 0.0)]
    """

    backend = RandSyntheticImage.backend

    def __init__(
        self,
        keys: KeysCollection,
        label_key: Hashable,
        source: ImageSource,
        prob: float = 0.1,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.replace = RandSyntheticImage(source, prob)
        RandomizableTransform.__init__(self, prob)
        self.label_key = label_key

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandSyntheticImaged:
        """Seed the draws, as for every random transform of MONAI."""
        super().set_random_state(seed, state)
        self.replace.set_random_state(seed, state)
        return self

    def randomize(self, data: Any = None) -> None:
        """Draw whether to replace the next item's images, and the number of their replacement."""
        self.replace.randomize()
        self._do_transform = self.replace.replaces

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with images replaced or not, and their markers (bool).

        Raises:
            KeyError: an image or the label is missing.
            ValueError: see :meth:`RandSyntheticImage.__call__`.
        """
        item = dict(data)
        self.randomize()
        for key in self.key_iterator(item):
            label = label_in(item, self.label_key)
            item[key] = self.replace(item[key], label, randomize=False)
            item[f"{key}_{SYNTHETIC_MARK}"] = self.replace.replaces
        return item


RandSyntheticImageD = RandSyntheticImageDict = RandSyntheticImaged


def _check_floating(img: NdarrayOrTensor) -> None:
    is_floating = img.is_floating_point() if isinstance(img, torch.Tensor) else np.issubdtype(img.dtype, np.floating)
    if not is_floating:
        raise ValueError(
            f"an image of {img.dtype} cannot hold a synthetic one, which is of floating-point numbers; scale it to the "
            "source's value_range first, e.g. with monai.transforms.ScaleIntensityRange"
        )
