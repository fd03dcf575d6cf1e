"""A guide from nothing: trained on the generator's latents, then again and again on where its own walks went."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from monai_plan.latent.anchors import pair_anchors, random_anchors
from monai_plan.latent.guide import GuideReport, TeacherAnswers, ask_networks, guide_latents, judge_guide, train_guide
from monai_plan.latent.guided_walk import walk_guided
from monai_plan.latent.walks import WalkSteering
from monai_plan.networks.nets import LatentGuide
from monai_plan.utils import generator_for

__all__ = ["FittedGuide", "fit_guide"]

logger = logging.getLogger(__name__)

POINTS_ASKED = 8
"""Points of each walk that are answered for by the true networks, evenly spread."""
UNSEEN = 512
"""Latents on which the finished guide is judged."""


@dataclass(frozen=True)
class FittedGuide:
    """A guide, and how far it can be trusted.

    Attributes:
        guide: in evaluation mode, on the generator's device.
        anywhere: against the true networks on fresh latents of the prior and between them.
        along_walks: against them along walks that it steered itself and was not trained on: where a guide is wrong in
            its own favour, and the figure to look at.
        first_along_walks: the same before it had been trained along walks at all.
    """

    guide: LatentGuide
    anywhere: GuideReport
    along_walks: GuideReport
    first_along_walks: GuideReport

    def save(self, path: str | os.PathLike) -> LatentGuide:
        """Write the guide; gives it back."""
        self.guide.save(path)
        return self.guide

    def record(self) -> dict[str, Any]:
        """The reports as plain values."""
        return {
            "anywhere": asdict(self.anywhere),
            "along_walks": asdict(self.along_walks),
            "first_along_walks": asdict(self.first_along_walks),
        }


def fit_guide(
    steering: WalkSteering,
    latents: int = 8192,
    iterations: int = 2000,
    rounds: int = 3,
    paths_per_class: int = 32,
    steps: int = 50,
    seed: int = 0,
    batch_size: int = 64,
    amp_dtype: torch.dtype | None = None,
    progress: bool = True,
    walk_options: Mapping[str, Any] | None = None,
) -> FittedGuide:
    """Train a guide and correct it where its walks lead.

    A walk seeks the places where its guide promises most, so it finds the guide's errors in the walk's favour. In each
    round walks are run between fresh anchors, the true networks answer along them, and the training goes on with these
    answers beside the old ones (the idea of DAgger: Ross, Gordon and Bagnell, AISTATS 2011).

    Args:
        steering: the true networks.
        latents: of :func:`~monai_plan.latent.guide_latents`, answered for before the first training.
        iterations: Adam steps of the first training; each round takes half as many.
        rounds: of walks, answers along them and training; 0 for none.
        paths_per_class: walks of a round and class.
        steps: points of these walks.
        seed: of everything drawn; the global random state is left as it was.
        batch_size: images at once.
        amp_dtype: ``torch.bfloat16`` answers under autocast.
        progress: show progress bars where tqdm is installed.
        walk_options: arguments of :func:`~monai_plan.latent.walk_guided`: those with which the guide will be used.

    Returns:
        The guide and its reports.

    Raises:
        ValueError: a count is too small, or an option is out of range.
    """
    if rounds < 0 or latents < 2:
        raise ValueError(f"rounds must be >= 0 and latents >= 2, got {rounds} and {latents}")

    def keyed(purpose: str, number: int) -> int:
        return generator_for(seed, f"guide: {purpose}", number).initial_seed()

    answers = ask_networks(guide_latents(steering.generator, latents, seed), steering, batch_size, amp_dtype)
    guide: LatentGuide | None = None
    reports = []
    for number in range(rounds + 1):
        # each round's walks are new to the guide: it is judged along them before it learns from them
        budget = iterations if number == 0 else max(1, iterations // 2)
        guide = train_guide(
            answers, steering, guide, iterations=budget, seed=keyed("training", number), progress=progress
        )
        settings = (paths_per_class, steps, keyed("walks", number), batch_size, amp_dtype, walk_options or {})
        along = _answers_along(guide, steering, *settings)
        reports.append(judge_guide(guide, along, steering))
        logger.info("guide after round %d of %d, along its own walks: %s", number, rounds, reports[-1])
        answers = answers + along
    assert guide is not None
    unseen = guide_latents(steering.generator, UNSEEN, keyed("unseen", 0))
    anywhere = judge_guide(guide, ask_networks(unseen, steering, batch_size, amp_dtype), steering)
    return FittedGuide(guide, anywhere, reports[-1], reports[0])


def _answers_along(
    guide: LatentGuide,
    steering: WalkSteering,
    paths_per_class: int,
    steps: int,
    seed: int,
    batch_size: int,
    amp_dtype: torch.dtype | None,
    walk_options: Mapping[str, Any],
) -> TeacherAnswers:
    anchors = random_anchors(steering.generator, 2 * paths_per_class, seed)
    pairs = pair_anchors(anchors, paths_per_class, seed)
    points = walk_guided(pairs, steps, steering, guide, **{**walk_options, "progress": False})
    asked = torch.linspace(1, steps - 2, min(POINTS_ASKED, steps - 2)).round().long()
    return ask_networks(points[:, asked].flatten(0, 1), steering, batch_size, amp_dtype)
