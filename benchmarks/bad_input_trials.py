"""How the package answers to bad and hostile inputs: each case in a process of its own, timed and weighed."""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import os
import resource
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from bad_inputs import CASES, OUT, Case
from fuzz_targets import DOCUMENTED, is_ours

MOST_SECONDS = 20.0
MOST_MIB = 512
"""By which the memory of the process may grow."""
_LIMIT_BYTES = 8 * 2**30  # so that a case that fails does not take the machine along


class Trial(NamedTuple):
    """How one case ended.

    Attributes:
        fault: why the answer was not clear; empty if it was.
        message: what the product said.
        seconds: how long it took.
        mib: by how much the memory grew at most.
    """

    fault: str
    message: str
    seconds: float
    mib: float


def trial(case: Case, folder: Path) -> Trial:
    """Run a case in a forked process and judge the answer.

    Args:
        case: see :mod:`bad_inputs`.
        folder: an empty one.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(case, folder, sender))
    begun = time.monotonic()
    process.start()
    sender.close()
    answered = receiver.poll(2 * MOST_SECONDS)
    try:
        found = receiver.recv() if answered else None
    except EOFError:
        found = None
    if not answered:
        process.kill()
    process.join()
    if found is None:
        why = f"the process ended with {process.exitcode}" if answered else f"no answer in {2 * MOST_SECONDS:.0f} s"
        return Trial(why, "", time.monotonic() - begun, 0.0)
    fault, message, seconds, mib = found
    missing = [words for words in case.says if words not in message]
    left = [str(path.relative_to(folder)) for path in folder.rglob("*") if _is_left(path, folder)]
    if not fault and missing:
        fault = f"the message does not say {missing}"
    elif not fault and left:
        fault = f"left behind: {left}"
    elif not fault and seconds > MOST_SECONDS:
        fault = f"it took {seconds:.1f} s"
    elif not fault and mib > MOST_MIB:
        fault = f"it took {mib:.0f} MiB"
    return Trial(fault, message, seconds, mib)


def _is_left(path: Path, folder: Path) -> bool:
    """Something half-made, a result, or what a pickle makes that was executed."""
    return ".part-" in path.name or path.name == "executed" or (path.is_file() and path.is_relative_to(folder / OUT))


def _answer(case: Case, folder: Path, sender: Any) -> None:
    """In the child: what the product did, as (fault, message, seconds, MiB)."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + _LIMIT_BYTES,) * 2)
    before, begun = _peak_mib(), time.monotonic()
    fault = message = ""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            case.call(folder)
        fault = "it was accepted"
    except DOCUMENTED as error:
        message = str(error)
        if not is_ours(error) and not traceback.extract_tb(error.__traceback__)[-1].filename.endswith("bad_inputs.py"):
            fault = f"not our message: {error!r}"
    except BaseException as error:  # whatever it is, it is the finding
        fault, message = f"{type(error).__name__}: {error}", str(error)
    sender.send((fault[:500], message[:20_000], time.monotonic() - begun, _peak_mib() - before))
    sender.close()
    os._exit(0)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def measure(quick: bool, folder: Path) -> dict[str, Any]:
    """Run the cases.

    Args:
        quick: every eighth only.
        folder: an empty one.

    Returns:
        ``bad_inputs`` and ``bad_inputs_clear``, the number of cases and of those that ended with a clear message;
        ``bad_inputs_by_entry`` and, of each case that was not clear, ``bad_inputs_faults``.
    """
    cases = CASES[::8] if quick else CASES
    trials = {}
    for number, case in enumerate(cases):
        room = folder / str(number)
        room.mkdir()
        trials[case] = trial(case, room)
    clear = [case for case in cases if not trials[case].fault]
    return {
        "bad_inputs": len(cases),
        "bad_inputs_clear": len(clear),
        "bad_inputs_hostile": sum(case.hostile for case in cases),
        "bad_inputs_by_entry": dict(Counter(case.entry for case in cases)),
        "bad_inputs_faults": {f"{c.entry}: {c.fault}": trials[c].fault for c in cases if trials[c].fault},
        "bad_inputs_most_seconds": round(max(found.seconds for found in trials.values()), 2),
        "bad_inputs_most_mib": round(max(found.mib for found in trials.values())),
    }


def show(figures: dict[str, Any]) -> str:
    """The figures as a table."""
    entries = figures["bad_inputs_by_entry"]
    lines = [f"{figures['bad_inputs_clear']} of {figures['bad_inputs']} bad inputs ended with a clear message"]
    lines += [f"  {entry:<14} {count:>4}" for entry, count in entries.items()]
    lines += [
        f"at most {figures['bad_inputs_most_seconds']} s and {figures['bad_inputs_most_mib']} MiB; "
        f"{figures['bad_inputs_hostile']} of them were made on purpose"
    ]
    lines += [f"NOT CLEAR {name}: {fault}" for name, fault in figures["bad_inputs_faults"].items()]
    return "\n".join(lines)
