import pytest
import torch
from walk_fakes import spelling_walks

from monai_plan.data import PrivacyWalkDataset, class_shares


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


def test_class_shares_of_training_items():
    items = [{"label": label} for label in (0, 0, 0, 2)]
    assert class_shares(items, 3) == [0.75, 0.0, 0.25]


@pytest.mark.parametrize(
    "shares, expected",
    [([0.5, 0.5], [6, 6]), ([0.75, 0.25], [9, 3]), ([2, 1], [8, 4]), ([0.9, 0.1], [11, 1]), ([1, 0], [12, 0])],
)
def test_classes_come_as_often_as_their_shares_say(shares, expected):
    dataset = PrivacyWalkDataset(spelling_walks(), 12, class_shares=shares)
    labels = [dataset[i]["label"] for i in range(12)]
    assert [labels.count(0), labels.count(1)] == expected
    paths = {dataset[i]["path_id"] for i in range(12)}
    assert all(int(dataset.walks.labels[dataset[i]["path_id"]]) == labels[i] for i in range(12)) and len(paths) > 2


@pytest.mark.parametrize(
    "shares, balance, message",
    [
        ([0.5], True, "class 1"),
        ([0.5, -0.5], True, "from 0 on"),
        ([0.0, 0.0], True, "not 0 to all"),
        ([0.0, 0.0, 1.0], True, "not 0 to all"),
        ([0.5, 0.5], False, "leave balance true"),
    ],
)
def test_refuses_shares(shares, balance, message):
    with pytest.raises(ValueError, match=message):
        PrivacyWalkDataset(spelling_walks(), 12, balance=balance, class_shares=shares)


def test_a_class_without_walks_is_left_out_with_a_warning(caplog):
    dataset = PrivacyWalkDataset(spelling_walks(), 12, class_shares=[0.25, 0.25, 0.5])
    labels = [dataset[i]["label"] for i in range(12)]
    assert [labels.count(0), labels.count(1)] == [6, 6] and "[2]" in caplog.text
