"""A progress bar over a whole run, with its speed, the remaining time and the trainer's figures.

Ignite's ProgressBar starts anew with every epoch and needs arguments at attach time, which MONAI's handler lists cannot
give.
"""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.utils import optional_import

__all__ = ["EpochBar"]

tqdm, _ = optional_import("tqdm.auto", name="tqdm", descriptor='a bar needs tqdm: pip install "monai_plan[bundle]"')


class EpochBar:
    """Shows one bar for the run; a resumed run starts where it was left. In a distributed run only process 0 shows it.

    It counts in images where the trainer's output is a dict with ``images``, the size of a batch, and in batches
    elsewhere. The other numbers of the output, if it is a dict or a number, stand behind the bar.

    Args:
        description: text before the bar.
    """

    def __init__(self, description: str = "training") -> None:
        self.description = description
        self._bar: Any = None

    def attach(self, engine: Engine) -> None:
        """Attach to any engine."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _open(self, engine: Engine) -> None:
        state: Any = engine.state
        if self._bar is None and idist.get_rank() == 0:
            known = state.epoch_length is not None and state.max_epochs is not None
            self._bar = tqdm(
                desc=self.description,
                total=state.epoch_length * state.max_epochs if known else None,
                initial=state.iteration,
                mininterval=1.0,
                unit="batch",
            )

    def _advance(self, engine: Engine) -> None:
        if self._bar is None:
            return
        output = engine.state.output
        figures = dict(output) if isinstance(output, dict) else {"output": output}
        if isinstance(images := figures.pop("images", None), int):
            self._bar.unit, self._bar.unit_scale = "img", images
        numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
        if numbers:
            self._bar.set_postfix(numbers, refresh=False)
        self._bar.update(engine.state.iteration - self._bar.n)

    def _close(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
