"""What a classifier said of each image, as a CSV file."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.engines.utils import CommonKeys
from monai.utils import ImageMetaKey

from monai_plan.utils import atomic_path

__all__ = ["PredictionTable"]


class PredictionTable:
    """Writes one line an image when an evaluator's run has ended: its file, the class's name, all probabilities.

    The columns are ``file``, ``predicted`` and, for each class, ``probability_<name>``. MONAI's ``ClassificationSaver``
    writes numbers only and appends to the file while it works; here the file is whole or absent, and an earlier one is
    replaced.

    The evaluator's postprocessing has to leave in each item, beside the probabilities ``pred`` (float, [K], from 0
    to 1), the class's name under ``name_key``; each item of the batch has its file's name under ``filename_or_obj``.

    Args:
        path: of the CSV file (UTF-8); its folder is made if needed.
        class_names: K names, in order of the classes' numbers.
        name_key: where postprocessing puts the class's name.
    """

    def __init__(self, path: str | os.PathLike, class_names: Sequence[str], name_key: str = "predicted_name") -> None:
        self.path = Path(path)
        self.class_names = list(class_names)
        self.name_key = name_key
        self._rows: list[tuple[str, ...]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator that decollates its batches, as MONAI's do."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _begin(self, engine: Engine) -> None:
        self._rows = []

    def __call__(self, engine: Engine) -> None:
        """Keep what was said of a batch.

        Raises:
            ValueError: a probability is not finite, or there are not as many as classes' names.
        """
        state: Any = engine.state  # MONAI's, whose batch and output are lists of items
        for item, output in zip(state.batch, state.output, strict=True):
            file, probabilities = str(item[ImageMetaKey.FILENAME_OR_OBJ]), output[CommonKeys.PRED].tolist()
            if len(probabilities) != len(self.class_names):
                raise ValueError(
                    f"the network answers with {len(probabilities)} numbers and there are {len(self.class_names)} "
                    f"names of classes ({', '.join(self.class_names)}). Set num_classes and labels as in training"
                )
            if not all(map(math.isfinite, probabilities)):
                raise ValueError(
                    f"the network's answer for '{file}' is {probabilities}, which is no probability; its weights may "
                    "be damaged, or half precision overflows (--amp False)"
                )
            self._rows.append((file, output[self.name_key], *(f"{value:.6f}" for value in probabilities)))

    def _write(self, engine: Engine) -> None:
        header = ("file", "predicted", *(f"probability_{name}" for name in self.class_names))
        # names of files are bytes on some systems, and come back as they were
        with (
            atomic_path(self.path) as partial,
            partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
        ):
            csv.writer(stream, lineterminator="\n").writerows([header, *self._rows])
