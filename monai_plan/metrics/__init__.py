"""Metrics of distance and of privacy."""

from .nearest import nearest_rows
from .nearest_lpips import (
    EmbeddingFeatures,
    LPIPSFeatures,
    load_perceptual_features,
    mean_minimal_distance,
    nearest_distances,
)
