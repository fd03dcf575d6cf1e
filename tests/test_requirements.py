"""What installing the package asks for: open bounds, known-good pins, and a lock of the same pins with hashes."""

import configparser
import importlib
import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import monai_plan

REPOSITORY = Path(monai_plan.__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (REPOSITORY / "setup.cfg").is_file(), reason="not a checkout")


@pytest.fixture(scope="module")
def pins():
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return dict(line.strip().split("==") for line in lines if "==" in line and not line.startswith("#"))


@pytest.fixture(scope="module")
def requirements():
    """By extra, and "" for the core: the lines of setup.cfg."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(REPOSITORY / "setup.cfg")
    sections = {"": config["options"]["install_requires"], **config["options.extras_require"]}
    return {
        extra: [line for line in text.splitlines() if line and not line.startswith(("#", "%"))]
        for extra, text in sections.items()
    }


@pytest.fixture(scope="module")
def developing():
    """All requirements of the extra "dev" and of the core."""
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    lines = f"{config['options']['install_requires']}\n{config['options.extras_require']['dev']}".splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def lock():
    """The module that makes and reads lock files."""
    sys.path.insert(0, str(REPOSITORY / ".ci"))
    try:
        return importlib.import_module("lock_files")
    finally:
        sys.path.remove(str(REPOSITORY / ".ci"))


@pytest.fixture(scope="module")
def locked(lock):
    return lock.read_lock(lock.LOCK)


def test_the_package_leaves_torch_open(requirements):
    torch = [line for line in requirements[""] if line.startswith("torch")]
    assert len(torch) == 1 and re.fullmatch(r"torch>=\d+\.\d+", torch[0])  # no torchvision, no upper bound


def test_the_constraints_pin_a_torch_and_the_torchvision_that_belongs_to_it(pins):
    torch, vision = (tuple(map(int, pins[name].split("+")[0].split("."))) for name in ("torch", "torchvision"))
    assert torch[0] == 2 and vision == (0, torch[1] + 15, torch[2])


def test_everything_that_is_asked_for_is_pinned(requirements, pins):
    known = {name.lower().replace("_", "-") for name in pins}
    names = {re.split(r"[<>=~!\[; ]", line)[0].lower() for lines in requirements.values() for line in lines}
    assert not names - known


def test_the_lock_has_the_versions_of_the_constraints(pins, locked):
    """If not: python .ci/lock_files.py."""
    known = {canonicalize_name(name): version for name, version in pins.items()}
    assert {name: pin.version for name, pin in locked.items()} == {name: known.get(name) for name in locked}


def test_the_lock_meets_every_requirement_of_developing(developing, locked):
    """If not: python .ci/lock_files.py."""
    missing = {str(one) for one in developing if canonicalize_name(one.name) not in locked}
    assert len(developing) > 40 and not missing
    assert not [str(one) for one in developing if locked[canonicalize_name(one.name)].version not in one.specifier]


def test_what_builds_the_package_is_locked(locked):
    asked = re.search(r"^requires = \[(.+)\]$", (REPOSITORY / "pyproject.toml").read_text(), re.M)[1]
    for build in map(Requirement, re.findall(r'"(.+?)"', asked)):
        assert locked[build.name].version in build.specifier


def test_the_cpu_build_is_of_the_locked_version(lock, locked):
    """Else pip would replace it by the index's build of several GB."""
    (cpu_build,) = lock.read_lock(lock.CPU_LOCK).values()
    assert cpu_build.version == locked["torch"].version + "+cpu"


def test_the_libraries_of_gpus_are_in_a_lock_of_their_own(lock, locked):
    cuda = lock.read_lock(lock.CUDA_LOCK)
    assert {"nvidia-cublas", "triton"} < set(cuda) and not set(cuda) & set(locked)
    assert not [name for name in locked if lock.CUDA_ONLY.match(name)]


@pytest.mark.parametrize(
    "entry",
    [
        "numpy==2.4.6",
        "numpy>=2 \\\n    --hash=sha256:" + "0" * 64,
        "numpy==2.4.6 \\\n    --hash=sha256:" + "0" * 63,
        "numpy==2.4.6 \\\n    --hash=md5:" + "0" * 32,
    ],
)
def test_an_entry_without_version_and_hash_is_refused(lock, tmp_path, entry):
    (tmp_path / "requirements.lock").write_text(f"# comment\n{entry}\n")
    with pytest.raises(ValueError, match="edited by hand"):
        lock.read_lock(tmp_path / "requirements.lock")
