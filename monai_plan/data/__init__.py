"""Datalists split by patient, phantoms, and the sampler of synthetic batches."""

from .bundle_archive import pack_bundle
from .canary_coins import plant_canaries
from .datalist import build_datalist, load_datalist, read_splits
from .export import export_images
from .identities import identity_items, require_group_size
from .image_folder import images_to_classify
from .image_stream import ImageStream
from .mixed_batches import MixedBatches
from .phantom import fundus_datalist, phantom_datalist
from .privacy_walk import PrivacyWalkDataLoader, PrivacyWalkDataset, PrivacyWalkSampler
from .ray_data import export_images_with_ray, exported_dataset, synthetic_dataset
from .ray_distances import nearest_distances_with_ray
from .release import write_release
from .stacked import StackedImages, stack_images
from .synthetic_source import SyntheticSource
from .walk_dataset import class_shares
