"""The pool of walks in use, and the next one while it is planned."""

from __future__ import annotations

from contextlib import closing

import torch
from torch import nn

from monai_plan.data.prefetch import BackgroundItems
from monai_plan.data.walk_dataset import PrivacyWalkDataset
from monai_plan.data.walk_pool import WalkPool

__all__ = ["WalkPools"]


class WalkPools:
    """The pools of one loader, epoch by epoch; planned ones are the last that was asked for and the one begun ahead.

    Every plan is made in a thread of its own, whoever waits for it: what is switched on in the training thread
    (gradients, autocast, inference mode) does not reach the planner, and it never runs twice at once. An error is
    raised where its pool is asked for, with its own type, message and traceback; asking again plans again. The thread
    ends with its plan; the collection of this object and the interpreter's exit wait for that.

    Args:
        dataset: has the planner.
        device: where the planner works; on CUDA it gets a stream of its own.
        generator: what will render verified points without a gate; ``None`` where a gate judges each image.
    """

    def __init__(self, dataset: PrivacyWalkDataset, device: torch.device, generator: nn.Module | None = None) -> None:
        self._dataset, self._device, self._generator = dataset, device, generator
        self._epoch, self._pool = 0, dataset.pool
        self._next_epoch = 0
        self._next: BackgroundItems[WalkPool] | None = None

    def of(self, epoch: int) -> WalkPool:
        """The pool of ``epoch``; waits until it is planned.

        Raises:
            TypeError, ValueError: see :meth:`PrivacyWalkDataset.pool_of`; further, whatever the planner raises.
        """
        if self._is_first(epoch):
            return self._dataset.pool
        if epoch != self._epoch:
            self._pool = self._planned(epoch)
            self._epoch = epoch
        return self._pool

    def begin(self, epoch: int) -> None:
        """Start planning ``epoch``, unless it is there or in work; waits for the end of another plan."""
        if self._is_first(epoch) or epoch == self._epoch:
            return
        if self._next is not None:
            if self._next_epoch == epoch:
                return
            other, self._next = self._next, None
            other.close()
        plan = map(self._dataset.pool_of, (epoch,), (self._generator,))
        # room for one more than there is to make: the thread does not stay to wait
        self._next, self._next_epoch = BackgroundItems(plan, 2, self._device, "walks ahead"), epoch

    def _is_first(self, epoch: int) -> bool:
        return self._dataset.planner is None or epoch == 0

    def _planned(self, epoch: int) -> WalkPool:
        self.begin(epoch)
        planned, self._next = self._next, None
        assert planned is not None
        with closing(planned):
            return next(planned)
