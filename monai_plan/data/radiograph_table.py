"""A folder or a CSV of labelled images as rows of plain text; knows names of columns and safe paths, not pixels."""

from __future__ import annotations

import csv
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from monai_plan.transforms.radiograph_files import RADIOGRAPH_SUFFIXES, is_radiograph
from monai_plan.utils import require_small

__all__ = ["RadiographRow", "inside", "read_source"]

logger = logging.getLogger(__name__)

_MOST_FAULTS = 10  # reported together
_LONGEST_LINE = 2**20  # characters
_CSV_NAMES = ("metadata.csv", "labels.csv")
_COMMON = {
    "image": (
        *("file", "image", "filename", "file_name", "path", "image_path", "filepath", "image index"),
        *("image name", "id_code"),
    ),
    "label": ("label", "class", "finding", "diagnosis", "target", "category", "retinopathy grade", "level"),
    "patient": ("patient_id", "patient", "patientid", "subject_id", "subject"),
    "group": ("group_id", "group"),
}
_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing", "train_images", "test_images"}
_RELEASES = {  # public sets as their providers pack them: each table, and the folder of its images
    "APTOS 2019": {"train.csv": "train_images"},
    "IDRiD, B. Disease Grading": {
        "2. Groundtruths/a. IDRiD_Disease Grading_Training Labels.csv": "1. Original Images/a. Training Set",
        "2. Groundtruths/b. IDRiD_Disease Grading_Testing Labels.csv": "1. Original Images/b. Testing Set",
    },
}


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
    if "\0" in name:
        raise ValueError(f"path {name!r} contains a NUL byte, which no path has; the file that names it is damaged")
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(
            f"path '{name}' is absolute or contains '..'; paths must stay below the data folder '{root}'. Write "
            "them relative to it, e.g. images/0001.png"
        )
    try:
        path = (root / relative).resolve()
        path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"path '{name[:200]}' cannot be followed ({error}); it may be a link to itself, too long, or damaged"
        ) from error
    if not path.is_relative_to(root.resolve()):
        raise ValueError(
            f"path '{name}' is a link that leads to '{path}', outside the data folder '{root}'. Copy the file "
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
    tables: Sequence[str] = (),
    image_folders: Sequence[str] = (),
) -> tuple[Path, list[RadiographRow]]:
    """Read the images' names and labels of a folder or a CSV.

    A folder is read through the tables that are named, else its metadata.csv, else its labels.csv, else as APTOS 2019
    or IDRiD come from their providers, else by its subfolders, whose names are the classes. Columns that are not given
    are found by their common names, whatever their case. A name without a suffix stands for the only image that has it
    with one.

    Args:
        source: a folder or a CSV file (comma, semicolon or tab; UTF-8).
        image_column: the images' paths, relative to the images' folder.
        label_column: the classes, as numbers or names.
        patient_column: the patients; may be empty.
        group_column: what must not be divided between splits; may be empty.
        keep_columns: further columns to copy.
        tables: CSV files below the folder ``source``, read as one table.
        image_folders: the images' folder below ``source``: one for all tables, or one for each; by default the folder
            that the table lies in.

    Returns:
        The folder that paths are relative to, and the rows sorted by path.

    Raises:
        ValueError: the source, a table, a folder, a column or a value is missing, doubled or unsafe; the message says
            which.
    """
    source = Path(source).expanduser()
    if not source.is_dir() and source.exists():
        require_small(source)
    if not source.exists():
        raise ValueError(f"no file or folder at '{source}'. Give the folder of the images, or a CSV that lists them")
    if source.is_file() and tables:
        raise ValueError(f"'{source}' is a file, and --table names files below a folder. Give the folder as SOURCE")
    root = source.parent if source.is_file() else source
    for option, names in (("table", tables), ("image_folder", image_folders)):
        for name in names:
            if not inside(root, name).exists():
                raise ValueError(f"no '{name}' in '{root}'. Correct --{option}, which is relative to the source")
    folders = _folders_of_tables(root, [source.name] if source.is_file() else tables, image_folders)
    if not folders:
        asked = [c for c in (image_column, label_column, patient_column, group_column, *keep_columns) if c]
        if asked:
            raise ValueError(
                f"column {asked[0]!r} was named, but '{source}' has neither {' nor '.join(_CSV_NAMES)}. Give the CSV's "
                "own path as the source"
            )
        return root, _rows_of_folders(root)
    wanted = {"image": image_column, "label": label_column, "patient": patient_column, "group": group_column}
    rows: list[RadiographRow] = []
    seen: dict[Path, str] = {}
    for table, folder in folders.items():
        rows += _rows_of_table(root, table, folder, wanted, keep_columns, seen)
    return root, sorted(rows, key=lambda row: row.file)


def _folders_of_tables(root: Path, tables: Sequence[str], image_folders: Sequence[str]) -> Mapping[str, str]:
    """The tables below ``root``, each with the folder of its images; none where subfolders are the classes."""
    if not tables:
        tables = [name for name in _CSV_NAMES if (root / name).is_file()][:1]
    if not tables and not image_folders:
        return _release_in(root)
    if not tables:
        raise ValueError(
            f"--image_folder {image_folders[0]} was given, but '{root}' has neither {' nor '.join(_CSV_NAMES)}. Name "
            "the CSV that lists the images with --table"
        )
    if len(image_folders) not in (0, 1, len(tables)):
        raise ValueError(
            f"{len(image_folders)} image folders for {len(tables)} tables ({', '.join(tables)}). Give --image_folder "
            "one folder for all of them, or one for each in the same order"
        )
    folders = image_folders or [Path(name).parent.as_posix() for name in tables]
    return dict(zip(tables, folders if len(folders) == len(tables) else [*folders] * len(tables), strict=True))


def _release_in(root: Path) -> Mapping[str, str]:
    for name, release in _RELEASES.items():
        parts = [*release, *release.values()]
        missing = [part for part in parts if not (root / part).exists()]
        if not missing:
            return release
        if len(missing) < len(parts):
            present = next(part for part in parts if part not in missing)
            raise ValueError(
                f"'{root}' has '{present}' as {name} has it, but no '{missing[0]}'. Unpack the set whole, name what is "
                f"there with --table and --image_folder, or move '{present}' away if the subfolders are the classes"
            )
    return {}


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
        releases = " or ".join(f"{name} ('{next(iter(r))}' with '{r[next(iter(r))]}')" for name, r in _RELEASES.items())
        raise ValueError(
            f"'{root}' has no {' or '.join(_CSV_NAMES)}, is not laid out as {releases}, and has no subfolder with "
            "images. Put each class's images into a subfolder of its name, or give a CSV with the columns file, label "
            "and patient_id as the source"
        )
    return rows


def _rows_of_table(
    root: Path,
    name: str,
    folder: str,
    wanted: Mapping[str, str | None],
    keep: Sequence[str],
    seen: dict[Path, str],
) -> list[RadiographRow]:
    """The rows of one table; ``seen`` maps the files of all tables to where they are named, and grows."""
    table = root / name
    lines = _lines(table)
    columns = [column for column in next(lines)[1] if column]
    if len(set(columns)) < len(columns):
        raise ValueError(f"'{table}' names a column twice ({', '.join(columns)}). Rename one")
    if any(column.lower().endswith(RADIOGRAPH_SUFFIXES) for column in columns):
        raise ValueError(
            f"'{table}' begins with the line of an image, and the names of its columns are needed above it. Write "
            "them there, e.g. file,label,patient_id"
        )
    used = {role: _column(table, columns, role, column) for role, column in wanted.items()}
    for column in keep:
        if column not in columns:
            raise ValueError(f"'{table}' has no column '{column}' to keep; it has {', '.join(columns)}")
    for role in ("image", "label"):
        if used[role] is None:
            raise ValueError(
                f"'{table}' has no column that looks like the {role}'s ({', '.join(_COMMON[role])}); it has "
                f"{', '.join(columns) or 'none'}. Name it with --{role}_column"
            )
    logger.info("columns of '%s': %s", table, ", ".join(f"{role}={column}" for role, column in used.items()))
    rows: list[RadiographRow] = []
    faults = _Faults()
    listings: dict[Path, dict[str, list[str]]] = {}
    for number, more, line in lines:
        if not any(text and text.strip() for text in (*more, *line.values())):
            continue  # spreadsheets end in empty lines
        if any(text.strip() for text in more) or any(line[column] is None for column in columns):
            faults.append(f"line {number}: {len(columns)} values are needed, as many as the header has")
            continue
        row = RadiographRow(
            **{field: line[used[role] or ""].strip() if used[role] else "" for field, role in _FIELDS.items()},
            kept={column: line[column] for column in keep},
        )
        if not row.file or not row.label:
            faults.append(f"line {number}: the {'image' if not row.file else 'label'} is empty")
            continue
        try:
            row = replace(row, file=_completed(root, Path(folder, row.file), listings))
            path = inside(root, row.file)
        except ValueError as error:
            faults.append(f"line {number}: {error}")
            continue
        if path in seen:
            faults.append(f"line {number}: '{row.file}' is the same file as in {seen[path]}")
            continue
        seen[path] = f"line {number} of '{name}'"
        rows.append(row)
    if faults.count:
        others = f"\n  and {faults.count - _MOST_FAULTS} more" if faults.count > _MOST_FAULTS else ""
        raise ValueError(f"'{table}' has {faults.count} faulty lines:\n  " + "\n  ".join(faults.first) + others)
    if not rows:
        raise ValueError(f"'{table}' lists no images; only its header was found")
    return rows


class _Faults:
    """How many there are, and the first of them: a hostile table may have millions."""

    def __init__(self) -> None:
        self.first: list[str] = []
        self.count = 0

    def append(self, fault: str) -> None:
        self.count += 1
        if self.count <= _MOST_FAULTS:
            self.first.append(fault)


def _lines(table: Path) -> Iterator[tuple[int, list[str], dict[str, str]]]:
    """The header's columns as (1, columns, {}); then each line's number, what exceeds the columns, and the values."""
    try:
        require_small(table)
        with table.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline(_LONGEST_LINE)
            stream.seek(0)
            delimiter = max(",;\t", key=first.count)
            reader = csv.DictReader(_short_lines(stream), delimiter=delimiter, strict=True)
            reader.fieldnames = [column.strip() for column in reader.fieldnames or ()]
            yield 1, list(reader.fieldnames), {}
            for line in reader:
                more: Any = line.pop(None, [])
                yield reader.line_num, more, line
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"'{table}' is not readable as CSV in UTF-8 ({error}). Save it as 'CSV UTF-8'") from error


def _short_lines(stream: TextIO) -> Iterator[str]:
    while line := stream.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise csv.Error(f"a line has {_LONGEST_LINE} characters or more")
        yield line


_FIELDS = {"file": "image", "label": "label", "patient": "patient", "group": "group"}


def _completed(root: Path, name: Path, listings: dict[Path, dict[str, list[str]]]) -> str:
    """``name`` with the suffix of its file where a table leaves it out; ``listings`` keeps what folders hold."""
    if name.name.lower().endswith(RADIOGRAPH_SUFFIXES) or inside(root, name.as_posix()).is_file():
        return name.as_posix()
    folder = root / name.parent
    if folder not in listings:
        listings[folder] = defaultdict(list)
        for file in sorted(os.listdir(folder)) if folder.is_dir() else ():
            suffix = next((end for end in RADIOGRAPH_SUFFIXES if file.lower().endswith(end)), "")
            if suffix:
                listings[folder][file[: -len(suffix)]].append(file)
    found = listings[folder].get(name.name, [])
    if not found:
        raise ValueError(
            f"no image '{name.name}' in '{folder}', alone or with {', '.join(RADIOGRAPH_SUFFIXES)}. If the images are "
            "elsewhere, name their folder with --image_folder"
        )
    if len(found) > 1:
        raise ValueError(f"'{name.name}' is {' and '.join(found)} in '{folder}'. Write the suffix, or remove one")
    return (name.parent / found[0]).as_posix()


def _column(table: Path, columns: Sequence[str], role: str, name: str | None) -> str | None:
    if name is not None:
        if name not in columns:
            raise ValueError(
                f"'{table}' has no column '{name}' for the {role}; it has {', '.join(columns)}. Correct --{role}_column"
            )
        return name
    lowered = {column.lower(): column for column in reversed(columns)}
    return next((lowered[common] for common in _COMMON[role] if common in lowered), None)
