"""What diabetic retinopathy, or harmless age, puts onto the retina of a phantom patient.

Lesions are drawn on a plate: a square grid that covers [-1.2, 1.2] of the retina, so that every size of picture shows
the same ones. They are somewhat larger than life, or small pictures would not show them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from monai_plan.transforms.fundus_anatomy import FundusAnatomy
from monai_plan.transforms.phantom_canvas import bilinear_lookup, smooth_step

__all__ = ["FundusLesions", "draw_lesions"]

Array = np.ndarray

_SIDE = 256
_CELL = 2.4 / (_SIDE - 1)


def _plate() -> Array:
    return np.zeros((_SIDE, _SIDE), dtype=np.float32)


@dataclass
class FundusLesions:
    """The lesions of one eye; every plate [256, 256] over [-1.2, 1.2], 0 nothing to 1 full.

    Attributes:
        blood: microaneurysms and haemorrhages.
        exudate: hard exudates and drusen, yellow.
        wool: cotton wool spots and reflexes, white.
        scar: burns of the laser, pale.
        soot: the pigment at their margins, dark.
        veil: blood in the vitreous, which hides what lies behind it.
        sprouts: [K, 4] points along new vessels: u, v, half width, heading in radians.
        beading: how unevenly wide the veins are, 0 to 1.
    """

    blood: Array = field(default_factory=_plate)
    exudate: Array = field(default_factory=_plate)
    wool: Array = field(default_factory=_plate)
    scar: Array = field(default_factory=_plate)
    soot: Array = field(default_factory=_plate)
    veil: Array = field(default_factory=_plate)
    sprouts: Array = field(default_factory=lambda: np.zeros((0, 4), dtype=np.float32))
    beading: float = 0.0


def draw_lesions(rng: np.random.Generator, eye: FundusAnatomy, grade: int) -> FundusLesions:
    """Draw what an eye of a grade shows, the harmless variants included.

    Grades are those of the International Clinical Diabetic Retinopathy scale (Wilkinson et al. 2003). Amounts spread so
    far that neighbouring grades overlap.

    Args:
        rng: the eye's own generator.
        eye: where its disc and its vessels are.
        grade: 0 none, 1 microaneurysms only, 2 moderate, 3 severe, 4 proliferative.
    """
    lesions = FundusLesions()
    _benign(rng, lesions, eye)
    if grade == 0:
        return lesions
    extent = rng.uniform(1.7, 3.3) if grade == 4 else grade + rng.normal(0, 0.28)
    _aneurysms(rng, lesions, eye, 3.2 * np.exp(0.58 * extent) * rng.uniform(0.7, 1.3))
    if grade >= 2:
        _haemorrhages(rng, lesions, eye, extent)
        if rng.uniform() < 0.62:
            _exudates(rng, lesions, 0.35 + 0.25 * extent)
        if rng.uniform() < 0.12 + 0.14 * extent:
            _cotton_wool(rng, lesions, eye, extent)
    if grade >= 3:
        lesions.beading = float(rng.uniform(0.15, 0.5))
    if grade == 4:
        _proliferation(rng, lesions, eye)
    return lesions


def _stamp(
    plate: Array, u: float, v: float, radius: float, strength: float, aspect: float = 1.0, edge: float = 2.0
) -> None:
    """Lay one ellipse over a plate; ``edge`` 1 is a Gaussian, more is flatter with a sharper margin."""
    aspect = float(np.sqrt(aspect))
    wide, high = radius * aspect, radius / aspect
    left, right = (int((u + 1.2 + side * 2.3 * wide) / _CELL + 0.5) for side in (-1, 1))
    top, bottom = (int((v + 1.2 + side * 2.3 * high) / _CELL + 0.5) for side in (-1, 1))
    left, top, right, bottom = max(left, 0), max(top, 0), min(right + 1, _SIDE), min(bottom + 1, _SIDE)
    if left >= right or top >= bottom:
        return
    across = np.square((np.arange(left, right) * _CELL - 1.2 - u) / wide)
    along = np.square((np.arange(top, bottom) * _CELL - 1.2 - v) / high)
    shape = np.exp(-np.power(across[None] + along[:, None], edge))
    window = plate[top:bottom, left:right]
    np.maximum(window, strength * shape, out=window)


def _places(rng: np.random.Generator, eye: FundusAnatomy, count: int, spread: float) -> Array:
    """Points [<= count, 2] around the posterior pole, off the disc."""
    centre = (0.15 * eye.disc[0], 0.0)
    places = rng.normal(centre, (spread, 0.9 * spread), (count, 2))
    inside = np.hypot(*places.T) < 0.95
    return places[inside & (eye.disc_distance(*places.T) > 1.15)]


def _benign(rng: np.random.Generator, lesions: FundusLesions, eye: FundusAnatomy) -> None:
    """None, some or all of: drusen, reflexes along the vessels, a ring around the fovea, a fleck of pigment."""
    has = rng.uniform(size=4) < (0.28, 0.35, 0.25, 0.22)
    if has[0]:
        for u, v in rng.normal(0, 0.22, (int(rng.integers(4, 22)), 2)):
            _stamp(lesions.exudate, u, v, rng.uniform(0.010, 0.020), rng.uniform(0.15, 0.5))
    if has[1]:
        at = rng.integers(len(eye.veins), size=int(rng.integers(2, 6)))
        for u, v in eye.veins[at, :2]:
            if np.hypot(u, v) < 0.6:
                _stamp(lesions.wool, u, v + 0.03, rng.uniform(0.04, 0.09), rng.uniform(0.05, 0.2), 2.2, edge=1.0)
    if has[2]:
        radius, strength = rng.uniform(0.10, 0.17), rng.uniform(0.05, 0.16)
        axis = (np.arange(_SIDE) * _CELL - 1.2).astype(np.float32)
        distance = np.hypot(axis[None], 0.8 * axis[:, None])
        np.maximum(lesions.wool, strength * np.exp(-np.square((distance - radius) / 0.018)), out=lesions.wool)
    if has[3]:
        for u, v in _places(rng, eye, int(rng.integers(1, 3)), 0.45):
            _stamp(lesions.soot, u, v, rng.uniform(0.015, 0.032), rng.uniform(0.3, 0.7))


def _aneurysms(rng: np.random.Generator, lesions: FundusLesions, eye: FundusAnatomy, mean: float) -> None:
    """Round red dots, the first sign."""
    for u, v in _places(rng, eye, 1 + int(rng.poisson(mean)), 0.38):
        _stamp(lesions.blood, u, v, rng.uniform(0.017, 0.027), rng.uniform(0.7, 1.0))


def _haemorrhages(rng: np.random.Generator, lesions: FundusLesions, eye: FundusAnatomy, extent: float) -> None:
    """Dots and blots, from a few to many in every quadrant."""
    many = max(extent - 1.4, 0.2)
    for u, v in _places(rng, eye, 1 + int(rng.poisson(4 * many)), 0.42):
        _stamp(lesions.blood, u, v, rng.uniform(0.022, 0.034), rng.uniform(0.7, 1.0), rng.uniform(0.7, 1.5))
    for u, v in _places(rng, eye, int(rng.poisson(7.5 * max(extent - 1.75, 0) ** 1.3)), 0.50):
        size, strength = rng.uniform(0.030, 0.060), rng.uniform(0.75, 1.0)
        for du, dv in rng.normal(0, 0.6 * size, (3, 2)):
            _stamp(lesions.blood, u + du, v + dv, size * rng.uniform(0.6, 1.0), strength, rng.uniform(0.6, 1.8))


def _exudates(rng: np.random.Generator, lesions: FundusLesions, amount: float) -> None:
    """Clusters and rings of waxy yellow spots near the macula."""
    for _ in range(1 + int(rng.poisson(1.4 * amount))):
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.08, 0.45)
        centre = np.array([distance * np.cos(angle), 0.8 * distance * np.sin(angle)])
        count, radius = int(rng.integers(4, 8 + int(14 * amount))), rng.uniform(0.04, 0.13)
        around = rng.uniform(0, 2 * np.pi, count)
        far = radius * (rng.normal(1, 0.15, count) if rng.uniform() < 0.4 else np.sqrt(rng.uniform(0, 1, count)))
        for u, v in centre + np.stack([far * np.cos(around), far * np.sin(around)], axis=1):
            shape = (rng.uniform(0.011, 0.028), rng.uniform(0.6, 1.0), rng.uniform(0.6, 1.7))
            _stamp(lesions.exudate, u, v, *shape)


def _cotton_wool(rng: np.random.Generator, lesions: FundusLesions, eye: FundusAnatomy, extent: float) -> None:
    """Soft white patches, mostly near the disc and the arcades."""
    for _ in range(1 + int(rng.poisson(0.8 * extent))):
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.22, 0.65)
        u, v = eye.disc[0] + distance * np.cos(angle) - 0.15, eye.disc[1] + distance * np.sin(angle)
        shape = (rng.uniform(0.035, 0.070), rng.uniform(0.45, 0.85), rng.uniform(0.7, 1.7))
        _stamp(lesions.wool, u, v, *shape, edge=1.0)


def _proliferation(rng: np.random.Generator, lesions: FundusLesions, eye: FundusAnatomy) -> None:
    """New vessels at the disc or elsewhere, their bleeding, and what the laser left."""
    at_disc = rng.uniform() < 0.5
    roots = [eye.disc[:2]] if at_disc else []
    if not at_disc or rng.uniform() < 0.5:
        far = eye.veins[np.hypot(eye.veins[:, 0], eye.veins[:, 1]) < 0.75]
        far = far[eye.disc_distance(far[:, 0], far[:, 1]) > 1.8]
        roots += [tuple(point[:2]) for point in far[rng.integers(len(far), size=int(rng.integers(1, 3)))]]
    lesions.sprouts = np.concatenate([_frond(rng, root) for root in roots])
    if rng.uniform() < 0.55:
        _preretinal(rng, lesions, roots[-1])
    if rng.uniform() < 0.25:
        _vitreous(rng, lesions, eye)
    if rng.uniform() < 0.45:
        _laser(rng, lesions, eye)


def _frond(rng: np.random.Generator, root: tuple[float, ...]) -> Array:
    """A fan of fine loops from one point, [K, 4]."""
    loops, reach = int(rng.integers(7, 14)), rng.uniform(0.12, 0.24)
    t = np.linspace(0, 1, 46)
    heading = rng.uniform(0, 2 * np.pi, (loops, 1))
    curl = rng.uniform(2.0, 5.0, (loops, 1)) * rng.choice([-1.0, 1.0], (loops, 1))
    course = heading + curl * t + 0.7 * np.sin(9 * t + heading)
    step = reach * rng.uniform(0.8, 2.0, (loops, 1)) / len(t)
    u, v = root[0] + np.cumsum(np.cos(course) * step, axis=1), root[1] + np.cumsum(np.sin(course) * step, axis=1)
    return np.stack([u, v, np.full_like(u, 0.0105), course], axis=2).reshape(-1, 4).astype(np.float32)


def _preretinal(rng: np.random.Generator, lesions: FundusLesions, root: tuple[float, ...]) -> None:
    """A boat of blood before the retina: level above, round below."""
    u, level, radius = root[0] + rng.normal(-0.1, 0.12), root[1] + rng.uniform(0.05, 0.30), rng.uniform(0.10, 0.24)
    axis = (np.arange(_SIDE) * _CELL - 1.2).astype(np.float32)
    depth = radius - np.hypot((axis[None] - u) * 0.7, axis[:, None] - level)
    boat = smooth_step(depth, 0.02) * smooth_step(axis[:, None] - level, 0.015)
    np.maximum(lesions.blood, boat, out=lesions.blood)


def _vitreous(rng: np.random.Generator, lesions: FundusLesions, eye: FundusAnatomy) -> None:
    """Clouds of blood that sink in the vitreous."""
    axis = (np.arange(_SIDE) * _CELL - 1.2).astype(np.float32)
    v, u = (values.ravel() for values in np.meshgrid(axis, axis, indexing="ij"))
    cloud = bilinear_lookup(eye.texture[::-1], u, v).reshape(_SIDE, _SIDE)
    sunk = smooth_step(axis[:, None] - rng.uniform(-0.4, 0.5), 0.5)
    lesions.veil = rng.uniform(0.5, 0.95) * sunk * np.clip(0.75 + 0.6 * cloud, 0, 1)


def _laser(rng: np.random.Generator, lesions: FundusLesions, eye: FundusAnatomy) -> None:
    """Rows of burns outside the arcades, pale with a dark margin."""
    grid = np.arange(-0.95, 0.96, rng.uniform(0.13, 0.19))
    places = np.stack(np.meshgrid(grid, grid), axis=2).reshape(-1, 2) + rng.normal(0, 0.028, (len(grid) ** 2, 2))
    outside = np.hypot(places[:, 0] - 0.15, places[:, 1]) > rng.uniform(0.55, 0.68)
    for u, v in places[outside & (np.hypot(*places.T) < 1.0)]:
        radius, pale = rng.uniform(0.022, 0.040), rng.uniform(0.25, 0.8)
        _stamp(lesions.soot, u + 0.008, v, 1.25 * radius, rng.uniform(0.15, 0.6))
        _stamp(lesions.scar, u, v, radius, pale)
