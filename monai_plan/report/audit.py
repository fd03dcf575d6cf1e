"""The audit: every attack that the data allow, on what would be released, with its control, and the utility.

What it leaves is a record of plain values, which :func:`monai_plan.report.write_certificate` judges and prints.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import monai
import torch
from monai.utils import optional_import
from torch import nn

from monai_plan._version import __version__
from monai_plan.engines import LEAST_PATIENTS
from monai_plan.metrics import AttackResult
from monai_plan.report.audit_material import HELD_OUT, AuditMaterial
from monai_plan.report.audit_tests import TESTS, AuditTargets
from monai_plan.report.utility_table import ABOUT
from monai_plan.report.verdicts import require_limits
from monai_plan.utils import machine_name, patient_of, read_json, sha256_of
from monai_plan.utils.files import json_text

__all__ = ["audit_release", "print_verdict", "require_audit", "shareable_config"]

tqdm, has_tqdm = optional_import("tqdm", name="tqdm")

SCHEMA, VERSION = "monai_plan certificate", 1
MODES = ("walks", "images")
NAME_THE_DATA = ("dataset_dir", "datalist")
"""Config ids of places that tell whose the images are, also where they are relative."""


class Utility(Protocol):
    """What is asked of a :class:`~monai_plan.report.UtilityTable`."""

    def measure(self) -> tuple[dict[str, Any], dict[str, nn.Module]]:
        """The table, and the first seed's network of each row."""


def require_audit(
    splits: Mapping[str, Any], limits: Mapping[str, Any], required: Sequence[str], mode: str = "walks"
) -> None:
    """Refuse, before hours of work, what an audit could not be finished with.

    Args:
        splits: the data list; each side needs patients to train a verification network on and to judge.
        limits: test's id, without a distance, to ``{"at_most": number}`` and, where both sides count, ``"at_least"``.
        required: ids of the tests without which nothing passes.
        mode: how the images leave, "walks" or "images".

    Raises:
        ValueError: an unknown test or mode, a limit that holds nothing, or too few patients.
    """
    if mode not in MODES:
        raise ValueError(f"audit#mode is {mode!r}; it must be one of {MODES}")
    require_limits(limits, TESTS, required)
    for side in (("training",), HELD_OUT):
        patients = {patient_of(item) for split in side for item in splits[split]}
        if len(patients) < LEAST_PATIENTS:
            raise ValueError(
                f"the audit needs {LEAST_PATIENTS} patients at least in {' and '.join(side)} and finds "
                f"{len(patients)}; of fewer nobody could tell a leak from chance. Hold out more patients"
            )


def shareable_config(config: Mapping[str, Any]) -> str:
    """The settings that an audit runs with, as JSON for :func:`monai_plan.report.write_certificate`.

    Args:
        config: of the run; what names a place on this machine is left out, however deep it stands.
    """
    return json_text(_without_places(config))


def _without_places(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {
            name: _without_places(value)
            for name, value in config.items()
            if name not in NAME_THE_DATA and not _is_place(value)
        }
    if isinstance(config, list | tuple):
        return [_without_places(value) for value in config if not _is_place(value)]
    return config


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and (os.path.isabs(value) or value.startswith("~"))


def audit_release(
    material: AuditMaterial,
    targets: AuditTargets,
    limits: Mapping[str, Mapping[str, float]],
    utility: Utility,
    image_features: Callable[[torch.Tensor], torch.Tensor],
    files: Mapping[str, str | os.PathLike],
    config: str,
    name: str,
    mode: str = "walks",
) -> dict[str, Any]:
    """Carry out every test.

    Args:
        material: real and synthetic images.
        targets: what an attacker holds beside them.
        limits: see :func:`require_audit`; set before anything was measured.
        utility: a :class:`~monai_plan.report.UtilityTable` with a row ``real`` and one of synthetic images; its first
            network of the row ``real`` shows what the attack on classifiers can do.
        image_features: images -> [B, F] for KID, FID and coverage.
        files: role to path of what is audited: weights, walks, data list; each is hashed. One that does not exist is
            left out.
        config: what the run was configured with, see :func:`shareable_config`; its SHA-256 stands in the record.
        name: of the data set.
        mode: how the images leave: "walks" (with their generator) or "images".

    Returns:
        The record, plain JSON values, without verdicts.

    Raises:
        ValueError: images and networks do not fit together.
    """
    begun = time.monotonic()
    paths = {role: Path(path) for role, path in files.items() if path and Path(path).is_file()}
    table, trained = utility.measure()
    targets = replace(targets, real_classifier=trained.get("real"))
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
        "release": {"mode": mode, "k": targets.groups["k"] if targets.groups else None},
        "data": {
            "name": name,
            "datalist_sha256": sha256_of(datalist) if datalist else None,
            **material.data_description(),
        },
        "files": {
            path.name: {"role": role, "sha256": sha256_of(path), "bytes": path.stat().st_size}
            for role, path in paths.items()
        },
        "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
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

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no certificate.
    """
    path = Path(certificate)
    try:
        record = read_json(path)
        lines = [f"{test['verdict']:>8}  {test['id']:<36} {_figure(test)}" for test in record["tests"]]
        overall = record["verdict"]["overall"]
        if overall not in ("passed", "failed", "unclear"):
            raise ValueError(f"its verdict is {overall!r}")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"'{path}' is no certificate of an audit ({error!r}); it was changed or is damaged. Audit again: python -m "
            "monai_plan audit"
        ) from error
    print("\n".join(lines))
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
