"""Keys, seeding and files; imports nothing else of the package."""

from .apportion import apportioned
from .bundle import (
    explain_errors,
    find_bundle_root,
    knows_id,
    refuse_unknown_options,
    root_cause,
    running_config,
    similar_ids,
)
from .checks import fingerprint, require_counts, require_own_folder, require_seeds
from .enums import PlanKeys
from .errors import RunError
from .files import (
    atomic_folder,
    atomic_path,
    delete_left_parts,
    explained_shortage,
    locked,
    require_private,
    require_writable,
    sha256_of,
    write_json,
)
from .given_file import parse_json, read_given, read_json, require_listed, require_small, unlist
from .half_precision import autocast_dtype, has_half_precision
from .machine import machine_name
from .patients import class_of_patient, patient_of
from .picture import image_grid, save_png
from .processes import join_processes, with_the_others
from .pseudonyms import pseudonym, read_or_make_key
from .seeding import generator_for, uniform_at
from .tensor_file import load_tensors, save_tensors
from .torchvision_ops import import_torchvision
from .weights import load_weights, read_weights, require_stored, weights_digest
