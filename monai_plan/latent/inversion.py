"""Inversion: the latents whose images come nearest to given real images. What it gives belongs to single patients.

The objective is that of StyleGAN2's projector (Karras et al., CVPR 2020, appendix D: LPIPS, latents noised less and
less while the search is wide) with a pixel term and the Gaussianised-W prior, from an encoder's guess instead of the
mean latent. Images are rendered with constant noise, as along walks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from monai_plan.latent.frozen import device_of, frozen
from monai_plan.latent.prior import LatentPrior
from monai_plan.networks.nets import LatentEncoder, StyleGenerator
from monai_plan.utils import generator_for, require_counts

__all__ = ["Inversion", "InversionOptions", "invert_batch"]

SPACES = ("w", "w+")
WIDE_SEARCH = 0.25
"""Share of the iterations during which latents are noised, and nothing stops."""


@dataclass(frozen=True)
class InversionOptions:
    """How to search.

    Attributes:
        space: "w", one vector for all layers, from which anchors are made; or "w+", one for each layer, which comes
            nearer to the image, and farther from what the generator was trained to render.
        iterations: Adam steps at most.
        learning_rate: in units of ``LatentPrior.scale``.
        perceptual_weight: of the perceptual distance.
        pixel_weight: of the mean squared error of pixels in [-1, 1].
        prior_weight: of the energy above 1, see :meth:`~monai_plan.latent.LatentPrior.energy`.
        jitter: deviation of the noise on latents at the first step, in units of ``LatentPrior.scale``; it falls to 0
            over the first quarter of the iterations, and nothing stops before.
        patience: an image is done when its loss has not fallen by ``tolerance`` (a share of it) in so many steps
            without noise.
        tolerance: see ``patience``; < 1.

    Raises:
        ValueError: a value is out of range.
    """

    space: str = "w"
    iterations: int = 150
    learning_rate: float = 0.2
    perceptual_weight: float = 1.0
    pixel_weight: float = 1.0
    prior_weight: float = 0.02
    jitter: float = 0.1
    patience: int = 20
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise ValueError(f"space must be one of {SPACES}, got '{self.space}'")
        require_counts(iterations=self.iterations, patience=self.patience)
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0 and finite, got {self.learning_rate}")
        weights = (self.perceptual_weight, self.pixel_weight, self.prior_weight, self.jitter, self.tolerance)
        if not all(0 <= weight < math.inf for weight in weights) or self.tolerance >= 1:
            raise ValueError(f"weights, jitter and tolerance must be >= 0 and finite, tolerance < 1, got {weights}")
        if self.perceptual_weight + self.pixel_weight == 0:
            raise ValueError(
                "perceptual_weight and pixel_weight are both 0: nothing would draw the latents to the image"
            )


class Inversion(NamedTuple):
    """Of N images: latents float32 [N, D] (or [N, layers, D]), both errors float32 [N], steps int64 [N]; on the CPU.

    ``steps`` are the Adam steps that an image took until it was done.
    """

    latents: torch.Tensor
    perceptual_error: torch.Tensor
    pixel_error: torch.Tensor
    steps: torch.Tensor


def invert_batch(
    images: torch.Tensor,
    labels: torch.Tensor,
    generator: StyleGenerator,
    features: Callable[[torch.Tensor], torch.Tensor],
    encoder: LatentEncoder,
    prior: LatentPrior,
    options: InversionOptions | None = None,
    seed: int = 0,
) -> Inversion:
    """Invert images side by side; each stops by itself, and none ends with a larger loss than the encoder's guess.

    The networks run in evaluation mode and are left as they were found.

    Args:
        images: float, shape [N, C, H, W], N >= 1, range [-1, 1]; on any device, as are the labels and the prior.
        labels: their classes, int64, shape [N].
        generator: renders the latents; its device is where the work is done.
        features: images -> [N, F], of which the squared distance is the perceptual error, e.g.
            :class:`~monai_plan.metrics.LPIPSFeatures`; on the generator's device.
        encoder: of :func:`~monai_plan.latent.fit_encoder`, on the generator's device.
        prior: of this generator.
        options: how to search.
        seed: of the noise on latents, drawn for the whole batch; the global random state is not touched.

    Raises:
        ValueError: shapes or labels do not fit, an image is out of range, or a network gives NaN.
    """
    options = options or InversionOptions()
    check_images(images, labels, generator)
    device = device_of(generator)
    images, labels, prior = images.float().to(device), labels.to(device), prior.to(device)
    networks = [network for network in (generator, features, encoder) if isinstance(network, nn.Module)]
    with frozen(*networks), torch.autocast(device.type, enabled=False), torch.enable_grad():
        search = _Search(images, labels, generator, features, prior, options)
        with torch.no_grad():
            start = encoder(images)
        _check_finite("the encoder's guess", start, "train it again (fit_encoder)")
        if options.space == "w+":
            start = start.unsqueeze(1).repeat(1, generator.num_ws, 1)
        return search.run(start, generator_for(seed, "jitter of the inversion"))


class _Search:
    """The state of one batch's search: what is best so far, and who is still moving."""

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        generator: StyleGenerator,
        features: Callable[[torch.Tensor], torch.Tensor],
        prior: LatentPrior,
        options: InversionOptions,
    ) -> None:
        self.images, self.labels = images, labels
        self.generator, self.features = generator, features
        self.prior, self.options = prior, options
        with torch.no_grad():
            self.targets = features(images)

    def terms(self, latents: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Perceptual error, pixel error and loss, shape [rows]."""
        rendered = self.generator.synthesize(latents, noise="const").clamp(-1, 1)
        perceptual = (self.features(rendered) - self.targets[rows]).square().sum(dim=1)
        pixel = (rendered - self.images[rows]).square().flatten(1).mean(dim=1)
        prior = (energy_of(latents, self.labels[rows], self.prior) - 1).clamp_min(0)
        weights = self.options
        loss = weights.perceptual_weight * perceptual + weights.pixel_weight * pixel + weights.prior_weight * prior
        return perceptual, pixel, loss

    def run(self, start: torch.Tensor, rng: torch.Generator) -> Inversion:
        options, scale = self.options, float(self.prior.scale)
        latents = start.clone().requires_grad_(True)
        rows = torch.arange(len(start), device=start.device)  # the images still moving
        with torch.no_grad():
            perceptual, pixel, best = self.terms(start, rows)
        _check_finite("the loss", best[:, None], "check the generator and the perceptual features, their weights first")
        kept, reference = start.clone(), best.clone()
        steps, waited = torch.full_like(rows, options.iterations), torch.full_like(rows, -1)
        optimizer = torch.optim.Adam([latents], options.learning_rate * scale)
        wide = round(WIDE_SEARCH * options.iterations)
        for step in range(options.iterations + 1):
            jitter = options.jitter * scale * (1 - step / wide) ** 2 if step < wide else 0.0
            current = latents[rows]
            if jitter:
                current = current + jitter * torch.randn(latents.shape, generator=rng).to(latents)[rows]
            found = self.terms(current, rows)
            if not jitter:
                with torch.no_grad():
                    better = found[2] < best[rows]
                    at = rows[better]
                    kept[at], best[at] = latents[at], found[2][better]
                    perceptual[at], pixel[at] = found[0][better], found[1][better]
                    fell = best[rows] < (1 - options.tolerance) * reference[rows]
                    reference[rows[fell]] = best[rows[fell]]
                    waited[rows] = torch.where(fell, 0, waited[rows] + 1)
                done = waited[rows] >= options.patience
                steps[rows[done]] = step
                rows = rows[~done]
            if step == options.iterations or len(rows) == 0:
                break
            optimizer.zero_grad(set_to_none=True)
            found[2].sum().backward()
            assert latents.grad is not None
            latents.grad.nan_to_num_(0.0, 0.0, 0.0)  # LPIPS has none where all its features are 0; momentum goes on
            optimizer.step()
        return Inversion(*(value.detach().cpu() for value in (kept, perceptual, pixel, steps)))


def energy_of(latents: torch.Tensor, labels: torch.Tensor, prior: LatentPrior) -> torch.Tensor:
    """The prior's energy of latents in W [N, D]; in W+ [N, L, D] that of their mean plus how far layers lie apart.

    The second part is the mean squared deviation from that mean, in units of ``LatentPrior.scale``.
    """
    if latents.ndim == 2:
        return prior.energy(latents, labels)
    mean = latents.mean(dim=1)
    apart = (latents - mean.unsqueeze(1)).square().mean(dim=(1, 2)) / prior.scale**2
    return prior.energy(mean, labels) + apart


def _check_finite(what: str, values: torch.Tensor, advice: str) -> None:
    broken = ~torch.isfinite(values).flatten(1).all(dim=1)
    if broken.any():
        raise ValueError(f"of {int(broken.sum())} of {len(values)} images {what} is not finite; {advice}")


def check_images(images: torch.Tensor, labels: torch.Tensor, generator: StyleGenerator) -> None:
    """Refuse images [N, C, H, W] that are not of the generator's size or not within [-1, 1].

    Raises:
        ValueError: naming what is wrong.
    """
    wanted = (generator.channels, generator.image_size, generator.image_size)
    if images.ndim != 4 or len(images) == 0 or tuple(images.shape[1:]) != wanted or labels.shape != images.shape[:1]:
        raise ValueError(
            f"images [N, {wanted[0]}, {wanted[1]}, {wanted[2]}] and labels [N] expected, N >= 1, got "
            f"{tuple(images.shape)} and {tuple(labels.shape)}; read them at the generator's size: "
            f"image_size={generator.image_size}"
        )
    if not bool((images.abs() <= 1 + 1e-3).all()):
        raise ValueError(
            f"images to invert lie in {float(images.min()):.4g} .. {float(images.max()):.4g} and must lie in [-1, 1]; "
            "scale them as for training, or look for NaN in the files"
        )
