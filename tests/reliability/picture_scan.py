"""Finds real images among pictures and tensors: whole, as a cell of a grid, mirrored, turned, in other contrast."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import torch
from marker_scan import PNG, parts_of
from PIL import Image, UnidentifiedImageError
from safetensors.torch import load as load_safetensors

NEAR = 0.999
FLAT = 1e-3
"""Standard deviation below which a picture, in [0, 1], shows nothing."""
COARSE = 0.96
STRIP = 32
AT_ONCE = 256
JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True)
class RealImage:
    """A real image that was found: where, which one (its row), and how alike."""

    place: str
    row: int
    correlation: float


class PictureScan:
    """Looks for real images, in all eight orientations, and counts what it looked at.

    Args:
        real: float [N, C, S, S], as networks were trained on them.
        near: normalised correlation from which on two pictures are the same one.
        cells: cells a side of the coarse view by which places are chosen; more take longer, and choose fewer.
        step: pixels from one place to the next in that view; round a chosen one all are looked at.

    Attributes:
        pictures, tensors: looked at so far.
    """

    def __init__(self, real: torch.Tensor, near: float = NEAR, cells: int = 4, step: int = 1) -> None:
        grey = real.float().mean(dim=1)
        turned = [torch.rot90(flipped, k, (1, 2)) for flipped in (grey, grey.flip(2)) for k in range(4)]
        self.size, self.near, self.cells, self.step = real.shape[-1], near, cells, step
        self.count, self.pictures, self.tensors = len(real), 0, 0
        self._whole = _normed(torch.cat(turned).flatten(1))
        seen = self.size // cells * cells
        coarse = torch.nn.functional.adaptive_avg_pool2d(torch.cat(turned)[:, None, :seen, :seen], cells)
        self._coarse = _normed(coarse.flatten(1))

    def of_file(self, path: Path, place: str = "") -> list[RealImage]:
        """Real images in a file: pictures of any format, also within archives and pages, and tensors."""
        return self.of(path.read_bytes(), place or path.name)

    def of(self, content: bytes, place: str) -> list[RealImage]:
        """Real images in the bytes of a file."""
        found: list[RealImage] = []
        for where, part in parts_of(content, place):
            for name, picture in _pictures(part):
                self.pictures += 1
                found += self.in_picture(picture, f"{where} {name}")
            for name, tensor in _tensors(part):
                self.tensors += 1
                found += self.in_tensor(tensor, f"{where} {name}")
        return found

    def in_picture(self, picture: np.ndarray, place: str) -> list[RealImage]:
        """Real images anywhere in a picture [H, W] or [H, W, C]."""
        grey = torch.from_numpy(np.array(picture, np.float32))
        grey = grey.mean(dim=2) if grey.ndim == 3 else grey
        grey = (grey - grey.min()) / (grey.max() - grey.min()).clamp_min(1e-9)
        best: dict[int, RealImage] = {}
        places = self._like_a_real_one(grey)
        for first in range(0, len(places), AT_ONCE):
            some = places[first : first + AT_ONCE]
            shown = [grey[top : top + self.size, left : left + self.size].flatten() for top, left in some]
            for window, row, correlation in self._alike(torch.stack(shown)):
                top, left = some[window]
                if row not in best or correlation > best[row].correlation:
                    best[row] = RealImage(f"{place} at {left}, {top}", row, correlation)
        return list(best.values())

    def in_tensor(self, tensor: torch.Tensor, place: str) -> list[RealImage]:
        """Real images among a tensor's: those of its last two sides, or of its rows."""
        pixels = self.size**2
        tensor = tensor.detach().float()
        if tensor.shape[-2:] == (self.size, self.size):
            images = [tensor.reshape(-1, pixels)]
            if tensor.ndim > 2 and tensor.shape[-3] == 3:
                images.append(tensor.mean(dim=-3).reshape(-1, pixels))
        elif tensor.ndim and tensor.shape[-1] in (pixels, 3 * pixels):
            rows = tensor.reshape(-1, tensor.shape[-1] // pixels, pixels)
            images = [rows.reshape(-1, pixels), rows.mean(dim=1), tensor.reshape(-1, pixels, rows.shape[1]).mean(dim=2)]
        else:
            return []
        return [RealImage(place, row, alike) for rows in images for _, row, alike in self._alike(rows)]

    def _alike(self, rows: torch.Tensor) -> list[tuple[int, int, float]]:
        """Of rows [n, S * S] those that are a real image: their number, the real image's, and how alike."""
        alike, which = (_normed(rows) @ self._whole.T).abs().max(dim=1)
        found = (alike >= self.near).nonzero().flatten().tolist()
        return [(row, int(which[row]) % self.count, round(float(alike[row]), 5)) for row in found]

    def _like_a_real_one(self, grey: torch.Tensor) -> list[tuple[int, int]]:
        """Top and left of the windows whose coarse view is that of a real image."""
        if min(grey.shape) < self.size:
            return []
        side, lasts = self.size // self.cells, [extent - self.size for extent in grey.shape]
        starts = [(top * side, left * side) for top in range(self.cells) for left in range(self.cells)]
        chosen: set[tuple[int, int]] = set()
        for first in range(0, lasts[0] + 1, STRIP * self.step):  # memory for a strip of windows
            last = min(first + STRIP * self.step - 1, lasts[0])
            strip = grey[None, first : last + self.size]
            means = torch.nn.functional.avg_pool2d(strip, side, stride=1)[0]
            rows, columns = range(0, last - first + 1, self.step), range(0, lasts[1] + 1, self.step)
            views = torch.stack(
                [
                    means[top : top + last - first + 1 : self.step, left : left + lasts[1] + 1 : self.step].flatten()
                    for top, left in starts
                ]
            )
            centred = views - views.mean(dim=0)
            length = centred.square().sum(dim=0).sqrt()
            shows = (length > self.cells * FLAT).nonzero().flatten()
            alike = (self._coarse @ centred[:, shows]).abs().amax(dim=0)
            for place in shows[alike >= COARSE * length[shows]].tolist():
                chosen.add((first + rows[place // len(columns)], columns[place % len(columns)]))
        near = range(-(self.step // 2), self.step // 2 + 1)
        around = {(top + down, left + right) for top, left in chosen for down in near for right in near}
        return sorted((top, left) for top, left in around if 0 <= top <= lasts[0] and 0 <= left <= lasts[1])


def _normed(rows: torch.Tensor) -> torch.Tensor:
    """Rows with mean 0 and length 1; those that show nothing are 0."""
    centred = rows - rows.mean(dim=1, keepdim=True)
    flat = centred.square().mean(dim=1, keepdim=True).sqrt() < FLAT
    return torch.where(flat, 0.0, torch.nn.functional.normalize(centred, dim=1))


def _pictures(content: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """Every PNG and JPEG that begins anywhere in the bytes, and a DICOM or NIfTI file that they are."""
    for kind, magic in (("PNG", PNG), ("JPEG", JPEG)):
        at = content.find(magic)
        while at >= 0:
            try:
                with Image.open(io.BytesIO(content[at:]), formats=(kind,)) as picture:
                    mode = "L" if picture.mode in ("1", "L", "P") and picture.mode != "P" else "RGB"
                    yield f"{kind} at {at}", np.asarray(picture.convert(mode))
            except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
                pass
            at = content.find(magic, at + 1)
    for kind, begins, read in (
        ("DICOM", content[128:132] == b"DICM", _dicom_pixels),
        ("NIfTI", content[344:348] == b"n+1\x00", _nifti_pixels),
    ):
        if begins:
            with suppress(OSError, ValueError, AttributeError):  # the bytes of one, some of them taken for escapes
                yield kind, read(content)


def _dicom_pixels(content: bytes) -> np.ndarray:
    return pydicom.dcmread(io.BytesIO(content)).pixel_array


def _nifti_pixels(content: bytes) -> np.ndarray:
    return np.asarray(nibabel.Nifti1Image.from_bytes(content).dataobj).squeeze()


def _tensors(content: bytes) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a file of torch, safetensors or NumPy."""
    loaded: Any = None
    if content[:2] == b"PK":
        try:
            loaded = torch.load(io.BytesIO(content), weights_only=True)
        except Exception:  # another archive; its members are looked at one by one
            return
    elif content[8:9] == b"{":
        try:
            loaded = load_safetensors(content)
        except Exception:  # begins so by chance
            return
    elif content[:6] == b"\x93NUMPY":
        loaded = {"": torch.as_tensor(np.load(io.BytesIO(content), allow_pickle=False))}
    yield from _leaves(loaded, "")


def _leaves(content: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(content, torch.Tensor):
        yield name, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _leaves(value, f"{name}/{key}")
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from _leaves(value, f"{name}/{number}")
