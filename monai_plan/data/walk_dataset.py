"""Which path, and which place on it, each image of an epoch comes from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.utils.data import Dataset

from monai_plan.latent.walk_set import WalkSet
from monai_plan.utils import PlanKeys, generator_for, weights_digest

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
        self._paths_of = {int(label): (walks.labels == label).nonzero()[:, 0] for label in walks.labels.unique()}
        families = list(self._paths_of.values()) if balance else [torch.arange(len(walks))]
        rng = generator_for(self.seed, "walk dataset")
        # each index belongs to a family (a class) and has a rank within it
        self._family = (torch.arange(images_per_epoch) % len(families))[torch.randperm(images_per_epoch, generator=rng)]
        self._rank = torch.zeros(images_per_epoch, dtype=torch.int64)
        self._size = torch.bincount(self._family, minlength=len(families)).tolist()
        for family, size in enumerate(self._size):
            self._rank[self._family == family] = torch.arange(size)
        # what takes turns: paths where a gate judges each image, verified points [path, point] where none does
        self._path_turns = [paths[torch.randperm(len(paths), generator=rng)] for paths in families]
        self._point_turns = []
        for paths in families:
            at = walks.verified[paths].nonzero()
            points = torch.stack([paths[at[:, 0]], at[:, 1]], dim=1)
            self._point_turns.append(points[torch.randperm(len(points), generator=rng)])

    def __len__(self) -> int:
        return self.images_per_epoch

    def __getitem__(self, index: int) -> dict[str, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of a dataset of {len(self)} images")
        path, _ = self.place(index, epoch=0, turn=0, attempt=0)
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
        bare = [label for label, paths in self._paths_of.items() if not self.walks.verified[paths].any()]
        if bare:
            raise ValueError(
                f"without a gate only verified points may be emitted, and class(es) {bare} of this walk set "
                f"(kind '{self.walks.kind}') have none. Verify the walks where the gallery is "
                "(monai_plan.latent.verification.verify_walks), give a gate, or walk more pairs of these classes"
            )

    def place(
        self, index: int, epoch: int, turn: int = 0, attempt: int = 0, verified_only: bool = False
    ) -> tuple[int, float]:
        """Where image ``index`` comes from, drawn from (seed, index, epoch, turn, attempt) alone.

        Args:
            index: 0 .. len - 1.
            epoch: >= 0.
            turn: the pass within the epoch, >= 0.
            attempt: 0 at first; each higher one is another place of the same class. Without effect for verified points.
            verified_only: a verified point, the next one in turn, instead of a place between the inner points.

        Returns:
            The path, 0 .. P - 1, and the position in points from its start, within [1, T - 2]: never an end.
        """
        family = int(self._family[index])
        step = int(self._rank[index]) + (epoch + turn) * self._size[family]
        if verified_only:
            points = self._point_turns[family]
            path, point = points[step % len(points)].tolist()
            return path, float(point)
        path = int(self._path_turns[family][step % len(self._path_turns[family])])
        rng = generator_for(self.seed, "place", index, epoch, turn, attempt)
        if attempt > 0:  # a path may be bad throughout
            others = self._paths_of[int(self.walks.labels[path])]
            path = int(others[torch.randint(len(others), (), generator=rng)])
        last_inner = self.walks.points.shape[1] - 2
        return path, 1 + (last_inner - 1) * float(torch.rand((), generator=rng, dtype=torch.float64))

    def latents(self, places: Sequence[tuple[int, float]]) -> torch.Tensor:
        """Latents [B, D], float32, of places given as (path, position): linear between neighbouring inner points."""
        paths = torch.tensor([path for path, _ in places])
        positions = torch.tensor([position for _, position in places], dtype=torch.float64)
        low = positions.long()
        high = (low + 1).clamp(max=self.walks.points.shape[1] - 2)
        share = (positions - low).float().unsqueeze(1)
        return torch.lerp(self.walks.points[paths, low], self.walks.points[paths, high], share)
