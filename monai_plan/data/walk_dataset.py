"""Which walks each epoch has, and how many images are made of them."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from monai_plan.data.walk_pool import WalkPool
from monai_plan.latent.walk_set import WalkSet
from monai_plan.utils import PlanKeys

__all__ = ["PrivacyWalkDataset", "class_shares"]

logger = logging.getLogger(__name__)


def class_shares(items: Sequence[Mapping[str, Any]], num_classes: int) -> list[float]:
    """How often each class 0 .. ``num_classes`` - 1 occurs among ``items`` with ``label``; sums to 1."""
    counts = Counter(int(item[PlanKeys.LABEL.value]) for item in items)
    return [counts[label] / len(items) for label in range(num_classes)]


class PrivacyWalkDataset(Dataset):
    """A map-style dataset of places on walks; :class:`~monai_plan.data.PrivacyWalkSampler` makes the images.

    Item i is ``{"index", "label", "path_id"}``: integers, the path being the one that i starts from in epoch 0. An
    index keeps its class in all epochs (with ``balance``); its path changes, so that all paths of a class take turns.

    With a ``planner`` each epoch from 1 on has walks of its own, whose labels are those of ``walks``. They are planned
    when the epoch begins, or by the sampler's ``prefetch`` while the epoch before it is shown. Two planned sets at most
    are in memory, beside ``walks``. In a distributed run each rank plans by itself, and must come to the same walks.

    MONAI's trainers count epochs from 1: their first one is planned, too, and waited for (unless ``planner`` gives
    finished walks for it). A loop of one's own calls the sampler's ``set_epoch``, else it stays with its epoch's walks.

    Args:
        walks: finished walks, or the path of their file; the walks of epoch 0. A bare tensor of latents is refused:
            nothing would say whose they are.
        images_per_epoch: >= 1.
        seed: of all draws, and of the order when shuffled.
        balance: equally many images of each class (to within one), in an order free of patterns, so that shards of any
            stride are mixed. Otherwise each path counts equally.
        planner: an epoch >= 1 -> its walks, with as many paths, the same labels in the same order and the same latent
            width; where no gate is at hand, verified with the sampler's generator. Equal epochs must give equal walks:
            a resumed run plans its epoch again. It runs in a thread of its own, with gradients as a new thread has
            them (on), and must not draw from global random state. With ``prefetch`` that is beside the training, so
            none of its networks may be the one that is trained. ``None`` keeps ``walks``.
        class_shares: with ``balance``, how often each class occurs instead of equally often, by class number; e.g.
            :func:`class_shares` of the training images, so that a classifier learns their prevalence.

    Raises:
        TypeError: ``walks`` is neither a WalkSet nor a path, or ``planner`` cannot be called.
        ValueError: there is no path, ``images_per_epoch`` < 1, or ``class_shares`` do not fit the walks' classes.
        FileNotFoundError: there is no such file.
    """

    def __init__(
        self,
        walks: WalkSet | str | os.PathLike,
        images_per_epoch: int,
        seed: int = 0,
        balance: bool = True,
        planner: Callable[[int], WalkSet] | None = None,
        class_shares: Sequence[float] | None = None,
    ) -> None:
        if isinstance(walks, (str, os.PathLike)):
            walks = WalkSet.load(walks)
        if not isinstance(walks, WalkSet):
            raise TypeError(
                f"walks must be a WalkSet or the path of its file, got {type(walks).__qualname__}; make one with "
                "`python -m monai_plan pipeline`"
            )
        if len(walks) == 0:
            raise ValueError("the walk set is empty; its stage made no path, run it with more anchors or pairs")
        if images_per_epoch < 1:
            raise ValueError(f"images_per_epoch must be >= 1, got {images_per_epoch}")
        if planner is not None and not callable(planner):
            raise TypeError(
                f"planner must be a function of the epoch that gives a WalkSet, got {type(planner).__qualname__}; in a "
                'config write it as an expression, e.g. "$lambda epoch: ..."'
            )
        if class_shares is not None:
            _check_shares(class_shares, walks, balance)
        self.seed = int(seed)
        self.images_per_epoch = images_per_epoch
        self.balance = balance
        self.class_shares = class_shares
        self.planner = planner
        self.pool = WalkPool(walks, images_per_epoch, self.seed, balance, class_shares)

    @property
    def walks(self) -> WalkSet:
        """The walks of epoch 0."""
        return self.pool.walks

    def __len__(self) -> int:
        return self.images_per_epoch

    def __getitem__(self, index: int) -> dict[str, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of a dataset of {len(self)} images")
        path = int(self.pool.places([index], epoch=0)[0])
        return {"index": index, PlanKeys.LABEL.value: int(self.walks.labels[path]), PlanKeys.PATH_ID.value: path}

    def pool_of(self, epoch: int, generator: nn.Module | None = None) -> WalkPool:
        """The pool of an epoch; planned anew at each call from epoch 1 on, if there is a planner.

        Args:
            epoch: >= 0.
            generator: what will render verified points without a gate; ``None`` where a gate judges each image.

        Raises:
            TypeError: the planner gave no WalkSet.
            ValueError: its walks do not fit those of epoch 0, or cannot be shown without a gate.
        """
        pool = self.pool
        if self.planner is not None and epoch > 0:
            walks = self.planner(epoch)
            self._check_planned(walks, epoch)
            pool = WalkPool(walks, self.images_per_epoch, self.seed, self.balance, self.class_shares)
        if generator is not None:
            pool.require_verified(generator)
        return pool

    def _check_planned(self, walks: WalkSet, epoch: int) -> None:
        if not isinstance(walks, WalkSet):
            raise TypeError(
                f"the planner must give a WalkSet, got {type(walks).__qualname__} for epoch {epoch}; return what "
                "verify_walks returns"
            )
        for name, seen, wanted in (
            ("paths", len(walks), len(self.walks)),
            ("latent dimensions", walks.points.shape[2], self.walks.points.shape[2]),
        ):
            if seen != wanted:
                raise ValueError(
                    f"the planner gave {seen} {name} for epoch {epoch} and the first walks have {wanted}; plan with "
                    "the same generator and as many pairs of anchors"
                )
        labels = walks.labels.cpu()
        if not torch.equal(labels, self.walks.labels):
            first = int((labels != self.walks.labels).nonzero()[0])
            raise ValueError(
                f"for epoch {epoch} the planner gave path {first} the label {int(labels[first])} instead of "
                f"{int(self.walks.labels[first])}; an index keeps its class in all epochs, so keep the classes and "
                "their order when pairs are drawn anew"
            )


def _check_shares(shares: Sequence[float], walks: WalkSet, balance: bool) -> None:
    if not balance:
        raise ValueError("class_shares say how classes are balanced; leave balance true, or leave the shares out")
    classes = walks.labels.unique().tolist()
    if max(classes) >= len(shares):
        raise ValueError(f"{len(shares)} class_shares, and the walks have the class {max(classes)}; give one for each")
    if min(shares) < 0 or not any(shares[label] for label in classes):
        raise ValueError(
            f"class_shares {list(shares)} for walks of the classes {classes}: give one share from 0 on for each class, "
            "and not 0 to all that have walks"
        )
    without = [label for label, share in enumerate(shares) if share and label not in classes]
    if without:
        logger.warning("class(es) %s have a share and no walk, so no image; the others keep their proportions", without)
