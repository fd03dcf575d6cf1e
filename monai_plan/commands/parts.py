"""What all commands share: their result, their exit codes, and the form of their options and help."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from monai_plan.utils import parse_json

__all__ = [
    "CLOSED_PIPE",
    "DONE",
    "INTERRUPTED",
    "NOT_PASSED",
    "PROGRAM_FAULT",
    "REPEATS",
    "RESUMES",
    "USER_FAULT",
    "CommandParser",
    "Misuse",
    "Outcome",
    "add_command",
    "add_messages",
    "add_settings",
    "help_end",
    "settings_of",
]

DONE, NOT_PASSED, USER_FAULT, PROGRAM_FAULT, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 70, 130, 141
"""Exit codes: 70 is EX_SOFTWARE of sysexits, the last two are what a shell makes of SIGINT and SIGPIPE."""
RESUMES = "the same command goes on from there"
REPEATS = "nothing half-made is left; the same command begins anew"


@dataclass(frozen=True)
class Outcome:
    """What a command has to say at its end.

    Attributes:
        values: its result in plain JSON values; the file or files that it wrote, as absolute paths, are ``written``.
        text: the same for people, on lines of its own; may be empty where all was said on the way.
        exit_code: of the process.
    """

    values: Mapping[str, Any]
    text: str
    exit_code: int = DONE


class Misuse(Exception):
    """The words on the command line are not those of a command: usage and message."""


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser whose help keeps the lines of its examples, and whose faults are raised.

    Args:
        options: as for :class:`argparse.ArgumentParser`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raise instead of ending the process: whoever asked for JSON gets the fault as JSON, too.

        Raises:
            Misuse: always.
        """
        raise Misuse(self.format_usage(), f"{message}. All options: {self.prog} --help")


def add_command(
    subparsers: argparse._SubParsersAction,
    name: str,
    run: Callable[[argparse.Namespace], Outcome],
    *,
    summary: str,
    description: str,
    examples: str,
    interrupted: str,
    codes: Mapping[int, str] | None = None,
) -> CommandParser:
    """Add a command.

    Args:
        subparsers: of the program.
        name: of the command.
        run: carries it out; ``ValueError``, ``OSError`` and ``RunError`` are taken for the user's faults.
        summary: one line for the program's help.
        description: wrapped by hand, at 79 columns.
        examples: command lines that work, each on a line of its own.
        interrupted: what Ctrl-C leaves, and what to do.
        codes: exit codes that only this command has.
    """
    epilog = help_end(examples, {INTERRUPTED: f"stopped by Ctrl-C: {interrupted}", **(codes or {})})
    parser = subparsers.add_parser(name, help=summary, description=description, epilog=epilog)
    parser.set_defaults(run=run, interrupted=interrupted)
    return parser


def help_end(examples: str, codes: Mapping[int, str]) -> str:
    """The end of a help text: examples and exit codes.

    Args:
        examples: as for :func:`add_command`.
        codes: code to meaning, beside those of every command or in their place.
    """
    known = {
        DONE: "done",
        USER_FAULT: "your input is at fault: the message says what to change",
        PROGRAM_FAULT: "a fault of the program, with its traceback",
        INTERRUPTED: "stopped by Ctrl-C",
        **codes,
    }
    lines = [f"  {code:<4} {meaning}" for code, meaning in sorted(known.items())]
    shown = [f"  {line}" for line in examples.strip().splitlines()]
    return "\n".join(["examples:", *shown, "", "exit codes:", *lines])


def add_messages(parser: argparse.ArgumentParser) -> None:
    """Add ``--quiet`` and ``--json``, which may stand before the command and after it."""
    group = parser.add_argument_group("what is shown")
    for option, meaning in (
        ("--quiet", "no progress bars and no lines on the way; result, warnings and errors stay"),
        ("--json", "the result as one JSON document on stdout, all else on stderr"),
    ):
        # a default would undo the option where it stands before the command
        group.add_argument(option, action="store_true", default=argparse.SUPPRESS, help=meaning)


def add_settings(group: argparse._ArgumentGroup, example: str) -> None:
    """Add ``--set``, for any id of a bundle's configs.

    Args:
        group: of options.
        example: one or two pairs.
    """
    group.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="ID=VALUE",
        help=f"values of the configs, e.g. {example} (default: the bundle's)",
    )


def settings_of(pairs: Sequence[str]) -> dict[str, Any]:
    """What was given with ``--set``, each value read as JSON or else as plain text.

    Args:
        pairs: ``ID=VALUE``.

    Raises:
        ValueError: a pair has no equals sign, or an id is given twice.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--set got '{pair}'; write ID=VALUE, e.g. gan#images=100000")
        if name in settings:
            raise ValueError(f"--set got '{name}' twice, the second time as '{pair}'; leave one of them out")
        try:
            settings[name] = parse_json(value)
        except ValueError:
            settings[name] = value
        if not _is_finite(settings[name]):
            raise ValueError(f"--set got '{pair[:200]}', which is no finite number; correct the value of '{name}'")
    return settings


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)
