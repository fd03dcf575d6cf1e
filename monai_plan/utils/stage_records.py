"""What a stage of the pipeline leaves on record: hashes of its inputs and outputs, and files that must not be lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_plan.utils.files import sha256_of
from monai_plan.utils.given_file import read_json

__all__ = ["is_complete", "read_record", "require_kept"]


def read_record(record: Path) -> dict[str, Any]:
    """The record; empty if there is none, or a damaged one."""
    try:
        found = read_json(record)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_complete(found: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    """Whether the stage was made from these inputs and all that it wrote is as it was.

    Args:
        found: see :func:`read_record`; ``outputs`` are paths and hashes.
        inputs: what it would be made from now.
    """
    outputs = found.get("outputs")
    if found.get("inputs") != inputs or not isinstance(outputs, dict) or not outputs:
        return False
    return all(Path(path).is_file() and sha256_of(path) == digest for path, digest in outputs.items())


def require_kept(records: Path) -> None:
    """See that nothing is lost that a stage cannot make again: a new ledger would know of nobody who withdrew.

    Args:
        records: the folder ``stages`` of a run; ``kept`` of each record are paths, from the run's folder, of files that
            the stage wrote and later commands add to.

    Raises:
        FileNotFoundError: a file is lost.
    """
    for record in sorted(records.glob("*.json")):
        for name in read_record(record).get("kept") or ():
            path = records.parent / str(name)
            if path.is_file():
                continue
            raise FileNotFoundError(
                f"'{path}' is lost, which the stage {record.stem} had written and which cannot be made again: it says "
                "who is in which walks, what was released, and who withdrew, or under which names. Restore it from "
                "your copy. If there is none, begin a new run in another --output_dir; or delete "
                f"'{record}' to have a new one made here, which knows of no earlier release and no withdrawal"
            )
