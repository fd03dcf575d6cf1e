"""Data-parallel training without a wrapper around the networks.

``DistributedDataParallel`` allows neither several passes before a backward pass nor gradients of gradients, and a GAN's
step needs both. Averaging the finished gradients is the same mathematics. In a single process all of this does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import ignite.distributed as idist
import torch
from torch import nn

from monai_plan.utils import with_the_others

__all__ = ["average_gradients", "mean_over_ranks", "share_state"]


def mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all processes, in every process."""
    if idist.get_world_size() == 1:
        return value
    own = value.detach().clone()
    with with_the_others():
        return torch.as_tensor(idist.all_reduce(own)) / idist.get_world_size()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes; one message for all of them."""
    if idist.get_world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    mean = mean_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, mean.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def share_state(*modules: nn.Module) -> None:
    """Give every process the parameters and buffers of process 0."""
    if idist.get_world_size() == 1:
        return
    for module in modules:
        for value in module.state_dict().values():
            own = value.clone()
            with with_the_others():
                shared = torch.as_tensor(idist.broadcast(own, src=0))
            value.copy_(shared)
