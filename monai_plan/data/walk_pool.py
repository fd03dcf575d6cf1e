"""One set of walks, and which place on which path each image of an epoch comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from monai_plan.latent.walk_set import WalkSet
from monai_plan.utils import apportioned, generator_for, uniform_at, weights_digest

__all__ = ["WalkPool"]


class WalkPool:
    """Draws places on the paths of one walk set; the same ones for the same arguments.

    An index belongs to a class (with ``balance``), and all paths of the class take turns in it. Pools with the same
    labels agree in this, however else their walks differ.

    Where a gate judges each image, a place lies anywhere between two neighbouring inner points that are both verified:
    the gate says nothing of an image's class, and whether the label network agreed with it is known at the points only.
    All such segments of a path count equally; a path that has none is not drawn. A class without any is drawn from its
    verified points alone; one without a verified point, as of walks that nobody ever verified, from all inner segments
    (``unverified_classes``).

    Args:
        walks: at least one path.
        images_per_epoch: >= 1.
        seed: of all draws.
        balance, class_shares: see :class:`~monai_plan.data.PrivacyWalkDataset`.

    Attributes:
        walks: on the CPU, without gradients.
        seed: of all draws.
        unverified_classes: labels of the classes without a verified point.
    """

    def __init__(
        self,
        walks: WalkSet,
        images_per_epoch: int,
        seed: int,
        balance: bool = True,
        class_shares: Sequence[float] | None = None,
    ) -> None:
        walks = replace(
            walks, points=walks.points.detach().cpu(), labels=walks.labels.cpu(), verified=walks.verified.cpu()
        )
        self.walks = walks
        self.seed = seed
        classes, class_of = walks.labels.unique(return_inverse=True)
        self._classes = classes.tolist()
        self._class_of = class_of
        by_class = [(class_of == number).nonzero()[:, 0] for number in range(len(classes))]
        families = by_class if balance else [torch.arange(len(walks))]
        rng = generator_for(seed, "walk dataset")
        # each index belongs to a family (a class) and has a rank within it
        if class_shares is None:
            dealt = torch.arange(images_per_epoch) % len(families)
        else:
            shares = [class_shares[label] for label in self._classes]
            sizes = apportioned(images_per_epoch, [share / sum(shares) for share in shares])
            dealt = torch.arange(len(families)).repeat_interleave(torch.tensor(sizes))
        self._family = dealt[torch.randperm(images_per_epoch, generator=rng)]
        self._rank = torch.zeros(images_per_epoch, dtype=torch.int64)
        self._size = torch.bincount(self._family, minlength=len(families))
        for family, size in enumerate(self._size.tolist()):
            self._rank[self._family == family] = torch.arange(size)
        # what takes turns: paths where a gate judges each image, verified points [path, point] where none does
        segments = self._usable_segments()
        usable = segments.any(dim=1)
        orders = [paths[torch.randperm(len(paths), generator=rng)] for paths in families]
        self._path_turns = _Lists([paths[usable[paths]] for paths in orders])
        self._by_class = _Lists([paths[usable[paths]] for paths in by_class])
        self._segments = _Lists([row.nonzero()[:, 0] for row in segments])
        point_turns = []
        for paths in families:
            at = walks.verified[paths].nonzero()
            points = torch.stack([paths[at[:, 0]], at[:, 1]], dim=1)
            point_turns.append(points[torch.randperm(len(points), generator=rng)])
        self._point_turns = _Lists(point_turns)

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
            indices: 0 .. images_per_epoch - 1, [B].
            epoch: >= 0.
            turn: the pass within the epoch, >= 0.
            attempts: one, or [B]: 0 at first; each higher one is another place of the same class. Without effect for
                verified points.
            verified_only: verified points, the next ones in turn, instead of places between them.

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
        along = self._segments.lengths[paths] * uniform_at(self.seed, "place", indices, epoch, turn, attempts)
        low = 1 + self._segments.at(paths, along.long())
        return paths, low + (self._next(low) - low) * along.frac() * self._has_length[paths]

    def latents(self, paths: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Latents float32 [B, D] of :meth:`places`: linear between neighbouring inner points."""
        low = positions.long()
        share = (positions - low).float().unsqueeze(1)
        return torch.lerp(self.walks.points[paths, low], self.walks.points[paths, self._next(low)], share)

    def _next(self, points: torch.Tensor) -> torch.Tensor:
        """The next inner point; the last one again after itself."""
        return (points + 1).clamp(max=self.walks.points.shape[1] - 2)

    def _usable_segments(self) -> torch.Tensor:
        """Whether places may lie between inner points s + 1 and s + 2, or at s + 1 alone: bool [P, T - 2].

        A path of three points counts its only inner point as a segment without length, and so does a class that has
        verified points but no two neighbouring ones.
        """
        low = torch.arange(1, self.walks.points.shape[1] - 1)
        points = self.walks.verified[:, low]
        between = points & self.walks.verified[:, self._next(low)]
        is_segment = low < max(self.walks.points.shape[1] - 2, 2)
        between &= is_segment

        def lacks(found: torch.Tensor) -> torch.Tensor:
            return ~torch.isin(self._class_of, self._class_of[found.any(dim=1)].unique())

        isolated, bare = lacks(between), lacks(points)
        self.unverified_classes: list[int] = self.walks.labels[bare].unique().tolist()
        self._has_length = (~isolated | bare).double()
        segments = torch.where(isolated.unsqueeze(1), points, between)
        return segments | (bare.unsqueeze(1) & is_segment)


class _Lists:
    """Lists of different lengths in one tensor, for look-ups in several at once."""

    def __init__(self, lists: Sequence[torch.Tensor]) -> None:
        self.values = torch.cat(list(lists))
        self.lengths = torch.tensor([len(values) for values in lists])
        self.first = self.lengths.cumsum(dim=0) - self.lengths

    def at(self, lists: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Element ``steps`` [B] of lists number ``lists`` [B], beginning anew at a list's end."""
        return self.values[self.first[lists] + steps % self.lengths[lists]]
