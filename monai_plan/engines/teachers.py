"""Teachers: classifiers trained on real images, whose answers become the labels of synthetic ones."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from monai.engines import default_prepare_batch
from torch import nn
from torch.utils.data import DataLoader

from monai_plan.engines.classification import initial_network, train_classifier
from monai_plan.utils import generator_for, load_tensors, save_tensors

__all__ = ["load_teachers", "save_teachers", "train_teachers"]

SCHEMA = "teachers"


def train_teachers(
    factory: Callable[[], nn.Module],
    loader: DataLoader,
    validation_loader: DataLoader,
    count: int,
    epochs: int,
    learning_rate: float,
    device: str | torch.device,
    prepare_batch: Callable = default_prepare_batch,
    amp: bool = False,
    seed: int = 0,
) -> list[nn.Module]:
    """Train several classifiers that differ in nothing but chance; see :func:`train_classifier` for the settings.

    Together they know more than each, and say how sure they are (deep ensembles: Lakshminarayanan et al., NeurIPS
    2017), which is what a student on synthetic images can learn from them beyond a class number.

    Args:
        factory: makes an untrained network; as the classifier's own, or larger.
        loader: real training images.
        validation_loader: real images that choose each one's epoch.
        count: teachers, >= 1.
        epochs, learning_rate, device, prepare_batch, amp: see :func:`train_classifier`.
        seed: of all of them; the global random state is left as it was.

    Raises:
        ValueError: ``count`` < 1, or from training.
    """
    if count < 1:
        raise ValueError(f"teachers={count}: one or more are needed; for hard labels train with @prepare_batch instead")
    networks = []
    for number in range(count):
        own = generator_for(seed, "teacher", number).initial_seed()
        network = initial_network(factory, own)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(own)
            train_classifier(
                *(network, loader, validation_loader, epochs, learning_rate, device, prepare_batch, amp),
                description=f"teacher {number + 1} of {count}",
            )
        networks.append(network.eval().requires_grad_(False))
    return networks


def save_teachers(path: str | os.PathLike, teachers: Sequence[nn.Module]) -> Path:
    """Write their weights into one file, as tensors only (schema ``teachers``)."""
    tensors = {
        f"{number}.{name}": value.contiguous()
        for number, teacher in enumerate(teachers)
        for name, value in teacher.state_dict().items()
    }
    return save_tensors(path, tensors, schema=SCHEMA, meta={"count": len(teachers)})


def load_teachers(path: str | os.PathLike, like: nn.Module) -> list[nn.Module]:
    """Read a file of :func:`save_teachers`.

    Args:
        path: the file.
        like: a network of the kind that was saved; it is copied and left as it is.

    Returns:
        Frozen networks in evaluation mode, where ``like`` is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken, of another kind, or of other networks.
    """
    tensors, header = load_tensors(path, SCHEMA, meta_kinds={"count": int})
    if not 1 <= header["count"] <= len(tensors):
        raise ValueError(
            f"'{path}' names {header['count']} teachers and holds {len(tensors)} tensors; it was changed or is "
            "damaged. Run the stage train_label again"
        )
    teachers = []
    for number in range(header["count"]):
        prefix = f"{number}."
        weights = {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}
        network = copy.deepcopy(like)
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"the teachers in '{path}' are other networks than the config's (channels, num_classes, resnet_layers "
                "or resnet_widths differ). Use the settings they were trained with, or run the stage train_label again"
            ) from error
        teachers.append(network.eval().requires_grad_(False))
    return teachers
