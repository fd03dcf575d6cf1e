"""Keep the ledger up to date: after walks, a release, a withdrawal; and look into it before images are read again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from monai_plan.latent.aggregation import Grouping, PatientLatents, group_patients
from monai_plan.latent.ledger import Ledger, ReleaseRecord, WalkRecord
from monai_plan.latent.walk_set import WalkSet
from monai_plan.utils import locked, patient_of, pseudonym, sha256_of

__all__ = [
    "groups_behind",
    "grouping_in_use",
    "name_in_ledger",
    "record_release",
    "record_walks",
    "require_not_withdrawn",
    "require_recorded",
]

Item = Mapping[str, Any]
CHECK_WORD = "monai_plan: not a patient"
"""What :attr:`Ledger.key_check` is the pseudonym of."""


def name_in_ledger(ledger: Ledger, patient: str, key: bytes | None) -> str:
    """The name under which a patient stands in a ledger.

    Args:
        ledger: where.
        patient: as in the data list.
        key: of the pseudonyms; ``None`` if there are none.

    Raises:
        ValueError: the ledger holds pseudonyms and there is no key, or another one; or the other way round.
    """
    _require_key(ledger, key)
    return patient if key is None else pseudonym(patient, key)


def _require_key(ledger: Ledger, key: bytes | None) -> None:
    if ledger.keyed != (key is not None):
        raise ValueError(
            f"the ledger holds {'pseudonyms' if ledger.keyed else 'names'}, and now pseudonyms="
            f"{str(key is not None).lower()}: nobody would be found. Set pseudonyms={str(ledger.keyed).lower()}, or "
            "move the ledger away if nothing of it is in use any more"
        )
    if key is not None and ledger.key_check != pseudonym(CHECK_WORD, key):
        raise ValueError(
            "the key is not the one that the ledger's pseudonyms were made with, so nobody would be found; restore "
            "private/pseudonyms.key from your copy"
        )


def record_walks(
    ledger_file: str | os.PathLike,
    grouping: Grouping,
    walk_files: Sequence[str | os.PathLike],
    key: bytes | None = None,
    withdrawn: Sequence[str] = (),
) -> Ledger:
    """Write the ledger of walks that were just planned; what it knows of releases and withdrawals is kept.

    Args:
        ledger_file: made if there is none.
        grouping: whose anchors the walks run between.
        walk_files: all files of walks between these anchors.
        key: of the pseudonyms that the grouping holds; ``None`` if it holds names.
        withdrawn: patients withdrawn just now, under the names of the grouping.

    Raises:
        ValueError: the ledger is broken, or of names where pseudonyms are wanted or the other way round.
    """
    with locked(ledger_file):
        before = _ledger(ledger_file)
        if before is not None:
            _require_key(before, key)
        walks = [WalkRecord.of(WalkSet.load(file), file, grouping) for file in walk_files]
        gone, releases = (before.withdrawn, before.releases) if before else ((), ())
        new = {record.sha256 for record in walks}
        released = {release.walks_sha256 for release in releases}
        earlier = [r for r in (before.walks if before else ()) if r.sha256 in released and r.sha256 not in new]
        check = "" if key is None else pseudonym(CHECK_WORD, key)
        gone = tuple(sorted({*gone, *withdrawn}))
        ledger = Ledger(grouping, key is not None, gone, (*earlier, *walks), releases, check)
        ledger.save(ledger_file)
    return ledger


def grouping_in_use(ledger_file: str | os.PathLike, patients: PatientLatents, k: int) -> Grouping:
    """The ledger's grouping, if it is of these patients and this k; else a new one.

    After a withdrawal a new grouping would differ everywhere, and the ledger could not say whom its walks touch.
    """
    ledger = _ledger(ledger_file)
    if ledger is not None and ledger.grouping.k == k and set(ledger.grouping.patients) == set(patients.patients):
        return ledger.grouping
    return group_patients(patients, k)


def require_recorded(ledger_file: str | os.PathLike, walk_file: str | os.PathLike) -> None:
    """See, before a release is written, that the ledger can say whom it touches.

    Walks between random latents hold no patient and need no ledger.

    Raises:
        FileNotFoundError: there is no ledger.
        ValueError: it does not know these walks.
    """
    if _need_ledger(walk_file):
        _recorded(ledger_file, walk_file)


def groups_behind(ledger_file: str | os.PathLike, walk_file: str | os.PathLike) -> dict[str, Any] | None:
    """How many patients stand behind the anchors of walks, as the ledger has it; no names.

    Returns:
        ``k``, ``smallest_group`` and ``patients`` of these anchors, and ``spread``: whether the anchors were drawn
        apart. ``None`` without a ledger that knows the walks, and for walks between random latents.

    Raises:
        ValueError: the ledger is broken.
    """
    if not Path(ledger_file).exists():
        return None
    ledger, digest = Ledger.load(ledger_file), sha256_of(walk_file)
    for record in ledger.walks:
        if record.sha256 == digest:
            sizes = [len(group.patients) for group in record.groups]
            of_all = {"smallest_group": min(sizes), "patients": sum(sizes), "spread": record.spread}
            return {"k": ledger.grouping.k, **of_all}
    return None


def _need_ledger(walk_file: str | os.PathLike) -> bool:
    """Whether walks run between k-same anchors."""
    return "pairs" in WalkSet.load(walk_file).meta


def _recorded(ledger_file: str | os.PathLike, walk_file: str | os.PathLike) -> tuple[Ledger, str]:
    """The ledger and the walks' SHA-256."""
    ledger, digest = Ledger.load(ledger_file), sha256_of(walk_file)
    if digest not in {record.sha256 for record in ledger.walks}:
        raise ValueError(
            f"the ledger '{ledger_file}' does not know the walks '{walk_file}', so nobody could tell whom a release "
            "touches; run the walk stage again, which writes both"
        )
    return ledger, digest


def record_release(
    ledger_file: str | os.PathLike,
    walk_file: str | os.PathLike,
    folder: str | os.PathLike,
    mode: str,
    files: Mapping[str, str],
) -> None:
    """Note a release, if its walks run between k-same anchors; to be called before it stands under its name.

    One of the same files under the same name is noted once, with the first date: it was killed and begun again.

    Args:
        ledger_file: of these walks.
        walk_file: the walks that are released.
        folder, mode: see :class:`~monai_plan.latent.ReleaseRecord`.
        files: name to SHA-256.

    Raises:
        FileNotFoundError, ValueError: see :func:`require_recorded`.
    """
    if not _need_ledger(walk_file):
        return
    with locked(ledger_file):
        ledger, digest = _recorded(ledger_file, walk_file)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        record = ReleaseRecord(Path(folder).name, mode, digest, now, dict(files))
        if any(replace(earlier, date=now) == record for earlier in ledger.releases):
            return
        replace(ledger, releases=(*ledger.releases, record)).save(ledger_file)


def require_not_withdrawn(ledger_file: str | os.PathLike, items: Iterable[Item], key: bytes | None) -> None:
    """Refuse images of patients whose data were withdrawn, before they are read again.

    Args:
        ledger_file: there need not be one.
        items: of all splits of the data list.
        key: of the pseudonyms, if the ledger holds such.

    Raises:
        ValueError: a patient was withdrawn; the ledger is broken, or the key is not its own.
    """
    ledger = _ledger(ledger_file)
    if ledger is None or not ledger.withdrawn:
        return
    _require_key(ledger, key)
    names = set(map(patient_of, items))
    back = sorted(set(ledger.withdrawn) & (names if key is None else {pseudonym(name, key) for name in names}))
    if back:
        raise ValueError(
            f"{len(back)} patient(s) of the datalist withdrew their data, the first stands in the ledger as "
            f"'{back[0]}'. Take their images out of the datalist, and every network that saw them is trained again "
            "without them"
        )


def _ledger(path: str | os.PathLike) -> Ledger | None:
    return Ledger.load(path) if Path(path).exists() else None
