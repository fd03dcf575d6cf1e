"""A guide corrected along its own walks; the reports tell the truth about it."""

import dataclasses

import pytest
import torch
from fakes import FakeGenerator, classifier

from monai_plan.latent import WalkSteering, fit_guide


def make_steering():
    return WalkSteering(FakeGenerator(), classifier(5, 1), classifier(2, 2))


SMALL = {"latents": 300, "iterations": 150, "paths_per_class": 6, "steps": 10, "progress": False}
PUBLISHED = {"balance": "published"}


def test_rounds_mend_the_guide_where_its_walks_go():
    steering, state = make_steering(), torch.get_rng_state()
    fitted = fit_guide(steering, rounds=3, seed=1, walk_options={**PUBLISHED, "identity_weight": 2.0}, **SMALL)
    assert torch.equal(state, torch.get_rng_state()) and not fitted.guide.training
    assert fitted.first_along_walks.identity_bias < 0  # a walk finds errors in its own favour
    assert fitted.along_walks.identity_error < 0.8 * fitted.first_along_walks.identity_error
    assert fitted.anywhere.count == 512 and fitted.along_walks.count == 2 * 6 * 8
    record = fitted.record()
    assert record["along_walks"] == dataclasses.asdict(fitted.along_walks) and len(record) == 3


def test_without_rounds_both_reports_are_the_first():
    fitted = fit_guide(make_steering(), rounds=0, walk_options=PUBLISHED, **SMALL)
    again = fit_guide(make_steering(), rounds=0, walk_options=PUBLISHED, **SMALL)
    assert fitted.along_walks == fitted.first_along_walks == again.along_walks


def test_refuses():
    with pytest.raises(ValueError, match="rounds"):
        fit_guide(make_steering(), rounds=-1)
    with pytest.raises(ValueError, match="latents"):
        fit_guide(make_steering(), latents=1)
    with pytest.raises(TypeError, match="controlpoints"):
        fit_guide(make_steering(), walk_options={"controlpoints": 3}, **SMALL)
