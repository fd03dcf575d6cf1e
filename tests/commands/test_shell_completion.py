"""The script that ``completion`` prints: a shell learns commands, options, choices, files and folders from it."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys

import pytest

from monai_plan.__main__ import main
from monai_plan.commands import completion

shtab = pytest.importorskip("shtab")
BASH = """
source "$0"
COMP_WORDS=({words}); COMP_CWORD=$(({count} - 1)); COMP_LINE="{words}"
_shtab_monai_plan
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def complete(tmp_path, capsys):
    """A function: the words typed so far, the last one unfinished -> what bash offers."""
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)

    def offers(*words: str) -> set[str]:
        typed = " ".join(word or "''" for word in ("monai-plan", *words))
        code = BASH.format(words=typed, count=len(words) + 1)
        done = subprocess.run(["bash", "-c", code, str(script)], capture_output=True, text=True, cwd=tmp_path)
        return set(done.stdout.split())

    return offers


def test_bash_offers_commands_options_choices_and_places(complete, tmp_path):
    (tmp_path / "folder").mkdir()
    assert {"datalist", "pipeline", "audit", "completion"} <= complete("")
    assert complete("pi") == {"pipeline"}
    assert {"--quiet", "--json", "--bundle", "--per_class"} <= complete("generate", "--")
    assert complete("generate", "--format", "d") == {"dicom"}
    assert complete("pipeline", "--bundle", "fol") == {"folder"}
    assert "script" not in complete("pipeline", "--bundle", "") and "script" in complete("convert", "")


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_every_shell_has_a_script(shell, capsys):
    assert main(["completion", shell, "--json"]) == 0
    script = json.loads(capsys.readouterr().out)["script"]
    assert "monai-plan" in script and "python -m" not in script.splitlines()[-1]


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_every_shell_can_read_its_script(shell, capsys):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    assert main(["completion", shell]) == 0
    done = subprocess.run([shell, "-n"], input=capsys.readouterr().out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_shtab_the_extra_is_named(monkeypatch, capsys):
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "shtab", None)
        importlib.reload(completion)
        assert main(["completion", "bash"]) == 2
    importlib.reload(completion)
    assert 'pip install "monai_plan[completion]"' in capsys.readouterr().err
    assert main(["completion", "bash"]) == 0
