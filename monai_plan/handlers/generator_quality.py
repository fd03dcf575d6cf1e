"""Measures a generator while it is trained, draws its curves and keeps the best of it."""

from __future__ import annotations

import copy
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.networks.utils import eval_mode
from monai.utils import optional_import

from monai_plan.handlers.memorisation_watch import MemorisationWatch
from monai_plan.utils import RunError, atomic_path, generator_for, with_the_others, write_json

__all__ = ["GeneratorQuality", "class_counts"]

logger = logging.getLogger(__name__)

figure_class, can_draw = optional_import("matplotlib.figure", name="Figure")

_PANELS = (("kid", "floor_kid"), ("recall", "coverage"), ("memorisation_score",))


def class_counts(shares: Sequence[float], total: int) -> list[int]:
    """How many of ``total`` images each class gets: its share, rounded by largest remainders, the same every time.

    Args:
        shares: one number >= 0 for each class, in any unit (e.g. the training images of each class).
        total: images.

    Raises:
        ValueError: a share is negative or not finite, or all are 0.
    """
    if not len(shares) or not all(math.isfinite(share) and share >= 0 for share in shares) or not sum(shares):
        raise ValueError(
            f"class_shares is {list(shares)}; give one number from 0 on for each class, e.g. how many training images "
            "it has, and at least one above 0"
        )
    exact = [share / sum(shares) * total for share in shares]
    counts = [int(count) for count in exact]
    by_remainder = sorted(range(len(counts)), key=lambda label: counts[label] - exact[label])
    for label in by_remainder[: total - sum(counts)]:
        counts[label] += 1
    return counts


class GeneratorQuality:
    """After every ``every`` epochs, and after the last, draws samples, measures them and keeps the best weights.

    The samples are those that a user gets: random noise, no truncation, clamped to [-1, 1]; latents, noise and labels
    are the same each time. The figures go into ``engine.state.metrics``, from where MONAI's ``StatsHandler`` and
    ``TensorBoardStatsHandler`` take them at the epoch's end if they stand behind this handler in the list (before the
    next epoch they are taken out again, so that no curve repeats an old value). With a ``folder`` each measurement is
    also a record in ``quality.json``: ``iteration``, ``images`` (seen in training), ``seconds`` (of the whole
    run so far, measurements included), what ``measure`` says of itself, and the figures (``null`` where not finite);
    ``quality.png`` shows the curves.

    The best is the measurement with the best finite ``key``. With a ``watch`` one that shows memorisation (over both of
    its limits) is never the best, however good its ``key``.

    In a distributed run process 0 measures and the others wait; the best weights are in process 0 only, except after
    a resume.

    Args:
        generator: the network to measure (usually the average): ``(z, labels, noise=, rng=) -> images`` with
            ``z_dim`` and ``num_classes``.
        measure: images [N, C, S, S] in [-1, 1] and labels int64 [N], on the CPU, to named figures; e.g.
            :class:`monai_plan.metrics.GenerationQuality`. Its ``floors`` and ``description``, if it has them, are
            dictionaries that go with the figures.
        class_shares: relative frequency of each class among the samples, e.g. the training images of each; default:
            all alike. Counted by ``class_counts``.
        num_images: samples a measurement.
        every: epochs between measurements.
        key: the figure that decides.
        lower_is_better: of ``key``.
        folder: where ``quality.json`` and ``quality.png`` go; ``None`` for no files. The picture needs matplotlib.
        seed: of latents, noise and the labels' order.
        batch_size: samples rendered at once.
        watch: is asked after each measurement and may stop the run.

    Raises:
        ValueError: ``class_shares`` do not fit the generator's classes, or ``measure`` gives no ``key``.
    """

    def __init__(
        self,
        generator: torch.nn.Module,
        measure: Callable[[torch.Tensor, torch.Tensor], Mapping[str, float]],
        class_shares: Sequence[float] | None = None,
        num_images: int = 1024,
        every: int = 1,
        key: str = "kid",
        lower_is_better: bool = True,
        folder: str | os.PathLike | None = None,
        seed: int = 0,
        batch_size: int = 64,
        watch: MemorisationWatch | None = None,
    ) -> None:
        self.generator: Any = generator
        self.measure = measure
        self.every = every
        self.key = key
        self.lower_is_better = lower_is_better
        self.folder = None if folder is None else Path(folder)
        self.seed = seed
        self.batch_size = batch_size
        self.watch = watch
        classes: int = generator.num_classes  # type: ignore[assignment]
        counts = class_counts([1.0] * classes if class_shares is None else class_shares, num_images)
        if len(counts) != classes:
            raise ValueError(
                f"class_shares has {len(counts)} entries and the generator {classes} classes; give one for each class"
            )
        labels = torch.arange(classes).repeat_interleave(torch.tensor(counts))
        self.labels = labels[torch.randperm(num_images, generator=generator_for(seed, "quality labels"))]
        self.records: list[dict[str, Any]] = []
        self._best: dict[str, torch.Tensor] = {}
        self._best_record: dict[str, Any] = {}
        self._last_iteration = -1
        self._names: list[str] = []
        self._seconds = 0.0
        self._clock = time.monotonic()

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer whose output holds ``images``, before the handlers that write metrics or checkpoints."""

        def due(engine: Engine, epoch: int) -> bool:
            return epoch % self.every == 0 or epoch == engine.state.max_epochs

        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._go_on)
        engine.add_event_handler(Events.EPOCH_STARTED, self._clear)
        engine.add_event_handler(Events.EPOCH_COMPLETED(event_filter=due) | Events.COMPLETED, self)

    def _start(self) -> None:
        self._clock = time.monotonic()

    def _go_on(self, engine: Engine) -> None:
        """A run that the watch has stopped stays stopped when it is started again."""
        if self.watch is not None and self.watch.stopped:
            engine.terminate()

    def _clear(self, engine: Engine) -> None:
        for name in self._names:
            engine.state.metrics.pop(name, None)

    def __call__(self, engine: Engine) -> None:
        if engine.state.iteration == self._last_iteration or engine.state.output is None:  # None: no iteration was run
            return
        self._last_iteration = engine.state.iteration
        stop = float(self._measure(engine)) if idist.get_rank() == 0 else 0.0
        with with_the_others():
            asked_to_stop = idist.broadcast(stop, src=0)
        if asked_to_stop:
            engine.terminate()

    def _measure(self, engine: Engine) -> bool:
        """Measure, record, keep; whether the watch asks to stop."""
        images = self._draw(engine.state.device)  # type: ignore[attr-defined]
        figures = {**getattr(self.measure, "floors", {}), **self.measure(images, self.labels)}
        if self.key not in figures:
            raise ValueError(f"'{self.key}' is none of the figures measured, which are {', '.join(sorted(figures))}")
        if self.watch is not None:
            figures |= self.watch.gap(images, self.labels)
        self._names = list(figures)
        engine.state.metrics.update(figures)
        record = self._record(engine, figures)
        memorises = self.watch is not None and self.watch.memorises(figures)
        if not memorises and self._improves(figures[self.key]):
            self._best_record = record
            self._best = {name: value.detach().cpu().clone() for name, value in self.generator.state_dict().items()}
        self._write()
        return self.watch is not None and self.watch.update(engine, figures)

    def _draw(self, device: torch.device) -> torch.Tensor:
        rng = generator_for(self.seed, "quality noise", device=device)
        z = torch.randn(len(self.labels), self.generator.z_dim, generator=generator_for(self.seed, "quality latents"))
        with eval_mode(self.generator):
            parts = [
                self.generator(part.to(device), labels.to(device), noise="random", rng=rng).float().clamp(-1, 1).cpu()
                for part, labels in zip(z.split(self.batch_size), self.labels.split(self.batch_size), strict=True)
            ]
        return torch.cat(parts)

    def _record(self, engine: Engine, figures: Mapping[str, float]) -> dict[str, Any]:
        output: Any = engine.state.output
        now = time.monotonic()
        self._seconds, self._clock = self._seconds + now - self._clock, now
        record = {
            "iteration": engine.state.iteration,
            "images": engine.state.iteration * output["images"],
            "seconds": round(self._seconds, 1),
            **getattr(self.measure, "description", {}),
            **{name: float(value) if math.isfinite(value) else None for name, value in figures.items()},
        }
        self.records.append(record)
        return record

    def _improves(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        best = self._best_record.get(self.key)
        return best is None or (value < best if self.lower_is_better else value > best)

    def _write(self) -> None:
        if self.folder is None:
            return
        write_json(self.folder / "quality.json", self.records)
        panels = [[name for name in names if name in self.records[-1]] for names in _PANELS]
        if can_draw and any(panels):
            with atomic_path(self.folder / "quality.png") as partial:
                self._curves([names for names in panels if names]).savefig(partial)

    def _curves(self, panels: Sequence[Sequence[str]]) -> Any:
        figure = figure_class(figsize=(4.5 * len(panels), 3.2), dpi=120, layout="constrained")
        images = [record["images"] for record in self.records]
        for axes, names in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for name in names:
                values = [math.nan if record.get(name) is None else record[name] for record in self.records]
                if name.startswith("floor_"):
                    axes.axhline(values[-1], color="gray", ls="--", label="real against real")
                else:
                    axes.plot(images, values, marker=".", label=name.replace("_", " "))
            if self._best_record:
                axes.axvline(self._best_record["images"], color="tab:green", lw=0.8, label="kept")
            axes.set_xlabel("images seen")
            axes.legend(fontsize="small")
        return figure

    def load_best(self) -> None:
        """Put the best weights into the generator.

        Raises:
            RunError: there are none.
        """
        if idist.get_rank() > 0:
            return
        if not self._best:
            raise RunError(
                f"none of {len(self.records)} measurements can be kept: '{self.key}' was not finite, or the samples "
                "lay too near to the training images each time (see quality.json and memorisation.json). Train on "
                "more images, with more augmentation, or for fewer iterations; measure more often (every)"
            )
        self.generator.load_state_dict(self._best)
        logger.info(
            "kept the generator of iteration %d (%d images seen): %s %.6g",
            self._best_record["iteration"],
            self._best_record["images"],
            self.key,
            self._best_record[self.key],
        )

    def state_dict(self) -> dict[str, Any]:
        """Records and best weights, as tensors and plain containers."""
        return {
            "records": copy.deepcopy(self.records),
            "best": dict(self._best),
            "best_record": dict(self._best_record),
            "last_iteration": self._last_iteration,
            "seconds": self._seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.records = [dict(record) for record in state["records"]]
        self._best = dict(state["best"])
        self._best_record = dict(state["best_record"])
        self._last_iteration = state["last_iteration"]
        self._seconds = state["seconds"]
