"""Where what is said goes: log lines to stderr, and nothing but warnings and errors where quiet was asked for."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any

from monai.utils import optional_import

__all__ = ["on_the_way", "said_by"]

tqdm, has_tqdm = optional_import("tqdm.std", name="tqdm")
WORKFLOWS = logging.getLogger("monai.bundle.workflows")


@contextmanager
def on_the_way(quiet: bool, as_json: bool) -> Iterator[None]:
    """What is shown while a command works.

    Args:
        quiet: no progress bars, no information on stdout, no log lines below warnings.
        as_json: stdout is for the result alone; what is printed goes to stderr.
    """
    with ExitStack() as stack:
        stack.enter_context(_log_on_stderr(logging.WARNING if quiet else logging.INFO))
        if quiet:
            stack.enter_context(_without_bars())
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
        elif as_json:
            stack.enter_context(redirect_stdout(sys.stderr))
        yield


def said_by(function: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """What a function prints: a config ends with lines that are the command's result in words.

    Args:
        function: is called, and what it returns is left.
        arguments, options: of the function.
    """
    heard = io.StringIO()
    try:
        with redirect_stdout(heard):
            function(*arguments, **options)
    except BaseException:
        sys.stderr.write(heard.getvalue())
        raise
    return heard.getvalue().rstrip("\n")


@contextmanager
def _log_on_stderr(level: int) -> Iterator[None]:
    """MONAI's own loggers write to the stdout of the time when it was imported."""
    root = logging.getLogger()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    found = [
        other
        for logger in logging.Logger.manager.loggerDict.values()
        if isinstance(logger, logging.Logger)
        for other in logger.handlers
        if isinstance(other, logging.StreamHandler) and other.stream in (sys.stdout, sys.__stdout__)
    ]
    before = [(other, other.stream, other.level) for other in found]
    root_level = root.level
    for other in (handler, *found):
        other.setStream(sys.stderr)
        other.setLevel(level)
    root.setLevel(logging.INFO)  # MONAI's StatsHandler warns of a higher one
    root.addHandler(handler)
    WORKFLOWS.addFilter(_tells_something)
    try:
        yield
    finally:
        WORKFLOWS.removeFilter(_tells_something)
        root.removeHandler(handler)
        root.setLevel(root_level)
        for other, stream, level_before in before:
            other.setStream(stream)
            other.setLevel(level_before)


def _tells_something(record: logging.LogRecord) -> bool:
    """MONAI warns of every config that is run without a logging file, as the pipeline runs all of them."""
    return not record.getMessage().startswith("Logging file is set to False")


@contextmanager
def _without_bars() -> Iterator[None]:
    """All bars of the process, also Ignite's; tqdm reads TQDM_DISABLE when it is imported, which is too early."""
    if not has_tqdm:
        yield
        return
    make = tqdm.__init__

    def make_disabled(bar: Any, *arguments: Any, **options: Any) -> None:
        make(bar, *arguments, **{**options, "disable": True})

    tqdm.__init__ = make_disabled
    try:
        yield
    finally:
        tqdm.__init__ = make
