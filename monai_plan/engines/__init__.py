"""Training engines."""

from .class_signal import class_signal
from .classification import BestEpoch, initial_network, predict, train_classifier
from .prepare_batch import AugmentedPrepareBatch, TaughtPrepareBatch, TwoViewPrepareBatch
from .style_gan_trainer import StyleGanTrainer, require_batch
from .teachers import load_teachers, save_teachers, train_teachers
from .verification_network import LEAST_PATIENTS, Verification, fit_verification
