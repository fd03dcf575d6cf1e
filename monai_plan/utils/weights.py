"""Network weights from ``.pt`` files that hold tensors only."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import TypeVar

import torch

__all__ = ["load_weights", "weights_digest"]

Network = TypeVar("Network", bound=torch.nn.Module)


def weights_digest(network: torch.nn.Module) -> str:
    """A SHA-256 over the names and values of a network's weights: equal weights, equal digest, on any device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_weights(network: Network, path: str | os.PathLike) -> Network:
    """Load a state dict saved by MONAI's CheckpointSaver into ``network`` and return it.

    Read with ``weights_only=True``: a stranger's pickle is refused, never run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or foreign, or the weights are of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at '{path}'. An earlier stage writes them: run `python -m monai_plan pipeline`, or the "
            "stage's config, or give the right path"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, LookupError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"'{path}' ({path.stat().st_size} bytes) is no readable weights file ({error}); it is truncated or holds "
            "more than tensors. Delete it and run its stage again, or copy it once more"
        ) from error
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the weights in '{path}' do not fit this network ({error}). They were made with other settings (image "
            "size, channels, classes or patients): run the stage that writes them again"
        ) from error
    return network
