"""The command line: ``python -m monai_plan COMMAND``; thin, one function per command."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.utils import OptionalImportError

from monai_plan._version import __version__
from monai_plan.data.datalist import SPLITS, build_datalist, datalist_target
from monai_plan.data.image_export import SUFFIXES
from monai_plan.networks.nets import (
    StyleDiscriminator,
    StyleGenerator,
    discriminator_from_published,
    generator_from_published,
    published_networks,
)
from monai_plan.pipeline import RUN, Pipeline, run_bundle, run_later
from monai_plan.utils import read_weights

COLUMN_OPTIONS = ("image_column", "label_column", "patient_column", "group_column", "patient_tag")
"""What ``pipeline`` hands on to the making of a datalist."""


def add_datalist(subparsers: argparse._SubParsersAction) -> None:
    """Add ``datalist``: split labelled images by patient."""
    parser = subparsers.add_parser(
        "datalist",
        help="split a folder or a CSV of labelled images by patient, and write a MONAI datalist",
        description="Split labelled images (PNG, JPEG, DICOM, NIfTI) into training, validation and testing, never "
        "dividing a patient, and write a MONAI datalist. Every image is read once first; if any cannot be used, "
        "nothing is written.",
        epilog="example: python -m monai_plan datalist data/shenzhen --output data/shenzhen/datalist.json",
    )
    parser.add_argument(
        "source",
        help="a folder with metadata.csv or labels.csv, the folder of APTOS 2019 or of IDRiD's 'B. Disease Grading' as "
        "they were unpacked, a folder with one subfolder per class, or a CSV file",
    )
    parser.add_argument("--output", required=True, metavar="JSON", help="the file to write, or a folder for it")
    parser.add_argument(
        "--table", nargs="+", default=[], metavar="CSV", help="the CSV files, where SOURCE is a folder with other names"
    )
    parser.add_argument(
        "--image_folder",
        nargs="+",
        default=[],
        metavar="DIR",
        help="what the tables' image paths are relative to, below SOURCE: one folder for all tables, or one for each "
        "(default: the table's own)",
    )
    columns = parser.add_argument_group("columns of the CSV (found by common names unless given)")
    columns.add_argument("--image_column", metavar="NAME", help="image paths, suffix or not (file, image, id_code)")
    columns.add_argument(
        "--label_column", metavar="NAME", help="classes, as numbers or names (label, class, diagnosis)"
    )
    columns.add_argument("--patient_column", metavar="NAME", help="patients (patient_id, patient, subject)")
    columns.add_argument("--group_column", metavar="NAME", help="what must stay in one split (group_id, group)")
    columns.add_argument(
        "--keep", nargs="+", default=[], metavar="NAME", help="further columns to copy into the datalist"
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="NAME",
        help="all labels in order, from class 0 on: for grades with names (default: numbers by value, names by "
        "alphabet)",
    )
    parser.add_argument(
        "--patient_tag",
        metavar="KEYWORD",
        help="DICOM: the header value that names the patient, e.g. PatientID; IT IS WRITTEN INTO THE DATALIST. "
        "No other header value is",
    )
    parser.add_argument(
        "--fractions",
        nargs=3,
        type=float,
        default=(0.7, 0.1, 0.2),
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="shares that sum to 1 (default: 0.7 0.1 0.2)",
    )
    parser.add_argument("--seed", type=int, default=0, help="which patients go where (default: 0)")
    parser.add_argument("--no_check", action="store_true", help="do not read the images before writing")
    parser.set_defaults(run=run_datalist)


def run_datalist(arguments: argparse.Namespace) -> None:
    """Run ``datalist`` and say what was written."""
    content = build_datalist(
        arguments.source,
        arguments.output,
        label_column=arguments.label_column,
        patient_column=arguments.patient_column,
        image_column=arguments.image_column,
        group_column=arguments.group_column,
        fractions=arguments.fractions,
        seed=arguments.seed,
        keep_columns=arguments.keep,
        patient_tag=arguments.patient_tag,
        check_images=not arguments.no_check,
        tables=arguments.table,
        image_folders=arguments.image_folder,
        classes=arguments.classes,
    )
    print(f"wrote {datalist_target(arguments.output)}")
    for split in SPLITS:
        counts = Counter(record["label"] for record in content[split])
        shares = ", ".join(f"{name}: {counts[int(number)]}" for number, name in content["labels"].items())
        groups = len({record["group_id"] for record in content[split]})
        print(f"  {split:<10} {len(content[split]):>6} images of {groups} groups ({shares})")
    if left_out := content.get("left_out"):
        print(f"  {'left out':<10} {len(left_out):>6} images (one file under two labels)")


def add_pipeline(subparsers: argparse._SubParsersAction) -> None:
    """Add ``pipeline``: every stage from images to table."""
    parser = subparsers.add_parser(
        "pipeline",
        help="run every stage of a bundle on a folder of images, from the split to the table",
        description="Run every stage of a bundle: split, generator, identity, label and gate networks, walks, and the "
        "classifiers' table. A stage that is complete and was made from the same inputs is skipped, so a killed run is "
        "continued by the same command. Without --dataset_dir the embedded phantoms are used.",
        epilog="example: python -m monai_plan pipeline --bundle bundles/plan_tb --dataset_dir data/shenzhen "
        "--output_dir runs/shenzhen --set gan#images=100000 seeds='[0,1,2]'",
    )
    parser.add_argument("--bundle", required=True, metavar="DIR", help="the bundle, e.g. bundles/plan_tb")
    parser.add_argument("--dataset_dir", default="", metavar="DIR", help="the images (default: embedded phantoms)")
    parser.add_argument(
        "--datalist", default="", metavar="JSON", help="an existing split (default: made, or found in DIR)"
    )
    parser.add_argument(
        "--output_dir", required=True, metavar="DIR", help="weights, records, table and pictures go here"
    )
    for name in COLUMN_OPTIONS:
        parser.add_argument(f"--{name}", metavar="NAME", help="as for the command datalist")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="ID=VALUE", help="config values, e.g. image_size=128 gan#images=200000"
    )
    parser.set_defaults(run=run_pipeline)


def run_pipeline(arguments: argparse.Namespace) -> None:
    """Run ``pipeline``."""
    Pipeline(
        bundle=arguments.bundle,
        output_dir=arguments.output_dir,
        dataset_dir=arguments.dataset_dir,
        datalist=arguments.datalist,
        columns={name: getattr(arguments, name) for name in COLUMN_OPTIONS},
        overrides=_settings(arguments.set),
    ).run()


def _settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Config values given as ``ID=VALUE``, the value in JSON or plain text."""
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--set got '{pair}'; write ID=VALUE, e.g. gan#images=100000")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings


def add_convert(subparsers: argparse._SubParsersAction) -> None:
    """Add ``convert``: bring a published network along."""
    parser = subparsers.add_parser(
        "convert",
        help="turn the weights of a published StyleGAN2-ADA generator or discriminator into ours",
        description="Turn the state dict of a published class-conditional StyleGAN2-ADA generator or discriminator "
        "into ours. Which of them it is, and all sizes, are read off the weights. Pickled networks are refused: export "
        "a state dict first.",
        epilog="export, in the network's own environment: network = pickle.load(open('network.pkl', 'rb'))['G_ema']; "
        "torch.save(network.state_dict(), 'weights.pt'). docs/convert.md says more",
    )
    parser.add_argument("weights", help="the state dict, .safetensors or .pt (tensors only)")
    parser.add_argument("--output", required=True, metavar="FILE", help="the network to write (*.safetensors)")
    parser.add_argument(
        "--network",
        choices=("generator", "discriminator"),
        help="which to take from a file with both (default: the generator)",
    )
    parser.add_argument(
        "--clamp", type=float, help="the network's conv_clamp: 256 if it was trained in half precision (default: none)"
    )
    parser.add_argument(
        "--group_size",
        type=int,
        default=4,
        help="the discriminator's mbstd_group_size (default: 4; 8 in the configurations paper256 and paper512)",
    )
    parser.set_defaults(run=run_convert)


def run_convert(arguments: argparse.Namespace) -> None:
    """Run ``convert`` and say what was written."""
    state = read_weights(arguments.weights)
    kind = arguments.network or next(iter(published_networks(state)), "generator")
    network: StyleGenerator | StyleDiscriminator
    if kind == "generator":
        network = generator_from_published(state, arguments.clamp)
    else:
        network = discriminator_from_published(state, arguments.clamp, arguments.group_size)
    network.save(arguments.output)
    sizes = ", ".join(f"{name}={value}" for name, value in network.config.items())
    print(f"wrote {arguments.output}: {kind}, {sizes}")


def add_ledger(subparsers: argparse._SubParsersAction) -> None:
    """Add ``ledger``: what was made of a patient's data, and a withdrawal."""
    parser = subparsers.add_parser(
        "ledger",
        help="say what was made of a patient's data, or withdraw it",
        description="Say in which anchor a patient is, and every path and image made from it; or take the patient out: "
        "the group is mended without falling below k patients, and the anchors and paths that this changes are made "
        "anew. Networks that were trained on the patient's images stay as they are until the pipeline is run without "
        "these images.",
        epilog="example: python -m monai_plan ledger --output_dir runs/shenzhen --patient P0042",
    )
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="that of the pipeline")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--patient", metavar="ID", help="as in the datalist: say what was made of this patient's data")
    what.add_argument("--withdraw", metavar="ID", help="as in the datalist: take this patient out")
    parser.set_defaults(run=run_ledger)


def run_ledger(arguments: argparse.Namespace) -> None:
    """Run ``ledger``."""
    if arguments.withdraw:
        run_later(arguments.output_dir, ("walk", "withdraw"), patient=arguments.withdraw)
    else:
        run_later(arguments.output_dir, ("touched",), patient=arguments.patient)


def add_release(subparsers: argparse._SubParsersAction) -> None:
    """Add ``release``: write what may leave."""
    parser = subparsers.add_parser(
        "release",
        help="write the folder that may leave the hospital",
        description="Write DIR/release: verified points of walks with their generator, from which PrivacyWalkSampler "
        "makes batches, or finished pictures. Nothing of a patient is in it; whether it may be given away, the audit "
        "has to say.",
        epilog="example: python -m monai_plan release --output_dir runs/shenzhen --mode images",
    )
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="that of the pipeline")
    parser.add_argument("--mode", choices=("walks", "images"), default="walks", help="(default: walks)")
    parser.set_defaults(run=run_release)


def run_release(arguments: argparse.Namespace) -> None:
    """Run ``release``."""
    run_later(arguments.output_dir, ("release",), **{"release#mode": arguments.mode})


def add_generate(subparsers: argparse._SubParsersAction) -> None:
    """Add ``generate``: as many synthetic images as are wanted, as files."""
    parser = subparsers.add_parser(
        "generate",
        help="write N synthetic images of each class as PNG, NIfTI or DICOM",
        description="Write exactly N images of each class into a folder, in shards, with a datalist that MONAI reads. "
        "Every image has passed the gate. A killed export is continued by the same command, and ends with the same "
        "files.",
        epilog="examples: python -m monai_plan generate --bundle bundles/plan_tb --to phantoms --per_class 500 (the "
        "phantoms that ship with it); python -m monai_plan generate --output_dir runs/shenzhen --to synthetic "
        "--per_class 50000 --format dicom --spacing 5.6; on two GPUs: torchrun --nproc_per_node=2 -m monai_plan "
        "generate ..., or the bundle itself: torchrun --nproc_per_node=2 -m monai.bundle run --config_file "
        "\"['bundles/plan_tb/configs/train.json','bundles/plan_tb/configs/generate.json']\" --generate#folder "
        "phantoms --generate#per_class 500",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", metavar="DIR", help="from the weights that lie in this bundle")
    source.add_argument("--output_dir", metavar="DIR", help="from what the pipeline has left there")
    parser.add_argument("--to", required=True, metavar="DIR", help="a new folder, or that of an export to continue")
    parser.add_argument("--per_class", required=True, type=int, metavar="N", help="images of each class")
    parser.add_argument("--format", choices=tuple(SUFFIXES), default="png", help="(default: png)")
    parser.add_argument("--seed", type=int, default=0, help="other images for another number (default: 0)")
    parser.add_argument(
        "--shard_size", type=int, default=1000, metavar="N", help="files of a folder at most (default: 1000)"
    )
    parser.add_argument(
        "--spacing", type=float, metavar="MM", help="mm from pixel to pixel, for nifti (default: 1) and dicom (none)"
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="ID=VALUE", help="config values, e.g. generate#batch_size=256"
    )
    parser.set_defaults(run=run_generate)


def run_generate(arguments: argparse.Namespace) -> None:
    """Run ``generate``."""
    named = ("per_class", "format", "seed", "shard_size", "spacing")
    overrides = {
        "generate#folder": str(Path(arguments.to).expanduser().resolve()),
        **{f"generate#{name}": getattr(arguments, name) for name in named},
        **_settings(arguments.set),
    }
    if arguments.bundle:
        run_bundle(arguments.bundle, ("generate",), **overrides)
    else:
        run_later(arguments.output_dir, ("generate",), **overrides)


def add_audit(subparsers: argparse._SubParsersAction) -> None:
    """Add ``audit``: attack what would leave, and write the certificate."""
    parser = subparsers.add_parser(
        "audit",
        help="attack what would leave, and write the certificate",
        description="Attack the synthetic images and the networks behind them, each attack beside its control, and "
        "write certificate.json, certificate.html, model_card.md and datasheet.md into DIR/certificate. The limits "
        "stand in the bundle's configs/evaluate.json, before anything is measured.",
        epilog="examples: python -m monai_plan audit --bundle bundles/plan_tb (the phantoms that ship with it); "
        "python -m monai_plan audit --output_dir runs/shenzhen --exit_code && python -m monai_plan release "
        "--output_dir runs/shenzhen",
    )
    parser.add_argument("--bundle", metavar="DIR", help="audit the weights that lie in this bundle")
    parser.add_argument(
        "--output_dir",
        metavar="DIR",
        help="audit what the pipeline has left there; with --bundle: where the certificate goes "
        "(default: the bundle's folder output)",
    )
    parser.add_argument("--exit_code", action="store_true", help="exit with 1 unless the verdict is 'passed'")
    parser.add_argument("--sign", metavar="FILE", help="a PEM file with your Ed25519 private key: sign the certificate")
    parser.add_argument(
        "--show_real_images", action="store_true", help="put the closest real images into the page; off by default"
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="ID=VALUE", help="config values, e.g. audit#images=5000 audit#seed=8"
    )
    parser.set_defaults(run=run_audit)


def run_audit(arguments: argparse.Namespace) -> None:
    """Run ``audit``."""
    if not (arguments.bundle or arguments.output_dir):
        raise ValueError("say what to audit: --bundle DIR, or --output_dir DIR of a pipeline")
    overrides = {
        "audit#exit_code": arguments.exit_code,
        "audit#show_real_images": arguments.show_real_images,
        "audit#signing_key": arguments.sign or "",
        **_settings(arguments.set),
    }
    if not arguments.bundle:
        run_later(arguments.output_dir, ("evaluate",), **overrides)
        return
    if arguments.output_dir:
        if (Path(arguments.output_dir) / RUN).exists():
            raise ValueError(
                f"'{arguments.output_dir}' holds a run of its own, and --bundle would audit the bundle's weights "
                "instead of it. Leave --bundle out, or give another --output_dir"
            )
        overrides["output_dir"] = arguments.output_dir
    run_bundle(arguments.bundle, ("evaluate",), **overrides)


COMMANDS = (add_datalist, add_pipeline, add_ledger, add_audit, add_release, add_generate, add_convert)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after ``python -m monai_plan``; None takes them from the shell.

    Returns:
        0, or 2 after a message on stderr where the user's input is at fault. Faults of the program itself are raised.
    """
    parser = argparse.ArgumentParser(prog="python -m monai_plan", description="Privacy-preserving latent walks (PLAN)")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add_command in COMMANDS:
        add_command(subparsers)
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        parsed.run(parsed)
    except (ValueError, OSError, OptionalImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
