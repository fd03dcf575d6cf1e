"""Training engines."""

from .style_gan_trainer import StyleGanTrainer
