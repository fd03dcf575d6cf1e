"""``completion``: a script from which a shell learns commands and options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from monai.utils import optional_import

from monai_plan.commands.parts import REPEATS, Outcome, add_command

__all__ = ["SCRIPT_NAME", "add_completion"]

SCRIPT_NAME = "monai-plan"
"""The installed program: shells complete a program's words, not those after ``python -m``."""
SHELLS = ("bash", "zsh", "tcsh")
FROM_DISK = {"DIR": "DIRECTORY", "FILE": "FILE", "JSON": "FILE", "CSV": "FILE", "SOURCE": "FILE"}
"""Metavars of what is completed from the disk, and shtab's word for it."""

shtab, _ = optional_import("shtab", descriptor='completion needs shtab: pip install "monai_plan[completion]"')


def add_completion(subparsers: argparse._SubParsersAction, program: Callable[[str], argparse.ArgumentParser]) -> None:
    """Add ``completion``.

    Args:
        subparsers: of the program.
        program: name of the program -> its whole parser.
    """
    parser = add_command(
        subparsers,
        "completion",
        partial(run_completion, program),
        summary=f"print a script that completes the words after {SCRIPT_NAME} in a shell",
        description="Print a script from which your shell learns to complete the commands, options,\n"
        f"files and folders after {SCRIPT_NAME} (not after python -m monai_plan: shells\n"
        "complete by the program's name). Needs shtab: pip install\n"
        '"monai_plan[completion]".',
        examples="python -m monai_plan completion bash > ~/.local/share/bash-completion/completions/monai-plan\n"
        "python -m monai_plan completion zsh > ~/.zfunc/_monai-plan  # a folder of fpath\n"
        "python -m monai_plan completion tcsh > ~/.monai-plan.tcsh  # to be sourced in ~/.tcshrc",
        interrupted=REPEATS,
    )
    parser.add_argument("shell", choices=SHELLS, help="yours")


def run_completion(program: Callable[[str], argparse.ArgumentParser], arguments: argparse.Namespace) -> Outcome:
    """Run ``completion``."""
    parser = program(SCRIPT_NAME)
    for action in _actions(parser):
        if isinstance(action.metavar, str) and action.metavar in FROM_DISK:
            action.complete = getattr(shtab, FROM_DISK[action.metavar])  # type: ignore[attr-defined]
    script = shtab.complete(parser, arguments.shell)
    return Outcome({"written": [], "shell": arguments.shell, "script": script}, script)


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Options and arguments of a program and of its commands."""
    found = list(parser._actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [own for command in action.choices.values() for own in _actions(command)]
    return found
