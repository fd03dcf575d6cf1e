"""Batches ahead: order, depth, errors, the thread's end, and the hand-over between streams."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import traceback
import weakref
from contextlib import contextmanager

import pytest
import torch

from monai_plan.data import prefetch
from monai_plan.data.prefetch import BackgroundBatches, BackgroundItems, CountedBatch

CPU = torch.device("cpu")


def threads():
    return [thread for thread in threading.enumerate() if "batches ahead" in thread.name]


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    gc.collect()
    assert not threads()


class Source:
    """Counts what it made; fails at one place, and can be slow."""

    def __init__(self, length=6, error_at=None, error=None, pause=0.0):
        self.length, self.error_at, self.error, self.pause = length, error_at, error, pause
        self.made = 0
        self.threads = set()

    def __iter__(self):
        while self.made < self.length:
            self.threads.add(threading.current_thread())
            time.sleep(self.pause)
            if self.made == self.error_at:
                raise self.error
            self.made += 1
            yield CountedBatch({"number": torch.tensor(self.made)}, self.made % 3)


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert condition()


@pytest.mark.parametrize("length", [0, 1, 2, 7])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_same_batches_in_the_same_order(length, depth):
    source = Source(length)
    made = list(BackgroundBatches(iter(source), depth, CPU))
    assert [int(batch["number"]) for batch, _ in made] == list(range(1, length + 1))
    assert [rejected for _, rejected in made] == [number % 3 for number in range(1, length + 1)]
    assert threading.current_thread() not in source.threads and not threads()


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_never_more_than_depth_ahead(depth):
    source = Source(20)
    batches = BackgroundBatches(iter(source), depth, CPU)
    for taken in range(5):
        wait_for(lambda: source.made >= taken + depth)  # noqa: B023 (called at once)
        time.sleep(0.01)
        assert source.made == taken + depth
        next(batches)
    batches.close()


@pytest.mark.parametrize("error", [KeyError("a"), RuntimeError("b"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("error_at", [0, 2])
def test_error_is_raised_in_its_place_as_it_is(error, error_at):
    batches = BackgroundBatches(iter(Source(6, error_at, error)), 4, CPU)
    wait_for(lambda: not threads())  # the error is there before the first batch is taken
    for _ in range(error_at):
        next(batches)
    with pytest.raises(type(error)) as caught:
        next(batches)
    assert caught.value is error
    assert "__iter__" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    with pytest.raises(StopIteration):
        next(batches)


def test_end_stays_the_end_and_close_may_be_repeated():
    batches = BackgroundBatches(iter(Source(1)), 2, CPU)
    assert len(list(batches)) == 1 and list(batches) == []
    batches.close()
    batches.close()
    assert list(batches) == []


@pytest.mark.parametrize("pause", [0.0, 0.05])
def test_close_and_collection_end_the_thread(pause):
    batches = BackgroundBatches(iter(Source(10**6, pause=pause)), 2, CPU)
    next(batches)
    assert len(threads()) == 1
    batches.close()
    assert not threads() and list(batches) == []
    batches = BackgroundBatches(iter(Source(10**6, pause=pause)), 2, CPU)
    shelf = weakref.ref(batches._shelf)
    del batches
    assert not threads()
    gc.collect()
    assert shelf() is None  # and nothing keeps the prepared batches


def test_collection_in_the_thread_itself_does_not_hang():
    holder = {}

    def source():
        yield CountedBatch({}, 0)
        wait_for(lambda: "batches" in holder)
        holder.clear()  # the last reference
        yield CountedBatch({}, 0)

    batches = BackgroundBatches(source(), 1, CPU)
    next(batches)
    holder["batches"] = batches
    del batches
    wait_for(lambda: not threads())
    assert not threads() and not holder


def test_modes_of_the_callers_thread_do_not_reach_the_source():
    def source():
        yield CountedBatch({"grad": torch.tensor(torch.is_grad_enabled())}, int(torch.is_autocast_enabled("cpu")))

    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        ((batch, autocast),) = list(BackgroundBatches(source(), 1, CPU))
    assert bool(batch["grad"]) and autocast == 0


@pytest.mark.parametrize("ending, code", [("", 0), ("raise KeyError('own')", 1), ("sys.exit(4)", 4)])
def test_interpreter_exits_while_the_thread_works(ending, code):
    program = f"""
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location("prefetch", {prefetch.__file__!r})
prefetch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prefetch)
def source():
    weight = torch.randn(300, 300)
    while True:
        for _ in range(20):
            weight @ weight
        yield prefetch.CountedBatch({{}}, 0)
batches = prefetch.BackgroundBatches(source(), 2, torch.device("cpu"))
next(batches)
{ending}
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    errors = result.stderr.splitlines()
    assert result.returncode == code
    assert errors == [] if "raise" not in ending else errors[-1] == "KeyError: 'own'"


class FakeCuda:
    """Streams of ``torch.cuda`` that only note what is asked of them."""

    def __init__(self, monkeypatch):
        self.log = []
        self.current = threading.local()
        self.main = self.Stream(self, "main")
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self.Stream(self, "side"))
        monkeypatch.setattr(torch.cuda, "stream", self.use)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: getattr(self.current, "it", self.main))

    class Stream:
        def __init__(self, cuda, name):
            self.cuda, self.name, self.events = cuda, name, 0

        def wait_stream(self, other):
            self.cuda.log.append(f"{self.name} waits for {other.name}")

        def record_event(self):
            self.events += 1
            self.cuda.log.append(f"{self.name} records {self.events}")
            return self.events

        def wait_event(self, event):
            self.cuda.log.append(f"{self.name} waits for event {event}")

    @contextmanager
    def use(self, stream):
        self.current.it = stream
        yield
        del self.current.it


class FakeTensor:
    def __init__(self, cuda, number):
        self.cuda, self.number = cuda, number
        cuda.log.append(f"{torch.cuda.current_stream().name} makes {number}")

    def record_stream(self, stream):
        self.cuda.log.append(f"{self.number} is used on {stream.name}")


def test_streams_are_ordered_at_the_hand_over(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    source = (CountedBatch({"image": FakeTensor(cuda, number)}, 0) for number in (1, 2))
    batches = BackgroundBatches(source, 3, torch.device("cuda", 0))
    wait_for(lambda: not threads())
    assert cuda.log == ["side waits for main", "side makes 1", "side records 1", "side makes 2", "side records 2"]
    cuda.log.clear()
    assert [made.batch["image"].number for made in batches] == [1, 2]
    assert cuda.log == ["main waits for event 1", "1 is used on main", "main waits for event 2", "2 is used on main"]


def test_items_of_any_kind(monkeypatch):
    """Their thread is named, and its stream is waited for."""
    cuda, names = FakeCuda(monkeypatch), []

    def source():
        names.append(threading.current_thread().name)
        yield "a"
        yield None

    items = BackgroundItems(source(), 5, torch.device("cuda", 0), "numbers")
    assert list(items) == ["a", None] and names == ["monai_plan: numbers"]
    waits = ["main waits for event 1", "main waits for event 2"]
    assert [line for line in cuda.log if "event" in line] == waits and cuda.log[0] == "side waits for main"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_are_whole_on_a_real_device():
    """The source's work is long, and its memory is wanted again at once."""
    device = torch.device("cuda")

    def source():
        for number in range(50):
            slow = torch.full((2048, 2048), 1 / 2048, device=device)
            for _ in range(20):
                slow = slow @ slow * 2048 / 2048
            yield CountedBatch(
                {"image": torch.full((512, 512), float(number), device=device) + 0 * slow[:512, :512]}, 0
            )

    sums = [made.batch["image"].sum() for made in BackgroundBatches(source(), 2, device)]
    assert torch.stack(sums).tolist() == [512.0 * 512 * number for number in range(50)]
