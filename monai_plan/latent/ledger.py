"""The ledger of k-same: which anchor holds which patients, and what was made of it; it never leaves the hospital."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monai_plan.latent.aggregation import Group, Grouping
from monai_plan.latent.walk_set import WalkSet
from monai_plan.utils.files import require_private, sha256_of, write_json
from monai_plan.utils.given_file import read_json

__all__ = ["Ledger", "ReleaseRecord", "Touched", "TouchedWalks", "WalkRecord"]

SCHEMA = "k_same_ledger"
VERSION = 1
RELEASE_MODES = ("walks", "images")


@dataclass(frozen=True)
class WalkRecord:
    """What a file of walks was made of, and of whom: a withdrawal moves patients between anchors, but not in here.

    Attributes:
        file: its name, without the folder.
        sha256: of the file, hexadecimal.
        kind: how its points were found, see :class:`~monai_plan.latent.WalkSet`.
        pairs: the anchors at the two ends of each path; none of a path that lost them and shows nothing.
        shown: the numbers of each path's verified points, which are those that may be shown.
        groups: the patients of these anchors when the walks were made.
        spread: the anchors were drawn apart, so that each also holds the mean and scatter of its class: see
            :func:`~monai_plan.latent.spread_centroids`.

    Raises:
        ValueError: there are not as many pairs as paths, a number is none, or an anchor has no group.
    """

    file: str
    sha256: str
    kind: str
    pairs: tuple[tuple[int, int], ...]
    shown: tuple[tuple[int, ...], ...]
    groups: tuple[Group, ...]
    spread: bool = False

    def __post_init__(self) -> None:
        if len(self.pairs) != len(self.shown):
            raise ValueError(
                f"'{self.file}' has {len(self.shown)} paths and the anchors of {len(self.pairs)}; the record or the "
                "file is of another run, plan the walks again"
            )
        for pair, points in zip(self.pairs, self.shown, strict=True):
            if len(pair) != (2 if pair or points else 0) or not all(type(number) is int for number in (*pair, *points)):
                raise ValueError(
                    f"a path of '{self.file}' has the anchors {pair!r} and the points {points!r}; two whole "
                    "numbers, and any number of them, are needed. The record is damaged, plan the walks again"
                )
        missing = {anchor for pair in self.pairs for anchor in pair} - {group.anchor for group in self.groups}
        if missing:
            raise ValueError(
                f"'{self.file}' runs between anchors that no group has, {sorted(missing)[:10]} ({len(missing)} such): "
                "the walks are of another grouping, plan them again"
            )

    @classmethod
    def of(cls, walks: WalkSet, file: str | os.PathLike, grouping: Grouping) -> WalkRecord:
        """The record of walks between k-same anchors.

        Args:
            walks: their ``meta["pairs"]``, set by the planner, holds two anchor numbers for each path.
            file: where they were saved.
            grouping: that of these anchors.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the walks do not say between which anchors they run, or these are not in ``grouping``.
        """
        pairs = walks.meta.get("pairs")
        if pairs is None:
            raise ValueError(
                f"the walks of '{file}' do not say between which anchors they run (no 'pairs' in their meta): they "
                "start from random latents, which hold no patient and need no ledger, or an older version of "
                "monai_plan made them. Plan them again, with WalkPlanner(anchors=...) and the anchors of k-same"
            )
        shown = tuple(tuple(points.nonzero().flatten().tolist()) for points in walks.verified)
        ends = tuple(tuple(pair) for pair in pairs)
        groups = tuple(group for group in grouping.groups if any(group.anchor in pair for pair in ends))
        return cls(Path(file).name, sha256_of(file), walks.kind, ends, shown, groups, bool(walks.meta.get("spread")))


@dataclass(frozen=True)
class ReleaseRecord:
    """What was written to be given away.

    Attributes:
        folder: its name.
        mode: ``"walks"`` or ``"images"``.
        walks_sha256: of the file of walks that it was made from.
        date: in ISO 8601, e.g. ``"2026-03-31"``.
        files: name to SHA-256.

    Raises:
        ValueError: the mode is something else.
    """

    folder: str
    mode: str
    walks_sha256: str
    date: str
    files: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.mode not in RELEASE_MODES:
            raise ValueError(f"the mode of release '{self.folder}' must be one of {RELEASE_MODES}, got {self.mode!r}")


@dataclass(frozen=True)
class TouchedWalks:
    """The part of one file of walks that was made of a patient's data.

    Attributes:
        file: its name.
        sha256: of the file.
        paths: the paths that start or end at the anchor in which the patient was then.
        images: ``"path:point"`` of each of their verified points.
    """

    file: str
    sha256: str
    paths: tuple[int, ...]
    images: tuple[str, ...]


@dataclass(frozen=True)
class Touched:
    """What was made of a patient's data.

    Attributes:
        patient: the name as it stands in the ledger.
        status: ``"grouped"``, ``"left over"``, ``"withdrawn"``, or ``"no longer grouped"``: in earlier walks only.
        anchor: the number of the patient's anchor; ``None`` unless grouped.
        share: one over the patients of the anchor, the nominal risk of re-identification; ``None`` unless grouped.
        walks: the files with paths that were made of the patient's data, also before a withdrawal moved the patient.
        releases: those made from these files.
        spread: paths of all anchors of the class are listed, because each holds its mean and scatter.
    """

    patient: str
    status: str
    anchor: int | None
    share: float | None
    walks: tuple[TouchedWalks, ...]
    releases: tuple[ReleaseRecord, ...]
    spread: bool = False

    def as_text(self) -> str:
        """The same for a data protection officer, in plain words; nothing is left out, however long."""
        if self.share is None:
            place = f"{self.status}, in no anchor"
        else:
            size = round(1 / self.share)
            others = _count(range(size - 1), "other")
            place = f"in anchor {self.anchor} with {others} (risk 1/{size} = {self.share:.3f})"
        lines = [f"patient {self.patient}: {place}"]
        if self.spread:
            lines.append(
                "the anchors were drawn apart: each holds the mean and scatter of its class, and a patient weighs more "
                "in the own one than the risk says; all paths of the class are listed"
            )
        for walks in self.walks:
            origin = f"of {walks.file} (sha256 {walks.sha256[:12]}…)"
            lines.append(f"{_count(walks.paths, 'path')} {origin}: {', '.join(map(str, walks.paths))}")
            lines.append(f"{_count(walks.images, 'image')} {origin}: {', '.join(walks.images) or 'none'}")
        if not self.walks:
            lines.append("no path was made of this patient's data")
        released = [f"{release.folder} ({release.mode}, {release.date})" for release in self.releases]
        lines.append("released in " + ", ".join(released) if released else "in no release")
        lines.append("not in this ledger: the networks that were trained on this patient's images")
        return "\n".join(lines)


def _count(items: Sequence[Any], word: str) -> str:
    return f"{len(items)} {word}{'' if len(items) == 1 else 's'}"


@dataclass(frozen=True)
class Ledger:
    """Who is in which anchor, and what was made of the anchors.

    Attributes:
        grouping: patients of each anchor.
        keyed: the patients stand under the names that :func:`~monai_plan.utils.pseudonym` gives.
        key_check: what the key makes of a word that is nobody's name, to notice another key; empty if not ``keyed``.
        withdrawn: patients whose data were withdrawn, so that a later run can see that they are still gone.
        walks: the files made from the anchors, now or before a withdrawal; those that were released stay for good.
        releases: what was given away of them.

    Raises:
        ValueError: a withdrawn patient is grouped again or left over, a name is no pseudonym though ``keyed``, a file
            of walks stands there twice, or a release was made from walks that are not there.
    """

    grouping: Grouping
    keyed: bool
    withdrawn: tuple[str, ...]
    walks: tuple[WalkRecord, ...]
    releases: tuple[ReleaseRecord, ...]
    key_check: str = ""

    def __post_init__(self) -> None:
        present = self.grouping.patients
        if back := sorted(set(self.withdrawn) & set(present)):
            raise ValueError(
                f"the data of {_count(back, 'patient')} were withdrawn and are here again. Take their images out of "
                "the training data, then group again"
            )
        names = {*present, *self.withdrawn, *self._earlier}
        plain = sum(not re.fullmatch("[0-9a-f]{32}", name) for name in names)
        if self.keyed and plain:
            raise ValueError(
                f"the ledger is to hold pseudonyms, and {plain} of its {len(names)} names are none (32 hexadecimal "
                "digits); give all patients as pseudonym(name, key), or set keyed=False"
            )
        known = [record.sha256 for record in self.walks]
        if twice := sorted({digest for digest in known if known.count(digest) > 1}):
            raise ValueError(f"the walks with sha256 {twice[0]} stand in the ledger twice; record each file once")
        for release in self.releases:
            if release.walks_sha256 not in known:
                raise ValueError(
                    f"release '{release.folder}' was made from walks with sha256 {release.walks_sha256}, which are not "
                    "in the ledger: nobody could tell whom it touches. Keep the record of all walks that were released"
                )

    @property
    def _earlier(self) -> list[str]:
        return [name for record in self.walks for group in record.groups for name in group.patients]

    def save(self, path: str | os.PathLike) -> Path:
        """Write the ledger as JSON, whole or not at all, for its owner alone (mode 0600)."""
        return write_json(path, {"schema": SCHEMA, "version": VERSION, **asdict(self)}, mode=0o600)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Ledger:
        """Read a file of :meth:`save`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: other users may read it; it is truncated, of another kind or of a later version; or it breaks
                a promise of its parts.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"no ledger at '{path}'. It is written when patients are grouped; give the right path, or restore it "
                "from your copy: without it nobody can tell what was made of a patient's data"
            )
        require_private(path)
        try:
            content = read_json(path)
        except ValueError as error:
            raise ValueError(
                f"{error}. There is no readable JSON of a ledger; it is truncated or of another format. Restore it "
                "from your copy"
            ) from error
        _require_schema(path, content)
        try:
            return _parsed(content)
        except (LookupError, TypeError) as error:
            raise ValueError(f"the ledger '{path}' is damaged ({error!r}); restore it from your copy") from error
        except ValueError as error:
            raise ValueError(f"the ledger '{path}' breaks a promise: {error}") from error

    def touched(self, patient: str) -> Touched:
        """What was made of a patient's data, for a request of access or of removal.

        Paths between this and another anchor are made of the patients of both. A sampler with a gate also shows images
        between the points of these paths; it keeps none of them.

        Args:
            patient: the name as it stands in the ledger: ``pseudonym(name, key)`` if it is ``keyed``.

        Raises:
            ValueError: the ledger does not know the patient.
        """
        walks = tuple(part for record in self.walks if (part := _made_of(record, patient)).paths)
        digests = {part.sha256 for part in walks}
        spread = any(record.spread for record in self.walks if record.sha256 in digests)
        releases = tuple(release for release in self.releases if release.walks_sha256 in digests)
        for group in self.grouping.groups:
            if patient in group.patients:
                return Touched(patient, "grouped", group.anchor, 1 / len(group.patients), walks, releases, spread)
        without = {
            "left over": self.grouping.left_over,
            "withdrawn": self.withdrawn,
            "no longer grouped": self._earlier,
        }
        for status, names in without.items():
            if patient in names:
                return Touched(patient, status, None, None, walks, releases, spread)
        advice = (
            "Its patients stand under keyed pseudonyms: the key may be another one than theirs, or the name was not "
            "written as in the datalist"
            if self.keyed
            else "Its patients stand under their names: write the name as in the datalist, letter for letter"
        )
        raise ValueError(f"the ledger knows no patient '{patient}'. {advice}. If it was, the data were never grouped")


def _made_of(record: WalkRecord, patient: str) -> TouchedWalks:
    anchors = {group.anchor for group in record.groups if patient in group.patients}
    if anchors and record.spread:  # the class's mean and scatter are in all of its anchors
        labels = {group.label for group in record.groups if group.anchor in anchors}
        anchors = {group.anchor for group in record.groups if group.label in labels}
    paths = tuple(path for path, pair in enumerate(record.pairs) if anchors.intersection(pair))
    images = tuple(f"{path}:{point}" for path in paths for point in record.shown[path])
    return TouchedWalks(record.file, record.sha256, paths, images)


def _require_schema(path: Path, content: Any) -> None:
    schema, version = (content.get(name) if isinstance(content, dict) else None for name in ("schema", "version"))
    if schema != SCHEMA or type(version) is not int:
        raise ValueError(
            f"'{path}' is no ledger (schema {schema!r}, version {version!r}; needed are '{SCHEMA}' and a number up to "
            f"{VERSION}); two paths may be swapped"
        )
    if version > VERSION:
        raise ValueError(
            f"'{path}' has version {version} of '{SCHEMA}' and this monai_plan reads up to {VERSION}. "
            "Update it: pip install -U monai_plan"
        )


def _parsed(content: dict[str, Any]) -> Ledger:
    """``LookupError`` or ``TypeError`` where something is missing or of another type."""
    if type(content["keyed"]) is not bool:
        raise TypeError(f"'keyed' is {content['keyed']!r}")
    grouping = content["grouping"]
    walks = [
        {**walk, **{name: tuple(map(tuple, walk[name])) for name in ("pairs", "shown")}} for walk in content["walks"]
    ]
    return Ledger(
        Grouping(grouping["k"], _groups(grouping["groups"]), _names(grouping["left_over"])),
        content["keyed"],
        _names(content["withdrawn"]),
        tuple(WalkRecord(**{**walk, "groups": _groups(walk["groups"])}) for walk in walks),
        tuple(ReleaseRecord(**release) for release in content["releases"]),
        content.get("key_check", ""),
    )


def _groups(values: Any) -> tuple[Group, ...]:
    return tuple(Group(value["anchor"], value["label"], _names(value["patients"])) for value in values)


def _names(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"a list of names is needed, found {type(values).__name__}")
    return tuple(values)
