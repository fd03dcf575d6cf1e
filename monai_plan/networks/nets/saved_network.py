"""Networks that are written together with their constructor's arguments, as safetensors."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from monai_plan.utils import load_tensors, save_tensors

__all__ = ["SavedNetwork", "restored"]

Saved = TypeVar("Saved", bound="SavedNetwork")
Network = TypeVar("Network", bound=nn.Module)


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
            FileNotFoundError, ValueError: see :func:`monai_plan.utils.load_tensors` and :func:`restored`; or the
                network is another one than ``expected``.
        """
        tensors, meta = load_tensors(path, cls.schema, meta_kinds={"config": dict})
        for name, value in expected.items():
            found = meta["config"].get(name)
            if found != value:
                raise ValueError(
                    f"the {cls.schema} in '{path}' has {name}={found}, and {name}={value} is asked for. "
                    f"Set {name} to {found}, or train another generator (train_gan.json)"
                )
        return restored(cls, meta["config"], tensors, path)


def restored(
    factory: Callable[..., Network],
    arguments: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    path: str | os.PathLike,
) -> Network:
    """A network with the weights of a file, never larger than the file: sizes are compared before memory is taken.

    Args:
        factory: makes the network of ``arguments``.
        arguments: as they stand in the file; anybody may have written them.
        tensors: the file's weights.
        path: the file, for messages.

    Raises:
        ValueError: the arguments are none of this network, or the weights are those of another one.
    """
    try:
        _check_plain(arguments)
        wanted = _blueprint(factory, arguments, len(tensors))
    except Exception as error:  # constructors raise many kinds on strange arguments
        raise ValueError(
            f"the network's arguments in '{path}' cannot be used ({type(error).__name__}: {error}); the file was "
            "changed after it was written, or is damaged. Run its stage again"
        ) from error
    found = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    if found != wanted:
        wrong = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        raise ValueError(
            f"the weights in '{path}' do not fit the network's arguments there: {len(wrong)} of them are missing, "
            f"unknown, or of another shape or type, e.g. '{wrong[0]}'. The file was changed after it was written, or "
            "is damaged. Run its stage again"
        )
    network = factory(**arguments)
    network.load_state_dict(tensors)
    return network


def _check_plain(arguments: Mapping[str, Any]) -> None:
    for name, value in arguments.items():
        numbers = value if isinstance(value, list) else () if value is None else (value,)
        if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
            raise TypeError(f"{name} is {value!r}")


def _blueprint(
    factory: Callable[..., nn.Module], arguments: Mapping[str, Any], most: int
) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and type of each weight, found without memory for them, and given up after ``most`` weights."""
    count, here = 0, threading.get_ident()

    def counted(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        if threading.get_ident() != here:  # the hook is the whole process's
            return
        count += 1
        if count > most:
            raise ValueError(f"there are {most} tensors, and the network has more")

    hook = register_module_parameter_registration_hook(counted)
    try:
        with torch.device("meta"):
            return {name: (t.shape, t.dtype) for name, t in factory(**arguments).state_dict().items()}
    finally:
        hook.remove()
