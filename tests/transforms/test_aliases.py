"""Names of dictionary transforms, as MONAI has them."""

import inspect

import pytest
from monai.transforms import MapTransform, Transform

from monai_plan import transforms

DICTIONARY = sorted(
    name
    for name, item in vars(transforms).items()
    if inspect.isclass(item) and issubclass(item, MapTransform) and item.__name__ == name
)


@pytest.mark.parametrize("name", DICTIONARY)
def test_dictionary_transforms_have_monais_names(name):
    stem = name.removesuffix("d")
    assert name == f"{stem}d" and issubclass(getattr(transforms, stem), Transform)
    assert getattr(transforms, f"{stem}D") is getattr(transforms, f"{stem}Dict") is getattr(transforms, name)
