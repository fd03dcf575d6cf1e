"""The long runs of benchmarks/reliability.py, short; each of their alarms goes off where it should."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

import monai_plan
from monai_plan.data import walk_rendering
from monai_plan.latent.rendering import render_and_judge

FOLDER = Path(monai_plan.__file__).resolve().parent.parent / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="not a checkout")


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("soak")
    monkeypatch.setattr(module, "BATCHES_PER_EPOCH", 10)
    monkeypatch.setattr(module, "EPOCHS", 3)
    return module


def test_a_verdict_stands_behind_every_image_and_none_comes_twice(soak, tmp_path):
    figures = soak.measure(False, tmp_path)
    found = figures["soak"]
    assert figures["soak_batches"] == 30 and found["images"] == found["emitted"] == 120
    assert found["repeated_images"] == found["emitted_without_verdict"] == 0 and found["replayed_epochs_equal"]
    assert found["rejected"] > 0 and len(found["memory_mib_by_epoch"]) == 3
    assert "0 of 120" in soak.show(figures)


def test_an_image_that_the_gate_refused_is_noticed(soak, tmp_path, monkeypatch):
    def careless(*arguments):
        images, finite, passed = render_and_judge(*arguments)
        return images, finite, torch.ones_like(passed)

    monkeypatch.setattr(walk_rendering, "render_and_judge", careless)
    assert soak.measure(False, tmp_path)["soak"]["emitted_without_verdict"] > 0


def test_an_image_that_comes_twice_is_noticed(soak, tmp_path, monkeypatch):
    one_pass = soak.one_pass
    monkeypatch.setattr(soak, "one_pass", lambda sampler, epoch: one_pass(sampler, min(epoch, 1)))
    found = soak.measure(False, tmp_path)["soak"]
    assert found["repeated_images"] == found["repeated_draws"] == 40 and found["replayed_epochs_equal"]


@pytest.mark.parametrize("leak", [0.0, 0.05])
def test_memory_that_grows_is_told_from_noise(soak, leak):
    noise = torch.rand(100, generator=torch.Generator().manual_seed(0)) * 6
    memory = [500 * (epoch > 3) + value + leak * epoch for epoch, value in enumerate(noise.tolist())]
    assert soak.growth(memory) == pytest.approx(leak * 90, abs=1.5)


def test_trainers_share_a_release(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    load = importlib.import_module("load")
    found = load.trainers(tmp_path, (0, 0, 1), 1)
    assert found["ended_well"] == 3 and found["folder_unchanged"]
    assert found["equal_seeds_equal"] and found["other_seeds_differ"]
