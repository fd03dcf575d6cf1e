"""Help that can be relied on: its examples parse, its defaults are stated, and the page in docs/ names the same."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from monai_plan.commands import build_program

PROGRAM = build_program("python -m monai_plan")
COMMANDS = next(action for action in PROGRAM._actions if isinstance(action, argparse._SubParsersAction)).choices
PAGE = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text(encoding="utf-8")
SHARED = {"-h", "--help", "--quiet", "--json"}


def examples(text: str) -> list[list[str]]:
    """The words after ``python -m monai_plan`` of every example in a help text."""
    lines = text.partition("examples:\n")[2].partition("\nexit codes:")[0].replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    commands = []
    for line in words:
        while "&&" in line:
            commands.append(line[: line.index("&&")])
            line = line[line.index("&&") + 1 :]
        commands.append(line)
    ours = [command for command in commands if "monai_plan" in command]
    return [command[command.index("monai_plan") + 1 :] for command in ours]


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {word for action in parser._actions for word in action.option_strings} - SHARED


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_examples_parse(name):
    parser = COMMANDS[name] if name else PROGRAM
    found = examples(parser.format_help())
    assert found
    for words in found:
        if "--help" in words:
            continue
        words = words[: words.index(">")] if ">" in words else words
        parsed = PROGRAM.parse_args(words)
        assert parsed.command in COMMANDS and callable(parsed.run)
    assert not name or any(words[0] == name for words in found)


def test_an_example_that_does_not_parse_would_be_seen():
    text = (
        "examples:\n  python -m monai_plan pack --bundle a \\\n    --too b && python -m monai_plan pack\n\nexit codes:"
    )
    assert examples(text) == [["pack", "--bundle", "a", "--too", "b"], ["pack"]]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_group_a_meaning_and_a_default(name):
    parser = COMMANDS[name]
    exclusive = {id(action) for group in parser._mutually_exclusive_groups for action in group._group_actions}
    assert [action.dest for action in parser._optionals._group_actions] == ["help"], "options outside of a group"
    for action in parser._actions:
        assert action.help, action.dest
        value = action.option_strings and action.nargs != 0 and not action.required and id(action) not in exclusive
        assert not value or "default: " in action.help, action.dest


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_laid_out(name):
    """Every terminal shows it: plain ASCII, examples on lines of their own, codes and what Ctrl-C leaves at the end."""
    shown = (COMMANDS[name] if name else PROGRAM).format_help()
    assert shown.isascii() and "\nexamples:\n  python -m monai_plan " in shown
    codes = re.findall(r"^  (\d+) ", shown.partition("exit codes:")[2], flags=re.M)
    assert codes == (["0", "1", "2", "70", "130"] if name == "audit" else ["0", "2", "70", "130"])
    assert not name or re.search(r"^  130  stopped by Ctrl-C: (the same|nothing half-made)", shown, flags=re.M)
    description = shown.partition("\n\n")[2].partition("options:\n  -h")[0]
    assert max(map(len, description.splitlines())) <= 84


def test_the_programs_help_names_every_command_in_order():
    shown = PROGRAM.format_help()
    assert list(COMMANDS) == re.findall(r"^    (\w+)(?:  |\n)", shown, flags=re.M)
    assert list(COMMANDS)[:3] == ["datalist", "pipeline", "audit"]


def test_packing_says_that_private_stays_out():
    shown = " ".join(COMMANDS["pack"].format_help().split())
    assert "private/ stays out" in shown and "bundle of phantoms" in shown and "FOR BUNDLES OF PHANTOMS ONLY" in shown


def test_the_page_names_every_command_and_option():
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", PAGE, flags=re.M | re.S))
    assert list(sections) == list(COMMANDS)
    for name, text in sections.items():
        assert set(re.findall(r"--[a-z]\w*", text)) == options(COMMANDS[name]), name
    assert SHARED - {"-h", "--help"} <= set(re.findall(r"^\| `(--\w+)`", PAGE, flags=re.M))


def test_the_page_names_every_exit_code():
    from monai_plan.commands import parts

    codes = (parts.DONE, parts.NOT_PASSED, parts.USER_FAULT, parts.PROGRAM_FAULT, parts.INTERRUPTED, parts.CLOSED_PIPE)
    assert re.findall(r"^\| (\d+) \|", PAGE, flags=re.M) == [str(code) for code in codes]
