"""Errors of inversion by split: the gap by hand, and what is written."""

import json

import pytest
import torch

from monai_plan.report import inversion_gap, write_inversion_report


def test_gap_by_hand():
    gap = inversion_gap(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([2.5, 5.0]))
    deviation = pytest.approx((5 / 3) ** 0.5)
    assert gap["auroc"] == (2 + 4) / 8 and gap["training"] == {"mean": 2.5, "deviation": deviation, "count": 4}
    assert gap["others"]["mean"] == 3.75 and gap["interval_95"][0] < 0.5 and not gap["leak"]


def test_a_memorised_set_is_a_leak_and_the_reverse_is_none():
    rng = torch.Generator().manual_seed(0)
    low, high = torch.rand(60, generator=rng), 0.4 + torch.rand(60, generator=rng)
    assert inversion_gap(low, high)["leak"] and not inversion_gap(high, low)["leak"]
    same = torch.rand(60, generator=rng)
    assert not inversion_gap(same, low)["leak"] and abs(inversion_gap(same, low)["auroc"] - 0.5) < 0.15


def test_what_is_written_names_nobody(tmp_path, caplog):
    rng = torch.Generator().manual_seed(0)
    errors = {
        "validation": {name: 0.4 + torch.rand(30, generator=rng) for name in ("perceptual", "pixel")},
        "training": {name: torch.rand(40, generator=rng) for name in ("perceptual", "pixel")},
    }
    record = write_inversion_report(errors, tmp_path, "lpips_squeeze")
    assert json.loads((tmp_path / "inversion.json").read_text()) == json.loads(json.dumps(record))
    assert record["split"] == "validation" and record["metric"] == "lpips_squeeze" and record["pixel"]["leak"]
    assert record["perceptual"]["leak"]
    of_a_network_that_knows_them = write_inversion_report(errors, tmp_path / "other", "embedding")
    assert of_a_network_that_knows_them["perceptual"]["leak"] is None and of_a_network_that_knows_them["pixel"]["leak"]
    assert (tmp_path / "inversion.png").read_bytes()[:4] == b"\x89PNG"
    assert "training images invert better" in caplog.text


@pytest.mark.parametrize("splits", [("training",), ("validation",), ("training", "validation", "testing")])
def test_two_splits_are_compared(tmp_path, splits):
    with pytest.raises(ValueError, match="one other split"):
        write_inversion_report({name: {"pixel": torch.rand(3)} for name in splits}, tmp_path)
