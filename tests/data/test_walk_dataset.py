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
    places = [dataset.place(i, epoch, verified_only=verified_only) for epoch in range(3) for i in range(8)]
    keys = places if verified_only else [path for path, _ in places]
    assert {keys.count(key) for key in keys} == ({2} if verified_only else {4})
    assert len(set(keys)) == (12 if verified_only else 6)


def test_index_keeps_its_class_on_every_draw():
    dataset = PrivacyWalkDataset(spelling_walks(), 8)
    for index in range(8):
        labels = {int(dataset.place(index, e, t, a)[0] >= 3) for e in range(3) for t in range(2) for a in range(4)}
        assert labels == {dataset[index]["label"]}


def test_positions_are_continuous_and_never_reach_past_inner_points():
    dataset = PrivacyWalkDataset(spelling_walks(), 300)
    positions = [dataset.place(i, 0)[1] for i in range(300)]
    assert min(positions) >= 1 and max(positions) <= STEPS - 2
    assert len(set(positions)) == 300
    assert min(positions) < 1.2 and max(positions) > STEPS - 2.2


@pytest.mark.parametrize(
    "place, expected",
    [((2, 1.0), (0.2, 0.1)), ((2, 3.25), (0.2, 0.325)), ((5, 4.0), (0.5, 0.4))],
)
def test_latents_are_linear_between_inner_points(place, expected):
    latents = PrivacyWalkDataset(spelling_walks(), 1).latents([place])
    torch.testing.assert_close(latents[0, :2], torch.tensor(expected))
    assert latents[0, 3] == 0  # nothing of an end


def test_path_of_three_points_has_one_place():
    walks = spelling_walks()
    short = type(walks)(walks.points[:, [0, 2, 5]], walks.labels, walks.verified[:, :3], "linear")
    dataset = PrivacyWalkDataset(short, 4)
    places = [dataset.place(i, 0) for i in range(4)]
    assert {position for _, position in places} == {1.0}
    assert torch.equal(dataset.latents(places), short.points[[path for path, _ in places], 1])


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
