"""The rows of the paper's table: how each one's images are made from one trained generator, and what that costs."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from common import render, seconds
from image_sets import DRAWN_AT_ONCE, ImageSets, accepted_points
from torch.utils.flop_counter import FlopCounterMode

from monai_plan.latent import (
    AnchorPairs,
    AnchorSet,
    InvertedImages,
    LatentPrior,
    WalkSet,
    WalkSteering,
    fit_walk_network,
    group_centroids,
    group_patients,
    latents_by_patient,
    pair_anchors,
    random_anchors,
    repair_walks,
    verify_walks,
    walk_amortised,
    walk_guided,
    walk_linear,
    walk_private,
)
from monai_plan.networks.nets import LatentGuide

Walk = Callable[[AnchorPairs], torch.Tensor]
COUNTED = 2
"""Pairs whose arithmetic is counted."""
BLOCK = 256
"""Samples looked at at once."""


@dataclass(frozen=True)
class Made:
    """The images of a row.

    Attributes:
        images: [N, C, S, S], on the CPU.
        labels: [N].
        about: plain values: ``available`` (accepted images there were to choose from), ``looked_at``,
            ``seconds_per_image`` (wall time) and ``gflop_per_image``, per accepted one (None where nothing is made;
            without inversion and grouping), ``walker_seconds`` (training of the amortised walk's network, not charged
            to the images; the guide's was taken by the stage walk).
        walks: where the images are of walks.
    """

    images: torch.Tensor
    labels: torch.Tensor
    about: dict[str, Any]
    walks: WalkSet | None = None


class PaperRows:
    """One generator, its gate and networks, the anchors, and the images made from them."""

    def __init__(self, sets: ImageSets, options: argparse.Namespace) -> None:
        self.sets, self.options = sets, options
        self.steering, self.generator = sets.steering, sets.steering.generator
        self.classes = int(sets.config.get_parsed_content("num_classes"))
        self.per_class = math.ceil(options.images / self.classes)
        self.prior = LatentPrior.fit(self.generator).to(sets.device)
        self.guide = LatentGuide.load(sets.config.get_parsed_content("guide_file")).to(sets.device).eval()
        self.walker_seconds = 0.0

    @cached_property
    def rows(self) -> dict[str, Callable[[], Made]]:
        """By name; nothing is made yet."""
        anchors = random_anchors(self.generator, 2 * self.options.pairs, self.options.seed)
        pairs = pair_anchors(anchors, self.options.pairs, self.options.seed)
        few = pair_anchors(anchors, self.options.published_pairs, self.options.seed)
        guided = self.guided(self.options.steps)
        rows: dict[str, Callable[[], Made]] = {
            "real": self.real,
            "gate_only": self.sampled,
            "linear": lambda: self.walked(partial(walk_linear, steps=self.options.steps), pairs, repair=False),
            "plan_published": lambda: self.walked(self.published, few, repair=False),
            "linear_few": lambda: self.walked(partial(walk_linear, steps=self.options.published_steps), few, False),
            "plan_few": lambda: self.walked(self.guided(self.options.published_steps), few),
            "plan": lambda: self.walked(guided, pairs),
            "plan_amortised": lambda: self.walked(self.amortised, pairs),
        }
        for k in self.options.ks:
            rows[f"k{k}"] = lambda k=k: self.of_anchors(self.centroids(k))
            rows[f"k{k}_walk"] = lambda k=k: self.between(self.centroids(k))
        return rows

    def guided(self, steps: int) -> Walk:
        """The bundle's walk."""
        names = ("identity_weight", "control_points", "iterations", "prior_weight")
        settings = {name: self.sets.config.get_parsed_content(f"walk#{name}") for name in names}
        return partial(
            walk_guided,
            steps=steps,
            steering=self.steering,
            guide=self.guide,
            prior=self.prior,
            progress=False,
            **settings,
        )

    def published(self, pairs: AnchorPairs) -> torch.Tensor:
        """The paper's walk: its weights, points and iterations."""
        settings = {"iterations": self.options.published_iterations, "progress": True}
        return walk_private(pairs, self.options.published_steps, self.steering, **settings)

    @cached_property
    def _walker(self) -> torch.nn.Module:
        def solver(pairs: AnchorPairs, steps: int, steering: WalkSteering) -> torch.Tensor:
            return self.guided(steps)(pairs)

        found: list[torch.nn.Module] = []

        def fit() -> None:
            steps, seed = self.options.steps, self.options.seed
            found.append(fit_walk_network(solver, self.steering, steps, seed=seed, progress=False))

        self.walker_seconds = seconds(fit, self.sets.device)
        return found[0]

    def amortised(self, pairs: AnchorPairs) -> torch.Tensor:
        """One forward pass of a network that was trained on guided walks."""
        return walk_amortised(pairs, self.options.steps, self.steering, self._walker)

    def centroids(self, k: int) -> AnchorSet:
        """Anchors of at least k patients each."""
        inverted = InvertedImages.load(self.sets.config.get_parsed_content("latents_file"))
        patients = latents_by_patient(inverted, self.generator)
        return group_centroids(group_patients(patients, k), patients)

    def real(self) -> Made:
        """The training images themselves."""
        real = self.sets.real["training"]
        about = {"available": len(real.images), "seconds_per_image": None, "gflop_per_image": None}
        return Made(real.images, real.labels, about)

    def of_anchors(self, anchors: AnchorSet) -> Made:
        """The anchors' own images, ungated: what k-same alone would release."""
        images: list[torch.Tensor] = []
        took = seconds(lambda: images.append(render(self.generator, anchors.latents)), self.sets.device)
        with FlopCounterMode(display=False) as counted:
            render(self.generator, anchors.latents[:COUNTED])
        about = {
            "available": len(anchors),
            "seconds_per_image": took / len(anchors),
            "gflop_per_image": counted.get_total_flops() / 1e9 / min(COUNTED, len(anchors)),
        }
        return Made(images[0], anchors.labels, about)

    def between(self, anchors: AnchorSet) -> Made:
        """Guided walks between given anchors; the single anchor of a class gives its own image, if it is accepted."""
        counts = torch.bincount(anchors.labels, minlength=self.classes)
        pairs_of = {
            label: min(self.options.pairs, n * (n - 1) // 2) for label, n in enumerate(counts.tolist()) if n > 1
        }
        alone = [row for row, label in enumerate(anchors.labels.tolist()) if counts[label] == 1]
        kept = [row for row in range(len(anchors)) if row not in alone]
        several = dataclasses.replace(anchors, latents=anchors.latents[kept], labels=anchors.labels[kept])
        pairs = pair_anchors(several, pairs_of, self.options.seed)
        per_class = 1.25 * self.per_class * len(pairs_of) / sum(pairs_of.values())
        made = self.walked(self.guided(2 + math.ceil(per_class)), pairs)
        if alone:  # an anchor is an end: it is shown only if the gate and the label network let it pass
            latents, labels = anchors.latents[alone], anchors.labels[alone]
            good = self.sets.passing(latents, labels)
            images = torch.cat([made.images, render(self.generator, latents)[good]])
            about = made.about | {"classes_of_one_anchor": labels.tolist(), "of_them_accepted": labels[good].tolist()}
            made = Made(images, torch.cat([made.labels, labels[good]]), about, made.walks)
        return made

    def sampled(self) -> Made:
        """Random latents that gate and label network accept, equally many of each class."""
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        looked_at = 0

        def look() -> None:
            nonlocal looked_at
            for label in range(self.classes):
                kept: list[torch.Tensor] = []
                for number in range(self.options.patience):
                    block = random_anchors(self.generator, BLOCK, seed=10_000 + 97 * number)
                    latents = block.latents[block.labels == label]
                    good = self.sets.passing(latents, torch.full((BLOCK,), label))
                    looked_at += BLOCK
                    kept.append(latents[good])
                    if sum(map(len, kept)) >= self.per_class:
                        break
                accepted = torch.cat(kept)
                found.append((accepted, torch.full((len(accepted),), label)))

        took = seconds(look, self.sets.device)
        available = sum(len(latents) for latents, _ in found)
        latents = torch.cat([latents[: self.per_class] for latents, _ in found])
        labels = torch.cat([labels[: self.per_class] for _, labels in found])
        with FlopCounterMode(display=False) as counted:
            self.sets.passing(latents[:DRAWN_AT_ONCE], labels[:DRAWN_AT_ONCE])
        about = {
            "available": available,
            "looked_at": looked_at,
            "seconds_per_image": took / available,
            "gflop_per_image": counted.get_total_flops() / 1e9 / len(latents[:DRAWN_AT_ONCE]) * looked_at / available,
        }
        return Made(render(self.generator, latents), labels, about)

    def walked(self, walk: Walk, pairs: AnchorPairs, repair: bool = True) -> Made:
        """Accepted inner points of walks, as many of each class as there are, up to the number wanted."""
        if walk == self.amortised:
            _ = self._walker  # its training is no part of the walks' time
        found: list[WalkSet] = []
        took = seconds(lambda: found.append(self._verified(walk(pairs), pairs, repair)), self.sets.device)
        walks = found[0]
        counts = walks.meta["counts"]
        accepted = max(1, int(walks.verified.sum()))
        about = {
            "available": accepted,
            "looked_at": counts["inner"],
            "gate_rejected": counts["gate_rejected"],
            "class_rejected": counts["class_rejected"],
            "paths": len(walks),
            "seconds_per_image": took / accepted,
            "gflop_per_image": self._gflop(walk, pairs, repair),
            **({"walker_seconds": self.walker_seconds} if walk == self.amortised else {}),
        }
        latents, labels = accepted_points(walks, self.per_class, self.options.seed)
        return Made(render(self.generator, latents), labels, about, walks)

    def _verified(self, points: torch.Tensor, pairs: AnchorPairs, repair: bool) -> WalkSet:
        gate, label_network = self.sets.gate, self.steering.label_network
        walks = verify_walks(points, pairs.labels, self.generator, gate, label_network, kind="row")
        return repair_walks(walks, self.steering, gate, label_network) if repair else walks

    def _gflop(self, walk: Walk, pairs: AnchorPairs, repair: bool) -> float | None:
        """Of an accepted image, counted over few pairs; of the paper's walk over few of its iterations."""
        rows = torch.linspace(0, len(pairs) - 1, COUNTED).long()
        few = AnchorPairs(pairs.start[rows], pairs.end[rows], pairs.labels[rows])
        factor = 1.0
        if walk == self.published:
            factor = self.options.published_iterations / COUNTED
            walk = partial(
                walk_private,
                steps=self.options.published_steps,
                steering=self.steering,
                iterations=COUNTED,
                progress=False,
            )
        with FlopCounterMode(display=False) as walking:
            points = walk(few)
        with FlopCounterMode(display=False) as checking:
            walks = self._verified(points, few, repair)
        accepted = int(walks.verified.sum())
        if not accepted:
            return None
        return (walking.get_total_flops() * factor + checking.get_total_flops()) / 1e9 / accepted
