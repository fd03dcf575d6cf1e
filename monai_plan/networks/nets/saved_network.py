"""Networks that are written together with their constructor's arguments, as safetensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import torch.nn as nn

from monai_plan.utils import load_tensors, save_tensors

__all__ = ["SavedNetwork"]

Saved = TypeVar("Saved", bound="SavedNetwork")


class SavedNetwork(nn.Module):
    """A network with ``save`` and ``load``. A subclass names its ``schema`` and fills ``config`` in its constructor.

    Attributes:
        schema: what a file of this network is called in its header.
        config: the constructor's arguments, plain JSON values.
    """

    schema: str
    config: dict[str, Any]

    def save(self, path: str | os.PathLike, **meta: object) -> Path:
        """Write weights and constructor arguments as safetensors."""
        return save_tensors(path, self.state_dict(), self.schema, meta={"config": self.config, **meta})

    @classmethod
    def load(cls: type[Saved], path: str | os.PathLike, **expected: int) -> Saved:
        """Read a file of :meth:`save`.

        Args:
            path: the file.
            expected: constructor arguments that the network must have been made with, e.g. ``image_size=64``.

        Raises:
            FileNotFoundError, ValueError: see :func:`monai_plan.utils.load_tensors`; or the network is another one
                than ``expected``.
        """
        tensors, meta = load_tensors(path, cls.schema)
        for name, value in expected.items():
            if meta["config"][name] != value:
                raise ValueError(
                    f"the {cls.schema} in '{path}' has {name}={meta['config'][name]}, and {name}={value} is asked for. "
                    f"Set {name} to {meta['config'][name]}, or train another generator (train_gan.json)"
                )
        network = cls(**meta["config"])
        network.load_state_dict(tensors)
        return network
