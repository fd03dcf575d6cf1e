"""Phantom fundus photographs: patients, their two eyes and diabetic retinopathy drawn from numbers alone, the
counterpart in colour of the chest phantoms."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from scipy.ndimage import gaussian_filter

from monai_plan.transforms.fundus_anatomy import FundusAnatomy, FundusTraits, fundus_colour, vessel_shadow
from monai_plan.transforms.fundus_lesions import FundusLesions, draw_lesions
from monai_plan.transforms.phantom_canvas import (
    CANVAS,
    bilinear_lookup,
    check_size,
    grain,
    pixel_centres,
    resized,
    smooth_step,
)

__all__ = [
    "FundusSpec",
    "RenderFundus",
    "RenderFundusD",
    "RenderFundusDict",
    "RenderFundusd",
    "render_fundus_phantom",
]

_PATIENT, _EYE, _FINDINGS, _CAMERA, _SHOT = 31, 32, 33, 34, 35  # purposes of the generators
_EYES = ("left", "right")
_FORM = re.compile(r"fundus:seed=(\d{1,18}),patient=(\d{1,18}),eye=(left|right),label=([0-4])")
_COLOURS = {  # what is left of red, green and blue, or the colour it turns into
    "blood": np.array([0.60, 0.28, 0.25], np.float32),
    "soot": np.array([0.55, 0.45, 0.42], np.float32),
    "sprout": np.array([0.80, 0.30, 0.30], np.float32),
    "exudate": np.array([1.0, 0.86, 0.36], np.float32),
    "wool": np.array([0.98, 0.88, 0.72], np.float32),
    "scar": np.array([0.95, 0.78, 0.52], np.float32),
    "veil": np.array([0.16, 0.05, 0.03], np.float32),
}


class FundusSpec(NamedTuple):
    """The four values that are a phantom photograph; ``str(spec)`` is what datalists hold.

    Attributes:
        seed: the population.
        patient: the patient's number in it.
        eye: ``"left"`` or ``"right"``.
        label: this eye's grade: 0 no retinopathy, 1 mild, 2 moderate, 3 severe, 4 proliferative.
    """

    seed: int
    patient: int
    eye: str
    label: int

    def __str__(self) -> str:
        return f"fundus:seed={self.seed},patient={self.patient},eye={self.eye},label={self.label}"

    @classmethod
    def parse(cls, text: str) -> FundusSpec:
        """Read ``"fundus:seed=0,patient=12,eye=left,label=3"``.

        Raises:
            ValueError: the text has another form, a negative number, another eye or a label outside 0 to 4.
        """
        match = _FORM.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(
                f"{text!r} is no fundus phantom: expected the form 'fundus:seed=0,patient=12,eye=left,label=3', whole "
                "numbers from 0 on, the eye left or right and a label of 0 to 4. Real image files need LoadRadiograph "
                "instead; phantoms' items come from monai_plan.data.fundus_datalist()"
            )
        seed, patient, eye, label = match.groups()
        return cls(int(seed), int(patient), eye, int(label))


def render_fundus_phantom(seed: int, patient: int, eye: str, label: int, image_size: int = 64) -> np.ndarray:
    """Draw one phantom colour photograph of the back of an eye.

    The picture is a function of its arguments alone. Every size shows the same picture. What a patient's eyes share
    depends on ``(seed, patient)``, branching and camera's aim on ``eye`` too, and the findings on ``label``.

    Args:
        seed: the population, from 0 on.
        patient: the patient's number, from 0 on.
        eye: ``"left"`` (the disc lies on the picture's left) or ``"right"``.
        label: grade of diabetic retinopathy: 0 none (with benign variants), 1 mild, 2 moderate, 3 severe,
            4 proliferative.
        image_size: side in pixels, 32 to 256.

    Returns:
        float32 [3, image_size, image_size] in [-1, 1]; red, green, blue; exactly -1 outside the field of view.

    Raises:
        ValueError: a value is out of its range.
    """
    check_size(image_size)
    spec = FundusSpec.parse(str(FundusSpec(seed, patient, eye, label)))
    anatomy = _anatomy_of(spec.seed, spec.patient, spec.eye)
    key = [spec.seed, spec.patient]
    side = _EYES.index(spec.eye)
    lesions = draw_lesions(np.random.default_rng([*key, _FINDINGS, side, spec.label]), anatomy, spec.label)
    camera = np.random.default_rng([*key, _CAMERA])
    shot = np.random.default_rng([*key, _SHOT, side])
    canvas = max(CANVAS, image_size)
    mask = _field_of_view(camera, canvas)
    inside = np.flatnonzero(mask)
    x, y = (axis[inside] for axis in pixel_centres(canvas))
    zoom, offset = camera.uniform(0.93, 1.08), camera.uniform(0.0, 0.30)
    turn = shot.normal(0, 0.05)
    dx = (x if spec.eye == "right" else -x) / zoom + offset + shot.normal(0, 0.035)
    dy = y / zoom + shot.normal(-0.02, 0.035)
    u = (dx * np.cos(turn) + dy * np.sin(turn)).astype(np.float32)
    v = (dy * np.cos(turn) - dx * np.sin(turn)).astype(np.float32)
    colour = _with_lesions(fundus_colour(anatomy, u, v, lesions.beading), lesions, u, v)
    colour = _photograph(camera, shot, colour, x, y)
    picture = np.zeros((3, canvas * canvas), dtype=np.float32)
    picture[:, inside] = colour
    blur = shot.uniform(0.003, 0.010) * canvas / 2
    picture = gaussian_filter(picture.reshape(3, canvas, canvas), (0, blur, blur), truncate=3.0)
    shown = torch.from_numpy(picture * mask.reshape(canvas, canvas))
    if canvas != image_size:
        shown = resized(shown, image_size)
    shown += resized(grain(shot, camera.uniform(0.008, 0.03)), image_size) * shown.sqrt()
    return shown.clamp_(0, 1).mul_(2).sub_(1).numpy()


class RenderFundus(Transform):
    """Array transform: a fundus phantom's spec in, its picture out.

    Args:
        image_size: side in pixels, 32 to 256.

    Raises:
        ValueError: the size is out of range.

    Example:
        >>> RenderFundus(64)("fundus:seed=0,patient=12,eye=left,label=3").shape
        torch.Size([3, 64, 64])
    """

    def __init__(self, image_size: int = 64) -> None:
        check_size(image_size)
        self.image_size = image_size

    def __call__(self, data: str) -> torch.Tensor:
        """Draw the picture.

        Args:
            data: e.g. ``"fundus:seed=0,patient=12,eye=left,label=3"``.

        Returns:
            A plain float32 tensor [3, image_size, image_size] in [-1, 1].

        Raises:
            ValueError: ``data`` is no fundus phantom's spec.
        """
        return torch.from_numpy(render_fundus_phantom(*FundusSpec.parse(data), image_size=self.image_size))


class RenderFundusd(MapTransform):
    """Dictionary transform of :class:`RenderFundus`.

    Args:
        keys: the items that hold fundus phantoms' specs.
        image_size: side in pixels, 32 to 256.
        allow_missing_keys: do not raise when a key is missing.
    """

    def __init__(self, keys: KeysCollection, image_size: int = 64, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.render = RenderFundus(image_size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each spec by its picture, float32 [3, image_size, image_size] in [-1, 1]."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.render(out[key])
        return out


RenderFundusD = RenderFundusDict = RenderFundusd


@lru_cache(maxsize=64)
def _anatomy_of(seed: int, patient: int, eye: str) -> FundusAnatomy:
    traits = FundusTraits.draw(np.random.default_rng([seed, patient, _PATIENT]))
    return FundusAnatomy.draw(traits, np.random.default_rng([seed, patient, _EYE, _EYES.index(eye)]))


def _with_lesions(colour: np.ndarray, lesions: FundusLesions, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Lay the lesions over the healthy reflectance [3, P], in the order of their depth."""

    def seen(plate: np.ndarray) -> np.ndarray:
        return bilinear_lookup(plate, u, v) if plate.any() else np.zeros_like(u)

    light = colour.max(axis=0)  # pale lesions are as bright as the fundus around them lets them be
    for name, plate in (("scar", lesions.scar), ("exudate", lesions.exudate), ("wool", lesions.wool)):
        colour = colour + seen(plate) * (np.outer(_COLOURS[name], 0.35 + 0.65 * light) - colour)
    colour = colour * (1 - np.outer(1 - _COLOURS["soot"], seen(lesions.soot)))
    colour = colour * (1 - np.outer(1 - _COLOURS["sprout"], vessel_shadow(lesions.sprouts, u, v)))
    colour = colour * (1 - np.outer(1 - _COLOURS["blood"], seen(lesions.blood)))
    return colour + seen(lesions.veil) * (_COLOURS["veil"][:, None] - colour)


def _photograph(
    camera: np.random.Generator, shot: np.random.Generator, colour: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """The camera's answer to the reflectance: flash, vignette, haze, white balance, exposure, contrast."""
    warmth, exposure = camera.uniform(-1, 1), camera.uniform(0.78, 1.12) * shot.normal(1, 0.04)
    balance = np.array([1.0, 1 - 0.06 * warmth, 1 - 0.6 * warmth], np.float32)
    off_x, off_y = shot.normal(0, 0.14, 2)
    radius = np.square(x - off_x) + np.square(y - off_y)
    lit = exposure * (1.04 - camera.uniform(0.10, 0.42) * radius)
    colour = colour * balance[:, None] * lit
    if shot.uniform() < 0.3:
        angle = shot.uniform(0, 2 * np.pi)
        edge = smooth_step(np.hypot(x + 0.5 * np.cos(angle), y + 0.5 * np.sin(angle)) - 1.25, 0.25)
        colour = colour + shot.uniform(0.1, 0.35) * edge * (np.array([[0.75], [0.6], [0.55]], np.float32) - colour)
    haze = shot.uniform(0.0, 0.16)
    colour = (1 - haze) * colour + haze * colour.mean(axis=1, keepdims=True)
    colour = np.maximum(colour, 0)
    colour = np.where(colour > 0.75, 0.75 + 0.25 * np.tanh((colour - 0.75) / 0.25), colour)
    return np.power(colour, camera.uniform(0.85, 1.15)).astype(np.float32)


def _field_of_view(camera: np.random.Generator, size: int) -> np.ndarray:
    """The camera's mask [size * size], 0 to 1: a full circle, or one cut above and below."""
    x, y = pixel_centres(size)
    cut = camera.uniform(0.80, 0.88) if camera.uniform() < 0.65 else 1.0
    return smooth_step(0.985 - np.hypot(x, y), 0.012) * smooth_step(cut - np.abs(y), 0.012)
