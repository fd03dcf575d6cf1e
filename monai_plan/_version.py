"""The version of monai_plan, in one place."""

__version__ = "0.1.0"
