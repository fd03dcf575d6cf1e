"""Adaptive strength of discriminator augmentation (StyleGAN2-ADA, Karras et al., NeurIPS 2020, section 3)."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events

__all__ = ["AdaptiveAugment"]


class AdaptiveAugment:
    """Raises the augmentation probability while the discriminator is too sure of real images, lowers it otherwise.

    The trainer's ``real_sign``, averaged over ``interval`` iterations, is held at ``target``: the mean sign of D on
    real images, or with a relativistic loss of D(real) - D(fake).

    Args:
        augment: the augmentation, with a buffer ``p``.
        target: wanted mean sign, in (-1, 1).
        images_to_full: images over which ``p`` may go from 0 to 1.
        interval: iterations between adjustments.
        limit: ``p`` never exceeds this, below 1, so that augmentations cannot leak into the samples.

    Raises:
        ValueError: ``limit`` is not in [0, 1), ``target`` not in (-1, 1), or a count is below 1.
    """

    def __init__(
        self,
        augment: torch.nn.Module,
        target: float = 0.6,
        images_to_full: int = 500_000,
        interval: int = 4,
        limit: float = 0.8,
    ) -> None:
        if not 0 <= limit < 1 or not -1 < target < 1 or min(images_to_full, interval) < 1:
            raise ValueError(
                "limit must be in [0, 1) (with 1 augmentations leak into the samples), target in (-1, 1), counts from "
                f"1 on; got limit {limit}, target {target}, images_to_full {images_to_full} and interval {interval}"
            )
        self.augment: Any = augment
        self.target = target
        self.images_to_full = images_to_full
        self.interval = interval
        self.limit = limit
        self._signs: list[float] = []

    def state_dict(self) -> dict[str, list[float]]:
        """The signs since the last adjustment."""
        return {"signs": list(self._signs)}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Go on from :meth:`state_dict`."""
        self._signs = list(state["signs"])

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer whose output holds ``real_sign`` and ``images``."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        output: Any = engine.state.output
        self._signs.append(output["real_sign"])
        if len(self._signs) < self.interval:
            return
        step = self.interval * output["images"] / self.images_to_full
        mean = sum(self._signs) / len(self._signs)
        self._signs.clear()
        self.augment.p.add_(step if mean > self.target else -step).clamp_(0.0, self.limit)
