"""Several processes of one run: how they find each other, and what is said where one of them is gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import ignite.distributed as idist
import torch

from monai_plan.utils.errors import RunError

__all__ = ["join_processes", "with_the_others"]


def join_processes(backend: str, timeout: float | None = None) -> None:
    """Meet the other processes of this run, as torchrun or a cluster's scheduler has named them in the environment.

    Args:
        backend: "gloo" or "nccl".
        timeout: seconds that a process waits for the others, here and in each later exchange; ``None`` for torch's own
            (30 minutes for gloo, 10 for nccl). It must be longer than what process 0 does alone, e.g. measuring the
            generator's quality.

    Raises:
        ValueError: ``timeout`` is not positive.
        RunError: the others did not come.
    """
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout is in seconds, e.g. 600, or null for torch's own; got {timeout}")
    with with_the_others():
        idist.initialize(backend, timeout=None if timeout is None else timedelta(seconds=timeout))


@contextmanager
def with_the_others() -> Iterator[None]:
    """For what needs every process: a fault in it means that another one is gone.

    Raises:
        RunError: in place of torch's own error, which stays its cause.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # torch.distributed has no narrower type for a closed connection
        raise RunError(
            "this process lost the others of its run, so it ends, too: one of them was ended, does not answer, or "
            f"never started ({error}). The reason stands in the output of the one that ended first, most often that "
            "memory ran out. Start all processes again: the training goes on from its last checkpoint"
        ) from error
