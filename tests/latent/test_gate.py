"""The gate: distances by hand, calibration's exact counts and interval, refusals, file."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.utils import OptionalImportError, optional_import
from torch import nn

from monai_plan.latent import PrivacyGate
from monai_plan.latent import gate as gate_module
from monai_plan.networks.nets import IdentityEmbedder
from monai_plan.transforms import copy_alterations
from monai_plan.utils import root_cause

BUNDLE = Path(__file__).parents[2] / "bundles" / "plan_tb"


class AngleEmbedder(nn.Module):
    """The first pixel is an angle; the embedding is its point on the unit circle, times 3."""

    def forward(self, images):
        angle = images[:, 0, 0, 0]
        return 3 * torch.stack([angle.cos(), angle.sin()], dim=1)


def images_at(angles):
    images = torch.zeros(len(angles), 1, 2, 2)
    images[:, 0, 0, 0] = torch.as_tensor(angles)
    return images


def chord(angle):
    return 2 * torch.sin(torch.as_tensor(angle) / 2).abs()


def make_gate(threshold=0.1):
    return PrivacyGate(AngleEmbedder(), AngleEmbedder()(images_at([0.0, 1.0])), threshold)


def test_distance_is_to_the_nearest_gallery_entry():
    distances = make_gate().distances(images_at([0.0, 0.001, 0.3, 0.9, 1.5]))
    torch.testing.assert_close(distances, chord([0.0, 0.001, 0.3, 0.1, 0.5]), atol=1e-6, rtol=1e-3)


def test_accepts_counts_and_stays_in_evaluation_mode():
    gate = make_gate(float(chord(0.2))).train()
    assert gate(images_at([0.0, 0.1, 0.3, 0.95])).tolist() == [False, False, True, False]
    assert (gate.accepted, gate.rejected, gate.training) == (1, 3, False)


def test_an_image_that_the_embedder_cannot_place_is_rejected():
    class Dead(nn.Module):
        def forward(self, images):
            return images[:, 0, 0, :2].relu()

    gate = PrivacyGate(Dead(), torch.tensor([[1.0, 0.0]]), threshold=0.1)
    images = torch.tensor([[-1.0, -1.0], [0.0, 1.0]])[:, None, None]
    assert gate.distances(images)[0] == 0 and gate(images).tolist() == [False, True]


def test_verdict_does_not_change_when_the_embedder_is_trained_elsewhere():
    embedder = IdentityEmbedder(1, 8, block_inplanes=(4, 4, 8, 8))
    gate = PrivacyGate(embedder, torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), 0.1)
    images = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    before = gate.distances(images)
    embedder.train()
    assert torch.equal(gate.distances(images), before) and embedder.training
    assert torch.equal(gate.distances(images), before)


def test_verdict_ignores_the_callers_autocast():
    torch.manual_seed(0)
    embedder = IdentityEmbedder(1, 8, block_inplanes=(4, 4, 8, 8))
    gate = PrivacyGate(embedder, torch.randn(3, 8), 0.1)
    images = torch.rand(2, 1, 32, 32)
    plain = gate.distances(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(plain, gate.distances(images))


@pytest.mark.parametrize("false_rejection, rejected", [(0.05, 2), (0.25, 10), (0.11, 4)])
@pytest.mark.parametrize("as_batches", [False, True])
def test_calibration_rejects_the_wanted_share_of_holdout(false_rejection, rejected, as_batches):
    angles = torch.linspace(0.01, 0.4, 40)[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    holdout = [{"image": batch} for batch in images_at(angles).split(7)] if as_batches else images_at(angles)
    gate = PrivacyGate.calibrate(AngleEmbedder(), images_at([0.0, 2.0]), holdout, false_rejection)
    assert int((~gate.accepts(images_at(angles))).sum()) == gate.calibration["rejected"] == rejected
    assert gate.threshold == pytest.approx(float(chord(0.01 * (rejected + 1))), abs=1e-6)
    assert (gate.calibration["gallery"], gate.calibration["holdout"]) == (2, 40)
    low, high = gate.calibration["interval_95"]
    assert low < false_rejection < high


def test_interval_of_the_rejection_rate_in_closed_form():
    """1 of 20 rejected: P(the second smallest of 20 uniform numbers < x) = 1 - (1 - x)^20 - 20 x (1 - x)^19."""
    gate = PrivacyGate.calibrate(AngleEmbedder(), images_at([0.0]), images_at(torch.linspace(0.01, 0.2, 20)))
    chances = [1 - (1 - x) ** 20 - 20 * x * (1 - x) ** 19 for x in gate.calibration["interval_95"]]
    assert chances == pytest.approx([0.025, 0.975], abs=1e-6)


class Mean(nn.Module):
    """An image's mean is an angle: blind to mirrors and rotations, sees brightness."""

    def forward(self, images):
        angle = images.mean(dim=(1, 2, 3))
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def flat_images(values, size=8):
    return torch.as_tensor(values, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, size, size).clone()


@pytest.mark.parametrize("as_batches", [False, True])
def test_calibration_plants_copies(caplog, as_batches):
    """Threshold chord(0.02): noise moves a mean by less, 10 % of the range (0.2) by more; 3/4 of an image by 0.3/4."""
    gallery, holdout = flat_images([0.0, 0.0, 0.0, 0.0]), flat_images(0.3 + 0.01 * torch.arange(20))
    holdout[:2] = flat_images([0.01, 0.02])
    images = (iter([{"image": part} for part in of.split(3)]) if as_batches else of for of in (gallery, holdout))
    gate = PrivacyGate.calibrate(Mean(), *images, planted=20, seed=1)
    planted = gate.calibration["planted"]
    assert gate.threshold == pytest.approx(float(chord(0.02)), abs=1e-6)
    rates = {name: [row["rate"] for row in levels.values()] for name, levels in planted.items()}
    assert rates["flip"] == [1.0] and rates["exact"] == [1.0] and rates["rotate"] == rates["shift"] == [1.0] * 3
    assert rates["brightness"] == [0.0] * 3 and planted["brightness"]["light"]["amount"] == 0.1
    assert planted["shift"]["light"]["interval_95"] == pytest.approx([0.025 ** (1 / 4), 1.0])
    assert planted["shift"]["light"]["n"] == 4  # there are no more
    # two of the first four hosts lie within reach of the gallery themselves
    assert planted["paste"]["light"]["rate"] == pytest.approx(2 / 4)
    assert "brightness 0.0 %" in caplog.text and "epochs" in caplog.text and "shift" not in caplog.text


def test_copied_images_and_their_hosts_are_drawn_by_the_seed(monkeypatch):
    """Three of eight and of 20: the same ones whatever the batches, each image in about 3/8 of 80 seeds."""
    gallery, holdout = flat_images(0.001 * torch.arange(8)), flat_images(0.3 + 0.01 * torch.arange(20))
    drawn = []

    def note(distances, threshold, copied, hosts, seed, batch_size):
        drawn.append([(images[:, 0, 0, 0].tolist(), len(images)) for images in (copied, hosts)])
        return {}

    monkeypatch.setattr(gate_module, "planted_sensitivity", note)
    for seed in range(80):
        PrivacyGate.calibrate(Mean(), gallery, holdout, planted=3, seed=seed)
    at_once = list(drawn)
    for seed in range(3):
        streams = ([{"image": part} for part in of.split(3 + seed)] for of in (gallery, holdout))
        PrivacyGate.calibrate(Mean(), *streams, planted=3, seed=seed)
    assert drawn[80:] == at_once[:3] and all(count == 3 for sets in drawn for _, count in sets)
    assert all(values == sorted(set(values)) for sets in drawn for values, _ in sets)  # no image twice
    times = [sum(value in sets[0][0] for sets in at_once) for value in gallery[:, 0, 0, 0].tolist()]
    assert sum(times) == 240 and min(times) >= 14 and max(times) <= 46  # 30, with a deviation of 4.3
    assert len({tuple(sets[1][0]) for sets in at_once}) > 60


@pytest.mark.parametrize("planted, refused", [(1000, True), (0, False)])
def test_the_stage_looks_for_pillow_before_it_trains(monkeypatch, planted, refused):
    """Only where copies will be planted."""
    missing, _ = optional_import("no_pillow_here", descriptor="JPEG copies need Pillow")
    monkeypatch.setattr(copy_alterations, "Image", missing)
    config = json.loads((BUNDLE / "configs" / "train_gate.json").read_text())
    checks = [check for check in config["+check"] if "@planted" in check]
    assert len(checks) == 2 and config["initialize"][-1] == "@check" and config["planted"] == 1000
    imports = json.loads((BUNDLE / "configs" / "train.json").read_text())["imports"]
    parser = ConfigParser({"imports": imports, "planted": planted, "check": checks})
    parser.parse()
    with pytest.raises(RuntimeError) if refused else nullcontext() as caught:
        parser.get_parsed_content("check")
    if refused:
        assert isinstance(root_cause(caught.value), OptionalImportError)
        assert "JPEG copies need Pillow" in str(root_cause(caught.value))


def test_nothing_is_planted_unasked():
    gate = PrivacyGate.calibrate(AngleEmbedder(), images_at([0.0]), images_at(torch.linspace(0.01, 0.2, 20)))
    assert "planted" not in gate.calibration


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: PrivacyGate(AngleEmbedder(), torch.zeros(0, 2), 0.1), "empty gallery"),
        (lambda: PrivacyGate(AngleEmbedder(), torch.zeros(1, 2), 0.1), "all-zero"),
        (lambda: PrivacyGate(AngleEmbedder(), torch.ones(1, 2), 2.1), "threshold 2.1"),
        (lambda: make_gate().accepts(images_at([0.1, torch.nan])), "1 of 2 images hold NaN"),
        (lambda: PrivacyGate.calibrate(AngleEmbedder(), images_at([0.0]), images_at([0.1] * 19)), "at least 20"),
        (lambda: PrivacyGate.calibrate(AngleEmbedder(), images_at([]), images_at([0.1] * 20)), "no images"),
        (lambda: PrivacyGate.calibrate(AngleEmbedder(), images_at([0.1]), images_at([0.1] * 20)), "overlap"),
        (lambda: PrivacyGate.calibrate(AngleEmbedder(), images_at([0.1]), images_at([0.2]), 1.0), "between 0 and 1"),
    ],
)
def test_errors_name_the_cause(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_file_keeps_verdicts_and_no_ids(tmp_path):
    torch.manual_seed(0)
    embedder = IdentityEmbedder(1, 8, block_inplanes=(4, 4, 8, 8))
    gate = PrivacyGate.calibrate(embedder, torch.rand(6, 1, 32, 32), torch.rand(20, 1, 32, 32), planted=2)
    loaded = PrivacyGate.load(gate.save(tmp_path / "gate.safetensors"))
    images = torch.rand(5, 1, 32, 32)
    assert torch.equal(loaded.distances(images), gate.distances(images))
    assert (loaded.threshold, loaded.calibration) == (gate.threshold, gate.calibration)
    assert torch.equal(loaded.gallery, gate.gallery) and loaded.calibration["planted"]["flip"]["light"]["n"] == 2
    assert b"patient" not in (tmp_path / "gate.safetensors").read_bytes()


def test_foreign_embedder_cannot_be_saved(tmp_path):
    with pytest.raises(TypeError, match="IdentityEmbedder"):
        make_gate().save(tmp_path / "gate.safetensors")
