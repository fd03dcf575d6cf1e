"""Keep the ledger up to date: after walks, a release, a withdrawal; and look into it before images are read again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from monai_plan.latent.aggregation import Grouping
from monai_plan.latent.ledger import Ledger, ReleaseRecord, WalkRecord
from monai_plan.latent.walk_set import WalkSet
from monai_plan.utils import patient_of, pseudonym, sha256_of

__all__ = ["record_release", "record_walks", "require_not_withdrawn"]

Item = Mapping[str, Any]


def record_walks(
    ledger_file: str | os.PathLike,
    grouping: Grouping,
    walk_files: Sequence[str | os.PathLike],
    keyed: bool,
    withdrawn: Sequence[str] = (),
) -> Ledger:
    """Write the ledger of walks that were just planned; what it knows of releases and withdrawals is kept.

    Args:
        ledger_file: made if there is none.
        grouping: whose anchors the walks run between.
        walk_files: all files of walks between these anchors.
        keyed: the grouping holds keyed pseudonyms.
        withdrawn: patients withdrawn just now, under the names of the grouping.

    Raises:
        ValueError: the ledger is broken, or of names where pseudonyms are wanted or the other way round.
    """
    before = _ledger(ledger_file)
    if before is not None and before.keyed != keyed:
        raise ValueError(
            f"the ledger '{ledger_file}' holds {'pseudonyms' if before.keyed else 'names'}, and now pseudonyms="
            f"{str(keyed).lower()}: nobody could be found in both. Set pseudonyms back, or move the old ledger away"
        )
    walks = [WalkRecord.of(WalkSet.load(file), file, grouping) for file in walk_files]
    gone, releases = (before.withdrawn, before.releases) if before else ((), ())
    new = {record.sha256 for record in walks}
    released = {release.walks_sha256 for release in releases}
    earlier = [r for r in (before.walks if before else ()) if r.sha256 in released and r.sha256 not in new]
    ledger = Ledger(grouping, keyed, tuple(sorted({*gone, *withdrawn})), (*earlier, *walks), releases)
    ledger.save(ledger_file)
    return ledger


def record_release(
    ledger_file: str | os.PathLike,
    walk_file: str | os.PathLike,
    folder: str | os.PathLike,
    mode: str,
    files: Mapping[str, str],
) -> None:
    """Note what was written into a release folder, if its walks run between k-same anchors.

    Args:
        ledger_file: of these walks.
        walk_file: the walks that were released.
        folder, mode: see :class:`~monai_plan.latent.ReleaseRecord`.
        files: name to SHA-256.

    Raises:
        FileNotFoundError, ValueError: there is no ledger, or it does not know these walks.
    """
    if "pairs" not in WalkSet.load(walk_file).meta:
        return  # between random latents: no patient is in them
    ledger = Ledger.load(ledger_file)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    record = ReleaseRecord(Path(folder).name, mode, sha256_of(walk_file), now, dict(files))
    replace(ledger, releases=(*ledger.releases, record)).save(ledger_file)


def require_not_withdrawn(ledger_file: str | os.PathLike, items: Sequence[Item], key: bytes | None) -> None:
    """Refuse training images of patients whose data were withdrawn, before they are read again.

    Args:
        ledger_file: there need not be one.
        items: the training items of the data list.
        key: of the pseudonyms, if the ledger holds such.

    Raises:
        ValueError: a patient was withdrawn, or the ledger is broken.
    """
    ledger = _ledger(ledger_file)
    if ledger is None or not ledger.withdrawn:
        return
    gone = set(ledger.withdrawn)
    names = {name: name if key is None else pseudonym(name, key) for name in map(patient_of, items)}
    back = sorted(name for name, kept in names.items() if kept in gone)
    if back:
        raise ValueError(
            f"{len(back)} patient(s) of the training split withdrew their data, the first is '{back[0]}'. Take their "
            "images out of the datalist, and every network that saw them is trained again without them"
        )


def _ledger(path: str | os.PathLike) -> Ledger | None:
    return Ledger.load(path) if Path(path).exists() else None
