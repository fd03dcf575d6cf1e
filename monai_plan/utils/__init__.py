"""Keys, seeding and files; imports nothing else of the package."""

from .bundle import find_bundle_root
from .enums import PlanKeys
from .files import atomic_path, require_writable, sha256_of, write_json
from .picture import image_grid, save_png
from .seeding import generator_for
from .tensor_file import load_tensors, save_tensors
from .torchvision_ops import import_torchvision
from .weights import load_weights
