"""Ignite handlers."""

from .adaptive_augment import AdaptiveAugment
from .epoch_bar import EpochBar
from .generator_ema import GeneratorEMA
from .resumable_checkpoint import ResumableCheckpoint
from .sample_grid import SampleGrid
from .synthetic_only import SyntheticOnly
