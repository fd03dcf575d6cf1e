"""The audit: every attack that the data allow, on what would be released, with its control, and the utility.

What it leaves is a record of plain values, which :func:`monai_plan.report.write_certificate` judges and prints.
"""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import monai
import torch
from monai.utils import optional_import

from monai_plan._version import __version__
from monai_plan.metrics import AttackResult
from monai_plan.report.audit_material import AuditMaterial
from monai_plan.report.audit_tests import TESTS, AuditTargets
from monai_plan.report.utility_table import ABOUT
from monai_plan.utils import fingerprint, machine_name, sha256_of

__all__ = ["audit_release", "print_verdict", "require_limits"]

tqdm, has_tqdm = optional_import("tqdm", name="tqdm")

SCHEMA, VERSION = "monai_plan certificate", 1
MODES = ("walks", "images")


def require_limits(limits: Mapping[str, Any]) -> None:
    """Refuse limits that no test would ever be held to.

    Args:
        limits: test's id, without a distance, to ``{"at_most": number}`` and, where both sides count, ``"at_least"``.

    Raises:
        ValueError: an unknown test, or something else than these bounds.
    """
    if unknown := sorted(set(limits) - set(TESTS)):
        raise ValueError(f"limits for {', '.join(unknown)}, and the tests are {', '.join(TESTS)}. Correct the names")
    for name, bounds in limits.items():
        numbers = bounds.values() if isinstance(bounds, Mapping) else ()
        known = set(bounds) <= {"at_most", "at_least"} if isinstance(bounds, Mapping) else False
        if not known or not numbers or any(type(number) not in (int, float) for number in numbers):
            raise ValueError(f'the limit of {name} is {bounds!r}; write it as {{"at_most": 0.6, "at_least": 0.4}}')


def audit_release(
    material: AuditMaterial,
    targets: AuditTargets,
    limits: Mapping[str, Mapping[str, float]],
    table: Mapping[str, Any],
    image_features: Callable[[torch.Tensor], torch.Tensor],
    files: Mapping[str, str | os.PathLike],
    config: Mapping[str, Any],
    name: str,
    mode: str = "walks",
) -> dict[str, Any]:
    """Carry out every test.

    Args:
        material: real and synthetic images.
        targets: what an attacker holds beside them.
        limits: see :func:`require_limits`; set before anything was measured.
        table: of :meth:`monai_plan.report.UtilityTable.measure`.
        image_features: images -> [B, F] for KID, FID and coverage.
        files: role to path of what is audited: weights, walks, data list; each is hashed. One that does not exist is
            left out.
        config: what the run was configured with; hashed.
        name: of the data set.
        mode: how the images leave: "walks" (with their generator) or "images".

    Returns:
        The record, plain JSON values, without verdicts.

    Raises:
        ValueError: an argument is out of range, or images and networks do not fit together.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    require_limits(limits)
    begun = time.monotonic()
    paths = {role: Path(path) for role, path in files.items() if path and Path(path).is_file()}
    tests = []
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        bar = tqdm(TESTS, desc="audit", unit="test") if has_tqdm else TESTS
        for test in bar:
            for ending, found in TESTS[test](material, targets).items():
                ran = isinstance(found, AttackResult)
                tests.append(
                    {
                        "id": test + ending,
                        "result": found.as_dict() if ran else None,  # type: ignore[union-attr]
                        "not_run": None if ran else found,
                        "limit": dict(limits[test]) if test in limits else None,
                    }
                )
        quality = material.quality(image_features)
    datalist = paths.get("data list")
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "about": {
            "title": f"Privacy audit of synthetic images: {name}",
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - begun, 1),
            "machine": machine_name(material.device),
            "versions": {"monai_plan": __version__, "monai": monai.__version__, "torch": str(torch.__version__)},
            "seed": material.seed,
        },
        "release": {"mode": mode, "k": targets.k},
        "data": {
            "name": name,
            "datalist_sha256": sha256_of(datalist) if datalist else None,
            **material.data_description(),
        },
        "files": {
            path.name: {"role": role, "sha256": sha256_of(path), "bytes": path.stat().st_size}
            for role, path in paths.items()
        },
        "config_sha256": fingerprint(config),
        "synthetic": material.synthetic_description(),
        "tests": tests,
        "utility": {
            "rows": {row: figures for row, figures in table.items() if row != ABOUT},
            "quality": quality,
            "note": table[ABOUT]["note"],
        },
    }


def print_verdict(certificate: str | os.PathLike, exit_code: bool = False) -> str:
    """Print a certificate's tests and its verdict.

    Args:
        certificate: the file ``certificate.json``.
        exit_code: end the process with exit code 1 unless the verdict is "passed", so that the audit can stand before
            a release in a script.

    Returns:
        The verdict: "passed", "failed" or "unclear".
    """
    path = Path(certificate)
    record = json.loads(path.read_text(encoding="utf-8"))
    for test in record["tests"]:
        print(f"{test['verdict']:>8}  {test['id']:<36} {_figure(test)}")
    overall = record["verdict"]["overall"]
    print(f"verdict: {overall}; certificate, model card and datasheet in {path.parent}")
    if exit_code and overall != "passed":
        raise SystemExit(1)
    return overall


def _figure(test: Mapping[str, Any]) -> str:
    result = test["result"]
    if result is None:
        return test["not_run"]
    ends = ", ".join("-" if end is None else f"{end:.3f}" for end in result["interval"])
    control = "" if result["control"] is None else f", control {result['control']:.3f}"
    return f"{result['measure']} {result['value']:.3f} [{ends}]{control}"
