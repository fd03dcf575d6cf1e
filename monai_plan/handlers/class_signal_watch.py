"""Follows, during training, how much of the classes a generator carries."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from monai_plan.utils import write_json

__all__ = ["ClassSignalWatch"]


class ClassSignalWatch:
    """Every ``every`` epochs, and after the last, trains a classifier on fresh samples and measures it on real images.

    Good-looking samples can carry little of the disease; no figure of looks tells. The figures go into
    ``engine.state.metrics`` until the next epoch, and with ``iteration`` and ``images`` (seen) into
    ``class_signal.json``. In a distributed run every process measures, because MONAI's metrics
    wait for each other, and process 0 writes.

    Args:
        measure: the figures of the network as it is now, e.g. :func:`monai_plan.engines.class_signal` with its
            arguments bound.
        every: epochs between measurements; 0 for none.
        folder: where ``class_signal.json`` goes; ``None`` for no file.
    """

    def __init__(
        self, measure: Callable[[], Mapping[str, float]], every: int = 4, folder: str | os.PathLike | None = None
    ) -> None:
        self.measure = measure
        self.every = every
        self.folder = None if folder is None else Path(folder)
        self.records: list[dict[str, float]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer whose output holds ``images``, before the handlers that write metrics or checkpoints."""

        def due(engine: Engine, epoch: int) -> bool:
            return self.every > 0 and (epoch % self.every == 0 or epoch == engine.state.max_epochs)

        engine.add_event_handler(Events.EPOCH_STARTED, self._clear)
        engine.add_event_handler(Events.EPOCH_COMPLETED(event_filter=due), self)

    def _clear(self, engine: Engine) -> None:
        for name in self.records[-1] if self.records else ():
            engine.state.metrics.pop(name, None)

    def __call__(self, engine: Engine) -> None:
        output: Any = engine.state.output
        figures = dict(self.measure())
        engine.state.metrics.update(figures)
        place = {"iteration": engine.state.iteration, "images": engine.state.iteration * output["images"]}
        self.records.append({**place, **figures})
        if self.folder is not None and idist.get_rank() == 0:
            write_json(self.folder / "class_signal.json", self.records)

    def state_dict(self) -> dict[str, Any]:
        """The records so far."""
        return {"records": [dict(record) for record in self.records]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.records = [dict(record) for record in state["records"]]
