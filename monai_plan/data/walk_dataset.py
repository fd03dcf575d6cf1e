"""Which path, and which place on it, each image of an epoch comes from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.utils.data import Dataset

from monai_plan.latent.walk_set import WalkSet
from monai_plan.utils import PlanKeys, generator_for, uniform_at, weights_digest

__all__ = ["PrivacyWalkDataset"]


class PrivacyWalkDataset(Dataset):
    """A map-style dataset of places on walks; :class:`~monai_plan.data.PrivacyWalkSampler` makes the images.

    Item i is ``{"index", "label", "path_id"}``: integers, the path being the one that i starts from in epoch 0. An
    index keeps its class in all epochs (with ``balance``); its path changes, so that all paths of a class take turns.

    Args:
        walks: finished walks, or the path of their file. A bare tensor of latents is refused: nothing would say whose
            they are.
        images_per_epoch: >= 1.
        seed: of all draws, and of the order when shuffled.
        balance: equally many images of each class (to within one), in an order free of patterns, so that shards of any
            stride are mixed. Otherwise each path counts equally.

    Raises:
        TypeError: ``walks`` is neither a WalkSet nor a path.
        ValueError: there is no path, or ``images_per_epoch`` < 1.
        FileNotFoundError: there is no such file.
    """

    def __init__(
        self, walks: WalkSet | str | os.PathLike, images_per_epoch: int, seed: int = 0, balance: bool = True
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
        walks = replace(walks, points=walks.points.cpu(), labels=walks.labels.cpu(), verified=walks.verified.cpu())
        self.walks = walks
        self.seed = int(seed)
        self.images_per_epoch = images_per_epoch
        classes, class_of = walks.labels.unique(return_inverse=True)
        self._classes = classes.tolist()
        self._class_of = class_of
        by_class = [(class_of == number).nonzero()[:, 0] for number in range(len(classes))]
        families = by_class if balance else [torch.arange(len(walks))]
        rng = generator_for(self.seed, "walk dataset")
        # each index belongs to a family (a class) and has a rank within it
        self._family = (torch.arange(images_per_epoch) % len(families))[torch.randperm(images_per_epoch, generator=rng)]
        self._rank = torch.zeros(images_per_epoch, dtype=torch.int64)
        self._size = torch.bincount(self._family, minlength=len(families))
        for family, size in enumerate(self._size.tolist()):
            self._rank[self._family == family] = torch.arange(size)
        # what takes turns: paths where a gate judges each image, verified points [path, point] where none does
        self._by_class = _Lists(by_class)
        self._path_turns = _Lists([paths[torch.randperm(len(paths), generator=rng)] for paths in families])
        point_turns = []
        for paths in families:
            at = walks.verified[paths].nonzero()
            points = torch.stack([paths[at[:, 0]], at[:, 1]], dim=1)
            point_turns.append(points[torch.randperm(len(points), generator=rng)])
        self._point_turns = _Lists(point_turns)

    def __len__(self) -> int:
        return self.images_per_epoch

    def __getitem__(self, index: int) -> dict[str, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of a dataset of {len(self)} images")
        path = int(self.places([index], epoch=0)[0])
        return {"index": index, PlanKeys.LABEL.value: int(self.walks.labels[path]), PlanKeys.PATH_ID.value: path}

    def require_verified(self, generator: nn.Module) -> None:
        """Make sure that images can be emitted without a gate.

        Args:
            generator: what will render the points; a verdict holds for the weights that were looked at, and no others.

        Raises:
            ValueError: the points were verified with other weights, or a class has no verified point.
        """
        if self.walks.meta.get("generator") != weights_digest(generator):
            raise ValueError(
                "without a gate only verified points may be emitted, and these walks were verified with another "
                "generator (or by an old version, which kept no digest of it). Verify them again where the gallery is "
                "(monai_plan.latent.verification.verify_walks), or give a gate"
            )
        verified = self._class_of[self.walks.verified.any(dim=1)]
        bare = [label for number, label in enumerate(self._classes) if not (verified == number).any()]
        if bare:
            raise ValueError(
                f"without a gate only verified points may be emitted, and class(es) {bare} of this walk set "
                f"(kind '{self.walks.kind}') have none. Verify the walks where the gallery is "
                "(monai_plan.latent.verification.verify_walks), give a gate, or walk more pairs of these classes"
            )

    def places(
        self,
        indices: Sequence[int] | torch.Tensor,
        epoch: int,
        turn: int = 0,
        attempts: Sequence[int] | torch.Tensor | int = 0,
        verified_only: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where images come from, each drawn from its own (seed, index, epoch, turn, attempt) alone.

        Args:
            indices: 0 .. len - 1, [B].
            epoch: >= 0.
            turn: the pass within the epoch, >= 0.
            attempts: one, or [B]: 0 at first; each higher one is another place of the same class. Without effect for
                verified points.
            verified_only: verified points, the next ones in turn, instead of places between the inner points.

        Returns:
            The paths, int64 [B], 0 .. P - 1, and the positions in points from their start, float64 [B], within
            [1, T - 2]: never an end.
        """
        indices, attempts = torch.as_tensor(indices), torch.as_tensor(attempts)
        family = self._family[indices]
        steps = self._rank[indices] + (epoch + turn) * self._size[family]
        if verified_only:
            paths, points = self._point_turns.at(family, steps).unbind(dim=1)
            return paths, points.double()
        paths = self._path_turns.at(family, steps)
        if attempts.any():  # a path may be bad throughout
            group = self._class_of[paths]
            share = uniform_at(self.seed, "path", indices, epoch, turn, attempts)
            others = self._by_class.at(group, (share * self._by_class.lengths[group]).long())
            paths = torch.where(attempts > 0, others, paths)
        last_inner = self.walks.points.shape[1] - 2
        return paths, 1 + (last_inner - 1) * uniform_at(self.seed, "place", indices, epoch, turn, attempts)

    def latents(self, paths: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Latents float32 [B, D] of :meth:`places`: linear between neighbouring inner points."""
        low = positions.long()
        high = (low + 1).clamp(max=self.walks.points.shape[1] - 2)
        share = (positions - low).float().unsqueeze(1)
        return torch.lerp(self.walks.points[paths, low], self.walks.points[paths, high], share)


class _Lists:
    """Lists of different lengths in one tensor, for look-ups in several at once."""

    def __init__(self, lists: Sequence[torch.Tensor]) -> None:
        self.values = torch.cat(list(lists))
        self.lengths = torch.tensor([len(values) for values in lists])
        self.first = self.lengths.cumsum(dim=0) - self.lengths

    def at(self, lists: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Element ``steps`` [B] of lists number ``lists`` [B], beginning anew at a list's end."""
        return self.values[self.first[lists] + steps % self.lengths[lists]]
