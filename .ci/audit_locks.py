"""Hold the lock files against a copy of the OSV advisories on PyPI packages, without a network.

The copy is OSV's export of the ecosystem PyPI, a zip of JSON files (or the folder unpacked from it), carried in from
outside. pip-audit asks a service about every package, and OSV-Scanner, which has an offline mode, is no Python package.

python .ci/audit_locks.py all.zip
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lock_files import CUDA_LOCK, LOCK, read_lock
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version


@dataclass(frozen=True)
class Finding:
    """An advisory that names a pinned version."""

    package: str
    version: str
    advisory: str
    fixed_in: tuple[str, ...]
    summary: str

    def __str__(self) -> str:
        cure = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no fixed version is known"
        return f"{self.package} {self.version}: {self.advisory} ({cure}). {self.summary}".rstrip()


def advisories(copy: Path) -> Iterator[dict[str, Any]]:
    """Every advisory of a zip or folder of JSON files.

    Raises:
        ValueError: a file is no advisory, or there is none: an empty copy must not look like a clean bill.
        OSError: the zip or folder cannot be read.
    """
    count = 0
    for name, text in _files(copy):
        try:
            advisory = json.loads(text)
            advisory["id"], advisory["modified"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"'{name}' in '{copy}' is no OSV advisory ({error!r}); fetch the copy again") from error
        count += 1
        yield advisory
    if not count:
        raise ValueError(
            f"'{copy}' holds no advisory (*.json); give OSV's export of PyPI, or the folder unpacked from it"
        )


def _files(copy: Path) -> Iterator[tuple[str, bytes]]:
    if copy.is_dir():
        for path in sorted(copy.rglob("*.json")):
            yield path.name, path.read_bytes()
        return
    try:
        with zipfile.ZipFile(copy) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".json"):
                    yield name, archive.read(name)
    except zipfile.BadZipFile as error:
        raise ValueError(f"'{copy}' is neither a zip nor a folder; was it copied whole? Fetch it again") from error


def is_affected(version: str, affected: dict[str, Any]) -> bool:
    """Whether a version is listed, or lies in a range, by OSV's rules of evaluation.

    A bound that is no version of PEP 440 counts as a hit: a person has to look.

    Args:
        version: of the package that ``affected`` is about.
        affected: an entry of an advisory's ``affected``.
    """
    at = Version(version)
    if any(_equal(listed, at) for listed in affected.get("versions", [])):
        return True
    return any(_in_range(at, events) for events in _ranges(affected))


def _ranges(affected: dict[str, Any]) -> list[list[dict[str, str]]]:
    """The events of each range of versions; those of commits cannot be compared with a version."""
    return [found["events"] for found in affected.get("ranges", []) if found["type"] != "GIT"]


def _equal(listed: str, version: Version) -> bool:
    try:
        return Version(listed) == version
    except InvalidVersion:  # old schemes, which no pin of ours can have
        return False


def _in_range(at: Version, events: list[dict[str, str]]) -> bool:
    bounds = [(kind, text) for event in events for kind, text in event.items()]
    try:
        known = [(Version("0.dev0") if text == "0" else Version(text), kind) for kind, text in bounds if text != "*"]
    except InvalidVersion:
        return True
    limits = [bound for bound, kind in known if kind == "limit"]
    if limits and not any(at < bound for bound in limits):
        return False
    inside = False
    for bound, kind in sorted(known):
        if kind == "introduced" and at >= bound:
            inside = True
        elif (kind == "fixed" and at >= bound) or (kind == "last_affected" and at > bound):
            inside = False
    return inside


def audit(pins: dict[str, str], copy: Path) -> tuple[list[Finding], int, str]:
    """What is known against the pinned versions; withdrawn advisories are left out.

    Args:
        pins: normalised name to version.
        copy: zip or folder of advisories.

    Returns:
        Findings by package, how many advisories were read, and the date of the newest.

    Raises:
        ValueError, OSError: see :func:`advisories`.
    """
    findings: dict[tuple[str, str], Finding] = {}
    count, newest = 0, ""
    for advisory in advisories(copy):
        count, newest = count + 1, max(newest, advisory["modified"])
        if advisory.get("withdrawn"):
            continue
        for affected in advisory.get("affected", []):
            package = affected.get("package", {})
            name = canonicalize_name(package.get("name", ""))
            if package.get("ecosystem") != "PyPI" or name not in pins or not is_affected(pins[name], affected):
                continue
            fixed = tuple(event["fixed"] for events in _ranges(affected) for event in events if "fixed" in event)
            finding = Finding(name, pins[name], advisory["id"], fixed, advisory.get("summary", ""))
            findings[name, advisory["id"]] = finding
    return [findings[key] for key in sorted(findings)], count, newest


def main() -> int:
    """0: nothing found; 1: findings; 2: the copy cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("advisories", type=Path, help="the zip, or the folder unpacked from it")
    parser.add_argument(
        "--locks", nargs="+", type=Path, default=[LOCK, CUDA_LOCK], help="default: both of this package"
    )
    options = parser.parse_args()
    try:
        pins = {name: pin.version for path in options.locks for name, pin in read_lock(path).items()}
        findings, count, newest = audit(pins, options.advisories)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings in {len(pins)} packages; {count} advisories, the newest of {newest}")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
