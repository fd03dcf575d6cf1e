"""From latents to images that the gate has accepted, as a MONAI inferer."""

from .walk_inferer import PrivacyWalkInferer
