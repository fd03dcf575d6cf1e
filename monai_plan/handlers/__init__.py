"""Ignite handlers."""

from .adaptive_augment import AdaptiveAugment
from .class_signal_watch import ClassSignalWatch
from .epoch_bar import EpochBar
from .generator_ema import GeneratorEMA
from .generator_quality import GeneratorQuality
from .memorisation_watch import MemorisationWatch
from .prediction_table import PredictionTable
from .resumable_checkpoint import ResumableCheckpoint
from .sample_grid import SampleGrid
from .synthetic_only import SyntheticOnly
from .weights_saver import WeightsSaver
