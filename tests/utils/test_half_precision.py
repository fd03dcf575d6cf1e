"""Half precision by what the hardware says of itself."""

import pytest
import torch

from monai_plan.utils import autocast_dtype, has_half_precision


@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "expected"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_processors_are_asked_for_bfloat16_instructions(monkeypatch, avx512_bf16, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert has_half_precision("cpu") is expected


def test_a_torch_that_cannot_be_asked_counts_as_none(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert has_half_precision("cpu") is False


@pytest.mark.parametrize(("supported", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_old_gpus_take_float16(monkeypatch, supported, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported)
    assert has_half_precision("cuda") and autocast_dtype("cuda") is expected
    assert autocast_dtype("cpu") is torch.bfloat16
