"""Reports, and can stop, a run whose generator begins to repeat its training images."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from monai.networks.utils import eval_mode

from monai_plan.utils import generator_for, write_json

__all__ = ["MemorisationWatch"]

logger = logging.getLogger(__name__)


class MemorisationWatch:
    """Judges every measurement of :class:`GeneratorQuality`, to which it is given as ``watch``.

    It is not attached by itself: GeneratorQuality hands over the samples that it has drawn, adds the discriminator's
    figures to its own, never keeps weights that :meth:`memorises` is true of, and stops the run when :meth:`update`
    asks for it.

    Samples show memorisation when ``memorisation_score`` exceeds ``score_limit`` and ``memorisation_p`` is at most
    ``p_limit`` (see :func:`monai_plan.metrics.memorisation_test`); both, because with few held-out patients a high
    score can be chance, and with many a negligible one can be certain. ``patience`` such measurements in a row raise
    the alarm: a warning, and an entry in ``memorisation.json``. Successive measurements use the same patients and are
    not independent, so ``p_limit`` bounds the false alarms of one measurement, not of a run.

    Beside it stands the discriminator's side of overfitting (Karras et al., NeurIPS 2020, equation 1)::

        discriminator_gap = E[D_train] - E[D_held_out]
        discriminator_r_v = discriminator_gap / (E[D_train] - E[D_generated])    0: none, 1: held-out images look fake

    over equally many images of each kind, not augmented. It warns earlier, but of another thing: a discriminator can
    know its images by heart while the generator copies none. It is reported and does not raise the alarm.

    Args:
        discriminator: ``(images, labels) -> logits [B]``.
        training_images: [N_t, C, S, S] in [-1, 1].
        training_labels: int64 [N_t].
        held_out_images: [N_h, C, S, S] of patients outside training.
        held_out_labels: int64 [N_h].
        score_limit: share of the samples, beyond chance, that may lie nearer to a training image, 0 .. 1.
        p_limit: significance asked for.
        patience: measurements in a row before the alarm.
        stop: end the run at the alarm.
        num_images: images of each kind that the discriminator is asked about, at most; fixed choices.
        batch_size: images at once.
        folder: where ``memorisation.json`` goes: the limits, the present count and every alarm. ``None`` for no file.
        seed: of the choice of images.

    Raises:
        ValueError: a split is empty or has other numbers of images and labels.
    """

    def __init__(
        self,
        discriminator: torch.nn.Module,
        training_images: torch.Tensor,
        training_labels: torch.Tensor,
        held_out_images: torch.Tensor,
        held_out_labels: torch.Tensor,
        score_limit: float = 0.2,
        p_limit: float = 0.01,
        patience: int = 2,
        stop: bool = False,
        num_images: int = 256,
        batch_size: int = 64,
        folder: str | os.PathLike | None = None,
        seed: int = 0,
    ) -> None:
        self.discriminator = discriminator
        self.score_limit = score_limit
        self.p_limit = p_limit
        self.patience = patience
        self.stop = stop
        self.batch_size = batch_size
        self.folder = None if folder is None else Path(folder)
        # the minibatch deviation depends on the size of a batch, so every kind gets the same batches
        self.count = min(num_images, len(training_images), len(held_out_images))
        self._real = []
        for split, images, labels in (
            ("training", training_images, training_labels),
            ("held-out", held_out_images, held_out_labels),
        ):
            if not len(images) or len(images) != len(labels):
                raise ValueError(
                    f"the {split} split has {len(images)} images and {len(labels)} labels; give at least one image, "
                    "and a label for each"
                )
            chosen = torch.randperm(len(images), generator=generator_for(seed, "watch", split))[: self.count]
            self._real.append((images[chosen].as_subclass(torch.Tensor), torch.as_tensor(labels)[chosen]))
        self.consecutive = 0
        self.alarms: list[dict[str, float]] = []

    def gap(self, samples: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """The discriminator's figures.

        Args:
            samples: generated images, [N, C, S, S] in [-1, 1]; the first ``count`` are used.
            labels: int64 [N].

        Returns:
            ``discriminator_gap`` and ``discriminator_r_v``; the latter is not a number where the discriminator does not
            prefer training images to samples.
        """
        training, held_out, generated = (
            self._mean_logit(images[: self.count], labels[: self.count])
            for images, labels in (*self._real, (samples, labels))
        )
        margin = training - generated
        return {
            "discriminator_gap": training - held_out,
            "discriminator_r_v": (training - held_out) / margin if margin > 0 else float("nan"),
        }

    def memorises(self, figures: Mapping[str, float]) -> bool:
        """Whether a measurement passes both limits.

        Args:
            figures: with ``memorisation_score`` and ``memorisation_p``.

        Raises:
            ValueError: one is missing.
        """
        missing = {"memorisation_score", "memorisation_p"} - set(figures)
        if missing:
            raise ValueError(
                f"the figures have no {' and no '.join(sorted(missing))}, only {', '.join(sorted(figures))}; measure "
                "with monai_plan.metrics.GenerationQuality, or leave the watch out"
            )
        return figures["memorisation_score"] > self.score_limit and figures["memorisation_p"] <= self.p_limit

    def update(self, engine: Engine, figures: Mapping[str, float]) -> bool:
        """Count a measurement, raise the alarm when it is time; whether the run should stop.

        Args:
            engine: for its iteration.
            figures: as in :meth:`memorises`, and those of :meth:`gap`.
        """
        self.consecutive = self.consecutive + 1 if self.memorises(figures) else 0
        alarm = self.consecutive == self.patience
        if alarm:
            self._alarm(engine.state.iteration, figures)
        if self.folder is not None:
            content = {
                "score_limit": self.score_limit,
                "p_limit": self.p_limit,
                "patience": self.patience,
                "iteration": engine.state.iteration,
                "consecutive": self.consecutive,
                "alarms": self.alarms,
            }
            write_json(self.folder / "memorisation.json", content)
        return self.stopped

    @property
    def stopped(self) -> bool:
        """Whether the run should not go on, because the alarm stands and ``stop`` is set."""
        return self.stop and self.consecutive >= self.patience

    def _alarm(self, iteration: int, figures: Mapping[str, float]) -> None:
        names = ("memorisation_score", "memorisation_p", "discriminator_gap")
        self.alarms.append({"iteration": iteration, **{name: float(figures[name]) for name in names}})
        logger.warning(
            "iteration %d: the generator repeats training images. Its samples lie nearer to training images than to "
            "held-out ones: memorisation score %.2f (limit %.2f; 0 is chance, 1 every sample), p = %.4f (limit %.4f), "
            "%d measurements in a row; the discriminator rates training images %.2f above held-out ones. Such samples "
            "can show a patient. Weights measured so are never kept as the best%s. To get further: train for fewer "
            "images, raise the augmentation (its limit, or a lower target), add data or leave classes with few "
            "patients out",
            iteration,
            figures["memorisation_score"],
            self.score_limit,
            figures["memorisation_p"],
            self.p_limit,
            self.consecutive,
            figures["discriminator_gap"],
            ", and the run stops here" if self.stop else "; the run goes on, take the best checkpoint, not the last",
        )

    def _mean_logit(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        device = next(self.discriminator.parameters()).device
        with eval_mode(self.discriminator):
            logits = [
                self.discriminator(part.to(device), part_labels.to(device)).float()
                for part, part_labels in zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True)
            ]
        return float(torch.cat(logits).mean())

    def state_dict(self) -> dict[str, Any]:
        """The count and the alarms so far."""
        return {"consecutive": self.consecutive, "alarms": [dict(alarm) for alarm in self.alarms]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.consecutive = int(state["consecutive"])
        self.alarms = [dict(alarm) for alarm in state["alarms"]]
