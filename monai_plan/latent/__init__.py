"""Work in the latent space: anchors, walks, and the gate that every image must pass."""

from .anchors import AnchorPairs, AnchorSet, pair_anchors, random_anchors, require_pairs
from .gate import PrivacyGate, require_holdout
from .verification import verify_walks
from .walk_set import WalkSet
from .walks import WalkOptions, WalkSteering, WalkTerms, walk_linear, walk_private, walk_terms
