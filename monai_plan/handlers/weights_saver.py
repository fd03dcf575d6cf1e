"""The weights that a training is for, in one file under a fixed name.

MONAI's CheckpointSaver writes into the final file itself, so that a kill or a full disk leaves half of one there, and
saves at an error, too, what was to be the final weights.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from monai_plan.utils import atomic_path, unlist

__all__ = ["WeightsSaver"]


class WeightsSaver:
    """Saves a network's state dict, whole or not at all.

    In a distributed run process 0 writes it.

    Args:
        path: the file, e.g. ``models/model.pt``; one that is there is replaced.
        network: whose weights; the wrapping of ``DistributedDataParallel`` is left out.
        best: attached to an evaluator: after each epoch whose key metric is higher than all before. ``False``: once,
            when the engine has ended without an error.
    """

    def __init__(self, path: str | os.PathLike, network: nn.Module, best: bool) -> None:
        self.path = Path(path)
        self.network = network
        self.best = best
        self._highest: float | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer, or for the best epoch to an evaluator."""
        if self.best:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.save_if_best)
        else:
            engine.add_event_handler(Events.COMPLETED, self.save)

    def save_if_best(self, engine: Engine) -> None:
        """Write the file if the key metric is higher than ever."""
        metric = float(engine.state.metrics[engine.state.key_metric_name])  # type: ignore[attr-defined]  # MONAI's state
        if self._highest is None or metric > self._highest or math.isnan(self._highest):
            self._highest = metric
            self.save(engine)

    def save(self, engine: Engine) -> None:
        """Write the file."""
        if idist.get_rank() != 0:
            return
        network = self.network
        if isinstance(network, nn.parallel.DistributedDataParallel):
            network = network.module
        unlist(self.path)
        with atomic_path(self.path) as partial, partial.open("wb") as stream:  # a path would name the archive in it
            torch.save(network.state_dict(), stream)
