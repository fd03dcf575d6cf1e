"""One checkpoint file of a training run: read at the start if it is there, rewritten whole after each epoch.

MONAI's CheckpointSaver and CheckpointLoader name files by epoch and fail when there is nothing to load yet; a stage
that may be killed and started again needs "the newest, if any".
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from monai_plan.utils import atomic_path, require_small, require_stored
from monai_plan.utils.weights import MOST_BYTES

__all__ = ["ResumableCheckpoint"]

logger = logging.getLogger(__name__)


class ResumableCheckpoint:
    """Saves the states of ``objects`` and the engine's position; resumes from the file when it exists.

    The file holds tensors and plain containers only and is read with ``weights_only=True``. In a distributed run
    process 0 writes it and all read it.

    Args:
        path: the checkpoint, e.g. ``run/checkpoint.pt``.
        objects: name to anything with ``state_dict`` and ``load_state_dict``.
        fingerprint: what the run is made from; a checkpoint of another one is refused. ``""`` for no check.
        every: epochs between saves.

    Raises:
        ValueError: at the start, if the file is truncated or foreign, of a later version, or of another
            fingerprint, or holds other objects or objects of other shapes.
    """

    def __init__(
        self, path: str | os.PathLike, objects: Mapping[str, Any], fingerprint: str = "", every: int = 1
    ) -> None:
        self.path = Path(path)
        self.fingerprint = fingerprint
        self.objects = dict(objects)
        self.every = every

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every) | Events.COMPLETED, self.save)

    def save(self, engine: Engine) -> None:
        """Write the checkpoint."""
        if idist.get_rank() != 0:
            return
        state = {name: item.state_dict() for name, item in self.objects.items()}
        position = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        content = {"version": 1, "fingerprint": self.fingerprint, "position": position, "state": state}
        with atomic_path(self.path) as partial:
            torch.save(content, partial)

    def resume(self, engine: Engine) -> None:
        """Load the checkpoint if there is one and move the engine to its position."""
        if not self.path.is_file():
            return
        advice = f"Delete '{self.path}' to start this stage anew"
        try:
            require_small(self.path, MOST_BYTES)
            require_stored(self.path)
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            if not isinstance(saved, dict):
                raise TypeError(f"it holds a {type(saved).__name__}")
            version, position, state = int(saved["version"]), dict(saved["position"]), dict(saved["state"])
            epoch, iteration = int(position["epoch"]), int(position["iteration"])
        except Exception as error:  # damaged files make torch raise many kinds
            raise ValueError(
                f"'{self.path}' is no readable checkpoint ({error}); it is truncated or foreign. {advice}"
            ) from error
        if version > 1:
            raise ValueError(
                f"'{self.path}' has version {version} and this monai_plan reads 1. Update monai_plan, or: {advice}"
            )
        if saved.get("fingerprint", "") != self.fingerprint:
            raise ValueError(f"'{self.path}' belongs to a run on other data or with other settings. {advice}")
        if state.keys() != self.objects.keys():
            raise ValueError(f"'{self.path}' holds {sorted(state)} and this run has {sorted(self.objects)}. {advice}")
        for name, item in self.objects.items():
            try:
                item.load_state_dict(state[name])
            except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"'{name}' in '{self.path}' is of another configuration ({error}). {advice}"
                ) from error
        engine.state.epoch = epoch
        engine.state.iteration = iteration
        logger.info("resumed from '%s' after epoch %d", self.path, epoch)
