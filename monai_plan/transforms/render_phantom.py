"""Phantom chest radiographs: patients, visits and tuberculosis drawn from numbers alone, so that everything else can
be tried without one real picture."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

from monai_plan.transforms.phantom_anatomy import ChestAnatomy, chest_density, lung_field
from monai_plan.transforms.phantom_canvas import CANVAS, check_size, grain, pixel_centres, resized, smooth_step
from monai_plan.transforms.phantom_pathology import benign_fill, tuberculosis_fill

__all__ = [
    "PhantomSpec",
    "RenderPhantom",
    "RenderPhantomD",
    "RenderPhantomDict",
    "RenderPhantomd",
    "render_chest_phantom",
]

_PATIENT, _FINDINGS, _VISIT = 11, 12, 13  # purposes of the generators
_FORM = re.compile(r"phantom:seed=(\d{1,18}),patient=(\d{1,18}),visit=(\d{1,18}),label=([01])")


class PhantomSpec(NamedTuple):
    """The four numbers that are a phantom radiograph; ``str(spec)`` is what datalists hold.

    Attributes:
        seed: the population.
        patient: the patient's number in it.
        visit: the patient's visit; pose, exposure, inspiration and noise differ between visits.
        label: 0 normal, 1 tuberculosis.
    """

    seed: int
    patient: int
    visit: int
    label: int

    def __str__(self) -> str:
        return f"phantom:seed={self.seed},patient={self.patient},visit={self.visit},label={self.label}"

    @classmethod
    def parse(cls, text: str) -> PhantomSpec:
        """Read ``"phantom:seed=0,patient=12,visit=1,label=1"``.

        Raises:
            ValueError: the text has another form, a negative number or a label other than 0 and 1.
        """
        match = _FORM.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(
                f"{text!r} is no phantom: expected the form 'phantom:seed=0,patient=12,visit=1,label=1', whole numbers "
                "from 0 on and a label of 0 or 1. Real image files need LoadRadiograph instead; phantoms' items come "
                "from monai_plan.data.phantom_datalist()"
            )
        return cls(*(int(number) for number in match.groups()))


def render_chest_phantom(seed: int, patient: int, visit: int, label: int, image_size: int = 64) -> np.ndarray:
    """Draw one phantom chest radiograph.

    The picture is a function of its arguments alone. Every size shows the same picture. A patient's anatomy depends on
    ``(seed, patient)``, the findings on ``label`` too, and pose, inspiration, exposure and noise on ``visit``.

    Args:
        seed: the population, from 0 on.
        patient: the patient's number, from 0 on.
        visit: the visit's number, from 0 on.
        label: 0 normal (with benign variants), 1 tuberculosis (subtle to gross).
        image_size: side in pixels, 32 to 256.

    Returns:
        float32 [image_size, image_size] in [-1, 1]; air is dark, bone bright, the patient's left on the right.

    Raises:
        ValueError: a number is out of its range.
    """
    check_size(image_size)
    spec = PhantomSpec.parse(str(PhantomSpec(seed, patient, visit, label)))
    anatomy = _anatomy_of(spec.seed, spec.patient)
    findings = np.random.default_rng([spec.seed, spec.patient, _FINDINGS, spec.label])
    rng = np.random.default_rng([spec.seed, spec.patient, _VISIT, spec.visit])
    canvas = max(CANVAS, image_size)
    image_x, image_y = pixel_centres(canvas)
    turn, scale = rng.normal(0, 0.018), anatomy.size * rng.normal(1, 0.013)
    shift_x, shift_y = rng.normal(0, 0.018, 2)
    dx, dy = (image_x - shift_x) / scale, (image_y - shift_y) / scale
    x = (dx * np.cos(turn) + dy * np.sin(turn)).astype(np.float32)
    y = (dy * np.cos(turn) - dx * np.sin(turn)).astype(np.float32)
    lungs = lung_field(anatomy, x, y, inspiration=float(np.clip(rng.normal(0, 0.022), -0.06, 0.06)))
    course = float(rng.uniform(0.8, 1.15))
    fill = benign_fill(findings, lungs, anatomy.texture)
    if spec.label:
        fill = fill + tuberculosis_fill(findings, lungs, anatomy.texture, course)
    density = chest_density(anatomy, lungs, fill)
    density = np.maximum(density, _marker(rng, image_x, image_y)).reshape(canvas, canvas)
    shown = torch.from_numpy(_expose(rng, density)).float()[None]
    if canvas != image_size:
        shown = resized(shown, image_size)
    shown += resized(grain(rng, rng.uniform(0.012, 0.04)), image_size) * (1.25 - shown)
    return shown[0].clamp_(0, 1).mul_(2).sub_(1).numpy()


class RenderPhantom(Transform):
    """Array transform: a phantom's spec in, its picture out.

    Args:
        image_size: side in pixels, 32 to 256.

    Raises:
        ValueError: the size is out of range.

    Example:
        >>> RenderPhantom(64)("phantom:seed=0,patient=12,visit=1,label=1").shape
        torch.Size([1, 64, 64])
    """

    def __init__(self, image_size: int = 64) -> None:
        check_size(image_size)
        self.image_size = image_size

    def __call__(self, data: str) -> torch.Tensor:
        """Draw the picture.

        Args:
            data: e.g. ``"phantom:seed=0,patient=12,visit=1,label=1"``.

        Returns:
            A plain float32 tensor [1, image_size, image_size] in [-1, 1].

        Raises:
            ValueError: ``data`` is no phantom's spec.
        """
        return torch.from_numpy(render_chest_phantom(*PhantomSpec.parse(data), image_size=self.image_size))[None]


class RenderPhantomd(MapTransform):
    """Dictionary transform of :class:`RenderPhantom`.

    Args:
        keys: the items that hold phantoms' specs.
        image_size: side in pixels, 32 to 256.
        allow_missing_keys: do not raise when a key is missing.
    """

    def __init__(self, keys: KeysCollection, image_size: int = 64, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.render = RenderPhantom(image_size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each spec by its picture, float32 [1, image_size, image_size] in [-1, 1]."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.render(out[key])
        return out


RenderPhantomD = RenderPhantomDict = RenderPhantomd


@lru_cache(maxsize=64)
def _anatomy_of(seed: int, patient: int) -> ChestAnatomy:
    return ChestAnatomy.draw(np.random.default_rng([seed, patient, _PATIENT]))


def _marker(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The lead letter of the side: an L in the right upper corner or an R in the left one."""
    is_left = rng.uniform() < 0.5
    centre_x, centre_y = rng.uniform(0.82, 0.90), rng.uniform(-0.93, -0.84)
    u, v = x - (centre_x if is_left else -centre_x), y - centre_y
    strokes = [(-0.025, -0.045, -0.025, 0.045)]
    if is_left:
        strokes += [(-0.025, 0.045, 0.025, 0.045)]
    else:
        strokes += [(-0.025, -0.045, 0.02, -0.04), (0.02, -0.04, 0.02, 0.0), (0.02, 0.0, -0.025, 0.0)]
        strokes += [(-0.01, 0.0, 0.025, 0.045)]
    near = np.flatnonzero((np.abs(u) < 0.09) & (np.abs(v) < 0.11))
    out = np.zeros_like(x)
    for x0, y0, x1, y1 in strokes:
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((u[near] - x0) * dx + (v[near] - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        distance = np.hypot(u[near] - x0 - along * dx, v[near] - y0 - along * dy)
        out[near] = np.maximum(out[near], smooth_step(0.011 - distance, 0.012))
    return 0.9 * out


def _expose(rng: np.random.Generator, density: np.ndarray) -> np.ndarray:
    """The film's answer to the density: offset, gain, a shoulder towards white, gamma."""
    value = rng.uniform(0.02, 0.07) + rng.normal(1.0, 0.05) * np.maximum(density, 0)
    value = np.where(value > 0.7, 0.7 + 0.28 * np.tanh((value - 0.7) / 0.28), value)
    return np.power(value, rng.uniform(0.88, 1.15))
