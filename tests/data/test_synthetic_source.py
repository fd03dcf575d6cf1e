"""Single images on demand: of the class asked for, the same for the same number, and none without a verdict."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from walk_fakes import RuleGate, SpellingGenerator, spelling_walks

from monai_plan.data.synthetic_source import SyntheticSource
from monai_plan.transforms import RandSyntheticImaged

VERIFIED = {0: (1, 3), 1: (2,), 4: (2, 4)}  # paths 2, 3 and 5 have no verified point
ALL = dict.fromkeys(range(6), (1, 2, 3, 4))


def make(gate=None, walks=None, **options) -> SyntheticSource:
    return SyntheticSource(walks or spelling_walks(ALL), SpellingGenerator(), gate or RuleGate(), **options)


def spelt(image: torch.Tensor) -> tuple[int, float, int]:
    """The path, position and class that an image spells."""
    path, position, label, _ = image.flatten().tolist()
    return round(path * 10), position * 10, round(label)


@pytest.mark.parametrize("label", [0, 1])
def test_one_plain_image_of_the_class(label):
    source = make()
    for number in range(12):
        image = source(label, number)
        assert type(image) is torch.Tensor and image.dtype == torch.float32 and image.shape == (1, 2, 2)
        path, position, found = spelt(image)
        assert found == label and path // 3 == label and 1 <= position <= 4
    assert source.classes == (0, 1)


def test_the_same_for_the_same_seed_label_and_number():
    first, again, other = make(seed=3), make(seed=3), make(seed=4)
    places = [(label, number) for number in (0, 1, 7, 2**31 - 2) for label in (0, 1)]
    expected = [first(*place) for place in places]
    assert all(torch.equal(a, again(*place)) for a, place in reversed(list(zip(expected, places, strict=True))))
    assert all(torch.equal(a, first(*place)) for a, place in zip(expected, places, strict=True))
    assert not any(torch.equal(a, other(*place)) for a, place in zip(expected, places, strict=True))
    assert len({spelt(image) for image in expected}) == len(places)


def test_paths_of_a_class_take_turns():
    source = make()
    assert sorted(spelt(source(1, number))[0] for number in range(6)) == [3, 3, 4, 4, 5, 5]


@pytest.mark.parametrize("low, high", [(2.0, 3.0), (1.0, 1.5)])
def test_the_gate_judges_every_image(low, high):
    gate = RuleGate(low, high)
    source = make(gate)
    assert all(low <= spelt(source(label, number))[1] <= high for number in range(10) for label in (0, 1))
    assert gate.rejected > 0


def test_a_gate_that_refuses_everything_raises_and_shows_nothing():
    with pytest.raises(RuntimeError, match="rejected all 5 attempts"):
        make(RuleGate(low=50), max_attempts=5)(0, 0)


def test_without_a_gate_verified_points_only():
    source = SyntheticSource(spelling_walks(VERIFIED), SpellingGenerator())
    places = {(path, round(at, 4)) for path, at, _ in (spelt(source(label, n)) for n in range(6) for label in (0, 1))}
    assert places == {(0, 1.0), (0, 3.0), (1, 2.0), (4, 2.0), (4, 4.0)}


def test_range_and_channels_are_the_pipelines():
    plain, mapped = make()(1, 5), make(value_range=(0, 255), channels=3)(1, 5)
    assert mapped.shape == (3, 2, 2)
    torch.testing.assert_close(mapped, ((plain + 1) * 127.5).expand(3, 2, 2))


def test_reads_a_file(tmp_path):
    path = spelling_walks(ALL).save(tmp_path / "walks.safetensors")
    assert torch.equal(make(walks=str(path))(1, 5), make()(1, 5))


def test_labels_need_not_begin_at_nought():
    source = make(walks=spelling_walks(ALL, labels=(2, 2, 2, 7, 7, 7)))
    assert source.classes == (2, 7) and spelt(source(7, 0))[0] >= 3


@pytest.mark.parametrize("label, number, message", [(2, 0, r"class 2, only of \[0, 1\]"), (0, -1, "got -1")])
def test_unknown_labels_and_numbers(label, number, message):
    with pytest.raises(ValueError, match=message):
        make()(label, number)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"walks": torch.zeros(2, 3, 4)}, TypeError, "WalkSet"),
        ({"walks": spelling_walks(labels=())}, ValueError, "empty"),
        ({"walks": "no/such/file.safetensors"}, FileNotFoundError, "no/such/file"),
        ({"generator": torch.nn.Linear(1, 1)}, TypeError, "synthesize"),
        ({"gate": None, "walks": spelling_walks({0: (1,)})}, ValueError, r"class\(es\) \[1\]"),
        ({"gate": 7}, TypeError, "accepts"),
        ({"value_range": (1, 0)}, ValueError, "value_range"),
        ({"max_attempts": 0}, ValueError, "max_attempts"),
    ],
)
def test_bad_arguments(arguments, error, message):
    sources = {"walks": spelling_walks(ALL), "generator": SpellingGenerator(), "gate": RuleGate()}
    with pytest.raises(error, match=message):
        SyntheticSource(**{**sources, **arguments})


def test_pickled_it_makes_the_same_images():
    source = make(seed=2)
    assert torch.equal(pickle.loads(pickle.dumps(source))(1, 9), source(1, 9))


def test_threads_get_what_they_ask_for():
    source = make()
    places = [(number % 2, number) for number in range(24)]
    expected = [source(*place) for place in places]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda place: source(*place), places))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_global_random_state_and_gradients_are_left_alone():
    np.random.seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    image = make()(0, 3)
    assert np.array_equal(np.random.get_state()[1], before[0]) and torch.equal(torch.get_rng_state(), before[1])
    assert torch.is_grad_enabled() and not image.requires_grad


def test_in_a_pipeline_with_a_stock_loader():
    items = [{"image": torch.full((1, 2, 2), -1.0), "label": i % 2} for i in range(8)]
    replace = RandSyntheticImaged("image", "label", make(), prob=0.5).set_random_state(0)
    (batch,) = DataLoader(Dataset(items, replace), batch_size=8)
    marks = batch["image_is_synthetic"]
    assert 0 < int(marks.sum()) < 8 and (batch["image"][~marks] == -1).all()
    assert [spelt(image)[2] for image in batch["image"][marks]] == batch["label"][marks].tolist()
