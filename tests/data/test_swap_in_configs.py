"""The swap in configs shaped like three bundles of MONAI's model zoo, alone and under a stock multi_gpu_train.json."""

import json

import pytest
import torch
from monai.bundle import ConfigParser

from monai_plan.data import PrivacyWalkSampler
from monai_plan.latent.gate import PrivacyGate
from monai_plan.latent.walk_set import WalkSet
from monai_plan.networks.nets import IdentityEmbedder, StyleGenerator

TRAINER = {
    "_target_": "SupervisedTrainer",
    "device": "@device",
    "max_epochs": 1,
    "network": "@network",
    "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.01},
    "loss_function": {"_target_": "torch.nn.CrossEntropyLoss"},
    "train_data_loader": "@train#dataloader",
    "train_handlers": [{"_target_": "monai_plan.handlers.SyntheticOnly"}],
}
REAL_DATASET = {
    "_target_": "CacheDataset",
    "data": "$[{'image': f'/deleted/{i}.png', 'label': 0} for i in range(4)]",
    "transform": {"_target_": "LoadImaged", "keys": "image"},
}
REAL_LOADER = {
    "_target_": "DataLoader",
    "dataset": "@train#dataset",
    "batch_size": 4,
    "shuffle": True,
    "num_workers": 4,
    "pin_memory": True,
}
WALKS = {"_target_": "monai_plan.data.PrivacyWalkDataset", "walks": "@walk_file", "images_per_epoch": 6}
SYNTHETIC = {
    "_target_": "monai_plan.data.PrivacyWalkSampler",
    "dataset": "@train#dataset",
    "generator": "$monai_plan.networks.nets.StyleGenerator.load(@generator_file)",
    "gate": "$monai_plan.latent.gate.PrivacyGate.load(@gate_file)",
    "batch_size": 4,
    "shuffle": True,
    "device": "@device",
}
MULTI_GPU = {
    "network": "$@network_def.to(@device)",
    "train#sampler": {
        "_target_": "DistributedSampler",
        "dataset": "@train#dataset",
        "even_divisible": True,
        "shuffle": True,
    },
    "train#dataloader#sampler": "@train#sampler",
    "train#dataloader#shuffle": False,
}


def head(features, outputs, shape):
    layers = f"torch.nn.Flatten(), torch.nn.Linear({features}, {outputs}), torch.nn.Unflatten(1, {shape})"
    return f"$torch.nn.Sequential({layers})"


def zoo_config(shape):
    """The original config and the overrides that swap it."""
    base = {
        "imports": ["$import torch", "$import monai_plan"],
        "device": "$torch.device('cpu')",
        "network": "$@network_def.to(@device)",
    }
    if shape == "endoscopic":  # RGB, int64, intensities normalised per channel
        normalise = {"_target_": "NormalizeIntensity", "channel_wise": True}
        network = head(192, 2, (2,))
        swap = {"train#dataloader": {**SYNTHETIC, "channels": 3, "image_transform": normalise}}
    elif shape == "pathology":  # float labels [N, 1, 1, 1]
        network = head(192, 1, (1, 1, 1))
        labels = {"label_dtype": "float32", "label_shape": [1, 1, 1], "channels": 3, "value_range": [0, 1]}
        swap = {"train#dataloader": {**SYNTHETIC, **labels}}
    else:  # classification_template: the loader is a top-level node
        network = head(64, 2, (2,))
        swap = {"train_dataloader": {**SYNTHETIC, "dataset": "@train_dataset"}}
    trainer = dict(TRAINER)
    if shape == "pathology":
        trainer["loss_function"] = {"_target_": "torch.nn.BCEWithLogitsLoss"}
    if shape == "template":
        base["train_dataset"], base["train_dataloader"] = REAL_DATASET, {**REAL_LOADER, "dataset": "@train_dataset"}
        base["train"] = {"trainer": {**trainer, "train_data_loader": "@train_dataloader"}}
        swap["train_dataset"] = WALKS
    else:
        base["train"] = {"dataset": REAL_DATASET, "dataloader": REAL_LOADER, "trainer": trainer}
        swap["train#dataset"] = WALKS
    return {**base, "network_def": network}, swap


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    rng = torch.Generator().manual_seed(0)
    verified = torch.zeros(4, 5, dtype=torch.bool)
    walks = WalkSet(torch.randn(4, 5, 8, generator=rng), torch.tensor([0, 0, 1, 1]), verified, "linear")
    small = {"z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8}
    embedder = IdentityEmbedder().eval()
    gallery = torch.randn(3, embedder(torch.zeros(1, 1, 8, 8)).shape[1], generator=rng)
    return {
        "walk_file": str(walks.save(folder / "walks.safetensors")),
        "generator_file": str(StyleGenerator(8, 1, 2, **small).save(folder / "generator.safetensors")),
        "gate_file": str(PrivacyGate(embedder, gallery, 0.01).save(folder / "gate.safetensors")),
    }


def parse(tmp_path, files, *configs):
    """Merge JSON files as ``monai.bundle run --config_file`` does."""
    paths = []
    for number, config in enumerate([*configs, files]):
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(json.dumps(config))
    parser = ConfigParser()
    parser.read_config(paths)
    parser.parse()
    return parser


@pytest.mark.parametrize("shape", ["endoscopic", "template", "pathology"])
def test_swapped_config_trains_an_epoch(tmp_path, files, shape):
    parser = parse(tmp_path, files, *zoo_config(shape))
    trainer = parser.get_parsed_content("train#trainer")
    loader = parser.get_parsed_content("train_dataloader" if shape == "template" else "train#dataloader")
    trainer.run()
    assert isinstance(loader, PrivacyWalkSampler)
    assert trainer.state.iteration == 2 and loader.counts["emitted"] == 6 == loader.gate.accepted
    if shape == "endoscopic":
        image = next(iter(loader))["image"]
        torch.testing.assert_close(image.mean(dim=(2, 3)), torch.zeros(4, 3), atol=1e-4, rtol=0)


def test_nested_override_of_a_top_level_loader_is_caught(tmp_path, files):
    """Without the handler this config would silently train on the real loader."""
    base, _ = zoo_config("template")
    base["train_dataset"] = {"_target_": "CacheDataset", "data": "$[{'image': torch.zeros(1, 8, 8), 'label': 0}]"}
    base["train_dataloader"] |= {"num_workers": 0, "pin_memory": False}
    wrong = {"train#dataset": WALKS, "train#dataloader": SYNTHETIC}
    trainer = parse(tmp_path, files, base, wrong).get_parsed_content("train#trainer")
    with pytest.raises(RuntimeError, match="SyntheticOnly"):
        trainer.run()
    assert trainer.state.iteration == 0


def test_loader_swapped_without_its_dataset_is_caught(tmp_path, files):
    base, _ = zoo_config("endoscopic")
    base["train"]["dataset"] = {"_target_": "CacheDataset", "data": "$[{'image': torch.zeros(1, 8, 8), 'label': 0}]"}
    parser = parse(tmp_path, files, base, {"train#dataloader": SYNTHETIC})
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("train#trainer")
    assert "which may hold real images" in str(caught.value.__cause__)


def test_under_a_stock_multi_gpu_overlay(tmp_path, files):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        parser = parse(tmp_path, files, *zoo_config("endoscopic"), MULTI_GPU)
        trainer = parser.get_parsed_content("train#trainer")
        trainer.run()
        loader = parser.get_parsed_content("train#dataloader")
    finally:
        torch.distributed.destroy_process_group()
    assert trainer.state.iteration == 2
    assert loader.sampler is parser.get_parsed_content("train#sampler") and loader.sampler.epoch == 1
