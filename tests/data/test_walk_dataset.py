from collections import Counter

import pytest
import torch
from walk_fakes import STEPS, spelling_walks

from monai_plan.data import PrivacyWalkDataset


def test_items_are_deterministic_and_balanced():
    dataset = PrivacyWalkDataset(spelling_walks(), 10, seed=3)
    items = [dataset[i] for i in range(10)]
    assert items == [PrivacyWalkDataset(spelling_walks(), 10, seed=3)[i] for i in range(10)]
    assert [item["index"] for item in items] == list(range(10))
    assert sorted(item["label"] for item in items) == [0] * 5 + [1] * 5
    assert all(item["label"] == int(item["path_id"] >= 3) for item in items)
    with pytest.raises(IndexError, match="index 10"):
        dataset[10]


def test_balance_against_paths_counted_equally():
    walks = spelling_walks(labels=(0, 0, 0, 0, 0, 1))
    balanced = [PrivacyWalkDataset(walks, 12)[i]["label"] for i in range(12)]
    by_path = [PrivacyWalkDataset(walks, 12, balance=False)[i]["label"] for i in range(12)]
    assert balanced.count(1) == 6
    assert by_path.count(1) == 2


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_shards_of_any_stride_hold_both_classes(stride):
    dataset = PrivacyWalkDataset(spelling_walks(), 240)
    for rank in range(stride):
        share = sum(dataset[i]["label"] for i in range(rank, 240, stride)) / (240 / stride)
        assert 0.3 < share < 0.7


@pytest.mark.parametrize("verified_only", [False, True])
def test_all_take_turns_over_epochs(verified_only):
    """4 images a class and epoch: after three epochs each of the 3 paths (or 6 verified points) was shown equally."""
    walks = spelling_walks(dict.fromkeys(range(6), (2, 3)))
    dataset = PrivacyWalkDataset(walks, 8)
    epochs = [dataset.places(range(8), epoch, verified_only=verified_only) for epoch in range(3)]
    places = [place for paths, at in epochs for place in zip(paths.tolist(), at.tolist(), strict=True)]
    keys = places if verified_only else [path for path, _ in places]
    assert {keys.count(key) for key in keys} == ({2} if verified_only else {4})
    assert len(set(keys)) == (12 if verified_only else 6)


def test_classes_of_different_sizes_take_turns_each_for_itself():
    """12 images a class and epoch: four paths or six points of one class, two paths or one point of the other."""
    walks = spelling_walks({0: (1, 2), 1: (3,), 3: (1, 2, 4), 5: (2,)}, labels=(0, 0, 0, 0, 1, 1))
    dataset = PrivacyWalkDataset(walks, 24)
    for epoch in range(3):
        paths, _ = dataset.places(range(24), epoch)
        assert torch.bincount(paths).tolist() == [3, 3, 3, 3, 6, 6]
        places = zip(*(column.tolist() for column in dataset.places(range(24), epoch, verified_only=True)), strict=True)
        shown = Counter(places)
        assert shown == {(5, 2): 12, **dict.fromkeys([(0, 1), (0, 2), (1, 3), (3, 1), (3, 2), (3, 4)], 2)}


@pytest.mark.parametrize("balance", [True, False])
def test_further_attempts_keep_the_class_and_reach_all_its_paths(balance):
    dataset = PrivacyWalkDataset(spelling_walks(labels=(1, 0, 1, 0, 0, 1)), 8, balance=balance)
    for epoch, turn in ((0, 0), (1, 0), (0, 2)):
        first, _ = dataset.places(range(8), epoch, turn)
        labels = dataset.walks.labels[first]
        paths = torch.stack([dataset.places(range(8), epoch, turn, attempt)[0] for attempt in range(1, 40)])
        assert (dataset.walks.labels[paths] == labels).all()
        assert all(len(set(column)) == 3 for column in paths.T.tolist())


@pytest.mark.parametrize("verified_only", [False, True])
def test_place_does_not_depend_on_those_drawn_with_it(verified_only):
    dataset = PrivacyWalkDataset(spelling_walks(dict.fromkeys(range(6), (2, 3))), 50, seed=4)
    indices, attempts = torch.randperm(50), torch.arange(50) % 3
    paths, positions = dataset.places(indices, 2, 1, attempts, verified_only)
    ones = [dataset.places([i], 2, 1, [a], verified_only) for i, a in zip(indices, attempts, strict=True)]
    assert paths.tolist() == [int(path) for path, _ in ones]
    assert positions.tolist() == [float(position) for _, position in ones]
    assert len(set(positions.tolist())) == (2 if verified_only else 50)


def test_places_are_drawn_anew_for_every_coordinate():
    draws = [
        PrivacyWalkDataset(spelling_walks(), 8, seed).places([index], epoch, turn, attempt)[1].item()
        for seed, index, epoch, turn, attempt in [
            *[(0, 0, 0, 0, 0), (1, 0, 0, 0, 0), (0, 1, 0, 0, 0), (0, 0, 1, 0, 0), (0, 0, 0, 1, 0), (0, 0, 0, 0, 1)],
        ]
    ]
    assert len(set(draws)) == 6


def test_positions_are_continuous_and_never_reach_past_inner_points():
    dataset = PrivacyWalkDataset(spelling_walks(), 300)
    positions = dataset.places(range(300), 0)[1].tolist()
    assert min(positions) >= 1 and max(positions) <= STEPS - 2
    assert len(set(positions)) == 300
    assert min(positions) < 1.2 and max(positions) > STEPS - 2.2


@pytest.mark.parametrize(
    "path, position, expected",
    [(2, 1.0, (0.2, 0.1)), (2, 3.25, (0.2, 0.325)), (5, 4.0, (0.5, 0.4))],
)
def test_latents_are_linear_between_inner_points(path, position, expected):
    dataset = PrivacyWalkDataset(spelling_walks(), 1)
    latents = dataset.latents(torch.tensor([path]), torch.tensor([position], dtype=torch.float64))
    torch.testing.assert_close(latents[0, :2], torch.tensor(expected))
    assert latents[0, 3] == 0  # nothing of an end


def test_path_of_three_points_has_one_place():
    walks = spelling_walks()
    short = type(walks)(walks.points[:, [0, 2, 5]], walks.labels, walks.verified[:, :3], "linear")
    dataset = PrivacyWalkDataset(short, 4)
    paths, positions = dataset.places(range(4), 0)
    assert positions.tolist() == [1.0] * 4
    assert torch.equal(dataset.latents(paths, positions), short.points[paths, 1])


def test_reads_a_file(tmp_path):
    path = spelling_walks().save(tmp_path / "walks.safetensors")
    assert PrivacyWalkDataset(str(path), 6)[2] == PrivacyWalkDataset(spelling_walks(), 6)[2]


@pytest.mark.parametrize(
    "walks, images, error, message",
    [
        (torch.zeros(2, 3, 4), 4, TypeError, "WalkSet"),
        (spelling_walks(), 0, ValueError, "images_per_epoch"),
        (spelling_walks(labels=()), 4, ValueError, "empty"),
        ("no/such/file.safetensors", 4, FileNotFoundError, "no/such/file"),
    ],
)
def test_refuses(walks, images, error, message):
    with pytest.raises(error, match=message):
        PrivacyWalkDataset(walks, images)
