import logging

import pytest
import torch
from monai.data import CacheDataset, DistributedSampler, decollate_batch
from monai.engines import SupervisedTrainer
from torch import nn
from torch.utils.data import DataLoader
from walk_fakes import RuleGate, SpellingGenerator, spelling_walks

from monai_plan.data import PrivacyWalkDataset, PrivacyWalkSampler
from monai_plan.data.mixed_batches import MixedBatches
from monai_plan.handlers import SyntheticOnly
from monai_plan.utils.synthetic import is_synthetic

ALL = dict.fromkeys(range(6), (1, 2, 3, 4))


def real_images(count=5, **change):
    """Image i is filled with 100 + i."""
    return [{"image": torch.full((1, 2, 2), 100.0 + i), "label": i % 2, "path": "/p", **change} for i in range(count)]


def make(share=0.25, images=12, size=4, real=None, seed=0, **options):
    dataset = PrivacyWalkDataset(spelling_walks(ALL), images, seed)
    synthetic = PrivacyWalkSampler(dataset, SpellingGenerator(), RuleGate(), size, **options)
    return MixedBatches(synthetic, real_images() if real is None else real, share)


def numbers(batches):
    """Which real images, in their order."""
    return [int(i) - 100 for batch in batches for i in batch["image"][batch["is_real"]][:, 0, 0, 0]]


@pytest.mark.parametrize(
    ("share", "images", "size", "expected"),
    [
        (0.25, 12, 4, [1, 1, 1]),
        (0.5, 10, 4, [2, 2, 1]),
        (0.1, 12, 4, [0, 0, 1]),  # 0.4 images a batch: every tenth image
        (0.9, 12, 4, [3, 4, 3]),
    ],
)
def test_the_share_is_that_of_a_pass(share, images, size, expected):
    loader = make(share, images, size)
    batches = list(loader)
    assert [int(batch["is_real"].sum()) for batch in batches] == expected
    assert len(loader) == len(batches) and [len(batch["image"]) for batch in batches] == [
        min(size, images - start) for start in range(0, images, size)
    ]


def test_what_is_not_real_is_the_samplers_and_nothing_else_is_in_a_batch():
    mixed, synthetic = list(make()), list(make().synthetic)
    for ours, its in zip(mixed, synthetic, strict=True):
        assert set(ours) == {"image", "label", "is_real"}
        real = ours["is_real"]
        assert torch.equal(ours["image"][~real], its["image"][~real])
        assert torch.equal(ours["label"][~real], its["label"][~real])
        assert ours["label"][real].tolist() == [number % 2 for number in numbers([ours])]
        assert ours["image"].dtype == torch.float32 and ours["label"].dtype == torch.int64
        assert len(decollate_batch(ours)) == 4


def test_each_real_image_once_before_any_comes_again_and_in_another_order_each_epoch():
    loader = make(0.5, 20)
    passes = [numbers(loader) for _ in range(3)]
    for found in passes:
        assert sorted(found[:5]) == sorted(found[5:]) == list(range(5))
    assert passes[0] != passes[1] != passes[2]
    assert [numbers(make(0.5, 20)) for _ in range(2)] == [passes[0]] * 2 and numbers(make(0.5, 20, seed=1)) != passes[0]
    loader.set_epoch(0)
    assert numbers(loader) == passes[0]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_resume_goes_on_with_the_same_batches(prefetch):
    whole = [*make(prefetch=prefetch), *make(prefetch=prefetch)]
    loader = make(prefetch=prefetch)
    stream = iter(loader)
    taken = [next(stream)]
    state = loader.state_dict()
    stream.close()
    resumed = make(prefetch=prefetch)
    resumed.load_state_dict(state)
    for ours, expected in zip([*taken, *resumed], whole, strict=False):
        assert all(torch.equal(ours[key], expected[key]) for key in expected)
    with pytest.raises(ValueError, match=r"'real_share': 0.25.*'real_share': 0.5"):
        make(0.5).load_state_dict(state)


def test_ranks_have_different_real_images():
    seen = []
    for rank in range(2):
        dataset = PrivacyWalkDataset(spelling_walks(ALL), 24)
        sampler = DistributedSampler(dataset, num_replicas=2, rank=rank, shuffle=True)
        synthetic = PrivacyWalkSampler(dataset, SpellingGenerator(), RuleGate(), 4, sampler=sampler)
        seen.append(numbers(MixedBatches(synthetic, real_images(8), 0.25)))
    assert len(seen[0]) == len(seen[1]) == 3 and not set(seen[0]) & set(seen[1])


def test_labels_take_the_samplers_type_and_shape():
    batch = next(iter(make(0.5, label_dtype="float32", label_shape=(1, 1, 1))))
    assert batch["label"].dtype == torch.float32 and batch["label"].shape == (4, 1, 1, 1)


@pytest.mark.parametrize("allowed", [False, True])
def test_a_trainer_takes_it_only_when_told_and_the_log_says_so(caplog, allowed):
    with caplog.at_level(logging.WARNING):
        loader = make()
    assert "25 % of the images of these batches are REAL images" in caplog.text and not is_synthetic(loader)
    caplog.clear()
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    optimizer, loss = torch.optim.SGD(network.parameters(), 0.001), nn.CrossEntropyLoss()
    guard = SyntheticOnly(allow_mixed=True) if allowed else SyntheticOnly()
    trainer = SupervisedTrainer("cpu", 2, loader, network, optimizer, loss, train_handlers=[guard])
    if not allowed:
        with pytest.raises(RuntimeError, match="25 % of the images .* are real, of patients(.|\n)*allow_mixed"):
            trainer.run()
        assert trainer.state.iteration == 0
        return
    trainer.run()
    assert trainer.state.iteration == 6 and loader.sampler.epoch == 2 and loader.counts["emitted"] == 24
    assert caplog.text.count("this run trains on REAL images of patients: 25 % of each epoch") == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"share": 0}, ValueError, "got 0; for synthetic images alone"),
        ({"share": 1.0}, ValueError, "got 1.0"),
        ({"share": True}, ValueError, "got True"),
        ({"share": "0.5"}, ValueError, "got '0.5'"),
        ({"real": iter([])}, TypeError, "give the dataset of your own loader, not the loader"),
        ({"real": DataLoader(real_images())}, TypeError, "not the loader"),
        ({"real": []}, ValueError, "real has 0 images for 1 processes"),
    ],
)
def test_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        make(**arguments)


def test_refuses_another_loader():
    with pytest.raises(TypeError, match="synthetic must be a PrivacyWalkSampler, got DataLoader"):
        MixedBatches(DataLoader(real_images()), real_images(), 0.5)


@pytest.mark.parametrize(
    ("real", "error", "message"),
    [
        (real_images(image=torch.zeros(3, 2, 2)), ValueError, r"\(3, 2, 2\).*\(1, 2, 2\) with one number each"),
        (real_images(label=torch.zeros(2)), ValueError, r"a label of \(2,\)"),
        ([[item] for item in real_images()], TypeError, "is a list .* cannot be mixed"),
        ([{"image": torch.zeros(1, 2, 2)}], TypeError, "'image' and 'label'"),
    ],
)
def test_real_images_that_do_not_fit(real, error, message):
    with pytest.raises(error, match=message):
        list(make(real=real))


def test_a_cached_dataset_of_monai():
    real = CacheDataset(real_images(), transform=lambda item: {**item, "image": item["image"] + 10}, progress=False)
    assert set(numbers(make(0.5, real=real))) <= set(range(10, 15))
