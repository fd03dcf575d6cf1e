"""From real images to results: ``datalist`` and ``pipeline``."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from pathlib import Path
from typing import Any

from monai_plan.commands.parts import REPEATS, RESUMES, Outcome, add_command, add_settings, settings_of
from monai_plan.data.datalist import SPLITS, build_datalist, datalist_target
from monai_plan.pipeline import STAGES, Pipeline
from monai_plan.utils import read_json

__all__ = ["add_datalist", "add_pipeline"]

COLUMN_OPTIONS = ("image_column", "label_column", "patient_column", "group_column", "patient_tag")
"""What ``pipeline`` hands on to the making of a datalist."""


def add_datalist(subparsers: argparse._SubParsersAction) -> None:
    """Add ``datalist``: split labelled images by patient."""
    parser = add_command(
        subparsers,
        "datalist",
        run_datalist,
        summary="split a folder or a CSV of labelled images by patient, and write a MONAI datalist",
        description="Split labelled images (PNG, JPEG, DICOM, NIfTI) into training, validation and\n"
        "testing, never dividing a patient, and write a MONAI datalist. Every image is\n"
        "read once first; if any cannot be used, nothing is written.",
        examples="python -m monai_plan datalist data/shenzhen --output data/shenzhen/datalist.json\n"
        "python -m monai_plan datalist data/ct --output data/ct --patient_tag PatientID",
        interrupted=REPEATS,
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder with metadata.csv or labels.csv, the folder of APTOS 2019 or of IDRiD's 'B. Disease Grading' as "
        "they were unpacked, a folder with one subfolder per class, or a CSV file",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--output", required=True, metavar="JSON", help="the file to write, or a folder for it")
    files.add_argument(
        "--table",
        nargs="+",
        action="extend",
        default=[],
        metavar="CSV",
        help="the CSV files, where SOURCE is a folder with other names (default: metadata.csv, labels.csv)",
    )
    files.add_argument(
        "--image_folder",
        nargs="+",
        action="extend",
        default=[],
        metavar="DIR",
        help="what the tables' image paths are relative to, below SOURCE: one folder for all tables, or one for each "
        "(default: the table's own)",
    )
    files.add_argument("--no_check", action="store_true", help="do not read the images before writing")
    columns = parser.add_argument_group("columns of the CSV")
    columns.add_argument(
        "--image_column", metavar="NAME", help="image paths, suffix or not (default: file, image, id_code, ...)"
    )
    columns.add_argument(
        "--label_column", metavar="NAME", help="classes, as numbers or names (default: label, class, diagnosis, ...)"
    )
    columns.add_argument(
        "--patient_column", metavar="NAME", help="patients (default: patient_id, patient, subject, ..., if there)"
    )
    columns.add_argument(
        "--group_column", metavar="NAME", help="what must stay in one split (default: group_id, group, if there)"
    )
    columns.add_argument(
        "--keep",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="further columns to copy into the datalist (default: none)",
    )
    columns.add_argument(
        "--classes",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="all labels in order, from class 0 on: for grades with names (default: numbers by value, names by "
        "alphabet)",
    )
    split = parser.add_argument_group("the split")
    split.add_argument(
        "--patient_tag",
        metavar="KEYWORD",
        help="DICOM: the header value that names the patient, e.g. PatientID; IT IS WRITTEN INTO THE DATALIST. "
        "No other header value is (default: none is read)",
    )
    split.add_argument(
        "--fractions",
        nargs=3,
        type=float,
        default=(0.7, 0.1, 0.2),
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="shares that sum to 1 (default: 0.7 0.1 0.2)",
    )
    split.add_argument("--seed", type=int, default=0, metavar="N", help="which patients go where (default: 0)")


def run_datalist(arguments: argparse.Namespace) -> Outcome:
    """Run ``datalist``."""
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
    written = os.path.abspath(datalist_target(arguments.output))
    splits = {split: _counts(content[split], content["labels"]) for split in SPLITS}
    left_out = len(content.get("left_out", ()))
    lines = [f"wrote {written}"]
    for split, counts in splits.items():
        shares = ", ".join(f"{name}: {count}" for name, count in counts["labels"].items())
        lines.append(f"  {split:<10} {counts['images']:>6} images of {counts['groups']} groups ({shares})")
    if left_out:
        lines.append(f"  {'left out':<10} {left_out:>6} images (one file under two labels)")
    return Outcome({"written": [written], "splits": splits, "left_out": left_out}, "\n".join(lines))


def _counts(records: list[dict[str, Any]], labels: dict[str, str]) -> dict[str, Any]:
    of_label = Counter(record["label"] for record in records)
    return {
        "images": len(records),
        "groups": len({record["group_id"] for record in records}),
        "labels": {name: of_label[int(number)] for number, name in labels.items()},
    }


def add_pipeline(subparsers: argparse._SubParsersAction) -> None:
    """Add ``pipeline``: every stage from images to table."""
    parser = add_command(
        subparsers,
        "pipeline",
        run_pipeline,
        summary="run every stage of a bundle on a folder of images, from the split to the table",
        description="Run every stage of a bundle: split, generator, identity, label and gate\n"
        "networks, walks, and the classifiers' table. A stage that is complete and was\n"
        "made from the same inputs is skipped, so a killed run is continued by the same\n"
        "command. Without --dataset_dir the embedded phantoms are used.",
        examples="python -m monai_plan pipeline --bundle bundles/plan_tb --output_dir runs/phantoms\n"
        "python -m monai_plan pipeline --bundle bundles/plan_tb --dataset_dir data/shenzhen \\\n"
        "    --output_dir runs/shenzhen --set gan#images=100000 seeds='[0,1,2]'",
        interrupted=RESUMES,
    )
    places = parser.add_argument_group("what to run, on which images")
    places.add_argument("--bundle", required=True, metavar="DIR", help="the bundle, e.g. bundles/plan_tb")
    places.add_argument("--dataset_dir", default="", metavar="DIR", help="the images (default: embedded phantoms)")
    places.add_argument(
        "--datalist",
        default="",
        metavar="JSON",
        help="an existing split (default: datalist.json in --dataset_dir, or one made of its table)",
    )
    places.add_argument(
        "--output_dir", required=True, metavar="DIR", help="weights, records, table and pictures go here"
    )
    add_settings(places, "image_size=128 gan#images=200000")
    columns = parser.add_argument_group("for a split that is made")
    for name in COLUMN_OPTIONS:
        columns.add_argument(f"--{name}", metavar="NAME", help="as for the command datalist (default: its own)")


def run_pipeline(arguments: argparse.Namespace) -> Outcome:
    """Run ``pipeline``; it reports on the way, so that only a quiet one has something left to say."""
    config = Pipeline(
        bundle=arguments.bundle,
        output_dir=arguments.output_dir,
        dataset_dir=arguments.dataset_dir,
        datalist=arguments.datalist,
        columns={name: getattr(arguments, name) for name in COLUMN_OPTIONS},
        overrides=settings_of(arguments.set),
    ).run()
    records = Path(arguments.output_dir).expanduser() / "stages"
    output = Path(os.path.abspath(config.get_parsed_content("output_dir")))
    values = {
        "written": [str(output / name) for name in ("table.json", "table.txt")],
        "stages": {stage.name: read_json(records / f"{stage.name}.json")["seconds"] for stage in STAGES},
        "table": read_json(output / "table.json"),
    }
    table = (output / "table.txt").read_text(encoding="utf-8")
    return Outcome(values, f"{table}results in {output}" if arguments.quiet else "")
