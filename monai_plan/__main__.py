"""The command line: ``python -m monai_plan COMMAND``, or ``monai-plan COMMAND``."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from monai.utils import OptionalImportError

from monai_plan._version import __version__
from monai_plan.commands.completion import SCRIPT_NAME
from monai_plan.commands.console import on_the_way
from monai_plan.commands.parts import CLOSED_PIPE, INTERRUPTED, PROGRAM_FAULT, USER_FAULT, Misuse
from monai_plan.commands.program import build_program
from monai_plan.utils import RunError

logger = logging.getLogger("monai_plan")

REPORT = (
    f"If this does not say what to change, it is a fault of monai_plan {__version__}: report it with these lines, your "
    "command and the versions of MONAI and torch. Strike out names of patients and folders first, and add no image, no "
    "datalist and nothing of private/"
)
EMPTY_WORD = (
    "one of the words after the command is empty; a variable of your shell may not be set. Leave its option out, or "
    "give a value"
)
LOST_PROCESS = (
    "A process that worked for this command ended before its time, as a rule because memory ran out. Free some, or "
    "choose smaller batches, and type the command again"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after ``python -m monai_plan``; None takes them from the shell.

    Returns:
        The exit code: 0; 1 where an audit that must pass has not; 2 after a message on stderr where the user has
        something to change; 70 after a traceback where the program is; 130 after Ctrl-C.

    Raises:
        SystemExit: with 0, after ``--help`` and ``--version``.
        BrokenPipeError: nobody reads what is printed any more.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = build_program(_program_name())
    try:
        if "" in words:
            raise Misuse(parser.format_usage(), EMPTY_WORD)
        parsed = parser.parse_args(words)
    except Misuse as error:
        usage, message = error.args
        typed = next((word for word in words if not word.startswith("-")), None)
        return _failed(typed, USER_FAULT, message, "--json" in words, before=usage)
    parsed.quiet, as_json = "quiet" in parsed, "json" in parsed
    if parsed.command is None:
        return _failed(None, USER_FAULT, "no command was given", as_json, before=parser.format_help() + "\n")
    try:
        with on_the_way(parsed.quiet, as_json):
            outcome = parsed.run(parsed)
    except KeyboardInterrupt:
        return _failed(parsed.command, INTERRUPTED, f"stopped by Ctrl-C: {parsed.interrupted}", as_json)
    except BrokenPipeError as error:
        if _nobody_reads():
            raise
        return _failed(parsed.command, USER_FAULT, f"{error}. {LOST_PROCESS}", as_json)
    except (ValueError, OSError, OptionalImportError, RunError) as error:
        logger.debug("where it was raised:", exc_info=True)
        return _failed(parsed.command, USER_FAULT, str(error), as_json)
    except Exception as error:
        message = f"{type(error).__name__}: {error}. {REPORT}"
        return _failed(parsed.command, PROGRAM_FAULT, message, as_json, before=traceback.format_exc())
    if as_json:
        _print_json({"command": parsed.command, "exit_code": outcome.exit_code, **outcome.values})
    elif outcome.text:
        print(outcome.text)
    return outcome.exit_code


def _program_name() -> str:
    return SCRIPT_NAME if Path(sys.argv[0]).stem == SCRIPT_NAME else "python -m monai_plan"


def _nobody_reads() -> bool:
    """Whether the broken pipe is stdout: what could not be written is still in its buffer."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    return False


def _failed(command: str | None, exit_code: int, message: str, as_json: bool, before: str = "") -> int:
    print(f"{before}error: {message}", file=sys.stderr)
    if as_json:
        _print_json({"command": command, "exit_code": exit_code, "error": message})
    return exit_code


def _print_json(document: dict[str, Any]) -> None:
    """Once: under torchrun each process runs the command."""
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(document, indent=2))


def main_and_exit() -> NoReturn:
    """Run the command of the shell and end the process with its exit code."""
    try:
        try:
            exit_code = main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes both once more at its end
        silence = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(silence, stream.fileno())
        exit_code = CLOSED_PIPE
    sys.exit(exit_code)


if __name__ == "__main__":
    main_and_exit()
