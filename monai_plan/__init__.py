"""Privacy-preserving latent walks (PLAN, MICCAI 2023) for MONAI."""

import monai

from ._version import __version__
from . import data, engines, handlers, inferers, latent, losses, metrics, networks, report, transforms, utils
