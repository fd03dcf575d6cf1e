"""Centroids are aligned to the images of their own groups, whatever the names in the ledger."""

import pytest
import torch

from monai_plan.latent import AnchorSet, StyleOptions, align_to_groups
from monai_plan.latent.aggregation import Group, Grouping
from monai_plan.networks.nets import StyleGenerator
from monai_plan.utils import pseudonym

KEY = bytes(range(32))
GROUPING = Grouping(2, (Group(1, 0, ("ann", "bob")), Group(4, 1, ("cyd", "dan"))), ())
OF_PATIENTS = [
    *[("dan", 1, "d"), ("ann", 0, "a1"), ("ann", 0, "a2"), ("ann", 1, "other class")],
    *[("bob", 0, "b"), ("cyd", 1, "c")],
]
ITEMS = [{"image": image, "label": label, "patient_id": patient} for patient, label, image in OF_PATIENTS]
ITEMS.append({"image": "left over", "label": 0, "group_id": "fay"})


class Recorder:
    """Loads an image whose pixels are its place in the alphabet, and notes what was asked for."""

    def __init__(self):
        self.read = []

    def __call__(self, item):
        self.read.append(item["image"])
        image = torch.full((1, 32, 32), (ord(item["image"][0]) - 98) / 4)
        return {**item, "image": image + 0.1 * torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(1))}


def pooled(images):
    return [torch.nn.functional.avg_pool2d(images, 4), images]


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return StyleGenerator(32, 1, 2, channel_base=128, channel_max=16).eval()


@pytest.fixture
def centroids():
    latents = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    return AnchorSet(latents, torch.tensor([0, 1]), "k_same", {"k": 2, "ids": [1, 4]})


@pytest.mark.parametrize("key", [None, KEY])
def test_each_anchor_follows_its_own_group(generator, centroids, key):
    grouping = GROUPING
    if key:
        names = lambda group: tuple(sorted(pseudonym(name, key) for name in group.patients))  # noqa: E731
        grouping = Grouping(2, tuple(Group(g.anchor, g.label, names(g)) for g in GROUPING.groups), ())
    load = Recorder()
    options = StyleOptions(iterations=3)
    found = align_to_groups(centroids, grouping, ITEMS, load, generator, pooled, options, key, progress=False)
    assert sorted(load.read) == ["a1", "a2", "b", "c", "d"], "the others' images are none of its business"
    assert found.meta == {**centroids.meta, "style_aligned": True} and found.origin == "k_same"
    assert not torch.equal(found.latents, centroids.latents)
    if not key:  # the images of the two classes swapped
        swapped = {"a1": "c", "a2": "c", "b": "d", "c": "b", "d": "b"}
        items = [{**item, "image": swapped.get(item["image"], item["image"])} for item in ITEMS]
        other = align_to_groups(centroids, grouping, items, Recorder(), generator, pooled, options, progress=False)
        assert not torch.equal(other.latents, found.latents)


def test_refusals(generator, centroids):
    with pytest.raises(
        ValueError, match=r"^1 patient\(s\) of anchor 4 have no image of class 1 in the datalist\. Give"
    ):
        align_to_groups(centroids, GROUPING, ITEMS[1:], Recorder(), generator, pooled)
    with pytest.raises(ValueError, match="have no image"):  # names, and the grouping is taken to be keyed
        align_to_groups(centroids, GROUPING, ITEMS, Recorder(), generator, pooled, key=KEY)
    with pytest.raises(ValueError, match="another grouping"):
        other = AnchorSet(centroids.latents, centroids.labels, "k_same", {"ids": [0, 1]})
        align_to_groups(other, GROUPING, ITEMS, Recorder(), generator, pooled)
