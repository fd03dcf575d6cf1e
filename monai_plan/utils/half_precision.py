"""Where half precision is computed by the hardware, and which one."""

from __future__ import annotations

import torch

__all__ = ["autocast_dtype", "has_half_precision"]


def has_half_precision(device: str | torch.device) -> bool:
    """Whether 16-bit arithmetic is native: on GPUs, and on processors with bfloat16 instructions.

    Elsewhere bfloat16 is emulated, some fifteen times slower than float32 (measured with convolutions on AVX2).
    A processor that torch cannot be asked about counts as one without.
    """
    if torch.device(device).type != "cpu":
        return True
    questions = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(bool(question()) for question in questions if question is not None)


def autocast_dtype(device: str | torch.device) -> torch.dtype:
    """bfloat16, or float16 on GPUs that lack it."""
    lacks = torch.device(device).type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float16 if lacks else torch.bfloat16
