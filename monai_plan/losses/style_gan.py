"""Adversarial losses and regularisers of style-based generators; logits are [B], images [B, C, H, W]."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

__all__ = [
    "PathLengthPenalty",
    "StyleGanObjective",
    "discriminator_logistic_loss",
    "generator_logistic_loss",
    "gradient_penalty",
    "relativistic_discriminator_loss",
    "relativistic_generator_loss",
]


def generator_logistic_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """Non-saturating logistic loss, mean of softplus(-D(fake)) (Goodfellow et al., NeurIPS 2014)."""
    return F.softplus(-fake_logits).mean()


def discriminator_logistic_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """Logistic loss, mean of softplus(D(fake)) + softplus(-D(real))."""
    return F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()


def relativistic_generator_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """Relativistic pairing loss, mean of softplus(D(real) - D(fake)) over pairs (Jolicoeur-Martineau, ICLR 2019).

    As in R3GAN (Huang et al., NeurIPS 2024, eq. 2); needs R1 and R2 to converge. Pairs should share their label.
    """
    return F.softplus(real_logits - fake_logits).mean()


def relativistic_discriminator_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """The discriminator's side of :func:`relativistic_generator_loss`, mean of softplus(D(fake) - D(real))."""
    return F.softplus(fake_logits - real_logits).mean()


def gradient_penalty(logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean squared gradient norm of the logits in the images, without the factor gamma / 2.

    On real images it is R1, on generated ones R2 (Mescheder et al., ICML 2018, eq. 9 and 10). ``images`` must require a
    gradient and be what the logits were computed from.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


class PathLengthPenalty(nn.Module):
    """Path length regularisation: a step in w shall change the image by a constant amount (StyleGAN2, section 3.2).

    The constant is the running mean of the lengths, kept as a buffer so that a resumed run goes on with it.

    Args:
        decay: weight of the past in the running mean.
    """

    mean: torch.Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, images: torch.Tensor, ws: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Mean squared deviation of the path lengths ``|J^T y|`` from their running mean (StyleGAN2, eq. 4).

        Args:
            images: [B, C, H, W], computed from ``ws``.
            ws: style latents [B, layers, w_dim], requiring a gradient.
            rng: on the images' device; y is drawn from it.
        """
        noise = torch.randn(images.shape, generator=rng, device=images.device) / math.sqrt(images[0, 0].numel())
        (gradient,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)
        lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()
        self.mean.lerp_(lengths.detach().mean(), 1 - self.decay)
        return (lengths - self.mean).square().mean()


@dataclass(frozen=True)
class StyleGanObjective:
    """What generator and discriminator minimise.

    Attributes:
        loss: "logistic" (StyleGAN2) or "relativistic" (R3GAN).
        r1_gamma: weight of the gradient penalty on real images, as gamma / 2 * penalty. StyleGAN2-ADA's rule of thumb
            is 0.0002 * size**2 / batch.
        r2_gamma: the same on generated images; R3GAN sets both alike.
        penalty_interval: iterations between gradient penalties, whose weight is scaled accordingly (StyleGAN2,
            appendix B).
        path_length_weight: weight of path length regularisation, 2 in StyleGAN2; 0 for none.
        path_length_interval: iterations between these, scaled accordingly.
        mixing: probability with which an image gets the styles of two latents, the second from a random layer on
            (StyleGAN, Karras et al., CVPR 2019, section 3.1).

    Raises:
        ValueError: a value that cannot be.
    """

    loss: str = "logistic"
    r1_gamma: float = 0.05
    r2_gamma: float = 0.0
    penalty_interval: int = 16
    path_length_weight: float = 0.0
    path_length_interval: int = 4
    mixing: float = 0.0

    def __post_init__(self) -> None:
        if self.loss not in ("logistic", "relativistic"):
            raise ValueError(f"the GAN's loss is '{self.loss}'; choose 'logistic' or 'relativistic'")
        if min(self.r1_gamma, self.r2_gamma, self.path_length_weight) < 0 or not 0 <= self.mixing <= 1:
            raise ValueError(f"weights must be at least 0 and the mixing probability in 0 .. 1, got {self}")
        if min(self.penalty_interval, self.path_length_interval) < 1:
            raise ValueError(f"intervals are counted in iterations, from 1 on, got {self}")

    @property
    def relativistic(self) -> bool:
        """Whether logits are compared in pairs."""
        return self.loss == "relativistic"
