"""Walks by few control points and an implicit step for the springs, steered in W by a guide or in image space."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import torch
from monai.utils import optional_import

from monai_plan.latent.anchors import AnchorPairs
from monai_plan.latent.frozen import device_of, frozen
from monai_plan.latent.walk_problem import GuidedOptions, Outputs, Prior, WalkProblem
from monai_plan.latent.walks import WalkSteering, image_outputs, walk_linear
from monai_plan.networks.nets import LatentGuide
from monai_plan.utils import RunError

__all__ = ["GuidedOptions", "walk_guided"]

trange, has_tqdm = optional_import("tqdm", name="trange")
logger = logging.getLogger(__name__)

GUIDED_AT_ONCE = 2**14
"""Latents that pass through a guide at once."""
SURROGATE_STEPS = 30
"""Guided steps for each one in image space."""
PATIENCE = 3
"""A path stops after so many steps in a row that gain little,"""
FAILURES = 8
"""or so many that gain nothing: each was 0.4 times as long as the one before."""

Loss = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Control points [A, K, D] and the paths' numbers [A] -> loss [A] and the gradient of all but the springs [A, K, D]."""


def walk_guided(
    pairs: AnchorPairs,
    steps: int,
    steering: WalkSteering,
    guide: LatentGuide | None = None,
    prior: Prior | None = None,
    **options,
) -> torch.Tensor:
    """Find paths that are short, keep the class and are recognised by nobody, at a fraction of the paper's cost.

    The loss is the paper's (see :class:`GuidedOptions` for the balance of its terms). The classifier terms are taken at
    a few control points only, weighted by the points that each stands for, through ``guide``, or without one through
    generator and networks. Each step follows their gradient explicitly and solves for the springs exactly: with all
    points as control points their matrix is tridiagonal, with fewer it is its small projection, diagonalised once. The
    step's length adapts to each path, a step that does not lower a path's loss is taken back, and a path that gains
    nothing more stops.

    Args:
        pairs: the ends, kept as they are.
        steps: points of each path, both ends included, >= 3.
        steering: the true networks; with a guide they are asked in refinements only.
        guide: of :func:`~monai_plan.latent.train_guide`; ``None`` works in image space.
        prior: keeps the points as likely as the generator's own latents; ``None`` leaves the term out.
        options: fields of :class:`GuidedOptions`.

    Returns:
        Points, float32, shape [P, steps, D], on the device of ``pairs``; the ends are bit-identical to the anchors. No
        point is verified yet, see :func:`~monai_plan.latent.verify_walks` and
        :func:`~monai_plan.latent.repair_walks`.

    Raises:
        ValueError: ``steps`` < 3, an option is out of range, or a label is out of the label network's range.
        RunError: the loss is not finite.
        TypeError: an option is unknown.
    """
    settings = GuidedOptions(**options)
    line = walk_linear(pairs, steps)
    device = device_of(steering.generator)
    in_images: Outputs = partial(image_outputs, steering=steering, amp_dtype=settings.amp_dtype)
    arguments = (line.to(device), pairs.labels.to(device), steering, prior, settings)
    limits = (settings.iterations, settings.tolerance, settings.progress)
    with frozen(steering.generator, steering.identity_network, steering.label_network, *([guide] if guide else [])):
        if guide is None:
            problem = WalkProblem(in_images, settings.points_per_chunk, *arguments)
            controls = _descend(problem, problem.loss, problem.start, *limits).log("in image space")
        else:
            problem = WalkProblem(guide, GUIDED_AT_ONCE, *arguments)
            controls = _descend(problem, problem.loss, problem.start, *limits).log("guided")
            if settings.refinements:
                true = WalkProblem(in_images, settings.points_per_chunk, *arguments, factors=problem.factors)
                limits = (settings.refinements, settings.tolerance, settings.progress)
                controls = _refine(true, problem, controls, *limits).log("refined in image space")
    inner = problem.curve(controls)[:, 1:-1]
    line[:, 1:-1] = inner.to(line.device)
    return line


class _Search:
    """Control points of all paths, the best so far; a path leaves the search when it gains nothing more."""

    def __init__(self, start: torch.Tensor, loss: Loss, tolerance: float) -> None:
        self.best, self.loss, self.tolerance = start.clone(), loss, tolerance
        self.active = torch.arange(len(start), device=start.device)
        self.values, self.gradients = loss(self.best, self.active)
        _require_finite(self.values)
        self.first, self.evaluations = float(self.values.mean()), len(start)
        self.idle, self.failed = torch.zeros_like(self.active), torch.zeros_like(self.active)

    def log(self, name: str) -> torch.Tensor:
        """Say what the search did; gives the control points."""
        logger.info(
            "%s, %d walks by %d control points: mean loss %.4g, then %.4g; %.1f evaluations a walk",
            *(name, *self.best.shape[:2], self.first, float(self.values.mean())),
            self.evaluations / max(1, len(self.best)),
        )
        return self.best

    def consider(self, tried: torch.Tensor) -> torch.Tensor:
        """Evaluate control points [A, K, D] of the active paths, keep what is better; which they were, bool [A]."""
        values, gradients = self.loss(tried, self.active)
        _require_finite(values)
        self.evaluations += len(tried)
        active, before = self.active, self.values[self.active]
        better = values < before
        gained, little = active[better], before - values < self.tolerance * before.abs()
        self.failed[active] = torch.where(better, 0, self.failed[active] + 1)
        self.idle[active] = torch.where(better & ~little, 0, self.idle[active] + (better & little).long())
        self.best[gained], self.gradients[gained], self.values[gained] = (
            tried[better],
            gradients[better],
            values[better],
        )
        self.active = active[(self.idle[active] < PATIENCE) & (self.failed[active] < FAILURES)]
        return better


@torch.no_grad()
def _descend(
    problem: WalkProblem, loss: Loss, start: torch.Tensor, iterations: int, tolerance: float, progress: bool = False
) -> _Search:
    """Steps along the gradient, with the springs solved for; their length adapts to each path."""
    search = _Search(start, loss, tolerance)
    length = 0.25 * problem.reach / search.gradients.norm(dim=2).amax(dim=1).clamp_min(1e-12)
    for _ in trange(iterations, desc="walk", unit="it") if progress and has_tqdm else range(iterations):
        paths = search.active
        tried = problem.step(search.best[paths], search.gradients[paths], length[paths], paths)
        better = search.consider(tried)
        length[paths] *= torch.where(better, 1.5, 0.4)
        if not len(search.active):
            break
    return search


@torch.no_grad()
def _refine(
    problem: WalkProblem, guided: WalkProblem, start: torch.Tensor, iterations: int, tolerance: float, progress: bool
) -> _Search:
    """Few steps in image space, each to the minimum of the guide's loss corrected by the true gradient.

    The guide's curvature with the true slope at the present place, held near it: first-order model management
    (Alexandrov et al., Structural Optimization 15, 1998). What the hold is worth adapts to each path.
    """
    search = _Search(start, problem.loss, tolerance)
    hold = _lean(guided, search).norm(dim=2).amax(dim=1).clamp_min(1e-12) / (0.5 * problem.reach)
    for _ in trange(iterations, desc="refine", unit="it") if progress and has_tqdm else range(iterations):
        paths = search.active
        surrogate = _corrected(guided, search.best.clone(), _lean(guided, search), hold)
        tried = _descend(guided, surrogate, search.best, SURROGATE_STEPS, tolerance).best[paths]
        better = search.consider(tried)
        hold[paths] *= torch.where(better, 0.6, 2.0)
        if not len(search.active):
            break
    return search


def _lean(guided: WalkProblem, search: _Search) -> torch.Tensor:
    """What the guide's gradient lacks at the best control points, [P, K, D]."""
    everywhere = torch.arange(len(search.best), device=search.best.device)
    return search.gradients - guided.loss(search.best, everywhere)[1]


def _corrected(guided: WalkProblem, centre: torch.Tensor, lean: torch.Tensor, hold: torch.Tensor) -> Loss:
    """The guide's loss plus ``lean`` times the move from ``centre`` and ``hold / 2`` times its square."""

    def surrogate(controls: torch.Tensor, paths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, gradients = guided.loss(controls, paths)
        move, pull = controls - centre[paths], hold[paths].view(-1, 1, 1)
        extra = lean[paths] * move + 0.5 * pull * move.square()
        return values + extra.sum(dim=(1, 2)), gradients + lean[paths] + pull * move

    return surrogate


def _require_finite(values: torch.Tensor) -> None:
    if not torch.isfinite(values).all():
        raise RunError(
            "the walk's loss is not finite: the guide, the generator or a classifier gives NaN; check their weights"
        )
