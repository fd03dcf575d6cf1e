"""Losses: of the walk, of the embedder, of the GAN."""

from .contrastive import TwoViewContrastiveLoss
from .style_gan import PathLengthPenalty, StyleGanObjective
from .walk import identity_hinge, identity_uniformity, label_agreement, spring_energy
