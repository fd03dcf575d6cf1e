"""Adversarial losses of style-based generators."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["discriminator_logistic_loss", "generator_logistic_loss", "r1_penalty"]


def generator_logistic_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """Non-saturating logistic loss, mean of softplus(-D(fake)) (Goodfellow et al., NeurIPS 2014); logits [B]."""
    return F.softplus(-fake_logits).mean()


def discriminator_logistic_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """Logistic loss, mean of softplus(D(fake)) + softplus(-D(real)); logits [B]."""
    return F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()


def r1_penalty(real_logits: torch.Tensor, real_images: torch.Tensor) -> torch.Tensor:
    """Mean squared gradient norm of the logits [B] in the images [B, C, H, W] (Mescheder et al., ICML 2018, eq. 9).

    ``real_images`` must require a gradient and be what the logits were computed from. Without the factor gamma / 2.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()
