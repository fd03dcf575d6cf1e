"""What computes, in words, for reports and benchmarks."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

__all__ = ["machine_name"]


def machine_name(device: str | torch.device) -> str:
    """The processor or accelerator of a device; for a CPU with torch's instruction set and number of threads."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{names[0] if names else platform.machine()} ({capability}), {torch.get_num_threads()} thread(s)"
