"""What installing the package asks for."""

import configparser
import re
from pathlib import Path

import pytest

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
