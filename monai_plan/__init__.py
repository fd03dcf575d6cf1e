"""Privacy-preserving latent walks (PLAN, MICCAI 2023) for MONAI."""

import monai  # noqa: F401  (first: MONAI's component locator must be ready before our subpackages load)

from ._version import __version__
from . import data, engines, handlers, inferers, latent, losses, metrics, networks, report, transforms, utils
