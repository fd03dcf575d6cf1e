"""The healthy chest of a phantom patient: which shapes it has, and how much of the beam each of them takes.

Knows nothing of disease, exposure or noise. Coordinates are normalised patient coordinates: ``x`` to the right of the
picture (the patient's left), ``y`` downwards, both in [-1, 1] for a picture without pose. Densities are in display
units: 0 is open air, about 1 the densest part of the abdomen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monai_plan.transforms.phantom_canvas import bilinear_lookup, smooth_step, smooth_texture

__all__ = ["ChestAnatomy", "LungField", "chest_density", "lung_field"]

Array = np.ndarray

_APEX_X = 0.27  # distance of the lung's apex from the midline
_AIR = 0.54  # density that a full depth of lung removes
_ROUNDING = np.hanning(17)[1:-1] / np.hanning(17).sum()  # rounds the body's outline


@dataclass(frozen=True)
class ChestAnatomy:
    """The lasting shape of one patient's chest; every length in half picture widths.

    Attributes:
        size: overall scale of the chest in the picture.
        body: half widths of the neck, the torso and the shoulders, the shoulders' height, the axilla's height.
        lung: apex height, half width, the right dome's height, how much lower the left dome is, the medial edge.
        costal: how far the diaphragm falls towards the lateral wall.
        heart: centre (x, and height above the dome), half axes, tilt in radians.
        vessels: [K, 6] start x and y, end x and y, bow, width of each pulmonary vessel.
        ribs: spacing, height of the first, drop, half thickness (in spacings), posterior and anterior strength.
        rib_jitter: [16] displacement of single ribs, in spacings.
        clavicle: height, slope, bow, half thickness.
        spine: half width, density, the midline's bend and its phase.
        knob: x, y, radius of the aortic knob.
        gas: x, depth below the dome, half axes and strength of the gastric bubble.
        breast: strength, height, radius of the breast shadows.
        texture: [48, 48] smooth patient texture in about [-1, 1].
        tissue: density of the soft tissue; air: how black the lungs are, both about 1.
    """

    size: float
    body: tuple[float, ...]
    lung: tuple[float, ...]
    costal: float
    heart: tuple[float, ...]
    vessels: Array
    ribs: tuple[float, ...]
    rib_jitter: Array
    clavicle: tuple[float, ...]
    spine: tuple[float, ...]
    knob: tuple[float, ...]
    gas: tuple[float, ...]
    breast: tuple[float, ...]
    texture: Array
    tissue: float
    air: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> ChestAnatomy:
        """Draw one patient from ``rng``; equal generators give equal patients."""

        def between(*ranges: tuple[float, float]) -> tuple[float, ...]:
            return tuple(float(rng.uniform(low, high)) for low, high in ranges)

        breast = between((0.3, 1.0), (0.02, 0.22), (0.30, 0.42))
        return cls(
            size=between((0.93, 1.07))[0],
            body=between((0.22, 0.34), (0.84, 1.02), (1.05, 1.30), (-0.86, -0.72), (-0.15, 0.35)),
            lung=between((-0.84, -0.70), (0.58, 0.76), (0.14, 0.42), (0.01, 0.10), (0.09, 0.13)),
            costal=between((0.16, 0.32))[0],
            heart=between((0.06, 0.15), (0.05, 0.15), (0.28, 0.40), (0.17, 0.25), (0.45, 0.95)),
            vessels=_draw_vessels(rng),
            ribs=between((0.108, 0.138), (-0.76, -0.68), (0.14, 0.26), (0.19, 0.27), (0.07, 0.14), (0.03, 0.08)),
            rib_jitter=rng.uniform(-0.10, 0.10, 16).astype(np.float32),
            clavicle=between((-0.60, -0.48), (0.10, 0.34), (0.02, 0.07), (0.024, 0.036)),
            spine=between((0.07, 0.10), (0.06, 0.13), (-0.035, 0.035), (0.0, 6.28)),
            knob=between((0.08, 0.13), (-0.36, -0.22), (0.05, 0.10)),
            gas=between((0.22, 0.46), (0.10, 0.18), (0.07, 0.17), (0.04, 0.09), (-0.15, 0.32)),
            breast=(breast[0] if rng.uniform() < 0.35 else 0.0, *breast[1:]),
            texture=smooth_texture(rng),
            tissue=between((0.93, 1.07))[0],
            air=between((0.85, 1.12))[0],
        )


@dataclass(frozen=True)
class LungField:
    """Where each pixel lies with respect to the lungs; every array [P].

    Attributes:
        x, y: patient coordinates.
        across: distance from the midline, always positive.
        left: True on the patient's left, which is the picture's right.
        height: 0 at the apex, 1 at the costophrenic angle.
        lateral: the chest wall's distance from the midline at this height.
        dome: the diaphragm's ``y`` at this distance from the midline.
        depth: depth of air along the beam, 0 outside the lungs to 1.
        width: the lungs' largest half width, a float.
        apex: the apex's ``y``, a float.
        foot: the right costophrenic angle's ``y``, a float.
    """

    x: Array
    y: Array
    across: Array
    left: Array
    height: Array
    lateral: Array
    dome: Array
    depth: Array
    width: float
    apex: float
    foot: float


def lung_field(anatomy: ChestAnatomy, x: Array, y: Array, inspiration: float) -> LungField:
    """Lay the lungs over the pixels.

    Args:
        anatomy: the patient.
        x: patient coordinates [P], float32.
        y: the same.
        inspiration: how much lower than usual the diaphragm stands, about -0.1 to 0.1.
    """
    apex, width, right_dome, left_drop, medial = anatomy.lung
    _, _, bend, phase = anatomy.spine
    offset = x - np.float32(bend) * np.sin(2.2 * y + phase)
    across, left = np.abs(offset), offset > 0
    top_of_dome = right_dome + inspiration + left_drop * smooth_step(offset, 0.16)
    outward = np.clip((across - 0.32) / (width - 0.32), 0, 1.3)
    inward = np.clip((0.32 - across) / 0.32, 0, 1)
    dome = top_of_dome + anatomy.costal * outward * outward * np.sqrt(outward) + 0.07 * inward * inward
    height = np.clip((y - apex) / (top_of_dome + anatomy.costal - apex), 0, 1)
    widening = np.power(1 - np.power(1 - height, 2.4), 0.58)
    lateral = _APEX_X + (width - _APEX_X) * widening
    narrowing = 1 - np.clip(height * 3.2, 0, 1)
    inner = _APEX_X - (_APEX_X - medial) * np.sqrt(1 - narrowing * narrowing)
    inside = np.minimum(np.minimum(lateral - across, across - inner), np.minimum(dome - y, y - apex))
    outer = np.sqrt(np.clip((lateral - across) / 0.16, 0, 1))
    hilar = smooth_step(across - inner - 0.06, 0.17)
    depth = (
        smooth_step(inside, 0.016)
        * (0.5 + 0.5 * outer)
        * (0.55 + 0.45 * hilar)
        * (0.82 + 0.18 * smooth_step(height - 0.2, 0.3))
    )
    foot = right_dome + inspiration + anatomy.costal
    return LungField(x, y, across, left, height, lateral, dome, depth, width, apex, foot)


def chest_density(anatomy: ChestAnatomy, lungs: LungField, fill: Array) -> Array:
    """The density [P] that a patient puts into the beam.

    Args:
        anatomy: the patient.
        lungs: the same patient's lungs over the pixels.
        fill: share of the air replaced by something denser [P]; negative where there is more air, as in a cavity.
    """
    x, y, across = lungs.x, lungs.y, lungs.across
    body, edge = _body(anatomy, x, y)
    texture = bilinear_lookup(anatomy.texture, x, y)
    below = smooth_step(y - lungs.dome, 0.02)
    heart = _heart(anatomy, lungs)
    air = lungs.depth * (1 - 0.86 * heart) * (1 - 0.06 * texture)
    vessels = _vessels(anatomy, lungs)
    gas = _gas(anatomy, lungs)
    density = anatomy.tissue * (0.80 + 0.04 * texture * (0.4 + below)) * body
    density += 0.11 * below * edge * smooth_step(lungs.width + 0.05 - across, 0.12)
    density -= _AIR * anatomy.air * air * (1 - np.clip(fill, -0.5, 0.96)) - vessels * lungs.depth
    density += _bones(anatomy, lungs, below) * edge
    density += _breasts(anatomy, lungs) * edge
    trachea = smooth_step(0.045 - across, 0.02) * smooth_step(-0.27 - y, 0.06)
    return density - 0.13 * trachea * edge - gas


def _body(anatomy: ChestAnatomy, x: Array, y: Array) -> tuple[Array, Array]:
    """Thickness of the body along the beam, and its outline, both 0 to 1."""
    neck, torso, shoulder, shoulder_y, axilla = anatomy.body
    knots = [
        shoulder_y - 0.22,
        shoulder_y - 0.05,
        shoulder_y + 0.05,
        shoulder_y + 0.20,
        axilla - 0.12,
        axilla + 0.2,
        1.0,
    ]
    widths = [neck, neck + 0.08, neck + 0.35, shoulder, shoulder + 0.02, torso + 0.03, torso]
    rows = np.linspace(-1.4, 1.4, 141)
    outline = np.convolve(np.pad(np.interp(rows, knots, widths), 7, mode="edge"), _ROUNDING, mode="valid")
    half = np.interp(y, rows, outline).astype(np.float32)
    ratio = x / half
    thickness = np.power(np.clip(1 - ratio * ratio, 0, 1), 0.34)
    return thickness, smooth_step(half - np.abs(x), 0.02)


def _heart(anatomy: ChestAnatomy, lungs: LungField) -> Array:
    """How much of the lung in front of each pixel is hidden by the heart and the great vessels, 0 to 1."""
    centre_x, above, long_axis, short_axis, tilt = anatomy.heart
    centre_y = anatomy.lung[2] - above
    dx, dy = lungs.x - centre_x, lungs.y - centre_y
    u = (dx * np.cos(tilt) + dy * np.sin(tilt)) / long_axis
    v = (dy * np.cos(tilt) - dx * np.sin(tilt)) / short_axis
    muscle = smooth_step(1 - np.sqrt(u * u + v * v), 0.11)
    waist = 0.11 + 0.09 * smooth_step(lungs.y - centre_y + 0.12, 0.35)
    root = smooth_step(waist - np.abs(lungs.x - 0.03), 0.04) * smooth_step(lungs.y + 0.45, 0.2)
    knob_x, knob_y, radius = anatomy.knob
    knob = smooth_step(radius - np.hypot(lungs.x - knob_x, lungs.y - knob_y), 0.02)
    trunk = smooth_step(0.085 - np.hypot(lungs.x - 0.10, (lungs.y - knob_y - 0.14) * 0.7), 0.03)
    return np.maximum(np.maximum(muscle, root), 0.85 * np.maximum(knob, trunk))


def _bones(anatomy: ChestAnatomy, lungs: LungField, below: Array) -> Array:
    """Density of ribs, clavicles, shoulder blades and spine."""
    across, y = lungs.across, lungs.y
    spacing, first, drop, thickness, posterior, anterior = anatomy.ribs
    u = np.clip(across / lungs.width, 0, 1.15)
    cage = (
        smooth_step(lungs.lateral + 0.035 - across, 0.02) * smooth_step(y - lungs.apex + 0.02, 0.05) * (1 - 0.7 * below)
    )
    steep = 0.6 + 0.9 * lungs.height
    behind = (y - first - drop * steep * u * u + 0.16 * u * (1 - u)) / spacing
    front = (y - first - 0.16 - 0.42 * np.square(1 - u) - 0.05 * u) / (1.12 * spacing)
    ribs = posterior * _rib_row(behind, anatomy.rib_jitter, thickness, 10) * smooth_step(across - 0.06, 0.03)
    ribs += anterior * _rib_row(front, anatomy.rib_jitter[::-1], 1.15 * thickness, 5) * smooth_step(u - 0.42, 0.12)
    wall = np.square((across - lungs.lateral - 0.012) / 0.022)
    inside = smooth_step(lungs.height - 0.06, 0.05) * (1 - below)
    bones = ribs * cage + 0.08 * np.exp(-wall) * inside
    height, slope, bow, half = anatomy.clavicle
    along = np.clip((across - 0.06) / 0.75, 0, 1)
    line = height - slope * along + bow * np.sin(2 * np.pi * along)
    collar = smooth_step(half * (1.25 - 0.5 * along) - np.abs(y - line), 0.014)
    bones += 0.17 * collar * smooth_step(across - 0.07, 0.015) * smooth_step(0.84 - across, 0.03)
    blade_x = 0.60 + 0.10 * (y + 0.5)
    blade = (
        smooth_step(across - blade_x, 0.02) * smooth_step(y + 0.58, 0.08) * smooth_step(0.05 - y - across + 0.6, 0.1)
    )
    bones += 0.06 * blade
    joint = np.hypot(across - 0.97, y - height + 0.05)
    arm = np.abs((across - 0.97) - 0.32 * (y - height + 0.05))
    bones += 0.10 * np.maximum(smooth_step(0.13 - joint, 0.02), smooth_step(0.075 - arm, 0.02) * (y > height - 0.05))
    half_spine, dense, _, _ = anatomy.spine
    vertebrae = 1 + 0.35 * np.cos(2 * np.pi * (y - first) / (spacing * 1.02))
    bones += dense * smooth_step(half_spine - across, 0.02) * vertebrae
    return bones


def _rib_row(row: Array, jitter: Array, thickness: float, last: int) -> Array:
    """Profile of ribs centred at ``row`` = 0 to ``last``, each moved by its jitter: tubes, brighter at their edges."""
    index = np.clip(np.rint(row), 0, last).astype(np.intp)
    off = np.abs(row - index - jitter[index]) / thickness
    return smooth_step(1 - off, 0.35) * (0.7 + 0.5 * np.minimum(off * off, 1))


def _draw_vessels(rng: np.random.Generator) -> Array:
    """Branches that leave the hila and thin out towards the wall."""
    count = 11
    rows = []
    for side in (-1.0, 1.0):
        angle = np.linspace(-1.25, 1.35, count) + rng.uniform(-0.12, 0.12, count)
        length = rng.uniform(0.16, 0.46, count)
        start_x = 0.16 + rng.uniform(-0.02, 0.03, count)
        start_y = -0.06 + 0.10 * np.sin(angle) + rng.uniform(-0.02, 0.02, count)
        end_x, end_y = start_x + length * np.cos(angle), start_y + 1.15 * length * np.sin(angle)
        bow, width = rng.uniform(-0.07, 0.07, count), rng.uniform(0.010, 0.020, count)
        rows.append(np.stack([side * start_x, start_y, side * end_x, end_y, bow, width], axis=1))
    return np.concatenate(rows).astype(np.float32)


def _vessels(anatomy: ChestAnatomy, lungs: LungField) -> Array:
    """Density of hila and pulmonary vessels."""
    out = np.zeros_like(lungs.x)
    at = np.flatnonzero(lungs.depth > 0.02)
    for side in (False, True):
        here = at[lungs.left[at] == side]
        rows = anatomy.vessels[(anatomy.vessels[:, 0] > 0) == side]
        x0, y0, x1, y1, bow, width = (column[:, None] for column in rows.T)
        dx, dy = x1 - x0, y1 - y0
        norm = dx * dx + dy * dy
        px, py = lungs.x[here] - x0, lungs.y[here] - y0
        along = np.clip((px * dx + py * dy) / norm, 0, 1)
        aside = (py * dx - px * dy) / np.sqrt(norm) - bow * 4 * along * (1 - along)
        beyond = (
            np.square(px - along * dx) + np.square(py - along * dy) - np.square(aside + bow * 4 * along * (1 - along))
        )
        taper = width * (1.25 - along)
        lines = np.exp(-(np.square(aside) + np.maximum(beyond, 0)) / np.square(taper)) * (1 - 0.7 * along)
        hilum = np.exp(-(np.square((lungs.across[here] - 0.17) / 0.06) + np.square((lungs.y[here] + 0.05) / 0.11)))
        out[here] = 0.11 * np.minimum(lines.sum(0), 1.4) + 0.12 * hilum
    return out


def _gas(anatomy: ChestAnatomy, lungs: LungField) -> Array:
    """Density removed by gas in the stomach, on the patient's left below the diaphragm."""
    x, beneath, half_x, half_y, strength = anatomy.gas
    centre = anatomy.lung[2] + anatomy.lung[3] + beneath
    radius = np.sqrt(np.square((lungs.x - x) / half_x) + np.square((lungs.y - centre) / half_y))
    return max(strength, 0.0) * smooth_step(1 - radius, 0.22) * smooth_step(lungs.y - lungs.dome - 0.015, 0.01)


def _breasts(anatomy: ChestAnatomy, lungs: LungField) -> Array:
    """Density of the breast shadows over the lower lungs."""
    strength, height, radius = anatomy.breast
    if strength == 0:
        return np.zeros_like(lungs.x)
    distance = np.hypot((lungs.across - 0.42) * 0.9, lungs.y - height)
    return 0.09 * strength * smooth_step(radius - distance, 0.03) * smooth_step(lungs.y - height + 0.25, 0.25)
