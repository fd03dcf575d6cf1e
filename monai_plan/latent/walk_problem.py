"""What a guided walk minimises: the paper's three terms as a function of few control points of each path."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from monai_plan.latent.spline import spline_basis, spline_positions
from monai_plan.latent.walks import WalkSteering, chunk_shares, split_batches
from monai_plan.losses.walk import label_agreement, spring_energy

__all__ = ["GuidedOptions", "Outputs", "Prior", "WalkProblem"]

Outputs = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
LEAST_UNIT = 1e-2
"""Of ``L_id``, in its own unit: an open-set term that hardly any line feels must not outweigh everything."""
BALANCES = ("normalised", "published")


class Prior(Protocol):
    """What the walk needs of a :class:`~monai_plan.latent.LatentPrior`."""

    def energy(self, w: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Latents [N, D] and classes [N] -> how unlikely the generator is to have learned to draw them, [N]."""


@dataclass(frozen=True)
class GuidedOptions:
    """How :func:`walk_guided` weighs the terms and searches.

    Attributes:
        balance: "normalised": each term is measured by what it is on straight paths, so that the weights mean the same
            for any generator, image size and number of points. The springs by the line's own energy; ``L_id`` by its
            mean over the lines; ``L_class`` by log(classes), a guess's value. "published": the sums and weights of the
            paper's released code (see :func:`~monai_plan.latent.walk_private`).
        identity_weight: of ``L_id``; ``None``: 1 (normalised) or 0.1 (published).
        label_weight: of ``L_class``.
        prior_weight: of the difference between a point's energy and 1, its mean over the generator's own latents, with
            ``prior`` only. Beyond it lie artefacts; within it lies the middle of a straight line, the mean of many
            images and poorer than any of them.
        control_points: inner points that are moved; a natural cubic spline runs through them. At most the path's
            inner points.
        iterations: steps at most; a path stops by itself when it gains nothing more.
        refinements: with a guide, steps at most in image space afterwards, through the true networks: each costs some
            hundred times a guided one, and a dozen or two take away what the guide was wrong about.
        tolerance: a path stops after 3 steps that each lower its loss by less than this share of it.
        points_per_chunk: images that pass through the networks at once; bounds the memory only.
        amp_dtype: ``torch.bfloat16`` runs generator and networks under autocast.
        progress: show a progress bar where tqdm is installed.

    Raises:
        ValueError: a value is out of range.
    """

    balance: str = "normalised"
    identity_weight: float | None = None
    label_weight: float = 1.0
    prior_weight: float = 3.0
    control_points: int = 8
    iterations: int = 200
    refinements: int = 0
    tolerance: float = 1e-3
    points_per_chunk: int = 96
    amp_dtype: torch.dtype | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.balance not in BALANCES:
            raise ValueError(f"balance must be one of {BALANCES}, got '{self.balance}'")
        if min(self.control_points, self.iterations, self.points_per_chunk) < 1:
            raise ValueError(
                "control_points, iterations and points_per_chunk must be >= 1, got "
                f"{self.control_points}, {self.iterations} and {self.points_per_chunk}"
            )
        if self.amp_dtype not in (None, torch.bfloat16):
            raise ValueError(f"amp_dtype must be None or torch.bfloat16, got {self.amp_dtype}")
        rest = (self.identity_weight or 0.0, self.label_weight, self.prior_weight, self.tolerance, self.refinements)
        if min(rest) < 0:
            raise ValueError(f"the weights, the tolerance and the refinements must be >= 0, got {rest}")

    @property
    def of_identity(self) -> float:
        """The identity term's weight."""
        return (
            {"normalised": 1.0, "published": 0.1}[self.balance]
            if self.identity_weight is None
            else self.identity_weight
        )


class WalkProblem:
    """One batch of paths: the springs as a quadratic form of the control points, the terms as a function of them.

    Args:
        outputs: latents [N, D] -> identity and label network's outputs, by a guide or in image space.
        points_at_once: latents that pass through ``outputs`` at once.
        line: the straight paths, [P, T, D], on the device of ``outputs``.
        labels: of the paths, [P].
        steering: for its ``identity_loss``.
        prior: see :func:`~monai_plan.latent.walk_guided`.
        settings: weights and balance.
        factors: of the identity and the label term, to take another problem's instead of measuring them on the lines.
    """

    def __init__(
        self,
        outputs: Outputs,
        points_at_once: int,
        line: torch.Tensor,
        labels: torch.Tensor,
        steering: WalkSteering,
        prior: Prior | None,
        settings: GuidedOptions,
        factors: tuple[float, float] | None = None,
    ) -> None:
        self.outputs, self.points_at_once, self.labels = outputs, points_at_once, labels
        self.identity_loss, self.prior, self.settings = steering.identity_loss, prior, settings
        steps = line.shape[1]
        count = min(settings.control_points, steps - 2)
        knots = spline_positions(steps, count)
        self.basis = spline_basis(steps, count).to(line.device)  # [T, K + 2]
        self.ends = line[:, [0, -1]]
        fraction = (knots[1:-1] / (steps - 1)).to(line).view(1, -1, 1)
        self.start = torch.lerp(self.ends[:, :1], self.ends[:, 1:], fraction)  # [P, K, D]
        tension = self.basis.diff(dim=0)
        self.stretch, self.pull = tension[:, 1:-1], tension[:, [0, -1]] @ self.ends  # [T - 1, K], [P, T - 1, D]
        self.values, self.vectors = torch.linalg.eigh(self.stretch.t() @ self.stretch)
        # a control point stands for the points around it, by linear interpolation
        nearness = (
            1 - (torch.arange(steps)[1:-1, None] - knots[None, 1:-1]).abs() * (count + 1) / (steps - 1)
        ).clamp_min(0)
        self.reach = (self.ends[:, 1] - self.ends[:, 0]).norm(dim=1).clamp_min(1e-6) / (count + 1)
        self._weigh(line, factors, (nearness / nearness.sum(dim=1, keepdim=True)).to(line))

    def _weigh(self, line: torch.Tensor, factors: tuple[float, float] | None, nearness: torch.Tensor) -> None:
        settings, inner = self.settings, len(nearness)
        if settings.balance == "published":
            self.spring_weight = torch.ones(len(line), device=line.device)
            shares = chunk_shares(inner).to(line)
            factors = factors or (settings.of_identity, settings.label_weight)
        else:
            self.spring_weight = 1 / spring_energy(line).clamp_min(1e-12)
            shares = torch.full((inner,), 1 / inner).to(line)
            if factors is None:
                of_identity, of_label = self._units_on_lines()
                factors = settings.of_identity / of_identity, settings.label_weight / of_label
        self.weights = shares @ nearness  # [K]
        self.factors = factors

    @torch.no_grad()
    def _units_on_lines(self) -> tuple[float, float]:
        """The mean ``L_id`` of the lines, and the ``L_class`` of a guess."""
        latents, labels, identity = self.start.flatten(0, 1), self._repeated(slice(None)), []
        for part in split_batches(len(latents), self.points_at_once):
            identity.append(self._terms(latents[part], labels[part])[0])
        return float(torch.cat(identity).mean().clamp_min(LEAST_UNIT)), max(1e-6, math.log(self.classes))

    def _repeated(self, paths: slice | torch.Tensor) -> torch.Tensor:
        return self.labels[paths].repeat_interleave(self.start.shape[1])

    def _terms(self, latents: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        identity, label = self.outputs(latents)
        self.classes = label.shape[1]
        return self.identity_loss(identity), label_agreement(label, labels)

    def curve(self, controls: torch.Tensor) -> torch.Tensor:
        """Points [P, T, D] of control points [P, K, D]."""
        return self.basis[:, 1:-1] @ controls + self.basis[:, [0, -1]] @ self.ends

    def loss(self, controls: torch.Tensor, paths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss [A] of the paths' control points [A, K, D], and the gradient of its classifier terms [A, K, D]."""
        latents, labels = controls.flatten(0, 1), self._repeated(paths)
        weights = self.weights.repeat(len(paths))
        values, gradients = torch.empty_like(weights), torch.empty_like(latents)
        for part in split_batches(len(latents), self.points_at_once):
            points = latents[part].detach().requires_grad_(True)
            with torch.enable_grad():
                identity, label = self._terms(points, labels[part])
                value = self.factors[0] * identity + self.factors[1] * label
                if self.prior is not None:
                    deviation = (self.prior.energy(points, labels[part]) - 1).abs()
                    value = value + self.settings.prior_weight * deviation
                value = weights[part] * value
                value.sum().backward()
            gradients[part] = torch.as_tensor(points.grad)
            values[part] = value.detach()
        springs = (self.stretch @ controls + self.pull[paths]).square().sum(dim=(1, 2))
        return self.spring_weight[paths] * springs + values.view(len(paths), -1).sum(dim=1), gradients.view_as(controls)

    def step(
        self, controls: torch.Tensor, gradient: torch.Tensor, length: torch.Tensor, paths: torch.Tensor
    ) -> torch.Tensor:
        """Explicit in the classifier terms, implicit in the springs: the exact minimiser of the local model."""
        strength = (2 * length * self.spring_weight[paths]).view(-1, 1, 1)
        target = controls - length.view(-1, 1, 1) * gradient - strength * (self.stretch.t() @ self.pull[paths])
        return self.vectors @ ((self.vectors.t() @ target) / (1 + strength * self.values.view(1, -1, 1)))
