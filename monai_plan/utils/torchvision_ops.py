"""Let a CUDA build of torchvision be imported beside a CPU build of torch.

A CUDA torchvision beside a CPU torch fails at import with "operator torchvision::nms does not exist", because its
compiled library cannot be loaded. Its models and transforms, and lpips which imports it, are pure Python and need only
the operators' schemas to be known. Call :func:`import_torchvision` before the first import of lpips; it changes
nothing unless that very error is seen. ``torchvision.ops.nms`` and torchvision's image codecs stay unusable then.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

__all__ = ["import_torchvision"]

_SCHEMAS = ("nms", "qnms")
_library: torch.library.Library | None = None  # a Library's definitions last as long as the object


def import_torchvision() -> ModuleType:
    """Import torchvision, with the two missing operator schemas defined if, and only if, they are missing.

    Raises:
        ImportError: torchvision is not installed.
    """
    global _library
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _library is not None:
            raise
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _SCHEMAS:
        _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")
