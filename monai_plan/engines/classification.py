"""Train a classifier and keep its best epoch; predict with it.

The stock supervised trainer and evaluator of MONAI do the work. Their ``amp`` is fixed to CUDA and float16, so autocast
lives in the inferer instead: bfloat16 on any device, without a gradient scaler.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.engines import SupervisedEvaluator, SupervisedTrainer, default_prepare_batch
from monai.handlers import ROCAUC, ValidationHandler
from monai.inferers import SimpleInferer
from monai.networks.utils import eval_mode
from torch import nn
from torch.utils.data import DataLoader

from monai_plan.utils import PlanKeys, generator_for

__all__ = ["BestEpoch", "initial_network", "predict", "train_classifier"]


@dataclass(frozen=True)
class BestEpoch:
    """The epoch whose weights were kept.

    Attributes:
        auroc: its validation AUROC, 0 .. 1; one-vs-rest, averaged over the classes.
        epoch: its number, from 1.
    """

    auroc: float
    epoch: int


def initial_network(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A newly made network whose initial weights depend on ``seed`` alone; the global random state is left as it was.

    Args:
        factory: makes an untrained network.
        seed: of its initial weights.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(generator_for(seed, "initial weights").initial_seed())
        return factory()


class _AutocastInferer(SimpleInferer):
    def __init__(self, amp: bool) -> None:
        super().__init__()
        self.amp = amp

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.amp):
            logits = network(inputs, *args, **kwargs)
        return torch.as_tensor(logits).as_subclass(torch.Tensor).float()


def train_classifier(
    network: nn.Module,
    loader: DataLoader,
    validation_loader: DataLoader,
    epochs: int,
    learning_rate: float,
    device: str | torch.device,
    prepare_batch: Callable = default_prepare_batch,
    amp: bool = False,
    weight_decay: float = 0.01,
    description: str = "",
) -> BestEpoch:
    """Minimise the cross-entropy with AdamW at a constant learning rate; leave the best epoch's weights in ``network``.

    After each epoch the AUROC on ``validation_loader`` is measured; of equal epochs the first is kept. Shuffling and
    dropout draw from torch's global state: fork and seed it around the call to have the same training again.

    Args:
        network: images [B, C, H, W] -> logits [B, K], K >= 2; moved to ``device``, trained in place.
        loader: dicts with ``image`` [B, C, H, W] and ``label`` [B], 0 .. K - 1, for training.
        validation_loader: the same, not augmented; every class must occur.
        epochs: passes over ``loader``, >= 1.
        learning_rate: AdamW's.
        device: where to train.
        prepare_batch: MONAI's ``(batch, device, non_blocking) -> (images, labels)`` for training batches, e.g. one that
            augments; labels may be probabilities [B, K]. Validation batches are taken as they are.
        amp: bfloat16 autocast, on any device.
        weight_decay: AdamW's.
        description: text before the progress bar.

    Raises:
        ValueError: ``epochs`` < 1, the loss is not finite, or a class is missing from the validation images.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be >= 1, got {epochs}")
    device = torch.device(device)
    network.to(device)
    best: dict[str, Any] = {}
    evaluator = SupervisedEvaluator(
        device=device,
        val_data_loader=validation_loader,
        network=network,
        inferer=_AutocastInferer(amp),
        key_val_metric={"auroc": ROCAUC(output_transform=_probabilities_and_one_hot)},
        decollate=False,
    )
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=epochs,
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay),
        loss_function=_cross_entropy,
        inferer=_AutocastInferer(amp),
        prepare_batch=prepare_batch,
        train_handlers=[ValidationHandler(interval=1, validator=evaluator)],
        decollate=False,
    )

    def keep_best(engine: Engine) -> None:
        auroc = float(engine.state.metrics["auroc"])
        if math.isnan(auroc):
            raise ValueError(
                "the AUROC on the validation images is undefined: they lack images of some class. Give the validation "
                "split images of every class, or the network as many outputs as there are classes"
            )
        if not best or auroc > best["auroc"]:
            best.update(auroc=auroc, epoch=engine.state.epoch, weights=copy.deepcopy(network.state_dict()))

    def figures(output: Mapping[str, Any]) -> dict[str, float]:
        return {"loss": float(output["loss"].detach()), **({"best_val_auroc": best["auroc"]} if best else {})}

    evaluator.add_event_handler(Events.COMPLETED, keep_best)
    bar = ProgressBar(desc=description or "training a classifier", persist=True, mininterval=1.0, unit="batch")
    tenth = Events.ITERATION_COMPLETED(every=max(1, len(loader) // 10))  # Ignite redraws at every event
    bar.attach(trainer, event_name=tenth, output_transform=figures, closing_event_name=Events.COMPLETED)
    trainer.run()
    network.load_state_dict(best["weights"])
    return BestEpoch(best["auroc"], best["epoch"])


def predict(
    network: nn.Module, loader: Iterable[Mapping[str, Any]], device: str | torch.device, amp: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The network's probabilities of all images of a loader, in evaluation mode, without gradients.

    Args:
        network: images [B, C, H, W] -> logits [B, K]; moved to ``device``, its mode is restored afterwards.
        loader: dicts with ``image`` and ``label``.
        device: where to compute.
        amp: bfloat16 autocast.

    Returns:
        Probabilities, float32, shape [N, K], and labels, int64, shape [N], both on the CPU.

    Raises:
        ValueError: the loader is empty.
    """
    device = torch.device(device)
    inferer = _AutocastInferer(amp)
    probabilities, labels = [], []
    with eval_mode(network.to(device)):
        for batch in loader:
            images = torch.as_tensor(batch[PlanKeys.IMAGE]).to(device)
            probabilities.append(inferer(images, network).softmax(dim=1).cpu())
            labels.append(_class_numbers(batch[PlanKeys.LABEL]).cpu())
    if not labels:
        raise ValueError("the loader gave no images to predict; check the split and the data list")
    return torch.cat(probabilities), torch.cat(labels)


def _class_numbers(labels: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(labels).as_subclass(torch.Tensor).long().flatten()


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    soft = labels.is_floating_point() and labels.shape == logits.shape
    loss = F.cross_entropy(logits, labels if soft else _class_numbers(labels))
    if not torch.isfinite(loss):
        raise ValueError(
            f"the classifier's loss is {float(loss.detach())}: training has diverged, or an image holds NaN. Lower the "
            "learning rate, and check the images"
        )
    return loss


def _probabilities_and_one_hot(output: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    probabilities = output["pred"].softmax(dim=1)
    return probabilities, F.one_hot(_class_numbers(output["label"]), probabilities.shape[1])
