"""Work in the latent space: anchors, walks, and the gate that every image must pass."""

from .aggregation import (
    Group,
    Grouping,
    PatientLatents,
    average_by_patient,
    group_centroids,
    group_cost,
    group_patients,
    withdraw_patient,
)
from .amortised import fit_walk_network, train_walk_network, walk_amortised
from .anchor_graph import pair_coverage, pair_neighbours
from .anchor_spread import spread_centroids
from .anchors import AnchorPairs, AnchorSet, pair_anchors, random_anchors, require_pairs
from .bookkeeping import (
    grouping_in_use,
    groups_behind,
    name_in_ledger,
    record_release,
    record_walks,
    require_not_withdrawn,
    require_recorded,
)
from .encoder import fit_encoder, saved_encoder
from .fit_guide import FittedGuide, fit_guide
from .gate import PrivacyGate, require_holdout
from .gate_audit import gate_false_rejections, gate_planted_copies, planted_sensitivity
from .group_style import align_to_groups
from .guide import GuideReport, TeacherAnswers, ask_networks, guide_latents, judge_guide, train_guide
from .guided_walk import GuidedOptions, walk_guided
from .inversion import Inversion, InversionOptions, invert_batch
from .invert_splits import invert_splits, latents_by_patient
from .inverted_images import InvertedImages
from .ledger import Ledger, ReleaseRecord, Touched, TouchedWalks, WalkRecord
from .open_set import OpenSetIdentity, open_set_steering, usual_distance
from .prior import LatentPrior, gaussianised
from .repair import repair_walks
from .style_alignment import FeatureMaps, NetworkMaps, StyleOptions, align_style
from .verification import verify_walks
from .walk_planner import WalkPlanner, require_plan, steps_for
from .walk_set import WalkSet
from .walks import WalkOptions, WalkSteering, WalkTerms, walk_linear, walk_private, walk_terms
from .withdrawal import darken_paths, replan_walks, withdraw
