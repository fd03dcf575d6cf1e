"""Real radiographs, fundus photographs and slices as the package's images: float32 ``[C, S, S]`` in [-1, 1]."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

from monai_plan.transforms.radiograph_files import MAX_PIXELS, read_radiograph

__all__ = ["LoadRadiograph", "LoadRadiographD", "LoadRadiographDict", "LoadRadiographd"]

MIN_SIDE = 16  # pixels; below it there is no radiograph to learn from, rather a thumbnail or a wrong file
_FIELD_LEVEL = 0.06  # of 1; the border round the field of view is black but for noise and compression
_SPANS = 0.98  # of the longer side; what is left of the border then changes the scale by 2 % at most
_SPECKS = 0.01  # of a row or column; fewer bright pixels are dust or text and no part of the field
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class LoadRadiograph(Transform):
    """Read one image file of any supported format as the networks see it.

    PNG and JPEG (turned by their EXIF orientation) are scaled by their native range: 255, or for 16-bit grey the
    smallest of 12, 14 and 16 bits that holds every value. DICOM is shown as a viewer would: modality rescale, then the
    VOI table or window where there is one and the stored bits' range otherwise (16 stored bits as in PNG), MONOCHROME1
    inverted. NIfTI and
    floating-point images are turned upright and scaled by their 0.5th and 99.5th percentiles. Pixels are taken as
    square. The image is then resized with antialiasing; one that already has the size keeps its pixels exactly.

    The result is a plain tensor: nothing of a header travels with it.

    Args:
        image_size: the side S in pixels, at least 1.
        channels: 1 (colour becomes ITU-R BT.601 grey) or 3 (grey is repeated). An alpha channel is laid over black.
        slice_rule: what to take of a volume or a multi-frame file, along the last axis (NIfTI: from the feet to the
            head): ``"middle"``, ``"max_projection"``, an index, or None to refuse such files.
        keep_aspect: pad to a square with black, the image centred, before resizing; False stretches the image.
        crop_to_field: cut off the black border round the field of view first, as of a fundus photograph: the image
            becomes the bounding box of what is brighter than black. One whose field already spans the longer side, or
            is less than half of the shorter side (it is too dark to tell), stays as it is.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        image_size: int,
        channels: int = 1,
        slice_rule: str | int | None = "middle",
        keep_aspect: bool = True,
        crop_to_field: bool = False,
    ) -> None:
        if image_size < 1:
            raise ValueError(f"image_size is {image_size}, and must be 1 or more, e.g. image_size=128")
        if channels not in (1, 3):
            raise ValueError(f"channels is {channels}, and must be 1 (grey) or 3 (colour)")
        if isinstance(slice_rule, str) and slice_rule not in ("middle", "max_projection"):
            raise ValueError(f'slice_rule is "{slice_rule}", and must be "middle", "max_projection", an index or None')
        self.image_size = image_size
        self.channels = channels
        self.slice_rule = slice_rule
        self.keep_aspect = keep_aspect
        self.crop_to_field = crop_to_field

    def __call__(self, path: str | os.PathLike) -> torch.Tensor:
        """Read ``path``.

        Returns:
            float32 ``[channels, image_size, image_size]`` in [-1, 1].

        Raises:
            ValueError: the file is missing, damaged, hostile, of an unknown format or channel count, smaller than 16
                pixels, constant, or holds NaN; the message names the file, the value and the remedy.
        """
        path = Path(path)
        if not os.path.isfile(path):
            raise ValueError(
                f"no file at '{path}'. It may have been moved since the datalist was written, or the data folder is "
                "not mounted: check the path, or give the folder with --dataset_dir DIR"
            )
        pixels = read_radiograph(path, self.slice_rule)
        height, width, count = pixels.shape
        if min(height, width) < MIN_SIDE:
            raise ValueError(
                f"'{path}' is {width} x {height} pixels, and {MIN_SIDE} is the least on each side; it may be a "
                "thumbnail or a wrong file. Use the original image, or leave it out"
            )
        if self.keep_aspect and max(height, width) ** 2 > 2 * MAX_PIXELS:
            raise ValueError(
                f"'{path}' is {width} x {height} pixels, too long to be padded to a square; it may be a damaged header "
                "or no radiograph. Leave it out, or crop it"
            )
        image = self._in_channels(torch.from_numpy(pixels).permute(2, 0, 1), path, count)
        if image.min() == image.max():
            raise ValueError(
                f"'{path}' is constant: every pixel has the same value after scaling. The exposure or the export may "
                "have failed. Leave the image out"
            )
        if self.crop_to_field:
            image = _field_of(image)
        return self._resized(image).mul(2).sub(1).clamp(-1, 1).contiguous()

    def _in_channels(self, image: torch.Tensor, path: Path, count: int) -> torch.Tensor:
        if count == 4:
            image = image[:3] * image[3:]
        elif count not in (1, 3):
            raise ValueError(
                f"'{path}' has {count} channels; 1 (grey), 3 (RGB) or 4 (RGBA) can be read. Save the channels that "
                "make the picture as one grey or RGB image"
            )
        if len(image) == self.channels:
            return image
        if self.channels == 3:
            return image.expand(3, -1, -1)
        return (image * image.new_tensor(_LUMA)[:, None, None]).sum(dim=0, keepdim=True)

    def _resized(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[1:]
        if self.keep_aspect and height != width:
            side = max(height, width)
            left, top = (side - width) // 2, (side - height) // 2
            padding = (left, side - width - left, top, side - height - top)
            image = torch.nn.functional.pad(image, padding)
        if image.shape[1:] == (self.image_size, self.image_size):
            return image
        size = (self.image_size, self.image_size)
        return torch.nn.functional.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]


def _field_of(image: torch.Tensor) -> torch.Tensor:
    """The field of view of ``[C, H, W]`` in [0, 1], without the black border round it."""
    bright = image.amax(dim=0) > _FIELD_LEVEL
    height, width = bright.shape
    rows, columns = ((bright.float().mean(dim=d) > _SPECKS).nonzero().flatten().tolist() for d in (1, 0))
    if not rows or not columns:
        return image
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = max(bottom - top, right - left)
    if side > _SPANS * max(height, width) or 2 * side < min(height, width):
        return image
    return image[:, top:bottom, left:right]


class LoadRadiographd(MapTransform):
    """Dictionary form of :class:`LoadRadiograph`: each key's path is replaced by its image.

    Args:
        keys: the keys that hold paths.
        image_size: see :class:`LoadRadiograph`.
        channels: see :class:`LoadRadiograph`.
        slice_rule: see :class:`LoadRadiograph`.
        keep_aspect: see :class:`LoadRadiograph`.
        crop_to_field: see :class:`LoadRadiograph`.
        allow_missing_keys: pass over keys that an item lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_size: int,
        channels: int = 1,
        slice_rule: str | int | None = "middle",
        keep_aspect: bool = True,
        crop_to_field: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadRadiograph(image_size, channels, slice_rule, keep_aspect, crop_to_field)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with images in place of paths; see :meth:`LoadRadiograph.__call__`."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.load(item[key])
        return item


LoadRadiographD = LoadRadiographDict = LoadRadiographd
