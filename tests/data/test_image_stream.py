"""The seekable order of training images."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import ignite.distributed as idist
import pytest
import torch
from torch.utils.data import DataLoader

from monai_plan.data import ImageStream


def take(stream: ImageStream, count: int) -> list[int]:
    return list(islice(iter(stream), count))


def test_each_pass_holds_every_image_once_in_another_order():
    drawn = take(ImageStream([0, 1] * 10), 60)
    passes = [drawn[first : first + 20] for first in (0, 20, 40)]
    assert all(sorted(one) == list(range(20)) for one in passes)
    assert passes[0] != passes[1] != passes[2]


@pytest.mark.parametrize("position", [0, 1, 7, 20, 33])
@pytest.mark.parametrize("balanced", [False, True])
def test_seeking_goes_on_where_the_stream_was_left(position, balanced):
    stream = ImageStream([0] * 9 + [1] * 3, balanced)
    whole = take(stream, 60)
    stream.seek(position)
    assert take(stream, 60 - position) == whole[position:]


def test_balanced_draws_every_class_equally_often_and_all_its_images():
    labels = [0] * 90 + [1] * 8 + [3] * 2  # class 2 does not occur
    drawn = take(ImageStream(labels, balanced=True), 270)
    assert Counter(labels[index] for index in drawn) == {0: 90, 1: 90, 3: 90}
    assert set(drawn) == set(range(100))
    turns = [labels[index] for index in drawn]
    assert all(set(turns[first : first + 3]) == {0, 1, 3} for first in range(0, 270, 3))
    assert len({tuple(turns[first : first + 3]) for first in range(0, 270, 3)}) == 6  # classes take turns in any order


def test_prevalence_is_that_of_the_images():
    labels = [0] * 90 + [1] * 10
    assert Counter(labels[index] for index in take(ImageStream(labels), 1000)) == {0: 900, 1: 100}


def test_the_seed_decides_and_the_global_state_is_untouched():
    before = torch.get_rng_state()
    first, again, other = (take(ImageStream([0] * 50, seed=seed), 50) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("balanced", [False, True])
def test_processes_share_the_stream_without_overlap(monkeypatch, processes, balanced):
    labels = [0] * 12 + [1] * 12
    whole = take(ImageStream(labels, balanced), 24)
    shards = []
    monkeypatch.setattr(idist, "get_world_size", lambda: processes)
    for rank in range(processes):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        stream = ImageStream(labels, balanced)
        assert len(stream) == 24 // processes
        shards.append(take(stream, 24 // processes))
    assert [index for place in zip(*shards, strict=True) for index in place] == whole


@pytest.mark.parametrize("workers", [0, 1])
def test_in_a_loader_that_fetches_ahead(workers):
    data, stream = list(range(10)), ImageStream([0] * 10)
    loader = DataLoader(data, batch_size=4, sampler=stream, num_workers=workers)
    whole = [batch.tolist() for batch in islice(iter(loader), 6)]
    stream.seek(8)
    assert [batch.tolist() for batch in islice(iter(loader), 4)] == whole[2:]


def test_no_images():
    with pytest.raises(ValueError, match="no images to draw from; check the training split"):
        ImageStream([])
