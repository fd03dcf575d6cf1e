"""Ray, which is imported when a cluster is asked for, and not with this package."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from monai.utils import OptionalImportError, optional_import

from monai_plan.utils import require_counts

__all__ = ["RayActors", "connected_ray"]


def connected_ray() -> Any:
    """Ray as it is connected; otherwise connect it to the cluster that ``RAY_ADDRESS`` names, or to this machine alone.

    Raises:
        OptionalImportError: Ray is not installed (extra ``ray``).
    """
    ray_data, found = optional_import("ray.data")
    if not found:
        raise OptionalImportError('a cluster needs Ray Data: pip install "monai_plan[ray]"')
    ray, _ = optional_import("ray")
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports to its makers
        ray.init()
    return ray


@dataclass(frozen=True)
class RayActors:
    """Actors that a Ray dataset is mapped by, each with one CPU.

    Args:
        actors: how many at most, >= 1; ``None``: as many as the cluster has room for.
        num_gpus: GPUs of each, or a share of one; with 0 it computes on the CPU.

    Raises:
        ValueError: an argument is out of range.
    """

    actors: int | None
    num_gpus: float

    def __post_init__(self) -> None:
        if self.actors is not None:
            require_counts(actors=self.actors)
        if not self.num_gpus >= 0:
            raise ValueError(f"num_gpus is {self.num_gpus!r}; give the GPUs of one actor, e.g. 0, 1 or 0.5")

    def map(self, dataset: Any, actor: type, batch_size: int, **arguments: Any) -> Any:
        """Send batches of a dataset through ``actor(**arguments, device=...)``, which each actor makes once.

        Actors should load what they need at the first batch: errors of constructors reach the caller as text alone.
        """
        ray = connected_ray()
        mapped = dataset.map_batches(
            actor,
            batch_size=batch_size,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=self.actors),
            num_gpus=self.num_gpus,
            fn_constructor_kwargs={**arguments, "device": "cuda" if self.num_gpus else "cpu"},
        )
        mapped.context.raise_original_map_exception = True  # else of a kind of Ray's, without the message
        return mapped
