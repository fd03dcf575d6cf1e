"""Networks that steer or judge but must not change: no gradients of their own, evaluation mode, put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

__all__ = ["device_of", "frozen"]


def device_of(network: nn.Module) -> torch.device:
    """The device of a network's first parameter or buffer; the CPU where it has none."""
    first = next(chain(network.parameters(), network.buffers()), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Gradients flow through the networks to their inputs, but not into their weights.

    ``monai.networks.utils.eval_mode`` switches gradients off altogether, hence this one. The mode of every submodule
    and ``requires_grad`` of every parameter are put back afterwards, also after an error.
    """
    modules = [(module, module.training) for network in networks for module in network.modules()]
    parameters = [(parameter, parameter.requires_grad) for network in networks for parameter in network.parameters()]
    try:
        for network in networks:
            network.eval()
            network.requires_grad_(False)
        yield
    finally:
        for module, training in modules:
            module.training = training
        for parameter, requires_grad in parameters:
            parameter.requires_grad_(requires_grad)
