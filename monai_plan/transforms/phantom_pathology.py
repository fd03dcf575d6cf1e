"""What tuberculosis, or a harmless past, puts into the lungs of a phantom patient.

Everything is a fill: the share of the air at a pixel that something denser has replaced.
"""

from __future__ import annotations

import numpy as np

from monai_plan.transforms.phantom_anatomy import LungField
from monai_plan.transforms.phantom_canvas import bilinear_lookup, smooth_step

__all__ = ["benign_fill", "tuberculosis_fill"]

Array = np.ndarray


def tuberculosis_fill(rng: np.random.Generator, lungs: LungField, texture: Array, course: float) -> Array:
    """Draw findings of pulmonary tuberculosis and return the fill [P].

    One to three of: patchy apical infiltrate, cavity, cluster of nodules, miliary seeding, pleural effusion. Their
    strength spans subtle to gross.

    Args:
        rng: the patient's own generator; it gives the same findings at every visit.
        lungs: the patient's lungs over the pixels.
        texture: the patient's smooth texture grid.
        course: this visit's severity relative to the patient's usual one, about 1.
    """
    severity = (0.22 + 0.83 * rng.beta(1.2, 1.2)) * course
    kind = rng.choice(5, p=[0.44, 0.20, 0.18, 0.08, 0.10])
    side = bool(rng.integers(2))
    fill = _infiltrate(rng, lungs, texture, side, severity * (1.0 if kind in (0, 1) else 0.45))
    if kind == 1:
        fill += _cavity(rng, lungs, side, severity)
    elif kind == 2:
        fill += _nodules(rng, lungs, side, severity)
    elif kind == 3:
        fill += _miliary(rng, lungs, severity)
    elif kind == 4:
        fill += _effusion(rng, lungs, side, severity)
    if rng.uniform() < 0.35:
        fill += _infiltrate(rng, lungs, texture, not side, 0.7 * severity)
    return fill


def benign_fill(rng: np.random.Generator, lungs: LungField, texture: Array) -> Array:
    """Draw the harmless variability of a normal chest and return the fill [P].

    None, some or all of: an apical cap, a scar, a calcified granuloma, hazy bases, full hila.

    Args:
        rng: the patient's own generator; it gives the same variants at every visit.
        lungs: the patient's lungs over the pixels.
        texture: the patient's smooth texture grid.
    """
    fill = np.zeros_like(lungs.x)
    has = rng.uniform(size=5) < (0.25, 0.20, 0.20, 0.35, 0.25)
    amount = rng.uniform(0.3, 1.0, 5)
    if has[0]:
        fill += 0.22 * amount[0] * np.exp(-lungs.height / 0.06)
    if has[1]:
        x, y = _place(rng, lungs, bool(rng.integers(2)), (0.35, 0.8), (0.3, 0.8))
        angle = rng.uniform(0, np.pi)
        dx, dy = lungs.x - x, lungs.y - y
        along, aside = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        fill += 0.35 * amount[1] * np.exp(-np.square(along / 0.07) - np.square(aside / 0.012))
    if has[2]:
        x, y = _place(rng, lungs, bool(rng.integers(2)), (0.35, 0.85), (0.15, 0.8))
        fill += 0.7 * amount[2] * np.exp(-np.square(np.hypot(lungs.x - x, lungs.y - y) / rng.uniform(0.014, 0.024)))
    if has[3]:
        fill += 0.22 * amount[3] * smooth_step(lungs.y - lungs.dome + 0.10, 0.14)
    if has[4]:
        fill += 0.25 * amount[4] * np.exp(-np.square((lungs.across - 0.2) / 0.09) - np.square((lungs.y + 0.05) / 0.15))
    cloud = bilinear_lookup(texture[::-1, ::-1], lungs.x * 0.9, lungs.y * 0.9)
    return fill + 0.10 * rng.uniform(0, 1) * cloud


def _place(
    rng: np.random.Generator, lungs: LungField, left: bool, u: tuple[float, float], height: tuple[float, float]
) -> tuple[float, float]:
    """A point of one lung: ``u`` from midline to wall, ``height`` from apex to costophrenic angle."""
    at, down = rng.uniform(*u), rng.uniform(*height)
    span = 0.25 + (lungs.width - 0.25) * (1 - (1 - down) ** 2.4) ** 0.58
    distance = 0.10 + (span - 0.10) * at
    return (distance if left else -distance), lungs.apex + (lungs.foot - lungs.apex) * down


def _infiltrate(rng: np.random.Generator, lungs: LungField, texture: Array, left: bool, strength: float) -> Array:
    """A patchy, ill-defined opacity, most often in the upper third."""
    low = rng.uniform() < 0.15
    x, y = _place(rng, lungs, left, (0.35, 0.75), (0.35, 0.65) if low else (0.10, 0.32))
    radius = rng.uniform(0.12, 0.26)
    dx, dy = (lungs.x - x) / radius, (lungs.y - y) / (radius * rng.uniform(0.8, 1.3))
    envelope = np.exp(-(dx * dx + dy * dy))
    scale, shift = rng.uniform(1.6, 2.6), rng.uniform(-0.5, 0.5)
    cloud = bilinear_lookup(texture.T, np.sin(lungs.x * scale + shift), np.sin(lungs.y * scale - shift))
    return 0.9 * strength * envelope * np.clip(0.75 + 0.9 * cloud, 0, 1.5)


def _cavity(rng: np.random.Generator, lungs: LungField, left: bool, strength: float) -> Array:
    """A ring with an aerated centre."""
    x, y = _place(rng, lungs, left, (0.4, 0.75), (0.14, 0.36))
    radius, wall = rng.uniform(0.055, 0.115), rng.uniform(0.016, 0.028)
    distance = np.hypot(lungs.x - x, (lungs.y - y) * rng.uniform(0.85, 1.15))
    ring = np.exp(-np.square((distance - radius) / wall))
    return 0.85 * strength * ring - 0.5 * strength * smooth_step(radius - wall - distance, 0.02)


def _nodules(rng: np.random.Generator, lungs: LungField, left: bool, strength: float) -> Array:
    """A cluster of small round opacities."""
    count = int(rng.integers(4, 11))
    x, y = _place(rng, lungs, left, (0.4, 0.7), (0.15, 0.45))
    centres = np.stack([rng.normal(x, 0.10, count), rng.normal(y, 0.14, count), rng.uniform(0.016, 0.036, count)], 1)
    return _dots(lungs, centres, strength)


def _miliary(rng: np.random.Generator, lungs: LungField, strength: float) -> Array:
    """Seeds of a millimetre or two all over both lungs."""
    centres = np.stack([rng.uniform(-0.7, 0.7, 170), rng.uniform(-0.75, 0.5, 170), rng.uniform(0.010, 0.017, 170)], 1)
    return _dots(lungs, centres, 0.25 + 0.5 * strength) + 0.10 * strength


def _dots(lungs: LungField, centres: Array, strength: float) -> Array:
    fill = np.zeros_like(lungs.x)
    at = np.flatnonzero(lungs.depth > 0.02)
    x, y = lungs.x[at], lungs.y[at]
    total = np.zeros_like(x)
    for centre_x, centre_y, radius in centres.astype(np.float32):
        near = np.flatnonzero(np.abs(y - centre_y) < 2.5 * radius)
        total[near] += np.exp(-(np.square(x[near] - centre_x) + np.square(y[near] - centre_y)) / (radius * radius))
    fill[at] = strength * np.minimum(total, 1.2)
    return fill


def _effusion(rng: np.random.Generator, lungs: LungField, left: bool, strength: float) -> Array:
    """Fluid above one diaphragm, its surface rising towards the wall."""
    level = rng.uniform(0.06, 0.14) + 0.35 * strength
    climb = np.square(np.clip((lungs.across - 0.2) / (lungs.width - 0.2), 0, 1.1)) * rng.uniform(0.10, 0.22)
    return 0.9 * (lungs.left == left) * smooth_step(lungs.y - (lungs.foot - level - climb), 0.035)
