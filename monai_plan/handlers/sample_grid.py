"""Sample grids during training: the same latents each time, one row a class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from monai_plan.utils import generator_for, image_grid, save_png

__all__ = ["SampleGrid"]


class SampleGrid:
    """Writes ``samples_<iteration>.png`` after every ``every`` epochs; in a distributed run, process 0 only.

    Args:
        generator: the network to look at (usually the average).
        folder: where the pictures go.
        per_class: images a row.
        every: epochs between pictures.
        seed: of the latents.
    """

    def __init__(
        self, generator: torch.nn.Module, folder: str | os.PathLike, per_class: int = 8, every: int = 1, seed: int = 0
    ) -> None:
        self.generator: Any = generator
        self.folder = Path(folder)
        self.per_class = per_class
        self.every = every
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        z = torch.randn(
            self.per_class * self.generator.num_classes,
            self.generator.z_dim,
            generator=generator_for(self.seed, "sample grid"),
        )
        labels = torch.arange(self.generator.num_classes).repeat_interleave(self.per_class)
        device = engine.state.device  # type: ignore[attr-defined]
        images = self.generator(z.to(device), labels.to(device), noise="const")
        save_png(self.folder / f"samples_{engine.state.iteration:07d}.png", image_grid(images, self.per_class))
