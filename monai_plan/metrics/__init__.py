"""Metrics of distance, of a generator's quality and of privacy."""

from .generation_quality import (
    GenerationQuality,
    density_and_coverage,
    frechet_distance,
    kernel_distance,
    precision_and_recall,
)
from .image_features import ImageFeatures, load_image_features
from .memorisation import MemorisationResult, memorisation_test
from .nearest import nearest_rows
from .nearest_lpips import (
    EmbeddingFeatures,
    LPIPSFeatures,
    MapFeatures,
    load_perceptual_features,
    mean_minimal_distance,
    nearest_distances,
    pairwise_distances,
)
