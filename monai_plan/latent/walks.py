"""Walks between anchors: the straight line, and the paper's privacy-preserving one, under one signature.

``walk(pairs, steps, steering, **options) -> points [P, steps, D]``, so that one can stand where the other stood.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from monai.utils import optional_import
from torch import nn

from monai_plan.latent.anchors import AnchorPairs
from monai_plan.latent.frozen import device_of, frozen
from monai_plan.losses.walk import identity_uniformity, label_agreement, spring_energy
from monai_plan.networks.nets import StyleGenerator
from monai_plan.utils import RunError

__all__ = ["WalkOptions", "WalkSteering", "WalkTerms", "walk_linear", "walk_private", "walk_terms"]

tqdm, has_tqdm = optional_import("tqdm", name="tqdm")
logger = logging.getLogger(__name__)

CHUNK = 4
"""Points over which the released code averages the classifier terms before it sums over such chunks."""


@dataclass(frozen=True)
class WalkSteering:
    """The three networks that a walk listens to. They steer it and must not certify it afterwards.

    Attributes:
        generator: what renders the points; only ``synthesize`` is used.
        identity_network: images [B, C, H, W] in [-1, 1] -> logits [B, p], one class per training patient (``phi_id``).
        label_network: images -> logits [B, classes] (``phi_class``).
        identity_loss: the identity network's outputs [N, p] -> ``L_id`` [N]. Default: the paper's divergence from the
            uniform distribution. Open-set: an identity network that gives unit embeddings [B, E], and
            ``functools.partial(identity_hinge, gallery=..., limit=...)``, which new patients only add rows to.
    """

    generator: StyleGenerator
    identity_network: nn.Module
    label_network: nn.Module
    identity_loss: Callable[[torch.Tensor], torch.Tensor] = identity_uniformity


@dataclass(frozen=True)
class WalkOptions:
    """How the inner points are optimised; the defaults are those of the paper's released code.

    Attributes:
        iterations: Adam steps, >= 1.
        learning_rate: Adam's, with betas (0.9, 0.999).
        identity_weight: weight of the sum over chunks of 4 points of the mean ``L_id``.
        label_weight: the same for ``L_class``.
        points_per_chunk: images that pass through the networks at once; gradients are accumulated, so it bounds the
            memory and does not change the result.
        amp_dtype: ``torch.bfloat16`` runs the networks under autocast; the points stay float32. (float16 would need
            gradient scaling and is refused.)
        progress: show a progress bar where tqdm is installed.

    Raises:
        ValueError: a value is out of range.
    """

    iterations: int = 500
    learning_rate: float = 0.1
    identity_weight: float = 0.1
    label_weight: float = 1.0
    points_per_chunk: int = 48
    amp_dtype: torch.dtype | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.points_per_chunk < 1:
            raise ValueError(
                f"iterations and points_per_chunk must be >= 1, got {self.iterations} and {self.points_per_chunk}"
            )
        if self.learning_rate <= 0 or self.identity_weight < 0 or self.label_weight < 0:
            raise ValueError(
                "learning_rate must be > 0 and the weights >= 0, got "
                f"{self.learning_rate}, {self.identity_weight}, {self.label_weight}"
            )
        if self.amp_dtype not in (None, torch.bfloat16):
            raise ValueError(f"amp_dtype must be None or torch.bfloat16, got {self.amp_dtype}")


@dataclass(frozen=True)
class WalkTerms:
    """The loss terms of finished paths, to compare walks of any kind.

    Attributes:
        spring: ``L_dist`` of each path, shape [P].
        identity: ``L_id``, mean over the path's inner points, nats, shape [P].
        label: ``L_class``, mean over the path's inner points, nats, shape [P].
    """

    spring: torch.Tensor
    identity: torch.Tensor
    label: torch.Tensor


def walk_linear(pairs: AnchorPairs, steps: int, steering: WalkSteering | None = None, **options) -> torch.Tensor:
    """Straight lines of equal steps between the anchors.

    Args:
        pairs: the ends.
        steps: points of each path, both ends included, >= 3.
        steering: not used; there so that walks swap.
        options: fields of :class:`WalkOptions`; checked and not used.

    Returns:
        Points, float32, shape [P, steps, D], on the device of ``pairs``; the ends are bit-identical to the anchors.

    Raises:
        ValueError: ``steps`` < 3, or an option is out of range.
        TypeError: an option is unknown.
    """
    WalkOptions(**options)
    if steps < 3:
        raise ValueError(f"steps must be >= 3 (two ends and a point between them), got {steps}; the paper takes 50")
    fraction = torch.linspace(0, 1, steps, device=pairs.start.device).view(1, -1, 1)
    points = torch.lerp(pairs.start.unsqueeze(1), pairs.end.unsqueeze(1), fraction)
    points[:, 0], points[:, -1] = pairs.start, pairs.end
    return points


def walk_private(pairs: AnchorPairs, steps: int, steering: WalkSteering | None, **options) -> torch.Tensor:
    """The paper's walk: move the inner points of a line until nobody is recognised and the class stays.

    Adam on ``L = L_dist + 0.1 L_id + L_class`` (Pennisi et al., MICCAI 2023) with the released code's weights: both
    classifier terms are means over chunks of 4 inner points, summed over the chunks. All paths share one batch, which
    is the same computation as one pair at a time: the loss is a sum over paths and Adam works per element. (Up to
    rounding: Adam's first steps depend on a gradient's sign alone, so an element whose gradient is rounding noise may
    go either way.)

    The networks run in evaluation mode with constant noise and are left as they were found; their gradients stay as
    they are. Images are clamped to [-1, 1] before the classifiers.

    Args:
        pairs: the ends, kept as they are.
        steps: points of each path, both ends included, >= 3; the paper takes 50.
        steering: the generator and the two classifiers, on one device; the work is done there.
        options: fields of :class:`WalkOptions`.

    Returns:
        Points, float32, shape [P, steps, D], on the device of ``pairs``; the ends are bit-identical to the anchors.
        The final loss is logged; :func:`walk_terms` gives it per path. No point is verified yet: see
        :func:`~monai_plan.latent.verify_walks`.

    Raises:
        ValueError: ``steps`` < 3, ``steering`` is missing, the identity network has one class, or a label is out of the
            label network's range.
        RunError: the loss is not finite.
        TypeError: an option is unknown.
    """
    settings = WalkOptions(**options)
    line = walk_linear(pairs, steps, steering, **options)
    if steering is None:
        raise ValueError("walk_private needs steering=WalkSteering(generator, identity_network, label_network)")
    device = device_of(steering.generator)
    start, end = pairs.start.to(device).unsqueeze(1), pairs.end.to(device).unsqueeze(1)
    inner = line[:, 1:-1].detach().to(device, copy=True).contiguous().requires_grad_(True)
    labels = pairs.labels.to(device).repeat_interleave(steps - 2)
    share = chunk_shares(steps - 2).to(device).repeat(len(pairs))
    optimizer = torch.optim.Adam([inner], lr=settings.learning_rate, betas=(0.9, 0.999))
    bar = _progress(settings.iterations, settings.progress)
    with frozen(steering.generator, steering.identity_network, steering.label_network):
        _check_classifiers(steering, inner[:1, 0].detach(), labels)
        for iteration in bar:
            optimizer.zero_grad()
            energy = spring_energy(torch.cat([start, inner, end], dim=1))
            energy.sum().backward()
            identity, label = torch.empty(len(labels), device=device), torch.empty(len(labels), device=device)
            for part in split_batches(len(labels), settings.points_per_chunk):
                l_id, l_class = _classifier_terms(inner.flatten(0, 1)[part], labels[part], steering, settings.amp_dtype)
                weighted = settings.identity_weight * l_id + settings.label_weight * l_class
                (share[part] * weighted).sum().backward()
                identity[part], label[part] = l_id.detach(), l_class.detach()
            _check_finite(energy.detach() + (identity + label).view(len(pairs), -1).sum(dim=1), iteration, settings)
            optimizer.step()
    logger.info(
        "%d private walks of %d points, %d iterations; means before the last step: L_dist %.4g a path, L_id %.4g and "
        "L_class %.4g a point",
        *(len(pairs), steps, settings.iterations),
        *(float(energy.detach().mean()), float(identity.mean()), float(label.mean())),
    )
    line[:, 1:-1] = inner.detach().to(line.device)
    return line


@torch.no_grad()
def walk_terms(
    points: torch.Tensor,
    labels: torch.Tensor,
    steering: WalkSteering,
    points_per_chunk: int = 48,
    amp_dtype: torch.dtype | None = None,
) -> WalkTerms:
    """The loss terms of finished paths of any kind.

    Args:
        points: float32, shape [P, T, D], both ends included.
        labels: int64, shape [P].
        steering: the networks of :func:`walk_private`.
        points_per_chunk: images that pass through the networks at once.
        amp_dtype: as in :class:`WalkOptions`.

    Returns:
        The terms of each path, on the CPU.

    Raises:
        ValueError: as for :func:`walk_private`.
    """
    device, inner = device_of(steering.generator), points.shape[1] - 2
    latents = points[:, 1:-1].flatten(0, 1).to(device)
    repeated = labels.to(device).repeat_interleave(inner)
    with frozen(steering.generator, steering.identity_network, steering.label_network):
        _check_classifiers(steering, latents[:1], repeated)
        terms = [
            torch.stack(_classifier_terms(latents[part], repeated[part], steering, amp_dtype))
            for part in split_batches(len(latents), points_per_chunk)
        ]
    identity, label = torch.cat(terms, dim=1).view(2, len(points), inner).mean(dim=2).cpu()
    return WalkTerms(spring_energy(points).cpu(), identity, label)


def chunk_shares(count: int) -> torch.Tensor:
    """The weight of each inner point in a sum of means over chunks of 4: 1/4, and 1/r in a last chunk of r points."""
    position = torch.arange(count)
    return 1.0 / torch.clamp(count - position // CHUNK * CHUNK, max=CHUNK)


def split_batches(count: int, size: int) -> list[slice]:
    """Slices of ``size`` and a rest that cover ``count`` rows."""
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def _progress(iterations: int, wanted: bool) -> Iterable[int]:
    return tqdm(range(iterations), desc="walk", unit="it") if wanted and has_tqdm else range(iterations)


def image_outputs(
    latents: torch.Tensor, steering: WalkSteering, amp_dtype: torch.dtype | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The identity and the label network's outputs for the images of latents [N, D], in float32."""
    with torch.autocast(latents.device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
        images = steering.generator.synthesize(latents, noise="const").float().clamp(-1, 1)
        return steering.identity_network(images).float(), steering.label_network(images).float()


def _classifier_terms(
    latents: torch.Tensor, labels: torch.Tensor, steering: WalkSteering, amp_dtype: torch.dtype | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """``L_id`` and ``L_class`` of each latent [N, D], two tensors [N]."""
    identity_logits, label_logits = image_outputs(latents, steering, amp_dtype)
    return steering.identity_loss(identity_logits), label_agreement(label_logits, labels)


@torch.no_grad()
def _check_classifiers(steering: WalkSteering, one_latent: torch.Tensor, labels: torch.Tensor) -> None:
    """Let the losses refuse wrong classifiers and labels on one image, before the first large batch."""
    identity_logits, label_logits = image_outputs(one_latent, steering, None)
    steering.identity_loss(identity_logits)
    label_agreement(label_logits.expand(len(labels), -1), labels)


def _check_finite(loss: torch.Tensor, iteration: int, settings: WalkOptions) -> None:
    if not torch.isfinite(loss).all():
        broken = int((~torch.isfinite(loss)).nonzero()[0])
        raise RunError(
            f"the walk's loss is not finite at iteration {iteration} (first in path {broken}). The generator or a "
            f"classifier gives NaN: check their weights, set amp_dtype=None (now {settings.amp_dtype}), or take a "
            f"smaller learning_rate than {settings.learning_rate}"
        )
