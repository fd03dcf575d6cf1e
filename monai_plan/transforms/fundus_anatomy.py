"""The healthy back of a phantom patient's eyes: disc, vessels, macula and pigment.

Knows nothing of disease, camera or noise. Coordinates are those of the retina: ``u`` towards the nose, ``v`` downwards,
the fovea at (0, 0), and 1 the radius of a photograph of about 50 degrees. In them left and right eyes are alike; the
renderer turns one of them round. Colours are reflectances of red, green and blue, about 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from monai_plan.transforms.phantom_canvas import bilinear_lookup, smooth_step, smooth_texture

__all__ = ["FundusAnatomy", "FundusTraits", "fundus_colour", "vessel_shadow"]

Array = np.ndarray

_THINNEST = 0.014  # thinner vessels are drawn this wide and paler, or pixels would miss them
_REACH = 0.055  # no vessel is seen farther from its middle than this
_LIGHT, _DARK = (
    np.array([0.95, 0.58, 0.34], np.float32),
    np.array([0.62, 0.27, 0.11], np.float32),
)  # the palest and the darkest fundus
_DISC, _CUP = np.array([1.0, 0.74, 0.44], np.float32), np.array([1.0, 0.90, 0.64], np.float32)
_MACULA = np.array([0.30, 0.44, 0.50], np.float32)  # what its pigments take from each colour
_VEIN, _ARTERY = np.array([0.30, 0.66, 0.55], np.float32), np.array([0.12, 0.47, 0.42], np.float32)  # likewise
_TRUNKS = (  # heading at the disc and its turn, radians from nasal clockwise; temporal above and below, nasal likewise
    (-1.95, -1.35, 1.0),
    (1.95, 1.35, 1.0),
    (-1.05, 0.45, 0.55),
    (1.05, -0.45, 0.55),
)


@dataclass(frozen=True)
class FundusTraits:
    """What both eyes of a patient have in common.

    Attributes:
        pigment: 0 pale to 1 dark.
        hue: how much redder or yellower than usual, about -1 to 1.
        tessellation: how far the choroid's vessels show, 0 to 1.
        disc: distance from the fovea, height, half width, height over width, the cup's share of it, pallor.
        halo: strength of the pale ring around the disc, 0 to 1.
        calibre: width of the vessels relative to the usual one.
        narrowing: the arteries' width relative to the veins'.
        tortuosity: how much vessels wind, radians.
        arcades: [4] how far each trunk's heading differs from the usual one, radians.
        reach: how wide the temporal arcades open, about 1.
        macula: strength and radius of the dark macula, strength of the foveal pit.
        mottling: strength of the pigment's texture.
    """

    pigment: float
    hue: float
    tessellation: float
    disc: tuple[float, ...]
    halo: float
    calibre: float
    narrowing: float
    tortuosity: float
    arcades: Array
    reach: float
    macula: tuple[float, ...]
    mottling: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> FundusTraits:
        """Draw one patient from ``rng``; equal generators give equal patients."""

        def between(*ranges: tuple[float, float]) -> tuple[float, ...]:
            return tuple(float(rng.uniform(low, high)) for low, high in ranges)

        pigment, hue, tessellation = float(rng.beta(1.6, 1.6)), *between((-1, 1), (-0.6, 1.0))
        return cls(
            pigment=pigment,
            hue=hue,
            tessellation=max(tessellation, 0.0),
            disc=between((0.60, 0.78), (-0.09, 0.03), (0.115, 0.160), (1.0, 1.22), (0.25, 0.65), (0.0, 1.0)),
            halo=between((0.0, 1.0))[0],
            calibre=between((0.75, 1.2))[0],
            narrowing=between((0.58, 0.82))[0],
            tortuosity=between((0.06, 0.42))[0],
            arcades=rng.normal(0, 0.16, 4),
            reach=between((0.85, 1.15))[0],
            macula=between((0.35, 1.0), (0.13, 0.24), (0.2, 1.0)),
            mottling=between((0.02, 0.09))[0],
        )


@dataclass(frozen=True)
class FundusAnatomy:
    """One healthy eye.

    Attributes:
        traits: what it shares with the other eye.
        disc: centre u and v, half width, half height of this eye's disc, its tilt in radians.
        arteries: [K, 4] points along the middle of the arteries: u, v, half width, heading in radians.
        veins: [L, 4] the same for the veins.
        texture: [48, 48] this eye's smooth texture in about [-1, 1].
    """

    traits: FundusTraits
    disc: tuple[float, ...]
    arteries: Array
    veins: Array
    texture: Array

    @classmethod
    def draw(cls, traits: FundusTraits, rng: np.random.Generator) -> FundusAnatomy:
        """Draw one eye of a patient from ``rng``; its branching and texture are its own."""
        distance, height, half, ratio, _, _ = traits.disc
        u, v = distance + rng.normal(0, 0.012), height + rng.normal(0, 0.012)
        half *= rng.normal(1, 0.025)
        vein = 0.0165 * traits.calibre
        return cls(
            traits=traits,
            disc=(u, v, half, half * ratio, float(rng.normal(0, 0.15))),
            arteries=_draw_tree(rng, traits, (u, v), vein * traits.narrowing, 0.16),
            veins=_draw_tree(rng, traits, (u, v), vein, -0.16),
            texture=smooth_texture(rng),
        )

    def disc_distance(self, u: Array, v: Array) -> Array:
        """How far (u, v) lie from the disc's centre: 1 on its margin, 0 in the middle."""
        centre_u, centre_v, half_u, half_v, tilt = self.disc
        du, dv = u - centre_u, v - centre_v
        across = (du * np.cos(tilt) + dv * np.sin(tilt)) / half_u
        return np.hypot(across, (dv * np.cos(tilt) - du * np.sin(tilt)) / half_v)


def vessel_shadow(points: Array, u: Array, v: Array, beading: float = 0.0) -> Array:
    """How much of each pixel is hidden by vessels, 0 to 1.

    Args:
        points: [K, 4] points along the vessels: u, v, half width, heading in radians.
        u: retinal coordinates [P], float32.
        v: the same.
        beading: how unevenly wide the vessels are, 0 to 1.
    """
    out = np.zeros_like(u)
    if not len(points):
        return out
    tree = cKDTree(points[:, :2], balanced_tree=False, compact_nodes=False)
    distance, nearest = tree.query(np.stack([u, v], axis=1), distance_upper_bound=_REACH)
    near = np.flatnonzero(np.isfinite(distance))
    u_at, v_at, width, heading = points[nearest[near]].T
    width = width * (1 + beading * np.sin(60 * (u_at + 0.6 * v_at)))
    drawn = np.maximum(width, _THINNEST)
    aside = (v[near] - v_at) * np.cos(heading) - (u[near] - u_at) * np.sin(heading)
    out[near] = np.exp(-np.square(aside / drawn)) * width / drawn
    return out


def fundus_colour(anatomy: FundusAnatomy, u: Array, v: Array, beading: float = 0.0) -> Array:
    """The reflectance [3, P] of a healthy eye.

    Args:
        anatomy: the eye.
        u: retinal coordinates [P], float32.
        v: the same.
        beading: how unevenly wide its veins are, 0 (healthy) to 1.
    """
    traits = anatomy.traits
    texture = bilinear_lookup(anatomy.texture, u, v)
    fine = bilinear_lookup(anatomy.texture.T, np.sin(4.1 * u + 0.3), np.sin(4.1 * v - 0.2))
    base = _LIGHT + (_DARK - _LIGHT) * traits.pigment
    base = base * np.array([1.0, 1 + 0.14 * traits.hue, 1 + 0.10 * traits.hue], np.float32)
    colour = base[:, None] * (
        1 + traits.mottling * np.array([[0.6], [1.0], [1.0]], np.float32) * (texture + 0.7 * fine)
    )
    periphery = smooth_step(np.hypot(u, v) - 0.35, 0.25)
    stripes = np.sin(17 * (v + 0.5 * u * v + 0.35 * texture)) * np.sin(13 * (v - 0.6 * u) + 4 * fine + 2 * texture)
    colour *= 1 + 0.15 * traits.tessellation * np.array([[0.5], [1.0], [0.8]], np.float32) * stripes * periphery
    strength, radius, pit = traits.macula
    squared = u * u + v * v
    dark = 0.75 * strength * np.exp(-squared / (radius * radius)) + 0.45 * pit * np.exp(-squared / 0.0025)
    colour *= 1 - _MACULA[:, None] * np.minimum(dark, 1.1)
    centre_u, centre_v, half_u, _, _ = anatomy.disc
    from_disc = anatomy.disc_distance(u, v)
    fibres = np.exp(-np.square((from_disc - 1) / 2.2)) * np.square((v - centre_v) / (half_u * from_disc + 0.05))
    colour *= 1 + np.array([[0.05], [0.14], [0.10]], np.float32) * (1 - traits.pigment) * np.clip(fibres, 0, 1)
    halo = traits.halo * smooth_step(1.35 - from_disc, 0.3)
    colour += 0.16 * halo * np.array([[1.0], [0.8], [0.5]], np.float32)
    _, _, _, _, cup, pallor = traits.disc
    brightness = 1 - 0.25 * traits.pigment
    rim = brightness * (_DISC + pallor * np.array([0.0, 0.08, 0.12], np.float32))
    disc = smooth_step(1 - from_disc, 0.14)
    colour += disc * (rim[:, None] - colour)
    hollow = smooth_step(cup - anatomy.disc_distance(u - 0.1 * half_u, v), 0.22)
    colour += hollow * (brightness * _CUP[:, None] - colour)
    away = smooth_step(np.sqrt(squared) - 0.12, 0.05)
    vein = vessel_shadow(anatomy.veins, u, v, beading) * away
    artery = vessel_shadow(anatomy.arteries, u, v) * away
    colour *= 1 - np.outer(_ARTERY, artery)
    colour *= 1 - np.outer(_VEIN, vein)
    return colour.astype(np.float32)


def _draw_tree(
    rng: np.random.Generator, traits: FundusTraits, disc: tuple[float, float], width: float, aside: float
) -> Array:
    """Four trunks from the disc, their branches and twigs, as points [K, 4]."""
    heading, turn, length = (np.array(column) for column in zip(*_TRUNKS, strict=True))
    lean = np.sign(heading) * aside * np.array([1, 1, -1, -1])
    trunks = _grow(
        rng,
        np.tile(disc, (4, 1)) + rng.normal(0, 0.014, (4, 2)),
        heading + traits.arcades + lean + rng.normal(0, 0.09, 4),
        turn + rng.normal(0, 0.12, 4) - 0.5 * lean,
        length * traits.reach * rng.uniform(1.45, 1.7, 4),
        np.full(4, width) * np.array([1.0, 1.0, 0.75, 0.75]) * rng.normal(1, 0.06, 4),
        traits.tortuosity,
        120,
    )
    branches = _sprout(rng, trunks, 6, (0.32, 0.75), 0.68, traits.tortuosity, 36)
    twigs = _sprout(rng, branches, 3, (0.14, 0.38), 0.62, traits.tortuosity, 17)
    points = np.concatenate([level.reshape(-1, 4) for level in (trunks, branches, twigs)])
    return points[(np.abs(points[:, :2]) < 1.25).all(1)].astype(np.float32)


def _sprout(
    rng: np.random.Generator,
    parents: Array,
    count: int,
    length: tuple[float, float],
    share: float,
    tortuosity: float,
    steps: int,
) -> Array:
    """``count`` children of every parent, left and right by turns, of ``share`` of its width there."""
    number, points, _ = parents.shape
    at = np.linspace(0.16, 0.92, count) + rng.uniform(-0.06, 0.06, (number, count))
    start = parents[np.arange(number)[:, None], (at * (points - 1)).astype(np.intp)].reshape(-1, 4)
    side = np.where((np.arange(count) + rng.integers(2, size=(number, 1))) % 2, 1.0, -1.0).ravel()
    angle = side * rng.uniform(0.45, 1.05, number * count)
    reach = rng.uniform(*length, number * count)
    turn = -0.6 * angle + rng.normal(0, 0.25, number * count)
    return _grow(rng, start[:, :2], start[:, 3] + angle, turn, reach, share * start[:, 2], tortuosity, steps)


def _grow(
    rng: np.random.Generator,
    start: Array,
    heading: Array,
    turn: Array,
    length: Array,
    width: Array,
    tortuosity: float,
    steps: int,
) -> Array:
    """Vessels [B, steps, 4] from ``start`` [B, 2]: u, v, half width and heading along each."""
    t = np.linspace(0, 1, steps)
    waves, phase = rng.uniform(3.0, 7.0, (len(start), 1)), rng.uniform(0, 2 * np.pi, (len(start), 1))
    winding = tortuosity * np.sin(waves * length[:, None] * t * 2 + phase) * np.minimum(4 * t, 1)
    bend = smooth_step(t - 0.32, 0.32)
    course = heading[:, None] + turn[:, None] * bend + winding
    step = (length / steps)[:, None]
    u = start[:, :1] + np.cumsum(np.cos(course) * step, axis=1)
    v = start[:, 1:] + np.cumsum(np.sin(course) * step, axis=1)
    return np.stack([u, v, width[:, None] * (1 - 0.5 * t), course], axis=2)
