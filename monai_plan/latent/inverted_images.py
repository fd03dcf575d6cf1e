"""The latents of single real images, as inversion leaves them. They belong into the private room and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from monai_plan.latent.points import check_labelled_points
from monai_plan.utils import load_tensors, save_tensors

__all__ = ["InvertedImages"]

_TENSORS = ("latents", "labels", "perceptual_error", "pixel_error")
_NAMES = ("patients", "images", "splits")


@dataclass(frozen=True)
class InvertedImages:
    """N images in the generator's latent space, with whose they are.

    Attributes:
        latents: float32, shape [N, D] (W) or [N, layers, D] (W+).
        labels: classes, int64, shape [N].
        perceptual_error: squared perceptual distance of the rendered latent to its image, float32, shape [N].
        pixel_error: mean squared error of pixels in [-1, 1], float32, shape [N].
        patients: whose image it is: names, or keyed pseudonyms.
        images: the images' names in the data list, or keyed pseudonyms of them.
        splits: "training", "validation", ...
        meta: plain JSON values; :func:`~monai_plan.latent.invert_splits` leaves the generator's digest (``generator``),
            the ``space``, and a digest of all that the latents were made from (``inputs``).

    Raises:
        ValueError: a shape, dtype or value is wrong.
    """

    latents: torch.Tensor
    labels: torch.Tensor
    perceptual_error: torch.Tensor
    pixel_error: torch.Tensor
    patients: tuple[str, ...]
    images: tuple[str, ...]
    splits: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_labelled_points("inverted images", self.latents, self.labels)
        if self.latents.ndim not in (2, 3):
            raise ValueError(f"latents must be [N, D] or [N, layers, D], got {tuple(self.latents.shape)}")
        for error in (self.perceptual_error, self.pixel_error):
            if error.dtype != torch.float32 or error.ndim != 1 or not bool((error >= 0).all()):
                raise ValueError(
                    f"errors must be float32 [N] and >= 0, got {error.dtype} {tuple(error.shape)} from "
                    f"{error.min() if error.numel() else 0:.4g} on; invert the images again"
                )
        lengths = {entry.name: len(getattr(self, entry.name)) for entry in fields(self) if entry.name != "meta"}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"inverted images need one entry an image in every field, got {lengths}")

    def __len__(self) -> int:
        return len(self.latents)

    @classmethod
    def none(cls, shape: tuple[int, ...], meta: dict[str, Any]) -> InvertedImages:
        """No images yet; ``shape`` is that of the latents, (0, D) or (0, layers, D)."""
        empty = torch.zeros(0)
        return cls(torch.zeros(shape), torch.zeros(0, dtype=torch.int64), empty, empty, (), (), (), meta)

    def joined(self, more: InvertedImages) -> InvertedImages:
        """These images, then others, which must be of the same generator and space; the others' meta is left behind.

        Raises:
            ValueError: they are not.
        """
        generators = [of.meta.get("generator") for of in (self, more)]
        if self.latents.shape[1:] != more.latents.shape[1:] or generators[0] != generators[1]:
            raise ValueError(
                f"latents of two generators or spaces cannot be joined, got {tuple(self.latents.shape)} of generator "
                f"{generators[0]} and {tuple(more.latents.shape)} of {generators[1]}; invert all images in one way"
            )
        columns: dict[str, Any] = {name: torch.cat([getattr(self, name), getattr(more, name)]) for name in _TENSORS}
        columns |= {name: getattr(self, name) + getattr(more, name) for name in _NAMES}
        return replace(self, **columns)

    @property
    def space(self) -> str:
        """The space of the latents, "w" or "w+"."""
        return "w" if self.latents.ndim == 2 else "w+"

    def errors_by_patient(self) -> dict[str, torch.Tensor]:
        """Both errors by name, each patient's images averaged, in no telling order: for reports."""
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(self.patients):
            rows.setdefault(name, []).append(row)
        errors = {"perceptual": self.perceptual_error, "pixel": self.pixel_error}
        return {
            name: torch.stack([of[own].mean() for own in rows.values()]).sort().values for name, of in errors.items()
        }

    def of_split(self, split: str) -> InvertedImages:
        """Those of one split.

        Raises:
            ValueError: there are none.
        """
        rows = [row for row, name in enumerate(self.splits) if name == split]
        if not rows:
            raise ValueError(f"no image of the split '{split}' was inverted, only of {sorted(set(self.splits))}")
        return self._rows(rows)

    def without(self, patient: str) -> InvertedImages:
        """All but one patient's; the same images, if the patient has none here."""
        return self._rows([row for row, name in enumerate(self.patients) if name != patient])

    def _rows(self, rows: Sequence[int]) -> InvertedImages:
        index = torch.tensor(rows, dtype=torch.int64)
        columns: dict[str, Any] = {name: getattr(self, name)[index] for name in _TENSORS}
        columns |= {name: tuple(getattr(self, name)[row] for row in rows) for name in _NAMES}
        return replace(self, **columns)

    def save(self, path: str | os.PathLike) -> Path:
        """Write a file that only its owner may read (schema ``inverted_images``, mode 0600)."""
        meta = {**{name: getattr(self, name) for name in _NAMES}, "meta": self.meta}
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return save_tensors(path, tensors, schema="inverted_images", meta=meta, mode=0o600)

    @classmethod
    def load(cls, path: str | os.PathLike) -> InvertedImages:
        """Read a file of :meth:`save`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is broken or of another kind.
        """
        tensors, header = load_tensors(path, schema="inverted_images")
        if set(tensors) != set(_TENSORS) or set(header) != {*_NAMES, "meta"}:
            raise ValueError(
                f"'{path}' holds {sorted(tensors)} and {sorted(header)}, and {sorted(_TENSORS)} and "
                f"{sorted((*_NAMES, 'meta'))} are needed; invert the images again"
            )
        columns = [header[name] for name in _NAMES]
        plain = all(isinstance(column, list) and all(isinstance(name, str) for name in column) for column in columns)
        if not plain or not isinstance(header["meta"], dict):
            raise ValueError(f"'{path}' has names of patients, images or splits that are no text; invert them again")
        patients, images, splits = map(tuple, columns)
        return cls(**tensors, patients=patients, images=images, splits=splits, meta=header["meta"])
