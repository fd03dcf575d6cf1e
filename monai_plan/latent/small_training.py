"""How the small networks of the latent space are trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.utils import optional_import
from torch import nn

__all__ = ["minimise"]

trange, has_tqdm = optional_import("tqdm", name="trange")


def minimise(
    network: nn.Module,
    loss: Callable[[], torch.Tensor],
    iterations: int,
    learning_rate: float,
    description: str,
    progress: bool,
) -> torch.Tensor:
    """Adam on a network's weights, with a learning rate that falls to 0 on a cosine.

    Args:
        network: changed in place.
        loss: of the next batch, through ``network``.
        iterations: steps, >= 1.
        learning_rate: the first step's.
        description: text of the progress bar.
        progress: show it, where tqdm is installed.

    Returns:
        The last batch's loss.
    """
    optimizer = torch.optim.Adam(network.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for _ in trange(iterations, desc=description, unit="it") if progress and has_tqdm else range(iterations):
        value = loss()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        schedule.step()
    return value.detach()
