"""Tensors-only files (safetensors) with a schema name and a version; nothing is ever unpickled."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from monai_plan.utils.files import atomic_path
from monai_plan.utils.given_file import parse_json, require_listed, require_small, unlist

__all__ = ["load_tensors", "save_tensors"]

_HEADER = "monai_plan"
_MOST_BYTES = 2**36
_MOST_HEADER = 100_000_000  # bytes, as safetensors has it; latents name the patient and file of each image there


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
        unlist(Path(path))
        # not by save_file, which has a temporary file of its own, and a kill leaves that
        partial.write_bytes(save(plain, metadata=header))
    return Path(path)


def load_tensors(
    path: str | os.PathLike,
    schema: str,
    version: int = 1,
    names: Collection[str] = (),
    meta_kinds: Mapping[str, type | tuple[type, ...]] | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a file of :func:`save_tensors` and check what it is.

    Args:
        path: the file.
        schema: the schema that the caller understands.
        version: the newest version of it that the caller understands.
        names: tensors that must be there.
        meta_kinds: ``meta`` values that must be there, and of which type.

    Returns:
        The tensors (on the CPU) and the ``meta`` values.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, foreign, of another schema, of a later version, or another one than the list
            of its folder names; or something in it is missing or of another type.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no file at '{path}'. It is written by an earlier stage: run `python -m monai_plan pipeline` again, "
            "or give the right path"
        )
    require_small(path, _MOST_BYTES)
    require_listed(path)
    try:
        _require_small_header(path)
        with safe_open(str(path), framework="pt") as handle:
            header = (handle.metadata() or {}).get(_HEADER)
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # damaged files and strange types make safetensors raise many kinds
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
        found = parse_json(header)
        found_schema, found_version, meta = found["schema"], found["version"], found["meta"]
        if type(found_version) is not int or not isinstance(meta, dict):
            raise TypeError(f"version {found_version!r} and meta of type {type(meta).__name__}")
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"the '{_HEADER}' header of '{path}' is damaged ({error!r}); run its stage again") from error
    if found_schema != schema:
        raise ValueError(f"'{path}' holds '{found_schema}', and '{schema}' is needed here; two paths may be swapped")
    if found_version > version:
        raise ValueError(
            f"'{path}' has version {found_version} of '{schema}' and this monai_plan reads up to {version}. "
            "Update it: pip install -U monai_plan"
        )
    lacking = [name for name in names if name not in tensors]
    lacking += [name for name, kind in (meta_kinds or {}).items() if not isinstance(meta.get(name), kind)]
    if lacking:
        raise ValueError(
            f"'{path}' lacks {', '.join(lacking)}, or has something else in that place; it was changed after it was "
            "written, or is damaged. Run its stage again"
        )
    return tensors, meta


def _require_small_header(path: Path) -> None:
    with path.open("rb") as stream:
        first = stream.read(8)
    claimed = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
    if claimed > _MOST_HEADER:
        raise ValueError(f"its header claims {claimed} bytes")
