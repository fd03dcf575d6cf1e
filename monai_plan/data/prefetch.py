"""Things made ahead of the training step, by a thread that never outlives their iterator.

On CUDA the thread works on a stream of its own; what it hands over is ordered with the stream of whoever takes it.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any, Generic, NamedTuple, TypeVar

import torch

__all__ = ["BackgroundBatches", "BackgroundItems", "CountedBatch"]

Item = TypeVar("Item")


class CountedBatch(NamedTuple):
    """A batch, and how many draws were rejected on the way to it."""

    batch: dict[str, torch.Tensor]
    rejected: int


class BackgroundItems(Iterator[Item], Generic[Item]):
    """Pulls from ``source`` in a thread, at most ``depth`` items ahead of the caller.

    An error of the source is raised where its item would have come, with its own type, message and traceback. The
    thread ends with the source, with an error, with :meth:`close`, when the iterator is collected and at the
    interpreter's exit; the last three wait for the item in work. What is switched on in the caller's thread only
    (gradients, autocast, inference mode) does not reach the source.

    Args:
        source: makes the items; runs in the thread only.
        depth: items that are ready or in work, >= 1.
        device: where it works.
        name: of the thread.
    """

    def __init__(self, source: Iterator[Item], depth: int, device: torch.device, name: str) -> None:
        stream = None
        if device.type == "cuda":
            stream = torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.current_stream(device))  # weights may still be on their way
        self._device = device
        self._shelf: _Shelf[Item] = _Shelf(depth)
        thread = threading.Thread(target=_fill, args=(self._shelf, source, stream), daemon=True)
        thread.name = f"monai_plan: {name}"
        thread.start()
        self._end = weakref.finalize(self, _stop, self._shelf, thread)  # called at exit, too

    def __next__(self) -> Item:
        shelf = self._shelf
        with shelf.changed:
            shelf.changed.wait_for(lambda: shelf.ready or shelf.ended)
            if shelf.ready:
                made, event = shelf.ready.popleft()
                shelf.changed.notify_all()
            else:
                error, shelf.error = shelf.error, None
                try:
                    raise error or StopIteration
                finally:
                    del error  # its traceback holds this frame
        if event is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(event)
            for tensor in self._tensors(made):
                tensor.record_stream(stream)  # its memory is not used again before this stream is done with it
        return made

    def close(self) -> None:
        """Stop the thread and wait for its end; items that were not taken are dropped."""
        self._end()

    def _tensors(self, made: Item) -> Iterable[torch.Tensor]:
        """What of an item is on the device."""
        return ()


class BackgroundBatches(BackgroundItems[CountedBatch]):
    """Batches ahead, see :class:`BackgroundItems`.

    Args:
        source: makes the batches; runs in the thread only.
        depth: batches that are ready or in work, >= 1.
        device: where the batches are.
    """

    def __init__(self, source: Iterator[CountedBatch], depth: int, device: torch.device) -> None:
        super().__init__(source, depth, device, "batches ahead")

    def _tensors(self, made: CountedBatch) -> Iterable[torch.Tensor]:
        return made.batch.values()


class _Shelf(Generic[Item]):
    """What thread and caller share; holds no reference to the iterator, which must be collectable."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.changed = threading.Condition()
        self.ready: deque[tuple[Item, torch.cuda.Event | None]] = deque()
        self.error: BaseException | None = None
        self.ended = False
        self.is_stopped = False


def _fill(shelf: _Shelf[Any], source: Iterator[Any], stream: torch.cuda.Stream | None) -> None:
    """The thread."""
    try:
        with nullcontext() if stream is None else torch.cuda.stream(stream):
            for made in source:
                event = None if stream is None else stream.record_event()
                with shelf.changed:
                    if shelf.is_stopped:
                        return
                    shelf.ready.append((made, event))
                    del made, event
                    shelf.changed.notify_all()
                    shelf.changed.wait_for(lambda: shelf.is_stopped or len(shelf.ready) < shelf.depth)
                    if shelf.is_stopped:
                        return
    except BaseException as error:  # raised again by the caller
        shelf.error = error
    finally:
        with shelf.changed:
            shelf.ended = True
            shelf.changed.notify_all()


def _stop(shelf: _Shelf[Any], thread: threading.Thread) -> None:
    with shelf.changed:
        shelf.is_stopped = True
        shelf.ready.clear()
        shelf.changed.notify_all()
    if thread is not threading.current_thread():  # where the garbage collector may run, too
        thread.join()
