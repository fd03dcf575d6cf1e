"""Make the lock files anew, from constraints.txt and the extra "dev" of setup.cfg; and read them.

pip install uv packaging && python .ci/lock_files.py
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[1]
LOCK, CUDA_LOCK, CPU_LOCK = (REPOSITORY / f"requirements{kind}.lock" for kind in ("", "-cuda", "-cpu"))
OLDEST_PYTHON = "3.11.5"  # soupsieve, which furo needs
TORCH_CPU_BUILDS = {"2.13.0": ("6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",)}
"""Version of torch to the hashes of PyTorch's own CPU builds of it, which the package index does not have.

``python -m pip hash FILE`` prints the hash of a wheel. So far: Python 3.11 on Linux, x86_64.
"""
CUDA_ONLY = re.compile(r"nvidia-|cuda-|triton$")
"""Names of what torch needs on a GPU alone."""

HEADER = """\
# Made by `python .ci/lock_files.py` from constraints.txt and the extra "dev" of setup.cfg; do not edit.
#
# Every file that may be installed, by its SHA-256, for CPython {python} to 3.14 on Linux (x86_64, aarch64), macOS
# (arm64) and Windows (x86_64); there is a wheel for each of them, and nothing is built from source:
#
#     pip install --require-hashes --no-deps --only-binary :all: -r requirements.lock
#     pip install --no-deps --no-build-isolation -e .
#
# Continuous integration installs so (runtests.sh). For other machines there is `pip install -c constraints.txt`.
"""
NOTES = {
    LOCK: """\
# On Linux the package index's torch is a build for GPUs, which needs requirements-cuda.lock, too. To have PyTorch's CPU
# build instead, where pip can find it (--find-links, an index of your own), install requirements-cpu.lock first.
""",
    CPU_LOCK: """\
# This is PyTorch's own CPU build of torch; pip leaves it alone when requirements.lock is installed after it.
""",
    CUDA_LOCK: """\
# These are NVIDIA's libraries and Triton, which the package index's torch needs on Linux: several GB, and most of them
# under NVIDIA's own licence.
""",
}


@dataclass(frozen=True)
class Pin:
    """One entry of a lock file."""

    version: str
    hashes: tuple[str, ...]
    applies_here: bool
    """Whether this interpreter and platform need it."""


def read_lock(path: Path) -> dict[str, Pin]:
    """Normalised name to pin.

    Raises:
        ValueError: a line is not ``name==version`` with at least one SHA-256.
    """
    pins = {}
    for entry in _entries(re.sub(r"^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.M)):
        words = entry.replace("\\\n", " ").split(" --hash=")
        requirement = Requirement(words[0].strip())
        exact = [part.version for part in requirement.specifier if part.operator == "=="]
        hashes = [re.fullmatch(r"sha256:([0-9a-f]{64}) *", word) for word in words[1:]]
        if len(exact) != 1 or not hashes or not all(hashes):
            raise ValueError(
                f"'{path.name}' has an entry without one version and its SHA-256: {entry[:80]!r}. It was edited by "
                "hand; make it anew: python .ci/lock_files.py"
            )
        applies = requirement.marker is None or requirement.marker.evaluate()
        pins[canonicalize_name(requirement.name)] = Pin(exact[0], tuple(found[1] for found in hashes), applies)
    return pins


def _entries(text: str) -> list[str]:
    return re.split(r"\n(?=\S)", text.strip())


def resolve() -> dict[str, str]:
    """Name to its entry with all hashes, for every platform at once."""
    with tempfile.TemporaryDirectory() as folder:
        build = Path(folder) / "build.in"
        build.write_text("setuptools\n")  # builds this package
        made = Path(folder) / "made.txt"
        how = ["--universal", "--generate-hashes", "--python-version", OLDEST_PYTHON, "--no-config"]
        what = ["--extra", "dev", "-c", "constraints.txt", "setup.cfg", str(build)]
        shown = ["--no-header", "--no-annotate", "--quiet", "-o", str(made)]
        command = ["uv", "pip", "compile", *how, *what, *shown]
        if subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL).returncode:
            sys.exit("uv could not resolve the requirements of setup.cfg with constraints.txt; what it said is above")
        return {entry.partition("==")[0]: entry for entry in _entries(made.read_text(encoding="utf-8"))}


def cpu_build(torch: str) -> str:
    """The entry of PyTorch's CPU build.

    Args:
        torch: the entry of the index's build.
    """
    version = re.match(r"torch==([\w.]+)", torch)[1]
    if version not in TORCH_CPU_BUILDS:
        sys.exit(
            f"no hash of a CPU build of torch {version} is known: fetch that wheel from PyTorch, run "
            "`python -m pip hash` on it, and add what it prints to TORCH_CPU_BUILDS in .ci/lock_files.py"
        )
    return " \\\n    ".join([f"torch=={version}+cpu", *(f"--hash=sha256:{hex}" for hex in TORCH_CPU_BUILDS[version])])


def main() -> None:
    entries = resolve()
    contents = {
        LOCK: [entry for name, entry in entries.items() if not CUDA_ONLY.match(name)],
        CUDA_LOCK: [entry for name, entry in entries.items() if CUDA_ONLY.match(name)],
        CPU_LOCK: [cpu_build(entries["torch"])],
    }
    for path, kept in contents.items():
        path.write_text("\n".join([HEADER.format(python=OLDEST_PYTHON) + "#\n" + NOTES[path], *kept, ""]), "utf-8")
        print(f"{path.name}: {len(kept)} packages")


if __name__ == "__main__":
    main()
