"""What is done with a run's results: ``audit``, ``release``, ``generate`` and ``ledger``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_plan.commands.console import said_by
from monai_plan.commands.parts import (
    DONE,
    NOT_PASSED,
    REPEATS,
    RESUMES,
    Outcome,
    add_command,
    add_settings,
    settings_of,
)
from monai_plan.data.export_folder import SETTINGS
from monai_plan.data.image_export import SUFFIXES
from monai_plan.data.release import MANIFEST
from monai_plan.pipeline import RUN, run_bundle, run_later
from monai_plan.utils import read_json

__all__ = ["add_audit", "add_generate", "add_ledger", "add_release"]


def add_audit(subparsers: argparse._SubParsersAction) -> None:
    """Add ``audit``: attack what would leave, and write the certificate."""
    parser = add_command(
        subparsers,
        "audit",
        run_audit,
        summary="attack what would leave, and write the certificate",
        description="Attack the synthetic images and the networks behind them, each attack beside its\n"
        "control, and write certificate.json, certificate.html, model_card.md and\n"
        "datasheet.md into DIR/certificate. The limits stand in the bundle's\n"
        "configs/evaluate.json, before anything is measured.",
        examples="python -m monai_plan audit --bundle bundles/plan_tb  # the phantoms that ship with it\n"
        "python -m monai_plan audit --output_dir runs/shenzhen --exit_code \\\n"
        "    && python -m monai_plan release --output_dir runs/shenzhen",
        interrupted=REPEATS,
        codes={NOT_PASSED: "with --exit_code: the verdict is not 'passed'"},
    )
    what = parser.add_argument_group("what to audit: one of the two at least")
    what.add_argument("--bundle", metavar="DIR", help="the weights that lie in this bundle (default: those of a run)")
    what.add_argument(
        "--output_dir",
        metavar="DIR",
        help="what the pipeline has left there; with --bundle: where the certificate goes "
        "(default: the bundle's folder output)",
    )
    add_settings(what, "audit#images=5000 audit#seed=8")
    certificate = parser.add_argument_group("the certificate")
    certificate.add_argument("--exit_code", action="store_true", help="exit with 1 unless the verdict is 'passed'")
    certificate.add_argument(
        "--sign", metavar="FILE", help="a PEM file with your Ed25519 private key (default: not signed)"
    )
    certificate.add_argument(
        "--show_real_images", action="store_true", help="put the closest real images into the page"
    )


def run_audit(arguments: argparse.Namespace) -> Outcome:
    """Run ``audit``."""
    if not (arguments.bundle or arguments.output_dir):
        raise ValueError("say what to audit: --bundle DIR, or --output_dir DIR of a pipeline")
    overrides = {
        "audit#exit_code": arguments.exit_code,
        "audit#show_real_images": arguments.show_real_images,
        "audit#signing_key": arguments.sign or "",
        **settings_of(arguments.set),
    }
    must_pass = overrides.pop("audit#exit_code")  # the config would end the process here
    if not arguments.bundle:
        config, text = _run(run_later, arguments.output_dir, "evaluate", **overrides)
    else:
        if arguments.output_dir:
            if (Path(arguments.output_dir) / RUN).exists():
                raise ValueError(
                    f"'{arguments.output_dir}' holds a run of its own, and --bundle would audit the bundle's weights "
                    "instead of it. Leave --bundle out, or give another --output_dir"
                )
            overrides.setdefault("output_dir", arguments.output_dir)
        config, text = _run(run_bundle, arguments.bundle, "evaluate", **overrides)
    written = config.get_parsed_content("audit#written")
    record = read_json(written["certificate.json"])
    verdict = record["verdict"]["overall"]
    values = {
        "written": [os.path.abspath(written[name]) for name in sorted(written)],
        "verdict": verdict,
        "tests": [_test(test) for test in record["tests"]],
    }
    return Outcome(values, text, NOT_PASSED if must_pass and verdict != "passed" else DONE)


def _test(test: dict[str, Any]) -> dict[str, Any]:
    """A test's figure; the certificate has the rest."""
    result = test["result"] or {}
    figures = {name: result.get(name) for name in ("measure", "value", "interval", "control")}
    return {"id": test["id"], "verdict": test["verdict"], **figures, "not_run": test["not_run"]}


def add_release(subparsers: argparse._SubParsersAction) -> None:
    """Add ``release``: write what may leave."""
    parser = add_command(
        subparsers,
        "release",
        run_release,
        summary="write the folder that may leave the hospital",
        description="Write DIR/release: verified points of walks with their generator, from which\n"
        "PrivacyWalkSampler makes batches, or finished pictures. Nothing of a patient is\n"
        "in it; whether it may be given away, the audit has to say: its verdict on these\n"
        "very weights stands in the manifest, and all but a pass is warned of.",
        examples="python -m monai_plan release --output_dir runs/shenzhen\n"
        "python -m monai_plan release --output_dir runs/shenzhen --mode images",
        interrupted=REPEATS,
    )
    group = parser.add_argument_group("what to write")
    group.add_argument("--output_dir", required=True, metavar="DIR", help="that of the pipeline")
    group.add_argument(
        "--mode",
        choices=("walks", "images"),
        default="walks",
        help="walks with their generator, or pictures (default: walks)",
    )


def run_release(arguments: argparse.Namespace) -> Outcome:
    """Run ``release``."""
    config, text = _run(run_later, arguments.output_dir, "release", **{"release#mode": arguments.mode})
    folder = Path(os.path.abspath(config.get_parsed_content("release_dir")))
    manifest = read_json(folder / MANIFEST)
    values = {
        "written": [str(folder / name) for name in (MANIFEST, *manifest["files"])],
        **{name: manifest[name] for name in ("mode", "k", "images", "paths", "classes", "audit")},
    }
    return Outcome(values, text)


def add_generate(subparsers: argparse._SubParsersAction) -> None:
    """Add ``generate``: as many synthetic images as are wanted, as files."""
    parser = add_command(
        subparsers,
        "generate",
        run_generate,
        summary="write N synthetic images of each class as PNG, NIfTI or DICOM",
        description="Write exactly N images of each class into a folder, in shards, with a datalist\n"
        "that MONAI reads. Every image has passed the gate. A killed export is continued\n"
        "by the same command, and ends with the same files.",
        examples="python -m monai_plan generate --bundle bundles/plan_tb --to phantoms --per_class 500\n"
        "python -m monai_plan generate --output_dir runs/shenzhen --to synthetic --per_class 50000 \\\n"
        "    --format dicom --spacing 5.6\n"
        "# on two GPUs:\n"
        "torchrun --nproc_per_node=2 -m monai_plan generate --output_dir runs/shenzhen --to synthetic \\\n"
        "    --per_class 50000\n"
        "# or the bundle itself:\n"
        "torchrun --nproc_per_node=2 -m monai.bundle run --config_file \\\n"
        "    \"['bundles/plan_tb/configs/train.json','bundles/plan_tb/configs/generate.json']\" \\\n"
        "    --generate#folder phantoms --generate#per_class 500",
        interrupted=RESUMES,
    )
    what = parser.add_argument_group("what the images are made from")
    source = what.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", metavar="DIR", help="the weights that lie in this bundle")
    source.add_argument("--output_dir", metavar="DIR", help="what the pipeline has left there")
    what.add_argument("--seed", type=int, default=0, metavar="N", help="other images for another number (default: 0)")
    add_settings(what, "generate#batch_size=256")
    files = parser.add_argument_group("files")
    files.add_argument("--to", required=True, metavar="DIR", help="a new folder, or that of an export to continue")
    files.add_argument("--per_class", required=True, type=int, metavar="N", help="images of each class")
    files.add_argument("--format", choices=tuple(SUFFIXES), default="png", help="of the images (default: png)")
    files.add_argument(
        "--shard_size", type=int, default=1000, metavar="N", help="files of a folder at most (default: 1000)"
    )
    files.add_argument(
        "--spacing",
        type=float,
        metavar="MM",
        help="mm from pixel to pixel (default: 1 for nifti, not given for dicom)",
    )


def run_generate(arguments: argparse.Namespace) -> Outcome:
    """Run ``generate``."""
    named = ("per_class", "format", "seed", "shard_size", "spacing")
    overrides = {
        "generate#folder": str(Path(arguments.to).expanduser().resolve()),
        **{f"generate#{name}": getattr(arguments, name) for name in named},
        **settings_of(arguments.set),
    }
    if arguments.bundle:
        config, text = _run(run_bundle, arguments.bundle, "generate", **overrides)
    else:
        config, text = _run(run_later, arguments.output_dir, "generate", **overrides)
    folder = Path(config.get_parsed_content("generate#folder")).expanduser().resolve()
    settings = read_json(folder / SETTINGS)["settings"]  # the manifest is of the process that ends last
    per_class, classes = settings["per_class"], list(settings["classes"].values())
    values = {
        "written": [str(path) for path in [folder / "datalist.json"] if path.is_file()],  # else by a later process
        "images": per_class * len(classes),
        "per_class": per_class,
        "classes": classes,
        **{name: settings[name] for name in ("format", "image_size", "channels", "seed")},
    }
    return Outcome(values, text)


def add_ledger(subparsers: argparse._SubParsersAction) -> None:
    """Add ``ledger``: what was made of a patient's data, and a withdrawal."""
    parser = add_command(
        subparsers,
        "ledger",
        run_ledger,
        summary="say what was made of a patient's data, or withdraw it",
        description="Say in which anchor a patient is, and every path and image made from it; or take\n"
        "the patient out: the group is mended without falling below k patients, and the\n"
        "anchors and paths that this changes are made anew. Networks that were trained on\n"
        "the patient's images stay as they are until the pipeline is run without these\n"
        "images.",
        examples="python -m monai_plan ledger --output_dir runs/shenzhen --patient P0042\n"
        "python -m monai_plan ledger --output_dir runs/shenzhen --withdraw P0042",
        interrupted=RESUMES,
    )
    group = parser.add_argument_group("what to ask, of which run")
    group.add_argument("--output_dir", required=True, metavar="DIR", help="that of the pipeline")
    what = group.add_mutually_exclusive_group(required=True)
    what.add_argument("--patient", metavar="ID", help="as in the datalist: say what was made of this patient's data")
    what.add_argument("--withdraw", metavar="ID", help="as in the datalist: take this patient out")


def run_ledger(arguments: argparse.Namespace) -> Outcome:
    """Run ``ledger``."""
    patient = arguments.withdraw or arguments.patient
    config, text = _run(run_later, arguments.output_dir, "touched", patient=patient)
    touched = asdict(config.get_parsed_content("touched"))
    if arguments.withdraw:
        _, text = _run(run_later, arguments.output_dir, "walk", "withdraw", patient=patient)
    return Outcome({"written": [], "withdrawn": bool(arguments.withdraw), "touched": touched}, text)


def _run(
    function: Callable[..., ConfigParser], place: str, *overlays: str, **overrides: Any
) -> tuple[ConfigParser, str]:
    """The config that ``function`` ran, which knows its places and results, and what was printed."""
    configs: list[ConfigParser] = []
    text = said_by(lambda: configs.append(function(place, overlays, **overrides)))
    return configs[0], text
