"""Networks and their layers."""

from . import layers, nets
