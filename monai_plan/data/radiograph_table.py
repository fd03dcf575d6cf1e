"""A folder or a CSV of labelled images as rows of plain text; knows names of columns and safe paths, not pixels."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from monai_plan.transforms.radiograph_files import is_radiograph

__all__ = ["RadiographRow", "inside", "read_source"]

logger = logging.getLogger(__name__)

_CSV_NAMES = ("metadata.csv", "labels.csv")
_COMMON = {
    "image": ("file", "image", "filename", "file_name", "path", "image_path", "filepath", "image index"),
    "label": ("label", "class", "finding", "diagnosis", "target", "category"),
    "patient": ("patient_id", "patient", "patientid", "subject_id", "subject"),
    "group": ("group_id", "group"),
}
_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}


@dataclass(frozen=True)
class RadiographRow:
    """One image of a source: its path below the source's folder, and text as the source has it."""

    file: str
    label: str
    patient: str = ""
    group: str = ""
    kept: dict[str, str] = field(default_factory=dict)


def inside(root: Path, name: str) -> Path:
    """The absolute path of ``name`` below ``root``, links resolved.

    Raises:
        ValueError: the name is absolute, has ``..``, or leads outside through a link.
    """
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(
            f"image path '{name}' is absolute or contains '..'; paths must stay below the data folder '{root}'. Write "
            "them relative to it, e.g. images/0001.png"
        )
    try:
        path = (root / relative).resolve()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"image path '{name}' cannot be followed ({error}); it may be a link to itself") from error
    if not path.is_relative_to(root.resolve()):
        raise ValueError(
            f"image path '{name}' is a link that leads to '{path}', outside the data folder '{root}'. Copy the file "
            "into the folder"
        )
    return path


def read_source(
    source: str | os.PathLike,
    image_column: str | None = None,
    label_column: str | None = None,
    patient_column: str | None = None,
    group_column: str | None = None,
    keep_columns: Sequence[str] = (),
) -> tuple[Path, list[RadiographRow]]:
    """Read the images' names and labels of a folder or a CSV.

    A folder is read through its metadata.csv, else its labels.csv, else by its subfolders, whose names are the classes.
    Columns that are not given are found by their common names, whatever their case.

    Args:
        source: a folder or a CSV file (comma, semicolon or tab; UTF-8).
        image_column: the images' paths, relative to the CSV's folder.
        label_column: the classes, as numbers or names.
        patient_column: the patients; may be empty.
        group_column: what must not be divided between splits; may be empty.
        keep_columns: further columns to copy.

    Returns:
        The folder that paths are relative to, and the rows sorted by path.

    Raises:
        ValueError: the source, a column or a value is missing, doubled or unsafe; the message says which.
    """
    source = Path(source).expanduser()
    if not source.exists():
        raise ValueError(f"no file or folder at '{source}'. Give the folder of the images, or a CSV that lists them")
    table = source if source.is_file() else next((source / n for n in _CSV_NAMES if (source / n).is_file()), None)
    if table is None:
        asked = [c for c in (image_column, label_column, patient_column, group_column, *keep_columns) if c]
        if asked:
            raise ValueError(
                f"column {asked[0]!r} was named, but '{source}' has neither {' nor '.join(_CSV_NAMES)}. Give the CSV's "
                "own path as the source"
            )
        return source, _rows_of_folders(source)
    wanted = {"image": image_column, "label": label_column, "patient": patient_column, "group": group_column}
    return table.parent, _rows_of_table(table, wanted, keep_columns)


def _rows_of_folders(root: Path) -> list[RadiographRow]:
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if {p.name.lower() for p in classes} & _SPLIT_NAMES:
        raise ValueError(
            f"the subfolders of '{root}' are named {', '.join(p.name for p in classes)}, which are splits and not "
            "classes. Give one of them as the source, or list all images with their labels in a metadata.csv"
        )
    rows, others = [], 0
    for folder in classes:
        for parent, folders, names in sorted(os.walk(folder)):
            for name in folders:
                inside(root, Path(parent, name).relative_to(root).as_posix())
            for name in sorted(names):
                path = Path(parent, name)
                if name.startswith("."):
                    continue
                file = path.relative_to(root).as_posix()
                inside(root, file)
                if path.is_file() and is_radiograph(path):
                    rows.append(RadiographRow(file, folder.name))
                else:
                    others += 1
    if others:
        logger.warning("%d files below '%s' are not images by name and were left out", others, root)
    if not rows:
        raise ValueError(
            f"'{root}' has no {' or '.join(_CSV_NAMES)} and no subfolder with images. Put each class's images into a "
            "subfolder of its name, or give a CSV with the columns file, label and patient_id as the source"
        )
    return rows


def _rows_of_table(table: Path, wanted: dict[str, str | None], keep: Sequence[str]) -> list[RadiographRow]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            stream.seek(0)
            reader = csv.DictReader(stream, delimiter=max(",;\t", key=first.count), strict=True)
            lines = [(reader.line_num, line) for line in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"'{table}' is not readable as CSV in UTF-8 ({error}). Save it as 'CSV UTF-8'") from error
    columns = [name for name in reader.fieldnames or () if name]
    if len(set(columns)) < len(columns):
        raise ValueError(f"'{table}' names a column twice ({', '.join(columns)}). Rename one")
    used = {role: _column(table, columns, role, name) for role, name in wanted.items()}
    for name in keep:
        if name not in columns:
            raise ValueError(f"'{table}' has no column '{name}' to keep; it has {', '.join(columns)}")
    for role in ("image", "label"):
        if used[role] is None:
            raise ValueError(
                f"'{table}' has no column that looks like the {role}'s ({', '.join(_COMMON[role])}); it has "
                f"{', '.join(columns) or 'none'}. Name it with --{role}_column"
            )
    logger.info("columns of '%s': %s", table, ", ".join(f"{role}={name}" for role, name in used.items()))
    rows: list[RadiographRow] = []
    faults: list[str] = []
    seen: dict[Path, int] = {}
    for number, line in lines:
        if None in line or None in line.values():
            faults.append(f"line {number}: {len(columns)} values are needed, as many as the header has")
            continue
        row = RadiographRow(
            **{field: line[used[role] or ""].strip() if used[role] else "" for field, role in _FIELDS.items()},
            kept={name: line[name] for name in keep},
        )
        if not row.file or not row.label:
            faults.append(f"line {number}: the {'image' if not row.file else 'label'} is empty")
            continue
        try:
            path = inside(table.parent, row.file)
        except ValueError as error:
            faults.append(f"line {number}: {error}")
            continue
        if path in seen:
            faults.append(f"line {number}: '{row.file}' is the same file as in line {seen[path]}")
        seen[path] = number
        rows.append(row)
    if faults:
        more = f"\n  and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise ValueError(f"'{table}' has {len(faults)} faulty lines:\n  " + "\n  ".join(faults[:10]) + more)
    if not rows:
        raise ValueError(f"'{table}' lists no images; only its header was found")
    return sorted(rows, key=lambda row: row.file)


_FIELDS = {"file": "image", "label": "label", "patient": "patient", "group": "group"}


def _column(table: Path, columns: Sequence[str], role: str, name: str | None) -> str | None:
    if name is not None:
        if name not in columns:
            raise ValueError(
                f"'{table}' has no column '{name}' for the {role}; it has {', '.join(columns)}. Correct --{role}_column"
            )
        return name
    lowered = {column.strip().lower(): column for column in reversed(columns)}
    return next((lowered[common] for common in _COMMON[role] if common in lowered), None)
