"""Places on walks rendered and judged until every slot of every batch holds an accepted image."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from monai_plan.data.walk_pool import WalkPool
from monai_plan.latent.rendering import NOT_FINITE, render_and_judge
from monai_plan.transforms.pass_gate import ImageGate
from monai_plan.utils import RunError, generator_for

__all__ = ["JudgedBatch", "WalkRenderer"]

_BEGUN = 4
"""Batches begun before the first of them is complete, at most."""
_BLOCK = 16
"""No batch of the next so many is begun before these are complete: where a resumed pass can start."""


class JudgedBatch(NamedTuple):
    """A batch whose images have all passed.

    Attributes:
        indices: of the data set, int64 [B], on the CPU like ``paths`` and ``positions``.
        images: float32 [B, C, H, W] in [-1, 1], on the generator's device.
        paths: int64 [B].
        positions: in points from the path's start, float64 [B].
        rejected: draws that the gate rejected on the way.
    """

    indices: torch.Tensor
    images: torch.Tensor
    paths: torch.Tensor
    positions: torch.Tensor
    rejected: int


@dataclass(eq=False)
class _Slot:
    """One image to be: the attempts that failed, and the one that did not."""

    index: int
    attempt: int = 0
    is_finite: bool = True
    image: torch.Tensor | None = None
    path: int = -1
    position: float = -1.0


@dataclass(frozen=True)
class WalkRenderer:
    """Makes batches in forwards of one size.

    A forward holds what the gate rejected before, and is filled up with the next batches' first draws: a rejected image
    costs one image more, not a forward of its own. So a few batches are begun before the first one is complete.

    Args:
        generator: with ``synthesize(w, noise, rng)``, on ``device``.
        gate: judges; ``None`` takes verified points only, which have been judged.
        batch_size: images in a forward.
        device: the generator's and the gate's.
        noise: "const", or "random": rendered one by one, each with its own random state.
        max_attempts: draws an image may take.
        amp: render in bfloat16; the gate judges in float32.
    """

    generator: Any
    gate: ImageGate | None
    batch_size: int
    device: torch.device
    noise: str
    max_attempts: int
    amp: bool

    def batches(
        self, pool: WalkPool, order: Sequence[Sequence[int]], epoch: int, turn: int, first: int = 0
    ) -> Iterator[JudgedBatch]:
        """The batches of one pass, from number ``first`` on.

        Which images share a forward does not depend on ``first``: a pass that is resumed renders a few batches before
        it again. So its images are the same to the bit.

        Args:
            pool: the epoch's walks; draws places.
            order: the indices of each batch of the whole pass.
            epoch: see :meth:`WalkPool.places`.
            turn: likewise.
            first: 0 .. len(order).

        Raises:
            RunError: when it comes to a batch, of which the gate rejected every attempt for an image, or an image
                is not finite.
        """
        number = first - first % _BLOCK if self.gate is not None else first
        begun: deque[list[_Slot]] = deque()
        waiting: list[_Slot] = []  # oldest first
        emitted = rejected = 0
        upcoming = complete = number
        while complete < len(order):
            while len(waiting) < self.batch_size and len(begun) < _BEGUN and upcoming < len(order):
                if upcoming % _BLOCK == 0 and begun:
                    break
                begun.append([_Slot(int(index)) for index in order[upcoming]])
                waiting += begun[-1]
                upcoming += 1
            tried, waiting = waiting[: self.batch_size], waiting[self.batch_size :]
            waiting = self._try(pool, tried, epoch, turn) + waiting
            while begun and (batch := self._completed(begun[0], emitted, rejected)) is not None:
                begun.popleft()
                emitted, rejected = emitted + len(batch.images), rejected + batch.rejected
                complete += 1
                if complete > first:
                    yield batch

    def _try(self, pool: WalkPool, slots: Sequence[_Slot], epoch: int, turn: int) -> list[_Slot]:
        """One forward; fills the slots whose image passes and returns those to be tried again."""
        indices = torch.tensor([slot.index for slot in slots])
        attempts = torch.tensor([slot.attempt for slot in slots])
        paths, positions = pool.places(indices, epoch, turn, attempts, verified_only=self.gate is None)
        rngs = None
        if self.noise == "random":
            keys = [(pool.seed, "noise", slot.index, epoch, turn, slot.attempt) for slot in slots]
            rngs = [generator_for(*key, device=self.device) for key in keys]
        latents = pool.latents(paths, positions).to(self.device)
        images, finite, passed = render_and_judge(self.generator, self.gate, latents, rngs, self.amp)
        verdicts = zip(images.unbind(), finite.tolist(), passed.tolist(), strict=True)
        rejected = []
        for slot, path, position, (image, is_finite, accepted) in zip(
            slots, paths.tolist(), positions.tolist(), verdicts, strict=True
        ):
            slot.is_finite = is_finite  # a broken image fails its batch, when that one's turn comes
            if accepted:
                slot.image, slot.path, slot.position = image, path, position
            elif is_finite:
                slot.attempt += 1
                if slot.attempt < self.max_attempts:
                    rejected.append(slot)
        return rejected

    def _completed(self, slots: Sequence[_Slot], emitted: int, rejected: int) -> JudgedBatch | None:
        """The batch of these slots; ``None`` while one of them is empty."""
        if not all(slot.is_finite for slot in slots):
            raise RunError(NOT_FINITE)
        attempts = sum(slot.attempt for slot in slots)
        exhausted = sum(slot.attempt == self.max_attempts for slot in slots)
        if exhausted:
            raise RunError(
                f"the gate rejected all {self.max_attempts} attempts for {exhausted} of the {len(slots)} images of a "
                f"batch (in this pass so far {emitted} emitted, {rejected + attempts} rejected); nothing is emitted "
                "instead. Raise max_attempts if few are rejected overall. If most are, walk again with a larger "
                "identity weight or from anchors of a larger k, and see whether the gate was calibrated on images of "
                "the same kind"
            )
        images = [slot.image for slot in slots if slot.image is not None]
        if len(images) < len(slots):
            return None
        return JudgedBatch(
            torch.tensor([slot.index for slot in slots]),
            torch.stack(images),
            torch.tensor([slot.path for slot in slots]),
            torch.tensor([slot.position for slot in slots], dtype=torch.float64),
            attempts,
        )
