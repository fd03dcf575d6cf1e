"""Where the running bundle stands, whatever the working directory."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["find_bundle_root"]


def find_bundle_root() -> str:
    """The folder of the bundle whose config is being run.

    MONAI inserts it second into ``sys.path`` when it reads a config; it is the first entry from there on that holds
    ``configs/metadata.json`` (the very first entry is where Python was started, which may be another bundle). Falls
    back to ``"."``, MONAI's own default.
    """
    for entry in sys.path[1:]:
        if (Path(entry or ".") / "configs" / "metadata.json").is_file():
            return str(Path(entry or ".").resolve())
    return "."
