"""Every stage killed at random moments and resumed by the same command.

A kill has survived if no file under a final name was broken right after it, the same command then ended well with the
files of a run that was never killed, and nothing is left under a temporary name. Files are compared bit by bit,
without the dates and durations in them; checkpoints of training, whose archives name the temporary file, tensor by
tensor.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import threading
from pathlib import Path
from typing import Any

import torch
from stage_trials import (
    STEPS,
    Outcome,
    Room,
    Step,
    Whole,
    at_operation,
    broken_files,
    die_before,
    leave_whole,
    resumed,
    run_whole,
)

__all__ = ["measure", "show"]

KINDS = {"time": 10, "operation": 10, "mid_write": 4}
"""SIGKILL at a random time, and before a random change of a file; SIGXFSZ at a random byte of one."""
QUICK = {"datalist": ("time", "operation"), "train_gan": ("operation", "mid_write")}
REDRAWS = 40
SEED = 9


def measure(quick: bool, folder: Path) -> dict[str, Any]:
    """Kill the stages.

    Args:
        quick: a handful of trials of two stages.
        folder: an empty one.

    Returns:
        ``kills`` and ``kills_survived`` in all; ``kill_stages`` with the counts of each stage; ``kill_faults`` with
        what went wrong.
    """
    torch.set_num_threads(1)  # before any other thread: a child of fork has none of them
    room, rng = Room(folder), random.Random(SEED)
    room.furnish()
    stages, faults = {}, []
    for step in STEPS[: len(QUICK)] if quick else STEPS:
        whole = run_whole(room, step, times=1 if quick else 2)
        kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
        chosen = list(QUICK[step.name]) if quick else kinds
        counts: dict[str, Any] = {"kills": 0, "survived": 0, **dict.fromkeys(KINDS, 0), "ended_first": 0}
        for kind in chosen:
            found, redrawn = kill_and_resume(room, whole, kind, rng)
            counts["kills"] += 1
            counts["survived"] += not found
            counts[kind] += 1
            counts["ended_first"] += redrawn
            faults += [f"{step.name}, {kind}: {fault}" for fault in found]
        stages[step.name] = counts
        print(f"{step.name}: {counts}", *faults[-3:] if counts["kills"] > counts["survived"] else (), flush=True)
        leave_whole(room, whole)
    return {
        "kills": sum(counts["kills"] for counts in stages.values()),
        "kills_survived": sum(counts["survived"] for counts in stages.values()),
        "kill_stages": stages,
        "kill_faults": faults,
    }


def kill_and_resume(room: Room, whole: Whole, kind: str, rng: random.Random) -> tuple[list[str], int]:
    """Kill a step once, look at its files, run it again, and compare.

    Returns:
        What went wrong, and how often the step had ended before it could be killed.
    """
    for redrawn in range(REDRAWS):  # noqa: B007 (returned)
        room.restore(whole.step.name)
        moment, outcome = _killed(room, whole, kind, rng)
        if outcome.killed_by and _in_its_half(room, whole.step):
            break
    else:
        raise RuntimeError(f"'{whole.step.name}' could not be killed by {kind} in {REDRAWS} attempts: {outcome}")
    found = [f"{moment}: broken after the kill: {name}" for name in broken_files(room.work, whole.before, whole.after)]
    found += [f"{moment}: {fault}" for fault in resumed(room, whole)]
    return found, redrawn


def _in_its_half(room: Room, step: Step) -> bool:
    return step.half is None or any(room.work.rglob(step.mark)) == bool(step.half)


def _killed(room: Room, whole: Whole, kind: str, rng: random.Random) -> tuple[str, Outcome]:
    if kind == "time" and whole.step.half == 1:  # counted from its beginning, which a slower run reaches later
        delay = rng.uniform(0, whole.times[1] - whole.times[0])
        return f"{delay:.2f} s into its half", room.run(whole.step, prepare=lambda: _die_later(room, whole, delay))
    if kind == "time":
        moment = rng.uniform(*whole.times)
        return f"after {moment:.2f} s", room.run(whole.step, kill_after=moment)
    if kind == "operation":
        number = rng.choice(whole.operations)
        return f"before operation {number}", room.run(whole.step, prepare=lambda: die_before(room.work, number))
    limit = rng.randrange(1, max(2, rng.choice(whole.sizes)))

    def limit_files() -> None:
        at_operation(room.work, whole.operations[0], lambda: _die_at_byte(limit))

    return f"at byte {limit} of a file", room.run(whole.step, prepare=limit_files)


def _die_later(room: Room, whole: Whole, delay: float) -> None:
    """SIGKILL so many seconds after the renaming that parts the stage in two."""

    def start_clock() -> None:
        clock = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
        clock.daemon = True
        clock.start()

    at_operation(room.work, whole.operations[0] - 1, start_clock)


def _die_at_byte(limit: int) -> None:
    """No file may grow beyond ``limit``: who tries is ended by the kernel, as abruptly as by SIGKILL."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def show(figures: dict[str, Any]) -> str:
    """A table of the kills, and what went wrong."""
    lines = [f"{'stage':<16}{'kills':>6}{'survived':>10}{'time':>6}{'operation':>11}{'mid write':>11}{'redrawn':>9}"]
    for name, of_stage in figures["kill_stages"].items():
        columns = [of_stage[key] for key in ("kills", "survived", "time", "operation", "mid_write", "ended_first")]
        lines.append(f"{name:<16}" + "".join(f"{n:>{w}}" for n, w in zip(columns, (6, 10, 6, 11, 11, 9), strict=True)))
    lines.append(f"{figures['kills_survived']} of {figures['kills']} kills survived")
    return "\n".join([*lines, *figures["kill_faults"]])
