"""The gate as a transform: an image that lies too near to a training patient's stops the run, or leaves it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Protocol

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends

from monai_plan.transforms.single_item import signed_batch

__all__ = ["ImageGate", "PassGate", "PassGateD", "PassGateDict", "PassGated", "require_gate"]

ON_REFUSAL = ("raise", "skip")
_REFUSED = (
    "the gate refused {}: it lies nearer to a training patient's than held-out real images do. Do not show it; make "
    'another one in its place, or leave refused images out with on_refusal="skip". A real image of the gate\'s gallery '
    "is refused, too"
)


class ImageGate(Protocol):
    """What is needed of a :class:`~monai_plan.latent.PrivacyGate`."""

    def accepts(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [B, C, H, W] in [-1, 1] -> bool [B]."""


def require_gate(gate: Any, advice: str) -> None:
    """Refuse what cannot judge.

    Args:
        gate: see :class:`ImageGate`.
        advice: what to give instead, the end of the error.

    Raises:
        TypeError: there is no ``accepts``.
    """
    if not callable(getattr(gate, "accepts", None)):
        raise TypeError(f"gate must have accepts(images), got {type(gate).__qualname__}; {advice}")


class PassGate(Transform):
    """Ask the gate about an image, e.g. one of a folder of synthetic images that somebody else made.

    A refused image raises, or with ``on_refusal="skip"`` is left out. MONAI leaves nothing out for ``None``, but it
    takes lists: a transform may give several images for one, as random crops do, and ``Compose``, the data sets and the
    default collate function of ``monai.data.DataLoader`` handle the list. So an accepted image becomes a list of one,
    and a refused one the empty list. Batches then get shorter; one of which nothing is left cannot be collated and ends
    in an ``IndexError``. Where that may happen, and where an epoch's length must be known beforehand, filter the data
    list once, since the empty list is false::

        check = Compose([load, PassGate(gate, on_refusal="skip")])
        files = [file for file in files if check(file)]

    Args:
        gate: judges images, e.g. a :class:`~monai_plan.latent.PrivacyGate`. It refuses the images it was calibrated
            on, and a stated share of other real ones. On a CUDA device it needs ``num_workers=0``; in worker processes
            its counts of verdicts stay there.
        on_refusal: ``"raise"`` or ``"skip"``.

    Raises:
        TypeError: the gate cannot judge.
        ValueError: ``on_refusal`` is unknown.

    Example:
        >>> class BrightOnly:  # in its place: PrivacyGate.load(path)
        ...     def accepts(self, images):
        ...         return images.mean(dim=(1, 2, 3)) > 0
        >>> check = PassGate(BrightOnly(), on_refusal="skip")
        >>> [len(check(torch.full((1, 64, 64), value))) for value in (0.5, -0.5)]
        [1, 0]
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]

    def __init__(self, gate: ImageGate, on_refusal: str = "raise") -> None:
        require_gate(gate, "give monai_plan.latent.PrivacyGate.load(path)")
        if on_refusal not in ON_REFUSAL:
            raise ValueError(f"on_refusal must be one of {ON_REFUSAL}, got {on_refusal!r}")
        self.gate = gate
        self.on_refusal = on_refusal

    @torch.no_grad()
    def accepts(self, img: NdarrayOrTensor) -> bool:
        """The gate's verdict, as a batch of one.

        Args:
            img: shape [C, H, W], range [-1, 1]. One in [0, 1] passes for a pale image, which no gate was calibrated
                for: its verdict is worth nothing.

        Raises:
            TypeError: the gate gives something else than one bool.
            ValueError: the shape or a value is wrong.
        """
        verdict = self.gate.accepts(signed_batch(img))
        if verdict.dtype != torch.bool or verdict.shape != (1,):
            raise TypeError(f"gate.accepts must give bool [1], got {verdict.dtype} {tuple(verdict.shape)}")
        return bool(verdict)

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor | list[NdarrayOrTensor]:
        """Judge ``img``, shape [C, H, W], range [-1, 1].

        Returns:
            With ``"raise"`` the image itself; with ``"skip"`` a list of it, or the empty list.

        Raises:
            ValueError: the gate refused the image, or its shape or a value is wrong.
        """
        accepted = self.accepts(img)
        if self.on_refusal == "skip":
            return [img] if accepted else []
        if not accepted:
            raise ValueError(_REFUSED.format("the image"))
        return img


class PassGated(MapTransform):
    """Dictionary form of :class:`PassGate`: an item passes if the gate accepts the images of all keys.

    With ``on_refusal="skip"`` an accepted item becomes a list of one, and a refused one the empty list; see
    :class:`PassGate` for why, and for how to filter a data list.

    Args:
        keys: the images.
        gate: see :class:`PassGate`.
        on_refusal: ``"raise"`` or ``"skip"``.
        allow_missing_keys: do not raise when a key is missing; what is missing is not judged.

    Raises:
        TypeError: the gate cannot judge.
        ValueError: ``on_refusal`` is unknown.

    Example:
        >>> from monai.data import DataLoader, Dataset
        >>> class BrightOnly:  # in its place: PrivacyGate.load(path)
        ...     def accepts(self, images):
        ...         return images.mean(dim=(1, 2, 3)) > 0
        >>> items = [{"image": torch.full((1, 64, 64), value)} for value in (0.5, -0.5, 0.1)]
        >>> data = Dataset(items, PassGated("image", BrightOnly(), on_refusal="skip"))
        >>> [tuple(batch["image"].shape) for batch in DataLoader(data, batch_size=3)]
        [(2, 1, 64, 64)]
    """

    backend = PassGate.backend

    def __init__(
        self, keys: KeysCollection, gate: ImageGate, on_refusal: str = "raise", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.check = PassGate(gate, on_refusal)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any] | list[dict[Hashable, Any]]:
        """Judge the images of ``data``, each of shape [C, H, W] and range [-1, 1].

        Returns:
            With ``"raise"`` a copy of ``data``; with ``"skip"`` a list of it, or the empty list.

        Raises:
            KeyError: a key is missing.
            ValueError: the gate refused an image, or its shape or a value is wrong.
        """
        item = dict(data)
        refused = [key for key in self.key_iterator(item) if not self.check.accepts(item[key])]
        if self.check.on_refusal == "skip":
            return [] if refused else [item]
        if refused:
            raise ValueError(_REFUSED.format(f"the image '{refused[0]}'"))
        return item


PassGateD = PassGateDict = PassGated
