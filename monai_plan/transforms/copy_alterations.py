"""What may be done to a copy of an image, in one table: to test a gate with planted copies, and to train its embedder.

The table was fixed before any gate was tested with it: *light* is what a careless export or resave does.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from monai.utils import optional_import

from monai_plan.utils import generator_for

__all__ = ["COPY_ALTERATIONS", "CopyAlteration", "RandomCopies", "alterations_of", "planted_copies"]

Image, _ = optional_import("PIL.Image", descriptor='JPEG copies need Pillow: pip install "monai_plan[images]"')

STRENGTHS = ("light", "medium", "strong")
_ELASTIC_GRID = 4  # control points along each side: a warp of a quarter of the image

Apply = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class CopyAlteration:
    """One way to alter a copy.

    Attributes:
        unit: what a strength measures.
        strengths: the light one, and where there are more the medium and the strong one.
        apply: images [B, C, H, W] in [-1, 1], strengths [B], other patients' images (of the first's shape, on any
            device) and a generator (on the CPU) -> altered images.
        of_colour: whether it alters colours, and grey images have none.
    """

    unit: str
    strengths: tuple[float, ...]
    apply: Apply
    of_colour: bool = False

    def amount(self, strength: str | float) -> float:
        """The number that a strength's name stands for; a number stands for itself.

        Raises:
            ValueError: no such strength.
        """
        if not isinstance(strength, str):
            return float(strength)
        if strength not in STRENGTHS[: len(self.strengths)]:
            raise ValueError(
                f'no strength "{strength}" here; known are {", ".join(STRENGTHS[: len(self.strengths)])} and any number'
            )
        return self.strengths[STRENGTHS.index(strength)]


def alterations_of(channels: int) -> dict[str, CopyAlteration]:
    """What of :data:`COPY_ALTERATIONS` can be done to images of so many channels: to RGB all, to others no colour."""
    return {name: of for name, of in COPY_ALTERATIONS.items() if channels == 3 or not of.of_colour}


def planted_copies(
    images: torch.Tensor,
    alteration: str,
    strength: str | float,
    seed: int,
    hosts: torch.Tensor | None = None,
    rows: Sequence[int] | None = None,
) -> torch.Tensor:
    """Altered copies of images.

    An image's copy depends on the seed and on its row, not on the other rows asked for: copies made a few at a time
    are the same bits as those made at once.

    Args:
        images: float, shape [B, C, H, W], range [-1, 1].
        alteration: a key of :data:`COPY_ALTERATIONS`.
        strength: ``"light"``, ``"medium"``, ``"strong"``, or a number in the alteration's unit.
        seed: of the directions, places and noise; drawn for each image.
        hosts: images of other patients for ``"paste"``, shape [M, C, H, W], used in turn; by default the image before
            (the first takes the last).
        rows: the images to copy, R of 0 .. B - 1; by default all.

    Returns:
        float, shape [R, C, H, W], range [-1, 1], on the images' device.

    Raises:
        ValueError: no such alteration (of images with so many channels) or strength, or ``"paste"`` of a single image
            without hosts.
        OptionalImportError: ``"jpeg"`` without Pillow (extra ``images``).
    """
    known = alterations_of(images.shape[1])
    if alteration not in known:
        raise ValueError(f'no alteration "{alteration}" of {images.shape[1]} channel(s); known are {", ".join(known)}')
    if hosts is None and alteration == "paste" and len(images) == 1:
        raise ValueError("one image cannot be pasted into another patient's; give hosts, images of other patients")
    amount = COPY_ALTERATIONS[alteration].amount(strength)
    amounts = torch.tensor([amount])
    rows = range(len(images)) if rows is None else rows
    copies = images.new_empty((len(rows), *images.shape[1:]))
    for place, row in enumerate(rows):  # one by one: sums over a batch round otherwise than those over an image
        rng = generator_for(seed, "planted copies", alteration, repr(amount), row)
        host = images[row - 1] if hosts is None else hosts[row % len(hosts)]
        copies[place] = COPY_ALTERATIONS[alteration].apply(images[row][None], amounts, host[None], rng)[0]
    return copies.clamp_(-1, 1)


class RandomCopies:
    """Alter every image in several ways at once, each by a random amount; for contrastive training.

    So the embedder learns what its gate must not be misled by (Pizzi et al., "A self-supervised descriptor for image
    copy detection", CVPR 2022). JPEG is left out: it is slow, and noise and blur come near it.

    Args:
        p: probability of each alteration (of the mirror: 0.5).
        strength: ``"light"``, ``"medium"`` or ``"strong"``: the largest amounts. Amounts are uniform from none to that
            (shares of a pasted image from all of it to that).
        paste: probability that part of the image lies in the image before it in the batch.
    """

    def __init__(self, p: float = 0.4, strength: str = "medium", paste: float = 0.2) -> None:
        self.p = p
        self.strength = strength
        self.paste = paste

    def __call__(self, images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Alter ``images`` [B, C, H, W] (range [-1, 1]) with draws from ``rng`` (on the CPU)."""
        altered = images.clone()
        hosts = images.roll(1, dims=0)
        for name, alteration in alterations_of(images.shape[1]).items():
            if name in ("exact", "jpeg"):
                continue
            p = {"flip": 0.5, "paste": self.paste}.get(name, self.p)
            rows = (torch.rand(len(images), generator=rng) < p).nonzero().flatten()
            share = torch.rand(len(images), generator=rng)[rows]
            if not len(rows):
                continue
            most = 1.0 if name == "flip" else alteration.amount(self.strength)
            amounts = 1 - share * (1 - most) if name == "paste" else share * most
            place = rows.to(images.device)
            altered[place] = alteration.apply(altered[place], amounts, hosts[place], rng)
        return altered.clamp(-1, 1)


def _signs(count: int, rng: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 2, (count,), generator=rng) * 2.0 - 1.0


def _spread(amounts: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return amounts.to(images)[:, None, None, None]


def _resample(images: torch.Tensor, theta: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
    """Look up every pixel at ``theta`` [B, 2, 3] times its place, plus ``offset`` [B, H, W, 2]; the border repeats."""
    grid = F.affine_grid(theta.to(images), list(images.shape), align_corners=False)
    if offset is not None:
        grid = grid + offset.to(images)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _affine(xx: torch.Tensor, xy: torch.Tensor, x: torch.Tensor, yy: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """[B, 2, 3] maps of output places to input places, turning by ``xy``."""
    return torch.stack([torch.stack([xx, -xy, x], dim=1), torch.stack([xy, yy, y], dim=1)], dim=1)


def _exact(images: torch.Tensor, amounts: torch.Tensor, hosts: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    return images


def _shift(images: torch.Tensor, amounts: torch.Tensor, hosts: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Up, down, left or right."""
    turn = torch.randint(0, 4, (len(images),), generator=rng)
    right = amounts * torch.tensor([0.0, 0.0, -1.0, 1.0])[turn] * 2 / images.shape[3]
    down = amounts * torch.tensor([1.0, -1.0, 0.0, 0.0])[turn] * 2 / images.shape[2]
    one, nought = torch.ones_like(amounts), torch.zeros_like(amounts)
    return _resample(images, _affine(one, nought, right, one, down))


def _crop(images: torch.Tensor, amounts: torch.Tensor, hosts: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """A part of the frame, from a random place, resized to all of it."""
    x, y = (torch.rand(2, len(images), generator=rng) * 2 - 1) * amounts
    return _resample(images, _affine(1 - amounts, torch.zeros_like(amounts), x, 1 - amounts, y))


def _flip(images: torch.Tensor, amounts: torch.Tensor, hosts: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    return images.flip(3)


def _rotate(images: torch.Tensor, amounts: torch.Tensor, hosts: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    angle = amounts * math.pi / 180 * _signs(len(images), rng)
    nought = torch.zeros_like(amounts)
    return _resample(images, _affine(angle.cos(), angle.sin(), nought, angle.cos(), nought))


def _elastic(images: torch.Tensor, amounts: torch.Tensor, hosts: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """A smooth field of displacements, the longest of them as long as the amount."""
    size = images.shape[2:]
    points = torch.randn(len(images), 2, _ELASTIC_GRID, _ELASTIC_GRID, generator=rng)
    field = F.interpolate(points, size=size, mode="bicubic", align_corners=True)
    field = field * (amounts / field.norm(dim=1).amax(dim=(1, 2)))[:, None, None, None]
    field = field * torch.tensor([2 / size[1], 2 / size[0]])[None, :, None, None]
    one, nought = torch.ones_like(amounts), torch.zeros_like(amounts)
    return _resample(images, _affine(one, nought, nought, one, nought), field.permute(0, 2, 3, 1))


def _noise(images: torch.Tensor, amounts: torch.Tensor, hosts: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    return images + 2 * _spread(amounts, images) * torch.randn(images.shape, generator=rng).to(images)


def _blur(images: torch.Tensor, amounts: torch.Tensor, hosts: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """By a Gaussian of each image's own deviation, row by row and column by column."""
    count, channels, height, width = images.shape
    reach = min(math.ceil(3 * float(amounts.max())), height - 1, width - 1)
    places = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (places / amounts.clamp_min(1e-3)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0).to(images)
    rows = F.pad(images.reshape(1, count * channels, height, width), [reach] * 4, mode="reflect")
    rows = F.conv2d(rows, kernel[:, None, :, None], groups=count * channels)
    return F.conv2d(rows, kernel[:, None, None, :], groups=count * channels).reshape(images.shape)


def _contrast(images: torch.Tensor, amounts: torch.Tensor, hosts: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """More or less of the deviation from each image's mean."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * _spread(1 + amounts * _signs(len(images), rng), images)


def _gamma(images: torch.Tensor, amounts: torch.Tensor, hosts: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """A power of the brightness in 0 .. 1, above or below 1."""
    power = (1 + amounts) ** _signs(len(images), rng)
    return 2 * ((images.clamp(-1, 1) + 1) / 2).pow(_spread(power, images)) - 1


def _brightness(images: torch.Tensor, amounts: torch.Tensor, hosts: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    return images + 2 * _spread(amounts * _signs(len(images), rng), images)


def _colour(images: torch.Tensor, amounts: torch.Tensor, hosts: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """A cast, as of another white balance: red, green and blue scaled apart, in a random direction across grey."""
    turn = torch.rand(len(images), 1, generator=rng) + torch.arange(3) / 3
    cast = (2 * math.pi * turn).cos()
    scale = 1 + amounts[:, None] * cast / cast.abs().amax(dim=1, keepdim=True)
    return (images + 1) * scale.to(images)[:, :, None, None] - 1


def _paste(images: torch.Tensor, amounts: torch.Tensor, hosts: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """A rectangle of the image's shape, at its own place, in the host."""
    height, width = images.shape[2:]
    pasted = hosts.to(images, copy=True)
    places = torch.rand(len(images), 2, generator=rng)
    for row, (area, (down, right)) in enumerate(zip(amounts.tolist(), places.tolist(), strict=True)):
        tall, wide = round(height * math.sqrt(area)), round(width * math.sqrt(area))
        top, left = round(down * (height - tall)), round(right * (width - wide))
        part = (row, slice(None), slice(top, top + tall), slice(left, left + wide))
        pasted[part] = images[part]
    return pasted


def _jpeg(images: torch.Tensor, amounts: torch.Tensor, hosts: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Eight bits, compressed and read again."""
    pixels = (images.clamp(-1, 1) + 1).mul(127.5).round().to(torch.uint8).cpu().movedim(1, 3).numpy()
    read = []
    for picture, quality in zip(pixels, amounts.tolist(), strict=True):
        file = io.BytesIO()
        Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture).save(
            file, "JPEG", quality=round(quality)
        )
        read.append(np.array(Image.open(file)).reshape(picture.shape))
    return torch.from_numpy(np.stack(read)).movedim(3, 1).to(images) / 127.5 - 1


COPY_ALTERATIONS: Mapping[str, CopyAlteration] = {
    "exact": CopyAlteration("none", (0.0,), _exact),
    "shift": CopyAlteration("pixels, the border repeated", (2.0, 4.0, 8.0), _shift),
    "crop": CopyAlteration("share of each side cut off, the rest resized", (0.02, 0.1, 0.25), _crop),
    "flip": CopyAlteration("left to right", (1.0,), _flip),
    "rotate": CopyAlteration("degrees", (2.0, 8.0, 20.0), _rotate),
    "elastic": CopyAlteration("pixels, the largest displacement", (1.0, 2.0, 4.0), _elastic),
    "noise": CopyAlteration("standard deviation, share of the range", (0.02, 0.05, 0.15), _noise),
    "blur": CopyAlteration("pixels, the Gaussian's deviation", (0.5, 1.0, 2.0), _blur),
    "contrast": CopyAlteration("share by which the contrast is more or less", (0.1, 0.25, 0.5), _contrast),
    "gamma": CopyAlteration("share by which the power is more or less", (0.1, 0.25, 0.5), _gamma),
    "brightness": CopyAlteration("share of the range, lighter or darker", (0.1, 0.2, 0.4), _brightness),
    "paste": CopyAlteration("share of the area that is the image's", (0.75, 0.5, 0.25), _paste),
    "jpeg": CopyAlteration("quality", (75.0, 40.0, 10.0), _jpeg),
    "colour": CopyAlteration(
        "share by which a channel is more or less, none on the mean of three",
        (0.05, 0.15, 0.4),
        _colour,
        of_colour=True,
    ),
}
"""Alterations by name; the first strength of each is *light*, and a gate must find those copies."""
