"""What the benchmarks have in common: timing, and what each says about where and when it was run."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from monai_plan.utils import machine_name

CONFIGS = Path(__file__).resolve().parent.parent / "bundles" / "plan_tb" / "configs"
RENDERED_AT_ONCE = 64


def commit() -> str:
    """The commit that was timed, with a mark if files differ from it; "unknown" outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def about(device: torch.device) -> dict[str, Any]:
    """Machine, date, commit and version of torch, for the JSON."""
    return {
        "machine": machine_name(device),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "torch": str(torch.__version__),
    }


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, the device's queue included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def add_bundle_options(parser: argparse.ArgumentParser) -> None:
    """The options that :func:`bundle_config` reads, and ``--lpips_weights``."""
    parser.add_argument("--bundle", type=Path, default=CONFIGS.parent, help="its folder (default: plan_tb)")
    parser.add_argument("--models_dir", default="", help="generator, label network, walks (default: the bundle's)")
    parser.add_argument("--private_dir", default="", help="gate, identity network, guide (default: the bundle's)")
    parser.add_argument("--dataset_dir", default="", help="their training images (default: the embedded phantoms)")
    parser.add_argument("--datalist", default="", help="their split")
    parser.add_argument("--lpips_weights", default="", help="for LPIPS distances (default: the gate's embedding)")


def bundle_config(options: argparse.Namespace) -> ConfigParser:
    """The bundle's base and walk stage, on the data and weights that the options name."""
    config = ConfigParser()
    config.read_config([str(options.bundle / "configs" / f"{stage}.json") for stage in ("train", "walk")])
    given = {name: getattr(options, name) for name in ("dataset_dir", "datalist", "models_dir", "private_dir")}
    config.update(
        {"bundle_root": str(options.bundle.resolve()), **{name: value for name, value in given.items() if value}}
    )
    return config


def over_seeds(name: str, values: Sequence[float]) -> dict[str, Any]:
    """Mean, deviation (None for one seed) and single values of a figure, under names that begin with its own."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {f"{name}_mean": statistics.fmean(values), f"{name}_sd": deviation, f"{name}_by_seed": list(values)}


@torch.no_grad()
def render(generator: Any, latents: torch.Tensor) -> torch.Tensor:
    """Images of latents with constant noise, clamped, on the CPU."""
    parts = latents.to(next(generator.parameters()).device).split(RENDERED_AT_ONCE)
    return torch.cat([generator.synthesize(part, noise="const").clamp(-1, 1).cpu() for part in parts])
