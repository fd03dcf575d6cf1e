"""Metrics of distance, of a generator's quality, of a classifier and of privacy."""

from .attack_result import AttackResult, RealPatients
from .canaries import canary_audit, one_run_epsilon
from .classification_figures import classification_figures
from .galleries import chance_of_any, chance_of_one, half_sample_spread, permutation_spread, require_distances
from .generation_quality import (
    GenerationQuality,
    density_and_coverage,
    frechet_distance,
    kernel_distance,
    precision_and_recall,
)
from .image_features import ImageFeatures, load_image_features
from .intervals import (
    accuracy_interval,
    auroc_with_interval,
    clopper_pearson,
    difference_interval,
    kappa_with_interval,
    separation_with_interval,
)
from .membership import (
    density_ratio_scores,
    density_ratio_spread,
    membership_attack,
    nearest_synthetic_scores,
    rates_at_low_false_positives,
)
from .membership_network import classifier_outputs, membership_network
from .memorisation import MemorisationResult, memorisation_test
from .near_copies import near_copies
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
from .reidentification import reidentification
from .screening import screening
from .shadow_membership import likelihood_ratio_scores, shadow_membership
from .wp29 import inference, linkability, singling_out
