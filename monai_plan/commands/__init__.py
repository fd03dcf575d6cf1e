"""The commands of the command line, each with its options and its result; :mod:`monai_plan.__main__` runs them."""

from .parts import Outcome
from .program import build_program
