"""Where the running bundle stands, whatever the working directory."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["find_bundle_root"]


def find_bundle_root() -> str:
    """The folder of the bundle whose config is being run.

    ``python -m monai.bundle`` puts it near the front of ``sys.path``; it is the first entry that holds
    ``configs/metadata.json``. Falls back to ``"."``, MONAI's own default.
    """
    for entry in sys.path:
        if (Path(entry or ".") / "configs" / "metadata.json").is_file():
            return str(Path(entry or ".").resolve())
    return "."
