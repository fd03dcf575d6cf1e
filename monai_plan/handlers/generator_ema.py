"""Exponential moving average of a generator's weights, counted in images.

Ignite's EMAHandler counts iterations and loses its warm-up when it is named, hence our own.
"""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events

__all__ = ["GeneratorEMA"]


class GeneratorEMA:
    """After each iteration moves ``average`` towards ``generator`` (Karras et al., ICLR 2018, section 4).

    Args:
        generator: the trained network.
        average: a second network of the same layout, which receives the average.
        half_life: images after which an old weight counts half.
        ramp_up: early on the half-life is at most this fraction of the images seen so far.
    """

    def __init__(
        self, generator: torch.nn.Module, average: torch.nn.Module, half_life: int = 10_000, ramp_up: float = 0.05
    ) -> None:
        self.generator = generator
        self.average = average.eval().requires_grad_(False)
        self.half_life = half_life
        self.ramp_up = ramp_up

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer whose output holds ``images``."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        output: Any = engine.state.output
        images = output["images"]
        seen = engine.state.iteration * images
        decay = 0.5 ** (images / max(min(self.half_life, self.ramp_up * seen), 1e-8))
        current = self.generator.state_dict()
        for name, value in self.average.state_dict().items():
            if value.dtype.is_floating_point:
                value.lerp_(current[name], 1 - decay)
            else:
                value.copy_(current[name])
