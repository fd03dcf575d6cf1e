"""Network weights from ``.pt`` files that hold tensors only."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file

from monai_plan.utils.given_file import require_listed, require_small

__all__ = ["load_weights", "read_weights", "require_stored", "weights_digest"]

Network = TypeVar("Network", bound=torch.nn.Module)
MOST_BYTES = 2**36


def weights_digest(network: torch.nn.Module) -> str:
    """A SHA-256 over a network's weights, and its ``config`` if it has one: equal ones make equal images anywhere."""
    digest = hashlib.sha256(repr(sorted(getattr(network, "config", {}).items())).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read a state dict from a ``.pt`` or ``.safetensors`` file.

    Nothing is unpickled but tensors and plain containers: a stranger's pickle is refused, never run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, foreign, another one than the list of its folder names, holds something else
            than named tensors, or claims to be larger than it is.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at '{path}'. An earlier stage writes them: run `python -m monai_plan pipeline`, or the "
            "stage's config, or give the right path"
        )
    require_small(path, MOST_BYTES)
    require_listed(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        require_stored(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(map(_is_named_tensor, state.items())):
            raise TypeError("it holds no state dict")
    except Exception as error:  # damaged files make both readers raise many kinds
        raise ValueError(
            f"'{path}' ({path.stat().st_size} bytes) is no readable weights file ({error}); it is truncated or holds "
            "more than tensors. Delete it and run its stage again, or copy it once more"
        ) from error
    return state


def require_stored(path: Path) -> None:
    """Refuse an archive that unpacks to more than its own size; ``torch.save`` compresses nothing.

    Raises:
        ValueError: it does.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        claimed = sum(entry.file_size for entry in archive.infolist())
    if claimed > path.stat().st_size:
        raise ValueError(f"it unpacks to {claimed} bytes, as no file of torch.save does")


def _is_named_tensor(entry: tuple[object, object]) -> bool:
    """Whether it is a tensor with a name, and in memory as large as it says."""
    name, tensor = entry
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def load_weights(network: Network, path: str | os.PathLike) -> Network:
    """Load a state dict saved by WeightsSaver, or by MONAI's CheckpointSaver, into ``network`` and return it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: see :func:`read_weights`; or the weights are of another network.
    """
    state = read_weights(path)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"the weights in '{path}' do not fit this network ({error}). They were made with other settings (image "
            "size, channels, classes or patients): run the stage that writes them again"
        ) from error
    return network
