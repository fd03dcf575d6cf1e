"""Stops a training run that would read real images where synthetic ones were promised."""

from __future__ import annotations

import logging

from ignite.engine import Engine, Events

from monai_plan.utils import RunError
from monai_plan.utils.synthetic import SYNTHETIC_MARK, is_synthetic

__all__ = ["SyntheticOnly"]

logger = logging.getLogger(__name__)


class SyntheticOnly:
    """Fails the run at its start unless the trainer's loader emits synthetic images only.

    A swap that silently keeps the real loader (a nested override of a top-level node, a missed file) is the worst
    failure of a private training. The loader itself must carry the mark ``is_synthetic = True``, as
    ``monai_plan.data.PrivacyWalkSampler`` does; wrappers without it are refused, because nobody knows what they mix in.
    The loader is looked at again in every iteration, before its batch reaches the network.

    Attach it to the trainer only: validation and test need real images.

    Args:
        allow_mixed: also let a loader through that declares the share of real images in it, ``real_share``, above 0 and
            below 1, as ``monai_plan.data.MixedBatches`` does. Each run then begins with a warning.

    Raises:
        RunError: at the start, or in the first iteration after another loader was put in.
    """

    def __init__(self, allow_mixed: bool = False) -> None:
        self.allow_mixed = allow_mixed

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self)
        engine.add_event_handler(Events.STARTED, _warn_of_real_images)
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        loader = engine.state.dataloader
        share = _real_share(loader)
        if is_synthetic(loader) or (self.allow_mixed and share):
            return
        if share:
            raise RunError(
                f"SyntheticOnly: {100 * share:g} % of the images of the trainer's loader are real, of patients, so "
                "nothing is trained on it. If these images may be used for training, say so: "
                '{"_target_": "monai_plan.handlers.SyntheticOnly", "allow_mixed": true}; otherwise give the trainer '
                "what mixes them in as 'synthetic', alone"
            )
        found = _full_name(loader)
        dataset = getattr(loader, "dataset", None)
        if dataset is not None:
            found += f" over {_full_name(dataset)}"
        if type(dataset).__name__ == "PrivacyWalkDataset":
            found += " (the dataset alone was swapped: it has no images, swap the loader, too)"
        raise RunError(
            f"SyntheticOnly: the trainer's loader is {found}, which does not promise synthetic images "
            f"({SYNTHETIC_MARK} = True); it may hold real patients, so nothing is trained on it. Swap dataset and "
            "loader together, under the very names that the config's trainer refers to in 'train_data_loader': "
            '"train#dataset": {"_target_": "monai_plan.data.PrivacyWalkDataset", "walks": "models/walks.safetensors", '
            '"images_per_epoch": 1000} and "train#dataloader": {"_target_": "monai_plan.data.PrivacyWalkSampler", '
            '"dataset": "@train#dataset", "generator": "@generator", "batch_size": 16}. Where the config has a '
            'top-level "train_dataloader", override that name: a nested "train#dataloader" is ignored there'
        )


def _real_share(loader: object) -> float:
    """What a loader declares of itself; 0 if it is no share."""
    share = getattr(loader, "real_share", None)
    return share if isinstance(share, float) and 0 < share < 1 else 0.0


def _warn_of_real_images(engine: Engine) -> None:
    if share := _real_share(engine.state.dataloader):
        logger.warning("this run trains on REAL images of patients: %g %% of each epoch", 100 * share)


def _full_name(item: object) -> str:
    return f"{type(item).__module__}.{type(item).__qualname__}"
