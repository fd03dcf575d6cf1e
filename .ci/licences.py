"""Hold the licences of all dependencies against a list of those that are fine, and write them to docs/dependencies.md.

python .ci/licences.py          # in an environment with the extra "dev"
"""

from __future__ import annotations

import configparser
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, metadata, requires

from lock_files import LOCK, REPOSITORY, read_lock
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = REPOSITORY / "docs" / "dependencies.md"
PERMISSIVE = {
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0"),
    *("CC0-1.0", "ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Zlib"),
}
"""SPDX identifiers; "BSD" where the metadata do not say with how many clauses."""
WITH_A_REASON = {"MPL-2.0": "copyleft of single files, of which none is changed or copied here"}
READ_BY_HAND = {
    "appnope": "BSD-3-Clause",  # macOS alone
    "colorama": "BSD-3-Clause",  # Windows alone
    "docutils": "BSD-2-Clause",  # and public domain; its classifier GPL is of an Emacs file that wheels do not hold
    "torch": " AND ".join(  # of the CPU build, so that the page is the same whichever build is installed
        ["Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "MIT"]
    ),
}
"""Where the metadata are not at hand, say less than the licence's text, or differ between builds."""
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD 3-Clause": "BSD-3-Clause",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""What older metadata call them."""


def licence_of(name: str) -> str:
    """The SPDX expression of an installed package, or whatever its metadata say instead.

    Raises:
        PackageNotFoundError: it is not installed, and was not read by hand.
    """
    if name in READ_BY_HAND:
        return READ_BY_HAND[name]
    found = metadata(name)
    if expression := found.get("License-Expression"):
        return expression
    field = (found.get("License") or "").strip()
    named = SPDX.get(field, field)
    if named != "BSD" and is_fine(named):
        return named
    classifiers = [line.split(" :: ")[-1] for line in found.get_all("Classifier", []) if line.startswith("License :: ")]
    known = [SPDX.get(classifier, classifier) for classifier in classifiers if classifier != "DFSG approved"]
    return " AND ".join(known) or named.partition("\n")[0] or "unknown"


def is_fine(expression: str) -> bool:
    """Whether one of the alternatives of an SPDX expression without brackets consists of allowed licences."""
    allowed = PERMISSIVE | set(WITH_A_REASON)
    return any(all(part in allowed for part in choice.split(" AND ")) for choice in expression.split(" OR "))


def roots() -> dict[str, list[Requirement]]:
    """What setup.cfg asks for: "core", and by extra."""
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    sections = {"core": config["options"]["install_requires"], **config["options.extras_require"]}
    return {
        name: [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
        for name, text in sections.items()
    }


def closure(asked: Iterable[Requirement]) -> set[str]:
    """Normalised names of what these requirements bring with them here, themselves included."""
    waiting, seen = [(one.name, frozenset(one.extras)) for one in asked], set()
    while waiting:
        name, extras = waiting.pop()
        if (canonicalize_name(name), extras) in seen:
            continue
        seen.add((canonicalize_name(name), extras))
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    return {name for name, _ in seen}


def needed_by() -> dict[str, str]:
    """Normalised name to "core", the extras that bring it, or "development"."""
    found = {name: closure(asked) for name, asked in roots().items()}
    users = defaultdict(list)
    for name in set().union(*found.values()):
        users[name] = [extra for extra in found if extra not in ("core", "all", "dev") and name in found[extra]]
    return {
        name: "core" if name in found["core"] else ", ".join(extras) or "development" for name, extras in users.items()
    }


def rows() -> list[tuple[str, str, str, str]]:
    """Package, version, licence and what needs it, of all that is locked and that this machine can tell of."""
    users = {"setuptools": "building", **needed_by()}
    found = []
    for name, pin in read_lock(LOCK).items():
        if pin.applies_here or name in READ_BY_HAND:
            found.append((name, pin.version, licence_of(name), users.get(name, "other systems")))
    return found


def table(found: Iterable[tuple[str, str, str, str]]) -> str:
    """Markdown."""
    lines = ["| package | version | licence | needed by |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in found)])


def written_rows() -> list[tuple[str, ...]]:
    """The tables of the page as it stands."""
    lines = re.findall(r"^\| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    cells = [tuple(line.split(" | ")) for line in lines]
    return [row for row in cells if len(row) == 4 and row[0] != "package"]


def main() -> int:
    """0: all is fine and written; 1: a licence is refused."""
    found = rows()
    refused = [row for row in found if not is_fine(row[2])]
    for name, version, licence, _ in refused:
        print(f"{name} {version}: '{licence}' is not allowed; read its text, then see .ci/licences.py", file=sys.stderr)
    inside = [row for row in found if row[3] not in ("building", "development", "docs", "other systems")]
    outside = [row for row in found if row not in inside]
    text = PAGE.read_text(encoding="utf-8")
    for name, part in (("installed", inside), ("development", outside)):
        text = re.sub(
            rf"(<!-- {name}: .*? -->\n)(\|.*\n)*", lambda match, part=part: f"{match[1]}{table(part)}\n", text
        )
    PAGE.write_text(text, encoding="utf-8")
    print(f"{len(found)} packages, {len(refused)} refused")
    return int(bool(refused))


if __name__ == "__main__":
    sys.exit(main())
