"""A progress bar over the iterations of a whole run, with the trainer's figures and the remaining time.

Ignite's ProgressBar needs arguments at attach time, which MONAI's handler lists cannot give.
"""

from __future__ import annotations

from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar

__all__ = ["EpochBar"]


class EpochBar:
    """Attaches Ignite's ProgressBar over the whole run, in iterations.

    Args:
        description: text before the bar.
    """

    def __init__(self, description: str = "training") -> None:
        self.description = description

    def attach(self, engine: Engine) -> None:
        """Attach to any engine."""
        bar = ProgressBar(desc=self.description, persist=True, mininterval=1.0, unit="batch")
        bar.attach(
            engine,
            event_name=Events.ITERATION_COMPLETED,
            closing_event_name=Events.COMPLETED,
            output_transform=lambda output: output if isinstance(output, dict) else {},
        )
