"""MONAI datalists of real images, split by patient: written by :func:`build_datalist`, checked at every reading."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.utils import optional_import

from monai_plan.data.grouped_split import check_fractions, joined_units, split_units
from monai_plan.data.identical_files import first_of_identical
from monai_plan.data.phantom import fundus_datalist, phantom_datalist
from monai_plan.data.radiograph_table import RadiographRow, inside, read_source
from monai_plan.transforms.load_radiograph import LoadRadiograph
from monai_plan.transforms.radiograph_files import read_dicom_value
from monai_plan.utils import PlanKeys, read_json, require_writable, write_json

__all__ = ["SPLITS", "build_datalist", "datalist_target", "load_datalist", "read_splits"]

logger = logging.getLogger(__name__)
tqdm, _has_tqdm = optional_import("tqdm", name="tqdm")

SPLITS = ("training", "validation", "testing")
DATALIST_NAME = "datalist.json"
_MOST_FAULTS = 10  # reported together
_FREE_BYTES = 2**20
_MOST_DIGITS = 19  # of a label that is a number
_PHANTOMS: dict[str, tuple[Callable[..., dict[str, Any]], tuple[str, ...]]] = {  # the lists' makers, the classes' names
    "chest": (phantom_datalist, ("normal", "tuberculosis")),
    "fundus": (fundus_datalist, ("no retinopathy", "mild", "moderate", "severe", "proliferative")),
}


def build_datalist(
    source: str | os.PathLike,
    output: str | os.PathLike,
    label_column: str | None = None,
    patient_column: str | None = None,
    image_column: str | None = None,
    group_column: str | None = None,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    keep_columns: Sequence[str] = (),
    patient_tag: str | None = None,
    check_images: bool = True,
    tables: Sequence[str] = (),
    image_folders: Sequence[str] = (),
    classes: Sequence[str] = (),
) -> dict[str, Any]:
    """Split a folder or a CSV of labelled images by patient and write a MONAI datalist.

    What stays together is the group where the source has one, else the patient, else the single image (with a warning);
    a patient whose images lie in several groups joins them. Files that are byte for byte the same stay together too,
    as one group where they have no other; where their labels differ, all of them are left out, with a warning. Shares
    are stratified by class. Of DICOM headers nothing is written but the one value named by ``patient_tag``.

    Args:
        source: a folder with a metadata.csv or labels.csv, the folder of APTOS 2019 or IDRiD (B. Disease Grading) as
            its provider packs it, a folder with one subfolder per class, or a CSV file.
        output: the JSON file to write, or a folder for its ``datalist.json``.
        label_column: the column of classes; found by common names (label, class, finding, …) unless given, as are the
            next three.
        patient_column: the column of patients (patient_id, patient, subject, …).
        image_column: the column of image paths, relative to the CSV's or the images' folder (file, image, filename,
            path, …); a suffix that the table leaves out is found.
        group_column: the column of groups (group_id, group).
        fractions: shares of training, validation and testing, positive, summing to 1.
        seed: decides which groups go where.
        keep_columns: further columns to copy into each record, as text.
        patient_tag: the DICOM keyword, e.g. ``"PatientID"``, whose value is the patient; it is written to the file.
        check_images: read every image once before anything is written.
        tables: CSV files below the folder ``source``, read as one table instead of those that are found.
        image_folders: the images' folder below ``source``: one for all tables, or one for each; by default the folder
            that the table lies in.
        classes: all labels, from class 0 on; by default whole numbers by value and names by alphabet. Grades with names
            need it: figures such as the quadratic kappa take more than two classes for ordered.

    Returns:
        The written content: ``description``, ``labels`` (number as text to name), ``num_classes``, ``seed``,
        ``fractions``; ``dataset_dir``, the source's folder, where the JSON lies elsewhere (relative to the JSON's
        folder if below it, else absolute; MONAI's readers need it as ``base_dir``); ``left_out``, the images that were
        left out, if any; and, for each of ``training``, ``validation`` and ``testing``, records of ``image`` (relative
        to the source's folder), ``label`` (0 to K-1), ``patient_id``, ``group_id`` and the kept columns.

    Raises:
        ValueError: the source, the images or the split are at fault; nothing is written then.
        OSError: the output cannot be written.
    """
    check_fractions(fractions)
    target = datalist_target(output)
    reserved = {str(key) for key in (PlanKeys.IMAGE, PlanKeys.LABEL, PlanKeys.PATIENT, PlanKeys.GROUP)}
    if reserved & set(keep_columns):
        raise ValueError(f"{', '.join(sorted(reserved & set(keep_columns)))} cannot be kept: every record has that key")
    if patient_tag and patient_column:
        raise ValueError("both --patient_column and --patient_tag name the patient. Give one of them")
    columns = (image_column, label_column, patient_column, group_column)
    root, rows = read_source(source, *columns, keep_columns, tables, image_folders)
    names = _class_names([row.label for row in rows], classes)
    if len(names) < 2:
        raise ValueError(
            f"every image of '{source}' has the label '{names[0]}'; two classes or more are needed. Check that the "
            "label column (--label_column) or the class folders are the right ones"
        )
    rows, first, left_out = _without_contradictions(root, rows)
    labels = [names.index(_as_label(row.label)) for row in rows]
    if patient_tag:
        patients = _collect(rows, "patients", lambda row: read_dicom_value(root / row.file, patient_tag))
        rows = [replace(row, patient=patient) for row, patient in zip(rows, patients, strict=True)]
    groups = [row.group or row.patient or same for row, same in zip(rows, first, strict=True)]
    alone = sum(not (row.group or row.patient) for row in rows)
    if alone:
        logger.warning(
            "%d of %d images name neither a group nor a patient, and each was taken for a patient of its own. If a "
            "patient has several of them, they can land in training and testing both: name the patients with "
            "--patient_column, --group_column or --patient_tag PatientID",
            alone,
            len(rows),
        )
    units = joined_units([row.patient for row in rows], groups, first)
    chosen = split_units(labels, units, fractions, seed, names)
    require_writable(target.parent, _FREE_BYTES)
    if check_images:
        _check_images(root, rows)
    root, folder = root.resolve(), target.parent.resolve()
    dataset_dir = str(root.relative_to(folder) if root.is_relative_to(folder) else root)
    content: dict[str, Any] = {
        "description": f"{len(rows)} images of '{root.name}', split by patient or group with monai_plan",
        "labels": {str(number): name for number, name in enumerate(names)},
        "num_classes": len(names),
        "seed": seed,
        "fractions": list(fractions),
        **({} if dataset_dir == "." else {"dataset_dir": dataset_dir}),
        **({"left_out": left_out} if left_out else {}),
        **{split: [] for split in SPLITS},
    }
    for row, label, group, split in zip(rows, labels, groups, chosen, strict=True):
        record = {
            str(PlanKeys.IMAGE): Path(row.file).as_posix(),
            str(PlanKeys.LABEL): label,
            str(PlanKeys.PATIENT): row.patient,
            str(PlanKeys.GROUP): group,
        }
        content[SPLITS[split]].append(record | row.kept)
    write_json(target, content)
    return content


def load_datalist(path: str | os.PathLike, dataset_dir: str | os.PathLike | None = None) -> dict[str, Any]:
    """Read a datalist and refuse one that is incomplete or lets a patient appear in two splits.

    Args:
        path: the JSON file, or a folder that holds ``datalist.json``.
        dataset_dir: what image paths are relative to; None means the file's own ``dataset_dir``, else its folder.

    Returns:
        The file's content with absolute image paths.

    Raises:
        ValueError: the file is missing or not a datalist, splits share a patient or a group, labels are not 0 to K-1,
            or images are missing; the message says which.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / DATALIST_NAME
    if not path.is_file():
        raise ValueError(
            f"no datalist at '{path}'. Write one: python -m monai_plan datalist {path.parent} --output {path}"
        )
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}. Write it again: python -m monai_plan datalist") from error
    _check_structure(path, content)
    try:
        base = Path(dataset_dir or path.parent / content.get("dataset_dir", "")).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"the folder of the images that '{path}' names cannot be followed ({error}). Give it with --dataset_dir DIR"
        ) from error
    missing = []
    home: dict[Path, str] = {}
    for split in SPLITS:
        for record in content[split]:
            image = inside(base, record["image"])
            if home.setdefault(image, split) != split:
                raise ValueError(
                    f"'{path}': '{record['image']}' in {split} is the file '{image}', which is in {home[image]} under "
                    "another spelling or link. Write it again: python -m monai_plan datalist"
                )
            record["image"] = str(image)
            if not image.is_file():
                missing.append(str(image))
    if missing:
        raise ValueError(
            f"'{path}' names {len(missing)} images that do not exist:\n  "
            + "\n  ".join(missing[:_MOST_FAULTS])
            + "\nIf the images were moved, give their folder with --dataset_dir DIR, or write the datalist again"
        )
    return content


def read_splits(
    dataset_dir: str | None, datalist: str | None = None, num_classes: int | None = None, **phantom: Any
) -> dict[str, Any]:
    """The splits that a configuration asks for: real ones from a datalist, else phantoms.

    Args:
        dataset_dir: the folder of the real images; None or ``""`` for phantoms.
        datalist: the datalist's path; by default ``datalist.json`` in ``dataset_dir``.
        num_classes: what the configuration's networks are made for; None leaves it unchecked.
        phantom: ``kind``, ``"chest"`` (the default) or ``"fundus"``, and arguments of
            :func:`monai_plan.data.phantom_datalist` or :func:`monai_plan.data.fundus_datalist`; real images ignore
            them.

    Returns:
        ``training``, ``validation`` and ``testing`` as :func:`load_datalist` gives them, with ``labels`` and
        ``num_classes``; a phantom's ``image`` is the text that :class:`~monai_plan.transforms.RenderPhantomd` or
        :class:`~monai_plan.transforms.RenderFundusd` draws.

    Raises:
        ValueError: see :func:`load_datalist`; or ``kind`` is unknown; or the classes are not ``num_classes``.
    """
    if datalist:
        splits = load_datalist(datalist, dataset_dir or None)
    elif dataset_dir:
        splits = load_datalist(dataset_dir)
    else:
        splits = _phantom_splits(**phantom)
    if num_classes not in (None, splits["num_classes"]):
        source = f"'{datalist or dataset_dir}' has" if datalist or dataset_dir else "the phantoms have"
        raise ValueError(
            f"num_classes is {num_classes}, and {source} {splits['num_classes']} classes "
            f"({', '.join(splits['labels'].values())}). Set it: --num_classes {splits['num_classes']}"
        )
    return splits


def _phantom_splits(kind: str = "chest", **phantom: Any) -> dict[str, Any]:
    if kind not in _PHANTOMS:
        raise ValueError(
            f"kind={kind!r}: phantoms are {' or '.join(map(repr, _PHANTOMS))}. Take one of these, or give the folder "
            "of real images with --dataset_dir DIR"
        )
    make, names = _PHANTOMS[kind]
    labels = {str(number): name for number, name in enumerate(names)}
    return {"labels": labels, "num_classes": len(names), **make(**phantom)}


def datalist_target(output: str | os.PathLike) -> Path:
    """The file that :func:`build_datalist` writes for ``output``: itself, or ``datalist.json`` in an existing folder.

    Raises:
        ValueError: it is no folder and does not end in ``.json``.
    """
    target = Path(output).expanduser()
    if target.is_dir():
        return target / DATALIST_NAME
    if target.suffix.lower() != ".json":
        raise ValueError(f"output '{target}' must end in .json or be an existing folder, e.g. --output {DATALIST_NAME}")
    return target


def _as_label(text: str) -> str:
    """Whole numbers in one spelling, because tables write 1 as 1.0 when a value of their column was missing."""
    return str(int(float(text))) if re.fullmatch(r"\d{1,9}(\.0*)?", text) else text


def _class_names(texts: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The classes in order of their numbers: as wanted, else whole numbers by value, names by alphabet."""
    names = {_as_label(text) for text in texts}
    if wanted:
        ordered = [_as_label(name) for name in wanted]
        if sorted(ordered) != sorted(names):
            raise ValueError(
                f"--classes names {', '.join(ordered)}, and the labels are {', '.join(sorted(names))}. Name every "
                "label once, from class 0 on"
            )
        return ordered
    if all(name.isdecimal() and len(name) < _MOST_DIGITS for name in names):
        return sorted(names, key=int)
    if len(names) > 2:
        logger.warning(
            "the classes are numbered by alphabet: %s. Their order counts where they are grades (the quadratic kappa): "
            "give it with --classes NAME NAME …",
            ", ".join(sorted(names)),
        )
    return sorted(names)


def _without_contradictions(
    root: Path, rows: Sequence[RadiographRow]
) -> tuple[list[RadiographRow], list[str], list[str]]:
    """The rows without files that have several labels, for each its first identical file, and what is left out."""
    first = first_of_identical(root, [row.file for row in rows])
    labels = defaultdict(set)
    for row, same in zip(rows, first, strict=True):
        labels[same].add(_as_label(row.label))
    left_out = [row.file for row, same in zip(rows, first, strict=True) if len(labels[same]) > 1]
    kept = [(row, same) for row, same in zip(rows, first, strict=True) if len(labels[same]) == 1]
    if left_out:
        logger.warning(
            "%d images were left out: their files are byte for byte the same as others with another label, e.g. '%s'",
            len(left_out),
            left_out[0],
        )
    copies = [row.file for row, same in kept if row.file != same]
    if copies:
        logger.warning(
            "%d images are byte for byte the same as an earlier one and stay in one split with it, e.g. '%s'. Other "
            "repeats, as of the same eye photographed twice, are not found: name them in a --group_column",
            len(copies),
            copies[0],
        )
    if not kept:
        raise ValueError(f"every file in '{root}' is there under two labels. Check the label column (--label_column)")
    return [row for row, _ in kept], [same for _, same in kept], left_out


def _collect(rows: Sequence[RadiographRow], what: str, read: Callable[[RadiographRow], Any]) -> list[Any]:
    """Call ``read`` for every row with a progress bar, and report up to ten failures together."""
    results, faults = [], []
    for row in tqdm(rows, desc=f"reading {what}", unit="image", disable=None) if _has_tqdm else rows:
        try:
            results.append(read(row))
        except ValueError as error:
            faults.append(str(error))
        if len(faults) == _MOST_FAULTS:
            break
    if faults:
        stopped = ", and reading stopped there" if len(faults) == _MOST_FAULTS else ""
        raise ValueError(
            f"{len(faults)} images cannot be used{stopped}; nothing was written:\n  " + "\n  ".join(faults)
        )
    return results


def _check_images(root: Path, rows: Sequence[RadiographRow]) -> None:
    load = LoadRadiograph(image_size=32)
    _collect(rows, "images", lambda row: load(root / row.file))


def _are_labels(names: dict[str, Any]) -> bool:
    numbered = sorted(names) == sorted(map(str, range(len(names))))
    return numbered and len(names) > 1 and all(isinstance(name, str) for name in names.values())


def _check_structure(path: Path, content: Any) -> None:
    again = "Write it again: python -m monai_plan datalist"
    if not isinstance(content, dict) or not all(isinstance(content.get(s), list) and content[s] for s in SPLITS):
        raise ValueError(f"'{path}' needs non-empty lists {', '.join(SPLITS)}. {again}")
    if not isinstance(content.get("dataset_dir", ""), str):
        raise ValueError(f"'{path}' has dataset_dir {content['dataset_dir']}; a folder's path is needed. {again}")
    names = content.get("labels")
    if not isinstance(names, dict) or not _are_labels(names):
        wanted = '{"0": "normal", "1": "…"}'
        raise ValueError(f"'{path}' has labels {names}; two or more, numbered as {wanted}, are needed. {again}")
    if type(content.get("num_classes")) is not int or content["num_classes"] != len(names):
        raise ValueError(f"'{path}' has num_classes {content.get('num_classes')} and {len(names)} labels. {again}")
    seen: dict[tuple[str, str], tuple[str, int]] = {}
    for split in SPLITS:
        for number, record in enumerate(content[split]):
            where = f"'{path}', {split}[{number}]"
            kinds = {"image": str, "label": int, "patient_id": str, "group_id": str}
            if not isinstance(record, dict) or not all(isinstance(record.get(k), kind) for k, kind in kinds.items()):
                raise ValueError(f"{where} needs image, patient_id and group_id as text and label as number. {again}")
            if isinstance(record["label"], bool) or not 0 <= record["label"] < len(names):
                raise ValueError(f"{where} has label {record['label']}, outside 0 to {len(names) - 1}. {again}")
            for key in ("patient_id", "group_id", "image"):
                value = record.get(key)
                if not value:
                    continue
                first, place = seen.setdefault((key, value), (split, number))
                if first != split:
                    raise ValueError(
                        f"'{path}': one {key} is in {first} and in {split} ({first}[{place}], {split}[{number}]); "
                        f"results on it would be those of memorised patients. {again}"
                    )
        counts = Counter(record["label"] for record in content[split])
        if len(counts) < len(names):
            absent = ", ".join(f"'{name}'" for number, name in names.items() if int(number) not in counts)
            raise ValueError(f"'{path}': {split} has no image of class {absent}. {again}")
