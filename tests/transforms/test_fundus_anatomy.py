"""Healthy eyes: two of a patient share their traits and not their branches."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from monai_plan.transforms.fundus_anatomy import FundusAnatomy, FundusTraits, fundus_colour, vessel_shadow
from monai_plan.transforms.phantom_canvas import pixel_centres

RADIUS = 0.95


def eye_of(patient: int, eye: int = 0) -> FundusAnatomy:
    return FundusAnatomy.draw(FundusTraits.draw(np.random.default_rng(patient)), np.random.default_rng([patient, eye]))


def test_equal_generators_give_equal_eyes():
    first, second = eye_of(3), eye_of(3)
    for name in ("disc", "arteries", "veins", "texture"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    for entry in fields(FundusTraits):
        np.testing.assert_array_equal(getattr(first.traits, entry.name), getattr(second.traits, entry.name))


def test_eyes_share_their_disc_and_not_their_branches():
    pairs = [(eye_of(patient, 0), eye_of(patient, 1)) for patient in range(20)]
    apart = np.mean([np.abs(np.subtract(left.disc, right.disc))[:4] for left, right in pairs])
    others = np.mean([np.abs(np.subtract(pairs[i][0].disc, pairs[i - 1][0].disc))[:4] for i in range(20)])
    assert 0 < apart < 0.5 * others
    assert all(len(left.veins) != len(right.veins) or (left.veins != right.veins).any() for left, right in pairs)


@pytest.mark.parametrize("patient", range(4))
def test_vessels_leave_the_disc_and_arch_around_the_fovea(patient):
    eye = eye_of(patient)
    for vessels in (eye.arteries, eye.veins):
        assert vessels.shape[1] == 4 and vessels.dtype == np.float32 and (vessels[:, 2] > 0).all()
        assert eye.disc_distance(vessels[:, 0], vessels[:, 1]).min() < 0.2
        for above in (-1, 1):
            temporal = vessels[(vessels[:, 0] < 0.1) & (above * vessels[:, 1] > 0)]
            assert len(temporal) > 50 and np.hypot(*temporal[:, :2].T).max() > 0.6
    assert eye.arteries[:, 2].max() < eye.veins[:, 2].max()


def test_disc_distance_is_one_on_the_margin():
    eye = replace(eye_of(0), disc=(0.6, -0.1, 0.1, 0.2, 0.0))
    u, v = np.array([0.6, 0.7, 0.6, 0.8]), np.array([-0.1, -0.1, 0.1, -0.1])
    np.testing.assert_allclose(eye.disc_distance(u, v), [0, 1, 1, 2], atol=1e-12)


def test_shadow_of_one_straight_vessel():
    along = np.linspace(-0.5, 0.5, 101)
    vessel = np.stack([along, 0 * along, 0 * along + 0.02, 0 * along], axis=1)
    u, v = np.float32([0.003, 0.003, 0.003, 0.8]), np.float32([0, 0.02, 0.3, 0])
    np.testing.assert_allclose(vessel_shadow(vessel, u, v), [1, np.exp(-1), 0, 0], atol=1e-5)
    vessel[:, 2] = 0.007  # drawn twice as wide, half as dark
    np.testing.assert_allclose(
        vessel_shadow(vessel, u, v), [0.5, 0.5 * np.exp(-((0.02 / 0.014) ** 2)), 0, 0], atol=1e-5
    )
    assert not vessel_shadow(vessel[:0], u, v).any()


def test_beading_makes_veins_uneven_and_nothing_else():
    eye, (u, v) = eye_of(1), pixel_centres(64)
    change = np.abs(fundus_colour(eye, u, v, beading=0.5) - fundus_colour(eye, u, v)).max(axis=0)
    far = vessel_shadow(eye.veins, u, v, beading=0.5) + vessel_shadow(eye.veins, u, v) == 0
    assert change.max() > 0.02 and far.any() and not change[far].any()


@pytest.mark.parametrize("patient", range(4))
def test_disc_is_bright_and_macula_is_dark(patient):
    eye, (u, v) = eye_of(patient), pixel_centres(64)
    colour = fundus_colour(eye, u, v)
    assert colour.shape == (3, 64 * 64) and colour.dtype == np.float32
    green = colour[1]
    middle = green[np.hypot(u, v) < RADIUS].mean()
    assert np.quantile(green[eye.disc_distance(u, v) < 0.7], 0.8) > 1.3 * middle  # the rest is vessels
    assert green[np.hypot(u, v) < 0.05].mean() < 0.95 * middle
    assert (colour[0] > colour[2]).mean() > 0.99
