"""Stages on a disk that fills up or is locked in the middle, and under clocks that jump.

The disk is a small tmpfs, mounted where the stages write, and mounted anew with less room, or read-only, just before a
random change of a file. That needs the right to mount; without it the figures of disks are ``None``.
"""

from __future__ import annotations

import ctypes
import datetime
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from stage_trials import (
    STEPS,
    Outcome,
    Room,
    Whole,
    at_operation,
    broken_files,
    die_before,
    leave_whole,
    resumed,
    run_whole,
)

from monai_plan.latent import bookkeeping

__all__ = ["measure", "show"]

LIBC = ctypes.CDLL(None, use_errno=True)
READ_ONLY, REMOUNT = 1, 32
ROOMY = "size=900m"
"""More than what the commands ask for before they begin."""
LEFT = (0, 4096, 65536)
"""Bytes that still fit on the disk."""
REDRAWS = 20
USER_FAULT = 2
EXPLAINED = ("could not be written", "cannot write to the folder", "MiB left and this work needs")
DECADE = 3650 * 24 * 3600
SEED = 9


def measure(quick: bool, folder: Path) -> dict[str, Any]:
    """Starve and confuse the stages.

    Args:
        quick: the first stage alone.
        folder: an empty one.

    Returns:
        ``disk_full``, ``disk_locked`` and ``clock_jumps``: trials, and how many went well; ``disk_faults`` and
        ``clock_faults``: what did not.
    """
    torch.set_num_threads(1)  # before any other thread: a child of fork has none of them
    room, rng = Room(folder), random.Random(SEED)
    room.furnish()
    wholes = []
    for step in [step for step in STEPS if step.half is None or step.half == 1][: 1 if quick else None]:
        wholes.append(run_whole(room, step, times=1))
        leave_whole(room, wholes[-1])
    return {**disk_trials(room, wholes, quick, rng), **clock_trials(room, wholes, quick, rng)}


def disk_trials(room: Room, wholes: Sequence[Whole], quick: bool, rng: random.Random) -> dict[str, Any]:
    """Fill or lock the disk under each stage, see that it says so and breaks nothing, make room, and resume.

    Returns:
        ``disk_full`` and ``disk_locked``: trials, and how many went well;
        ``disk_faults``: what did not. A stage that was never disturbed in ``REDRAWS`` attempts is no trial.
    """
    try:
        with _disk(room.work):
            pass
    except PermissionError:
        return {"disk_full": None, "disk_locked": None, "disk_faults": []}
    full: list[list[str] | None] = []
    locked: list[list[str] | None] = []
    with _disk(room.work):
        for whole in wholes[:1] if quick else wholes:
            for left in LEFT[:1] if quick else LEFT:
                full.append(_trial(room, whole, rng, lambda left=left: _fill(room.work, left)))  # type: ignore[misc]
            locked.append(_trial(room, whole, rng, lambda: _lock(room.work)))
    return {
        **{
            name: {
                "trials": sum(faults is not None for faults in trials),
                "passed": sum(faults == [] for faults in trials),
                "never_disturbed": trials.count(None),
            }
            for name, trials in (("disk_full", full), ("disk_locked", locked))
        },
        "disk_faults": [fault for faults in full + locked for fault in faults or ()],
    }


def _trial(room: Room, whole: Whole, rng: random.Random, spoil: Callable[[], None]) -> list[str] | None:
    """Spoil the disk before a random change of a file, until the stage notices; then mend it and go on."""
    for _ in range(REDRAWS):
        _mount(room.work, REMOUNT, ROOMY)
        room.restore(whole.step.name)
        number = rng.choice(whole.operations)

        def spoil_at(number: int = number) -> None:
            at_operation(room.work, number, spoil)

        outcome = room.run(whole.step, spoil_at)
        if outcome.code or outcome.killed_by:
            break
    else:
        return None  # what was left was enough each time
    _mount(room.work, REMOUNT, ROOMY)
    where = f"{whole.step.name}, spoilt before operation {number}"
    found = list(_unclear(outcome))
    found += [f"broken: {name}" for name in broken_files(room.work, whole.before, whole.after)]
    found += resumed(room, whole)
    return [f"{where}: {fault}" for fault in found]


def _unclear(outcome: Outcome) -> Iterator[str]:
    error = outcome.said.rpartition("error: ")[2].strip()
    if outcome.code != USER_FAULT:
        yield f"ended with {outcome.code} (signal {outcome.killed_by}): {outcome.said[-600:]}"
    elif not any(words in error for words in EXPLAINED):
        yield f"says only: {error[:300]}"


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """A tmpfs at ``folder``, whose own files are hidden meanwhile."""
    _mount(folder, 0, ROOMY)
    try:
        yield
    finally:
        if LIBC.umount2(os.fsencode(folder), 0):
            raise OSError(ctypes.get_errno(), f"cannot unmount '{folder}'")


def _mount(folder: Path, flags: int, options: str) -> None:
    if LIBC.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options.encode()):
        error = ctypes.get_errno()
        raise OSError(error, f"cannot mount '{folder}': {os.strerror(error)}")


def _fill(folder: Path, left: int) -> None:
    stats = os.statvfs(folder)
    used = (stats.f_blocks - stats.f_bfree) * stats.f_frsize
    _mount(folder, REMOUNT, f"size={max(used + left, 4096)}")  # 0 would be no limit


def _lock(folder: Path) -> None:
    """No disk is locked while a file on it is open for writing: then the trial is drawn again."""
    with suppress(OSError):
        _mount(folder, REMOUNT | READ_ONLY, ROOMY)


def clock_trials(room: Room, wholes: Sequence[Whole], quick: bool, rng: random.Random) -> dict[str, Any]:
    """Run each stage under a clock that jumps by years; then kill it ten years ahead and resume it in the seventies.

    Returns:
        ``clock_jumps``: trials and how many went well; ``clock_faults``: what did not.
    """
    trials: list[list[str]] = []
    for whole in wholes[:1] if quick else wholes:
        room.restore(whole.step.name)
        found = resumed(room, whole, lambda: _shift_clock(lambda: random.uniform(-DECADE, DECADE)))
        trials.append([f"{whole.step.name}, jumping clock: {fault}" for fault in found])
        room.restore(whole.step.name)
        number = rng.choice(whole.operations)

        def ahead_and_killed(number: int = number) -> None:
            _shift_clock(lambda: DECADE)
            die_before(room.work, number)

        room.run(whole.step, ahead_and_killed)
        for path in room.work.rglob("*"):
            moment = time.time() + rng.uniform(-DECADE, DECADE)
            os.utime(path, (moment, moment), follow_symlinks=False)
        found = resumed(room, whole, lambda: _shift_clock(lambda: -5 * DECADE))
        trials.append([f"{whole.step.name}, resumed in the past: {fault}" for fault in found])
    faults = [fault for found in trials for fault in found]
    passed = sum(not found for found in trials)
    return {"clock_jumps": {"trials": len(trials), "passed": passed}, "clock_faults": faults}


def _shift_clock(shift: Callable[[], float]) -> None:
    """Let this process, a child, believe in another time; how long things take is not to depend on that."""
    true_time, true_datetime = time.time, datetime.datetime

    class Shifted(true_datetime):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            return true_datetime.now(tz) + datetime.timedelta(seconds=shift())

    time.time = lambda: true_time() + shift()
    datetime.datetime = Shifted  # type: ignore[misc]
    bookkeeping.datetime = Shifted  # type: ignore[attr-defined]


def show(figures: dict[str, Any]) -> str:
    """Lines for disks and clocks, and what went wrong."""
    lines = []
    for name in ("disk_full", "disk_locked", "clock_jumps"):
        trials = figures[name]
        counts = "no right to mount" if trials is None else f"{trials['passed']} of {trials['trials']} went well"
        lines.append(f"{name}: {counts}")
    return "\n".join([*lines, *figures["disk_faults"], *figures["clock_faults"]])
