"""The stages as short commands, each run in a child process that may be killed, starved of disk or given other clocks.

The parent imports everything once and forks; a child runs one command in-process and always leaves by ``os._exit``.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import CONFIGS
from monai.bundle import ComponentLocator
from PIL import Image
from safetensors import safe_open

from monai_plan import pipeline
from monai_plan.__main__ import main
from monai_plan.data import phantom_datalist
from monai_plan.transforms import RenderPhantom

__all__ = [
    "SETTINGS",
    "STEPS",
    "Outcome",
    "Room",
    "Step",
    "Whole",
    "at_operation",
    "broken_files",
    "contents",
    "die_before",
    "leave_whole",
    "resumed",
    "run_whole",
]

SETTINGS = {
    "image_size": 32,
    "resnet_widths": [4, 4, 8, 8],
    "images_per_epoch": 32,
    "batch_size": 16,
    "epochs": 1,
    "k": 2,
    "teacher_count": 2,
    "false_rejection": 0.25,
    "gan#channel_base": 128,
    "gan#channel_max": 16,
    "gan#batch_size": 8,
    "gan#images": 64,
    "gan#images_per_epoch": 32,
    "gan#amp": False,
    "gan#quality_images": 16,
    "gan#class_signal#measure#epochs": 1,
    "gan#class_signal#measure#iterations": 1,
    "identity#epochs": 1,
    "embedder#epochs": 1,
    "inversion#encoder_iterations": 2,
    "inversion#options#iterations": 2,
    "inversion#batch_size": 4,
    "walk#anchors_per_class": 4,
    "walk#pairs_per_class": 2,
    "walk#points_per_class": 12,
    "walk#iterations": 2,
    "walk#guide_latents": 8,
    "walk#guide_iterations": 2,
    "walk#guide_rounds": 1,
}
"""Of the pipeline: every stage takes a second or two."""
LOGS = ("tensorboard",)
"""Folders of logs that are appended to, under names that hold the time."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "os.truncate"}
GRACE = 120.0
"""Seconds after which a child is taken for stuck."""


@dataclass(frozen=True)
class Step:
    """One stage of the issue's list.

    Attributes:
        name: of the stage.
        words: after ``python -m monai_plan``; ``{room}`` is the folder of all trials.
        until: the pipeline's stage after which its command ends.
        mark: a file of the stage; its renaming parts the stage in two.
        half: which part of the stage is meant: 0 before the mark, 1 after it, None for the whole stage.
    """

    name: str
    words: tuple[str, ...]
    until: str = ""
    mark: str = ""
    half: int | None = None


def _pipeline(name: str, until: str = "", mark: str = "", half: int | None = None) -> Step:
    words = ["pipeline", "--bundle", str(CONFIGS.parent), "--dataset_dir", "{room}/images", "--output_dir"]
    words += ["{room}/work/run", "--set", *(f"{key}={json.dumps(value)}" for key, value in SETTINGS.items())]
    return Step(name, tuple(words), until or name, mark, half)


RUN = ("--output_dir", "{room}/work/run")
ANCHORS = "walks_linear.safetensors"
STEPS = (
    Step("datalist", ("datalist", "{room}/images", "--output", "{room}/work/datalist.json")),
    _pipeline("train_gan"),
    _pipeline("train_identity"),
    _pipeline("train_label"),
    _pipeline("train_gate"),
    _pipeline("invert"),
    _pipeline("grouping", "walk", ANCHORS, 0),
    _pipeline("walk", "walk", ANCHORS, 1),
    _pipeline("train"),
    Step("audit", ("audit", *RUN, "--set", "audit#images=24", "audit#iterations=2")),
    Step("generate", ("generate", *RUN, "--to", "{room}/work/synthetic", "--per_class", "12", "--shard_size", "8")),
    Step("release", ("release", *RUN)),
)
"""In the order in which a team runs them; grouping has no file of its own before the first walks hold its anchors."""


@dataclass(frozen=True)
class Operation:
    """A change of a file: seconds since the child began, the audit event, and the path."""

    seconds: float
    event: str
    path: str


@dataclass(frozen=True)
class Outcome:
    """How a child ended: by which signal (0: none), with which exit code, after how long, and what it said."""

    killed_by: int
    code: int
    seconds: float
    said: str
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True)
class Room:
    """A folder of trials: ``images`` never changes; ``work`` is what the commands change, always under this path."""

    path: Path

    @property
    def work(self) -> Path:
        """What is killed and resumed."""
        return self.path / "work"

    def furnish(self) -> None:
        """Draw the images: 40 phantoms of 20 patients, and the table of them."""
        _remember_components()
        images = self.path / "images"
        images.mkdir(parents=True)
        draw, lines = RenderPhantom(image_size=32), ["file,label,patient_id"]
        splits = phantom_datalist(patients_per_class=10, visits=2)
        for item in (item for split in ("training", "validation", "testing") for item in splits[split]):
            pixels = np.asarray(draw(item["image"]))[0]
            name = f"{item['patient_id']}-{item['visit']}.png"
            Image.fromarray(((pixels + 1) * 127.5).round().astype(np.uint8)).save(images / name)
            lines.append(f"{name},{'ill' if item['label'] else 'well'},{item['patient_id']}")
        (images / "metadata.csv").write_text("\n".join(lines) + "\n")
        self.work.mkdir()

    def keep(self, name: str) -> None:
        """Remember ``work`` as it is."""
        shutil.copytree(self.work, self.path / "kept" / name, symlinks=True)

    def restore(self, name: str) -> None:
        """Have ``work`` as it was; the folder itself stays, since a disk may be mounted there."""
        for path in self.work.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.path / "kept" / name, self.work, symlinks=True, dirs_exist_ok=True)

    def run(self, step: Step, prepare: Callable[[], None] | None = None, kill_after: float | None = None) -> Outcome:
        """Run a step's command in a child.

        Args:
            step: whose command.
            prepare: called in the child before the command.
            kill_after: seconds after which the child gets SIGKILL.
        """
        log, told = self.path / "log.txt", self.path / "operations.json"
        told.unlink(missing_ok=True)
        begun = time.monotonic()
        child = os.fork()
        if child == 0:
            _be_child(self, step, log, told, prepare)
        limit = GRACE if kill_after is None else kill_after
        status = None
        while status is None:
            found, status = os.waitpid(child, os.WNOHANG)
            if found == 0:
                status = None
                if time.monotonic() - begun > limit:
                    os.kill(child, signal.SIGKILL)
                    _, status = os.waitpid(child, 0)
                else:
                    time.sleep(0.005)
        seconds = time.monotonic() - begun
        ended_well = os.WIFEXITED(status)
        report = json.loads(told.read_text()) if ended_well and told.is_file() else {"operations": (), "modules": ()}
        operations = tuple(Operation(*one) for one in report["operations"])
        _import_early(report["modules"])
        said = log.read_text(errors="replace")
        if ended_well:
            return Outcome(0, os.WEXITSTATUS(status), seconds, said, operations)
        if told.is_file():  # killed while it reported, after the step
            return Outcome(0, 0, seconds, said, operations)
        return Outcome(os.WTERMSIG(status), -1, seconds, said, operations)


def _import_early(names: Sequence[str]) -> None:
    """Have what a child imported late, so that the next children need not."""
    for name in names:
        if name not in sys.modules:
            with suppress(Exception):
                importlib.import_module(name)
    ComponentLocator().get_component_module_name("")


def _remember_components() -> None:
    """Let MONAI's search for its own classes, the same in all children, be done once by the parent."""
    search = ComponentLocator._find_classes_or_functions
    found: dict[tuple[str, ...], dict[str, list]] = {}

    def remembered(self: ComponentLocator, names: Sequence[str]) -> dict[str, list]:
        if tuple(names) not in found:
            found[tuple(names)] = search(self, names)
        return found[tuple(names)]

    ComponentLocator._find_classes_or_functions = remembered  # type: ignore[method-assign]


class _Reached(BaseException):
    """The pipeline has come to the stage that is tried."""


def _be_child(room: Room, step: Step, log: Path, told: Path, prepare: Callable[[], None] | None) -> None:
    """Run the command and end the process, whatever happens."""
    code = 99
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        os.chdir(room.path)
        _end_after(step.until)
        operations: list[tuple[float, str, str]] = []
        begun = time.monotonic()
        watch_operations(room.work, lambda event, path: operations.append((time.monotonic() - begun, event, path)))
        if prepare is not None:
            prepare()
        try:
            code = main([word.format(room=room.path) for word in step.words])
        except _Reached:
            code = 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        told.write_text(json.dumps({"operations": operations, "modules": sorted(sys.modules)}))
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _end_after(stage: str) -> None:
    """Let the pipeline's command end before it looks at the stage behind this one; nothing else is changed."""
    names = [one.name for one in pipeline.STAGES]
    inputs = pipeline.Pipeline._inputs

    def inputs_until(self: pipeline.Pipeline, parser: Any, one: pipeline.Stage, overrides: Any) -> dict[str, str]:
        if stage and names.index(one.name) > names.index(stage):
            raise _Reached
        return inputs(self, parser, one, overrides)

    pipeline.Pipeline._inputs = inputs_until  # type: ignore[method-assign]


def watch_operations(root: Path, call: Callable[[str, str], None]) -> None:
    """Call before every change of a file under ``root`` that Python makes; native writers are not seen."""
    inside = f"{root}{os.sep}"

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if not isinstance(path, str | bytes | os.PathLike) or not (flags or 0) & WRITING:
                return
        elif event in CHANGES:
            path = arguments[1] if event in ("os.rename", "os.link") else arguments[0]
            folder = arguments[-1]
            if event in ("os.remove", "os.rmdir") and isinstance(folder, int) and folder >= 0:
                path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fsdecode(path))
        else:
            return
        if isinstance(path, str | bytes | os.PathLike):
            name = os.fsdecode(path)
            if name.startswith(inside) or name == str(root):
                call(event, name)

    sys.addaudithook(hook)


def at_operation(root: Path, number: int, call: Callable[[], None]) -> None:
    """Call once, before the change number ``number`` (from 0) of a file under ``root``."""
    seen = -1

    def count(event: str, path: str) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            call()

    watch_operations(root, count)


def die_before(root: Path, number: int) -> None:
    """Be killed before the change number ``number``."""
    at_operation(root, number, lambda: os.kill(os.getpid(), signal.SIGKILL))


def leftovers(root: Path) -> list[str]:
    """Files and folders under temporary names."""
    parts = (path.relative_to(root).as_posix() for path in root.rglob(".*"))
    return sorted(name for name in parts if not name.endswith(".ledger.json.lock"))


def _is_final(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    return path.is_file() and not any(part.startswith(".") or part in LOGS for part in parts)


def final_files(root: Path) -> dict[str, Path]:
    """Every file under a final name, by its path below ``root``."""
    return {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if _is_final(path, root)}


def broken_files(root: Path, *known: dict[str, str]) -> list[str]:
    """Files under a final name that cannot be read, or, of formats without a check, are none of those known.

    Args:
        root: the folder.
        known: :func:`contents` of the folder in states that are right.
    """
    found = []
    for name, path in final_files(root).items():
        try:
            _read(path)
            if path.suffix in (".txt", ".md", ".html", ".csv", ".sig", ".key") and known:
                digest = _digest(path)
                if all(state.get(name) != digest for state in known):
                    raise ValueError("none of the known states")
        except Exception as error:
            found.append(f"{name} ({path.stat().st_size} bytes): {error}"[:200])
    return found


def _read(path: Path) -> None:
    if path.stat().st_size == 0:
        raise ValueError("empty")
    if path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".safetensors":
        with safe_open(str(path), framework="pt") as handle:
            for name in handle.keys():  # noqa: SIM118 (not a dict)
                handle.get_tensor(name)
    elif path.suffix == ".pt":
        torch.load(path, map_location="cpu", weights_only=True)
    elif path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()


def contents(root: Path) -> dict[str, str]:
    """A digest of every file under a final name, without what tells the time: dates, durations, hashes over these."""
    return {name: _digest(path) for name, path in final_files(root).items()}


_TIMES = re.compile(
    rb'"(?:seconds|date|[a-z_]*seconds)": [^,\n}]*'
    rb"|\b\d+ (?:seconds|minutes)\b|\d{4}-\d\d-\d\d(?:T[\d:+.Z]*)?|\d{1,2} [A-Z][a-z]+ \d{4}(?:, \d\d:\d\d(?: UTC)?)?"
)
_HASHES = re.compile(rb"[0-9a-f]{64}")


def _digest(path: Path) -> str:
    if path.suffix == ".pt":
        return sha256(repr(_plain(torch.load(path, map_location="cpu", weights_only=True))).encode()).hexdigest()
    content = path.read_bytes()
    if path.suffix in (".json", ".html", ".md", ".txt"):
        content = _TIMES.sub(b"", content)
    if path.suffix == ".html" or path.parent.name == "stages":  # hashes of files that hold a date
        content = _HASHES.sub(b"", content)
    return sha256(content).hexdigest()


def _plain(value: Any) -> Any:
    """A checkpoint without durations, and with the bits of its tensors."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items() if "seconds" not in str(name)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        return (tuple(value.shape), str(value.dtype), sha256(value.contiguous().numpy().tobytes()).hexdigest())
    return value


def differences(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Names that only one of two folders has, or whose contents differ."""
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


@dataclass
class Whole:
    """A stage that nobody killed: its time, its changes of files, and the folder before and after."""

    step: Step
    seconds: float
    operations: list[int]
    times: tuple[float, float]
    before: dict[str, str]
    after: dict[str, str]
    sizes: list[int] = field(default_factory=list)


def run_whole(room: Room, step: Step, times: int) -> Whole:
    """Run a step without a kill, a few times, and leave ``work`` as it was before.

    Raises:
        RuntimeError: it fails, leaves something behind, or gives other files each time, so that kills show nothing.
    """
    if not (room.path / "kept" / step.name).exists():
        room.keep(step.name)
    before = contents(room.work)
    states = []
    for _ in range(times):
        room.restore(step.name)
        outcome = room.run(step)
        if outcome.code or outcome.killed_by:
            raise RuntimeError(f"'{step.name}' failed without a kill:\n{outcome.said[-3000:]}")
        states.append(contents(room.work))
    after = states[-1]
    if wrong := [*differences(states[0], after), *leftovers(room.work), *broken_files(room.work, after)]:
        raise RuntimeError(f"'{step.name}' without a kill: {wrong}")
    sizes = [(room.work / name).stat().st_size for name in differences(before, after)]
    room.keep(f"{step.name}, whole")
    numbers, times = _window(step, outcome)
    return Whole(step, outcome.seconds, numbers, times, before, after, sizes)


def leave_whole(room: Room, whole: Whole) -> None:
    """Leave ``work`` as the step leaves it, for the next one; the half of a stage leaves it to the other half."""
    room.restore(whole.step.name if whole.step.half == 0 else f"{whole.step.name}, whole")


def _window(step: Step, outcome: Outcome) -> tuple[list[int], tuple[float, float]]:
    """The changes of files that belong to a step, by number, and from when to when it lasts."""
    if step.half is None:
        return list(range(len(outcome.operations))), (0.0, outcome.seconds)
    at = next(
        number
        for number, one in enumerate(outcome.operations)
        if one.event == "os.rename" and Path(one.path).name == step.mark
    )
    moment = outcome.operations[at].seconds
    if step.half == 0:
        return list(range(at + 1)), (0.0, moment)
    return list(range(at + 1, len(outcome.operations))), (moment, outcome.seconds)


def resumed(room: Room, whole: Whole, prepare: Callable[[], None] | None = None) -> Iterator[str]:
    """Run the step's command once more, and tell in what its files differ from those of an undisturbed one."""
    outcome = room.run(whole.step, prepare)
    if outcome.code or outcome.killed_by:
        yield f"the same command ended with {outcome.code}: {outcome.said.strip().splitlines()[-1:]}"
        return
    yield from (f"differs: {name}" for name in differences(contents(room.work), whole.after))
    yield from (f"negative time: {name}" for name in negative_times(room.work))
    yield from (f"left: {name}" for name in leftovers(room.work))


def negative_times(root: Path) -> list[str]:
    """Records that hold a negative duration."""
    found = (name for name, path in final_files(root).items() if path.suffix == ".json")
    return [name for name in found if re.search(r'seconds": *-', (root / name).read_text())]
