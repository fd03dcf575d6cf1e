"""The bundle for fundus photographs: the stages of plan_tb on colour images of five grades."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import BUNDLES

import monai_plan as plan
from monai_plan.utils import root_cause

TB, DR = BUNDLES / "plan_tb", BUNDLES / "plan_dr"
pytestmark = pytest.mark.skipif(not DR.is_dir(), reason="not a checkout")
OWN = {"train.json", "inference.json", "metadata.json"}
"""Configs that plan_dr does not share with plan_tb."""


def run(workflow) -> None:
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def test_stages_are_those_of_plan_tb():
    configs = [{path.name: path.read_text() for path in (bundle / "configs").iterdir()} for bundle in (TB, DR)]
    assert configs[0].keys() == configs[1].keys()
    assert {name for name in configs[0] if configs[0][name] != configs[1][name]} == OWN


def test_the_base_differs_in_data_alone():
    tb, dr = (json.loads((bundle / "configs" / "train.json").read_text()) for bundle in (TB, DR))
    assert list(tb) == list(dr)
    assert {name for name in tb if tb[name] != dr[name]} == {
        *("channels", "num_classes", "phantoms", "load_image", "augment")
    }


def test_what_ships_is_what_plan_tb_ships():
    def shipped(bundle):
        return {f"{room}/{path.name}" for room in ("models", "private") for path in (bundle / room).iterdir()}

    assert shipped(DR) == shipped(TB)


def test_the_shipped_walks_hold_every_grade_and_fit_their_generator():
    walks = plan.latent.WalkSet.load(DR / "models" / "walks_private.safetensors")
    generator = plan.networks.nets.StyleGenerator.load(DR / "models" / "generator.safetensors")
    assert walks.meta["generator"] == plan.utils.weights_digest(generator)
    assert (generator.channels, generator.num_classes) == (3, 5)
    verified = torch.zeros(5).index_add_(0, walks.labels, walks.verified.sum(dim=1).float())
    assert verified.min() > 0


@pytest.mark.parametrize("stage", ["train", "train_gate", "walk"])
def test_stages_run_in_colour(dr_stage_run, stage):
    job = dr_stage_run(stage)
    run(job.workflow())
    if stage == "train":
        table = json.loads((job.output / "table.json").read_text())
        assert all(len(table[row]["recall"]) == 5 and "kappa" in table[row] for row in ("real", "linear", "plan"))
        assert (job.output / "samples_plan.png").is_file()


def test_grey_weights_are_refused(dr_stage_run, tiny_models):
    job = dr_stage_run("train")
    (job.models / "generator.safetensors").write_bytes((tiny_models / "generator.safetensors").read_bytes())
    with pytest.raises(Exception) as caught:
        run(job.workflow())
    assert "channels" in str(root_cause(caught.value))
