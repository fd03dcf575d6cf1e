"""Train an encoder on the generator's own samples, of which the latents are known."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.utils import eval_mode

from monai_plan.latent.frozen import device_of
from monai_plan.latent.small_training import minimise
from monai_plan.networks.nets import LatentEncoder, StyleGenerator
from monai_plan.utils import (
    fingerprint,
    generator_for,
    load_tensors,
    require_counts,
    require_writable,
    weights_digest,
)

__all__ = ["fit_encoder", "saved_encoder"]

logger = logging.getLogger(__name__)

STANDARDISED = 2048
"""Samples from which the encoder's output scale is taken."""


def fit_encoder(
    generator: StyleGenerator,
    iterations: int = 1000,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    layers: Sequence[int] = (1, 1, 1, 1),
    block_inplanes: Sequence[int] = (32, 64, 128, 256),
    seed: int = 0,
    progress: bool = True,
) -> LatentEncoder:
    """Train an encoder to tell a sample's latent from its image.

    It never sees a real image, so it says no more of them than the generator does. The loss is the mean squared error
    in W, each coordinate in units of its deviation.

    Args:
        generator: frozen here; samples are drawn from its classes alike, and rendered with constant noise.
        iterations: Adam steps with a learning rate that falls to 0 on a cosine.
        batch_size: samples a step, each new; >= 2.
        learning_rate: the first step's.
        layers, block_inplanes: of the :class:`~monai_plan.networks.nets.LatentEncoder`.
        seed: of weights and samples; the global random state is left as it was.
        progress: show a progress bar where tqdm is installed.

    Returns:
        The encoder, in evaluation mode, on the generator's device.

    Raises:
        ValueError: a count is too small, or the generator's latents or the loss are not finite.
    """
    require_counts(iterations=iterations)
    require_counts(2, batch_size=batch_size)
    device, rng = device_of(generator), generator_for(seed, "samples of the encoder")
    classes = max(1, generator.num_classes)

    def sample(count: int) -> torch.Tensor:
        labels = torch.randint(classes, (count,), generator=rng)
        z = torch.randn(count, generator.z_dim, generator=rng)
        return generator.map_latents(z.to(device), labels.to(device))

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(generator_for(seed, "weights of the encoder").initial_seed())
        encoder = LatentEncoder(generator.w_dim, generator.channels, layers, block_inplanes)
    with eval_mode(generator):
        drawn = sample(STANDARDISED)
    if not torch.isfinite(drawn).all():
        raise ValueError("the generator's latents hold NaN or infinite values; check the weights that were loaded")
    encoder.standardise(drawn)
    encoder = encoder.to(device).train()

    def loss() -> torch.Tensor:
        with eval_mode(generator):
            latents = sample(batch_size)
            images = generator.synthesize(latents, noise="const").clamp(-1, 1)
        return F.mse_loss(encoder(images) / encoder.deviation, latents / encoder.deviation)

    last = minimise(encoder, loss, iterations, learning_rate, "encoder", progress)
    if not torch.isfinite(last):
        raise ValueError(
            f"the encoder's loss is {last.item()}: lower its learning_rate (now {learning_rate}), or check the "
            "generator's weights, if its images are not finite"
        )
    return encoder.eval()


def saved_encoder(path: str | os.PathLike, generator: StyleGenerator, **training: Any) -> LatentEncoder:
    """The encoder in a file, if it was trained for this generator in this way; else one trained now and saved there.

    Args:
        path: the file.
        generator: see :func:`fit_encoder`.
        training: further arguments of :func:`fit_encoder`.

    Raises:
        OSError: the file's folder cannot be written.
        ValueError: see :func:`fit_encoder`.
    """
    require_writable(Path(path).absolute().parent)
    made_for = fingerprint(weights_digest(generator), training)
    if Path(path).is_file():
        try:
            if load_tensors(path, LatentEncoder.schema)[1].get("made_for") == made_for:
                return LatentEncoder.load(path).to(device_of(generator)).eval()
        except ValueError as error:
            logger.warning("the encoder is trained anew: %s", error)
    encoder = fit_encoder(generator, **training)
    encoder.save(path, made_for=made_for)
    return encoder
