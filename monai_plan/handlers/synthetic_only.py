"""Stops a training run that would read real images where synthetic ones were promised."""

from __future__ import annotations

from ignite.engine import Engine, Events

from monai_plan.utils.synthetic import SYNTHETIC_MARK, is_synthetic

__all__ = ["SyntheticOnly"]


class SyntheticOnly:
    """Fails the run at its start unless the trainer's loader emits synthetic images only.

    A swap that silently keeps the real loader (a nested override of a top-level node, a missed file) is the worst
    failure of a private training. The loader itself must carry the mark ``is_synthetic = True``, as
    ``monai_plan.data.PrivacyWalkSampler`` does; wrappers without it are refused, because nobody knows what they mix in.
    The loader is looked at again in every iteration, before its batch reaches the network.

    Attach it to the trainer only: validation and test need real images.

    Raises:
        RuntimeError: at the start, or in the first iteration after another loader was put in.
    """

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self)
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        loader = engine.state.dataloader
        if is_synthetic(loader):
            return
        found = f"{type(loader).__module__}.{type(loader).__qualname__}"
        dataset = getattr(loader, "dataset", None)
        if dataset is not None:
            found += f" over {type(dataset).__module__}.{type(dataset).__qualname__}"
        raise RuntimeError(
            f"SyntheticOnly: the trainer's loader is {found}, which does not promise synthetic images "
            f"({SYNTHETIC_MARK} = True); it may hold real patients, so nothing is trained on it. Swap dataset and "
            "loader together, under the very names that the config's trainer refers to in 'train_data_loader': "
            '"train#dataset": {"_target_": "monai_plan.data.PrivacyWalkDataset", "walks": "models/walks.safetensors", '
            '"images_per_epoch": 1000} and "train#dataloader": {"_target_": "monai_plan.data.PrivacyWalkSampler", '
            '"dataset": "@train#dataset", "generator": "@generator", "batch_size": 16}. Where the config has a '
            'top-level "train_dataloader", override that name: a nested "train#dataloader" is ignored there'
        )
