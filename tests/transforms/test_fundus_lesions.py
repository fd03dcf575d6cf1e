"""Lesions of the five grades: what defines each, and amounts that grow and overlap."""

from __future__ import annotations

import numpy as np
import pytest

from monai_plan.transforms.fundus_anatomy import FundusAnatomy, FundusTraits
from monai_plan.transforms.fundus_lesions import FundusLesions, draw_lesions

EYES = 24
PLATES = ("blood", "exudate", "wool", "scar", "soot", "veil")
EYE = FundusAnatomy.draw(FundusTraits.draw(np.random.default_rng(0)), np.random.default_rng(1))


@pytest.fixture(scope="module")
def drawn() -> list[list[FundusLesions]]:
    """Eyes of each grade."""
    return [[draw_lesions(np.random.default_rng([grade, i]), EYE, grade) for i in range(EYES)] for grade in range(5)]


def amounts(eyes: list[FundusLesions], name: str) -> np.ndarray:
    return np.array([getattr(lesions, name).sum() for lesions in eyes])


def test_same_generator_same_lesions():
    first, second = (draw_lesions(np.random.default_rng(5), EYE, 4) for _ in range(2))
    for name in (*PLATES, "sprouts", "beading"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_plates_are_shares(drawn):
    for lesions in sum(drawn, []):
        for name in PLATES:
            plate = getattr(lesions, name)
            assert plate.shape == (256, 256) and plate.dtype == np.float32
            assert plate.min() >= 0 and plate.max() <= 1


def test_blood_grows_with_the_grade_on_average(drawn):
    means = [amounts(eyes, "blood").mean() for eyes in drawn]
    assert means[0] == 0
    assert all(later > 1.5 * earlier for earlier, later in zip(means[1:3], means[2:4], strict=True))
    assert means[4] > means[2]


def test_neighbouring_grades_overlap(drawn):
    for lower, higher in ((1, 2), (2, 3)):
        assert amounts(drawn[lower], "blood").max() > amounts(drawn[higher], "blood").min()


@pytest.mark.parametrize(
    ("name", "grades"),
    [("blood", {1, 2, 3, 4}), ("sprouts", {4}), ("veil", {4}), ("scar", {4}), ("soot", {0, 1, 2, 3, 4})],
)
def test_which_grades_can_have_it(drawn, name, grades):
    assert {grade for grade in range(5) if amounts(drawn[grade], name).any()} == grades


def test_what_defines_a_grade_is_always_there(drawn):
    assert all(amounts(eyes, "blood").all() for eyes in drawn[1:4])
    assert all(len(lesions.sprouts) for lesions in drawn[4])
    assert all((lesions.beading > 0) == (grade >= 3) for grade in range(5) for lesions in drawn[grade])


def test_severe_eyes_bleed_in_every_quadrant(drawn):
    quarters = np.mean([lesions.blood.reshape(2, 128, 2, 128).sum((1, 3)) for lesions in drawn[3]], axis=0)
    assert quarters.min() > 0.5 * quarters.max()


def test_healthy_eyes_differ_by_harmless_variants(drawn):
    variants = [sum(float(getattr(lesions, name).sum()) for name in PLATES) for lesions in drawn[0]]
    assert 0 in variants and len(set(variants)) > EYES / 2
