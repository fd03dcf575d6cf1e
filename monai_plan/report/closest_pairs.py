"""Pictures of the synthetic images that lie nearest to a patient, beside that patient: for readers who may see both."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from monai_plan.report.audit_material import AuditMaterial
from monai_plan.utils import image_grid, save_png

__all__ = ["closest_pairs"]


def closest_pairs(material: AuditMaterial, count: int = 8) -> dict[str, bytes]:
    """The closest pairs by each distance: synthetic images in the upper line, training images below them.

    Args:
        material: of the audit.
        count: pairs, each of another training image.

    Returns:
        Title to PNG bytes.
    """
    training, _ = material.of_split("training")
    sheets = {}
    for name in material.names:
        nearest = material.to_real[name][:, material.real.member].min(dim=0)
        chosen = nearest.values.argsort()[:count]
        pairs = torch.cat([material.synthetic_images[nearest.indices[chosen]], training[chosen]])
        with tempfile.TemporaryDirectory() as folder:
            picture = save_png(Path(folder) / "pairs.png", image_grid(pairs, columns=len(chosen)))
            sheets[f"closest pairs by {name}: synthetic above, training image below"] = picture.read_bytes()
    return sheets
