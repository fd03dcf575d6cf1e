"""The benchmarks keep up with the code: each can be imported and knows its common options."""

import subprocess
import sys
from pathlib import Path

import pytest

import monai_plan

FOLDER = Path(monai_plan.__file__).resolve().parent.parent / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="not a checkout")
COMMANDS = ("audit", "gan", "gan_curves", "gan_memorisation", "k_same", "sampler", "walk", "walk_tradeoff")


@pytest.mark.parametrize("name", COMMANDS)
def test_says_how_it_is_used(name):
    done = subprocess.run([sys.executable, str(FOLDER / f"{name}.py"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "--quick" in done.stdout and "--json" in done.stdout


def test_all_are_known():
    others = {"common", "image_sets", "plain_style_gan", "small_gan"}
    assert {path.stem for path in FOLDER.glob("*.py")} == {*COMMANDS, *others}
