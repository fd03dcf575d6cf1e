"""An endless, seekable order of training images.

Samplers of torch draw their order from a state that moves with the run; here the place in the stream alone decides, so
that a run resumed at any iteration sees the batches that it would have seen, whatever the loader fetched ahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import ignite.distributed as idist
import torch
from torch.utils.data import Sampler

from monai_plan.utils import generator_for

__all__ = ["ImageStream"]


class ImageStream(Sampler[int]):
    """Indices of images, pass after pass, each pass shuffled anew; the processes of a distributed run share the stream.

    Args:
        labels: the class of each image, 0 .. K - 1.
        balanced: draw every class equally often (rare classes then repeat their images), instead of as often as it
            occurs.
        seed: of the order.

    Raises:
        ValueError: there are no images.
    """

    def __init__(self, labels: Sequence[int], balanced: bool = False, seed: int = 0) -> None:
        if not len(labels):
            raise ValueError("there are no images to draw from; check the training split of the data list")
        classes = torch.as_tensor(labels).flatten()
        groups = [classes == label for label in classes.unique()] if balanced else [torch.ones_like(classes).bool()]
        self.members = [group.nonzero().flatten() for group in groups]
        self.seed = seed
        self._position = 0
        self._pass = lru_cache(maxsize=len(groups) + 1)(self._shuffled)

    def seek(self, position: int) -> None:
        """The next iterator starts behind the first ``position`` images of this process."""
        self._position = position

    def _shuffled(self, purpose: str, group: int, number: int, size: int) -> list[int]:
        return torch.randperm(size, generator=generator_for(self.seed, purpose, group, number)).tolist()

    def index_at(self, place: int) -> int:
        """The image at a place of the stream that all processes share."""
        turn, slot = divmod(place, len(self.members))
        group = self._shuffled("turns", 0, turn, len(self.members))[slot] if len(self.members) > 1 else 0
        members = self.members[group]
        number, within = divmod(turn, len(members))
        return int(members[self._pass("images", group, number, len(members))[within]])

    def __iter__(self) -> Iterator[int]:
        position, (rank, processes) = self._position, (idist.get_rank(), idist.get_world_size())
        while True:
            yield self.index_at(position * processes + rank)
            position += 1

    def __len__(self) -> int:
        """Images of one pass of one process; the iterator itself does not end."""
        return sum(map(len, self.members)) // idist.get_world_size()
