"""Which places are drawn: each alone, all in turn, and none whose class was disputed."""

from collections import Counter

import pytest
import torch
from walk_fakes import STEPS, spelling_walks

from monai_plan.data.walk_pool import WalkPool


def pool(walks, images, seed=0, **options):
    return WalkPool(walks, images, seed, **options)


@pytest.mark.parametrize("verified_only", [False, True])
def test_all_take_turns_over_epochs(verified_only):
    """4 images a class and epoch: after three epochs each of the 3 paths (or 6 verified points) was shown equally."""
    walks = spelling_walks(dict.fromkeys(range(6), (2, 3)))
    drawn = pool(walks, 8)
    epochs = [drawn.places(range(8), epoch, verified_only=verified_only) for epoch in range(3)]
    places = [place for paths, at in epochs for place in zip(paths.tolist(), at.tolist(), strict=True)]
    keys = places if verified_only else [path for path, _ in places]
    assert {keys.count(key) for key in keys} == ({2} if verified_only else {4})
    assert len(set(keys)) == (12 if verified_only else 6)


def test_classes_of_different_sizes_take_turns_each_for_itself():
    """12 images a class and epoch: two paths with a segment (of four), or six points; one point (of two paths)."""
    walks = spelling_walks({0: (1, 2), 1: (3,), 3: (1, 2, 4), 5: (2,)}, labels=(0, 0, 0, 0, 1, 1))
    drawn = pool(walks, 24)
    for epoch in range(3):
        paths, _ = drawn.places(range(24), epoch)
        assert torch.bincount(paths).tolist() == [6, 0, 0, 6, 0, 12]
        places = zip(*(column.tolist() for column in drawn.places(range(24), epoch, verified_only=True)), strict=True)
        shown = Counter(places)
        assert shown == {(5, 2): 12, **dict.fromkeys([(0, 1), (0, 2), (1, 3), (3, 1), (3, 2), (3, 4)], 2)}


@pytest.mark.parametrize("balance", [True, False])
def test_further_attempts_keep_the_class_and_reach_all_its_paths(balance):
    drawn = pool(spelling_walks(labels=(1, 0, 1, 0, 0, 1)), 8, balance=balance)
    for epoch, turn in ((0, 0), (1, 0), (0, 2)):
        first, _ = drawn.places(range(8), epoch, turn)
        labels = drawn.walks.labels[first]
        paths = torch.stack([drawn.places(range(8), epoch, turn, attempt)[0] for attempt in range(1, 40)])
        assert (drawn.walks.labels[paths] == labels).all()
        assert all(len(set(column)) == 3 for column in paths.T.tolist())


@pytest.mark.parametrize("verified_only", [False, True])
def test_place_does_not_depend_on_those_drawn_with_it(verified_only):
    drawn = pool(spelling_walks(dict.fromkeys(range(6), (2, 3))), 50, seed=4)
    indices, attempts = torch.randperm(50), torch.arange(50) % 3
    paths, positions = drawn.places(indices, 2, 1, attempts, verified_only)
    ones = [drawn.places([i], 2, 1, [a], verified_only) for i, a in zip(indices, attempts, strict=True)]
    assert paths.tolist() == [int(path) for path, _ in ones]
    assert positions.tolist() == [float(position) for _, position in ones]
    assert len(set(positions.tolist())) == (2 if verified_only else 50)


def test_places_are_drawn_anew_for_every_coordinate():
    draws = [
        pool(spelling_walks(), 8, seed).places([index], epoch, turn, attempt)[1].item()
        for seed, index, epoch, turn, attempt in [
            *[(0, 0, 0, 0, 0), (1, 0, 0, 0, 0), (0, 1, 0, 0, 0), (0, 0, 1, 0, 0), (0, 0, 0, 1, 0), (0, 0, 0, 0, 1)],
        ]
    ]
    assert len(set(draws)) == 6


def test_positions_are_continuous_and_never_reach_past_inner_points():
    drawn = pool(spelling_walks(), 300)
    positions = drawn.places(range(300), 0)[1].tolist()
    assert min(positions) >= 1 and max(positions) <= STEPS - 2
    assert len(set(positions)) == 300
    assert min(positions) < 1.2 and max(positions) > STEPS - 2.2


@pytest.mark.parametrize(
    "path, position, expected",
    [(2, 1.0, (0.2, 0.1)), (2, 3.25, (0.2, 0.325)), (5, 4.0, (0.5, 0.4))],
)
def test_latents_are_linear_between_inner_points(path, position, expected):
    drawn = pool(spelling_walks(), 1)
    latents = drawn.latents(torch.tensor([path]), torch.tensor([position], dtype=torch.float64))
    torch.testing.assert_close(latents[0, :2], torch.tensor(expected))
    assert latents[0, 3] == 0  # nothing of an end


def test_path_of_three_points_has_one_place():
    walks = spelling_walks()
    short = type(walks)(walks.points[:, [0, 2, 5]], walks.labels, walks.verified[:, :3], "linear")
    drawn = pool(short, 4)
    paths, positions = drawn.places(range(4), 0)
    assert positions.tolist() == [1.0] * 4
    assert torch.equal(drawn.latents(paths, positions), short.points[paths, 1])


def drawn_segments(drawn, images, epochs=8):
    """How many images each (path, first point of the segment) was drawn for, first and further attempts alike."""
    count = Counter()
    for epoch in range(epochs):
        for attempt in (0, 1, 2):
            paths, positions = drawn.places(range(images), epoch, attempts=attempt)
            count.update(zip(paths.tolist(), positions.long().tolist(), strict=True))
    return count


@pytest.mark.parametrize(
    "verified, labels, segments, unverified",
    [
        # neighbours only; paths without neighbours are left out
        (
            {0: (1, 2), 1: (1, 3), 3: (1, 2, 3, 4), 4: (2,)},
            (0, 0, 0, 1, 1, 1),
            {0: [1], 3: [1, 2, 3]},
            [],
        ),
        # one disputed point takes two segments away
        (dict.fromkeys(range(6), (1, 2, 4)), (0, 0, 0, 1, 1, 1), dict.fromkeys(range(6), [1]), []),
        # a class without neighbours is drawn from its points alone
        ({0: (2, 3), 4: (1, 3)}, (0, 0, 0, 1, 1, 1), {0: [2], 4: [1, 3]}, []),
        # one that nobody verified from everywhere, the other is not
        ({0: (2, 3)}, (0, 0, 0, 1, 1, 1), {0: [2], **dict.fromkeys((3, 4, 5), [1, 2, 3])}, [1]),
        ({}, (0, 7, 0, 7, 7, 0), dict.fromkeys(range(6), [1, 2, 3]), [0, 7]),
        (dict.fromkeys(range(6), (1, 2, 3, 4)), (0, 0, 0, 1, 1, 1), dict.fromkeys(range(6), [1, 2, 3]), []),
    ],
)
@pytest.mark.parametrize("balance", [True, False])
def test_places_lie_between_verified_neighbours(verified, labels, segments, unverified, balance):
    drawn = pool(spelling_walks(verified, labels), 90, balance=balance)
    assert drawn.unverified_classes == unverified
    expected = {(path, low) for path, lows in segments.items() for low in lows}
    assert set(drawn_segments(drawn, 90)) == expected


def test_segments_of_a_path_count_equally():
    drawn = pool(spelling_walks({0: (1, 2, 3, 4), 3: (1, 2, 3, 4)}), 600)
    count = drawn_segments(drawn, 600, epochs=4)
    assert len(count) == 6 and all(abs(number / 1200 - 1) < 0.1 for number in count.values())
    shares = drawn.places(range(600), 0)[1].frac()
    assert abs(float(shares.mean()) - 0.5) < 0.05 and shares.min() < 0.02 and shares.max() > 0.98


def test_a_whole_range_is_the_same_verified_or_not():
    """A position is one draw along all segments, so marks that change nothing change no image."""
    plain, marked = (pool(spelling_walks(marks), 40) for marks in (None, dict.fromkeys(range(6), (1, 2, 3, 4))))
    for one, other in zip(plain.places(range(40), 3, 1), marked.places(range(40), 3, 1), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("marks, expected", [((True, False, True), {0, 2}), ((False, False, False), {0, 1, 2})])
def test_only_points_of_paths_of_three(marks, expected):
    walks = spelling_walks(labels=(0, 0, 0))
    verified = torch.zeros(3, 3, dtype=torch.bool)
    verified[:, 1] = torch.tensor(marks)
    drawn = pool(type(walks)(walks.points[:, [0, 2, 5]], walks.labels, verified, "linear"), 30)
    paths, positions = drawn.places(range(30), 0, attempts=torch.arange(30) % 3)
    assert set(paths.tolist()) == expected and set(positions.tolist()) == {1.0}


def test_pools_of_equal_labels_keep_each_index_in_its_class():
    first = pool(spelling_walks(dict.fromkeys(range(6), (1, 2, 3, 4))), 50)
    other = pool(spelling_walks({1: (2, 3), 5: (1, 2)}), 50)
    for epoch in range(3):
        labels = [one.walks.labels[one.places(range(50), epoch)[0]] for one in (first, other)]
        assert torch.equal(*labels)


def test_keeps_no_graph():
    walks = spelling_walks()
    kept = pool(type(walks)(walks.points.requires_grad_(), walks.labels, walks.verified, "linear"), 4)
    assert not kept.latents(*kept.places(range(4), 0)).requires_grad


def test_isolated_points_are_shown_where_they_were_judged():
    drawn = pool(spelling_walks({0: (1, 2, 3, 4), 4: (1, 3)}, (0, 0, 0, 1, 1, 1)), 100)
    paths, positions = drawn.places(range(100), 0)
    assert set(positions[paths == 4].tolist()) == {1.0, 3.0}
    assert len(set(positions[paths == 0].tolist())) == 50
