"""Tensors-only files (safetensors) with a schema name and a version; nothing is ever unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from monai_plan.utils.files import atomic_path

__all__ = ["load_tensors", "save_tensors"]

_HEADER = "monai_plan"


def save_tensors(
    path: str | os.PathLike,
    tensors: Mapping[str, torch.Tensor],
    schema: str,
    version: int = 1,
    meta: Mapping[str, Any] | None = None,
    mode: int | None = None,
) -> Path:
    """Write tensors with a header ``{schema, version, meta}``, whole or not at all.

    Args:
        path: the file, by convention ``*.safetensors``.
        tensors: name to tensor; any shapes and dtypes; stored contiguous on the CPU.
        schema: what the file is, e.g. ``"style_generator"``.
        version: the schema's version.
        meta: plain JSON values kept beside the tensors (sizes, seeds, hashes of the inputs).
        mode: the file's permissions, e.g. ``0o600``; ``None`` for what the umask leaves.
    """
    header = {_HEADER: json.dumps({"schema": schema, "version": version, "meta": dict(meta or {})}, sort_keys=True)}
    plain = {name: tensor.detach().to("cpu").clone().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path, mode) as partial:
        # not by save_file, which has a temporary file of its own, and a kill leaves that
        partial.write_bytes(save(plain, metadata=header))
    return Path(path)


def load_tensors(
    path: str | os.PathLike, schema: str, version: int = 1
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a file of :func:`save_tensors` and check what it is.

    Args:
        path: the file.
        schema: the schema that the caller understands.
        version: the newest version of it that the caller understands.

    Returns:
        The tensors (on the CPU) and the ``meta`` values.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, foreign, of another schema, or of a later version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no file at '{path}'. It is written by an earlier stage: run `python -m monai_plan pipeline` again, "
            "or give the right path"
        )
    try:
        with safe_open(str(path), framework="pt") as handle:
            header = (handle.metadata() or {}).get(_HEADER)
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(
            f"'{path}' ({path.stat().st_size} bytes) is no readable safetensors file ({error}); it is truncated or of "
            "another format. Delete it and run its stage again, or copy it once more"
        ) from error
    if header is None:
        raise ValueError(
            f"'{path}' was not written by monai_plan (no '{_HEADER}' header). Expected schema '{schema}'; weights of "
            "other programs must be converted first"
        )
    try:
        found = json.loads(header)
        found_schema, found_version, meta = found["schema"], found["version"], found["meta"]
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"the '{_HEADER}' header of '{path}' is damaged ({error!r}); run its stage again") from error
    if found_schema != schema:
        raise ValueError(f"'{path}' holds '{found_schema}', and '{schema}' is needed here; two paths may be swapped")
    if found_version > version:
        raise ValueError(
            f"'{path}' has version {found_version} of '{schema}' and this monai_plan reads up to {version}. "
            "Update it: pip install -U monai_plan"
        )
    return tensors, meta
