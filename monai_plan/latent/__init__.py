"""Work in the latent space: anchors, walks, and the gate that every image must pass."""

from .amortised import fit_walk_network, train_walk_network, walk_amortised
from .anchor_graph import pair_coverage, pair_neighbours
from .anchors import AnchorPairs, AnchorSet, pair_anchors, random_anchors, require_pairs
from .fit_guide import FittedGuide, fit_guide
from .gate import PrivacyGate, require_holdout
from .guide import GuideReport, TeacherAnswers, ask_networks, guide_latents, judge_guide, train_guide
from .guided_walk import GuidedOptions, walk_guided
from .open_set import OpenSetIdentity, open_set_steering, usual_distance
from .prior import LatentPrior, gaussianised
from .repair import repair_walks
from .verification import verify_walks
from .walk_planner import WalkPlanner, require_plan
from .walk_set import WalkSet
from .walks import WalkOptions, WalkSteering, WalkTerms, walk_linear, walk_private, walk_terms
