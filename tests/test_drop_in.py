"""The swap in whole training configs, shaped like three bundles of MONAI's model zoo, as docs/drop_in.md has it.

Each folder of ``drop_in`` holds a config that trains on real files, the stock overlay for several processes, and the
override; nothing else is changed.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import ignite.distributed as idist
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import partition_dataset
from monai.fl.client import MonaiAlgo
from monai.fl.utils.exchange_object import ExchangeObject

import monai_plan
from monai_plan.data import PrivacyWalkSampler
from monai_plan.latent import PrivacyGate, WalkSet
from monai_plan.networks.nets import IdentityEmbedder, StyleGenerator
from monai_plan.utils import root_cause

REPOSITORY = Path(monai_plan.__file__).resolve().parents[1]
CONFIGS = Path(__file__).parent / "drop_in"
PAGE = REPOSITORY / "docs" / "drop_in.md"
SHAPES = ("endoscopic_inbody", "classification_template", "pathology_tumor")
SIZE, IMAGES, BATCH = 16, 256, 64


@dataclass
class Shape:
    """A config's folder with real files, and what its nodes are called."""

    name: str
    real: list[Path]

    @property
    def trainer(self) -> str:
        return "trainer" if self.name == "classification_template" else "train#trainer"

    @property
    def loader(self) -> str:
        return "train_dataloader" if self.name == "classification_template" else "train#dataloader"

    def run(self, *configs: str, **overrides) -> ConfigParser:
        """What ``python -m monai.bundle run`` does, and the objects that it leaves."""
        files = [f"configs/{name}.json" for name in configs]
        workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **overrides)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return workflow.parser

    def delete_real_files(self) -> None:
        for path in self.real:
            path.unlink()


@pytest.fixture(scope="module")
def private_rooms(tmp_path_factory) -> dict[int, Path]:
    """By channels: the three files that the override names, of tiny networks."""
    rooms = {}
    for channels in (1, 3):
        room = rooms[channels] = tmp_path_factory.mktemp("private")
        rng = torch.Generator().manual_seed(0)
        points, verified = torch.randn(4, 5, 8, generator=rng), torch.zeros(4, 5, dtype=torch.bool)
        walks = WalkSet(points, torch.tensor([0, 0, 1, 1]), verified, "private")
        walks.save(room / "walks_private.safetensors")
        small = {"z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8}
        StyleGenerator(SIZE, channels, 2, **small).save(room / "generator.safetensors")
        embedder = IdentityEmbedder(channels, 8, block_inplanes=[4, 4, 8, 8]).eval()
        gallery = torch.nn.functional.normalize(torch.randn(3, 8, generator=rng), dim=1)
        PrivacyGate(embedder, gallery, 1e-4).save(room / "gate.safetensors")
    return rooms


def draw(path: Path, channels: int = 3, size: tuple[int, int] = (20, 24)) -> None:
    image_module = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = torch.randint(0, 256, (*size, channels), dtype=torch.uint8).numpy()
    image_module.fromarray(pixels if channels == 3 else pixels[..., 0]).save(path)


def endoscopic_inbody(folder: Path) -> list[Path]:
    """Two lists; images in colour."""
    real = []
    for split, count in (("train", 6), ("val", 5)):
        items = [{"image": f"data/{split}/{number}.png", "label": number % 2} for number in range(count)]
        for item in items:
            draw(folder / item["image"])
        label = folder / "label" / f"{split}_samples.json"
        label.parent.mkdir(exist_ok=True)
        label.write_text(json.dumps(items))
        real += [label, *(folder / item["image"] for item in items)] if split == "train" else []
    return real


def classification_template(folder: Path) -> list[Path]:
    """One list, of which the config makes two; images in grey. The list stays: validation needs it."""
    items = [{"image": f"data/img{number:02}.png", "label": number % 2} for number in range(10)]
    for item in items:
        draw(folder / item["image"], channels=1, size=(SIZE, SIZE))
    (folder / "data" / "train_samples.json").write_text(json.dumps(items))
    training, _ = partition_dataset(items, (4, 1), shuffle=True, seed=0)
    return [folder / item["image"] for item in training]


def pathology_tumor(folder: Path) -> list[Path]:
    """Two tables of regions, each with nine patches and their labels."""
    pytest.importorskip("pandas")
    real = []
    for split, count in (("training", 2), ("validation", 1)):
        names = [f"{split}{number}" for number in range(count)]
        for name in names:
            draw(folder / "data" / f"{name}.png", size=(3 * SIZE, 3 * SIZE))
        with (folder / f"{split}.csv").open("w", newline="") as target:
            csv.writer(target).writerows([name, 0, 0, *(patch % 2 for patch in range(9))] for name in names)
        files = [folder / f"{split}.csv", *(folder / "data" / f"{name}.png" for name in names)]
        real += files if split == "training" else []
    return real


@pytest.fixture
def make_shape(tmp_path, monkeypatch, private_rooms):
    """A function: a shape's name -> its folder, which is the current one as for a bundle that is being run."""

    def make(name: str) -> Shape:
        shutil.copytree(CONFIGS / name, tmp_path / "configs")
        shutil.copytree(private_rooms[1 if name == "classification_template" else 3], tmp_path / "private")
        monkeypatch.chdir(tmp_path)
        return Shape(name, globals()[name](tmp_path))

    return make


@pytest.fixture
def one_process(tmp_path):
    """A process group of one, as the stock overlays find it."""

    def join(name: str) -> None:
        store = torch.distributed.FileStore(str(tmp_path / name), 1)
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)

    join("store")
    yield
    if not torch.distributed.is_initialized():  # the overlay ended it, and ignite would still count on it
        join("another_store")
    idist.finalize()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def saved_checkpoints() -> list[Path]:
    return list(Path().glob("*/*.pt"))


@pytest.mark.parametrize(
    ("name", "value_range"),
    [("endoscopic_inbody", None), ("classification_template", (0, 1)), ("pathology_tumor", (-1, 1))],
)
def test_an_epoch_on_real_files_and_on_synthetic_batches_without_them(make_shape, name, value_range):
    shape = make_shape(name)
    original = shape.run("train")
    assert type(original.get_parsed_content(shape.loader)).__module__.startswith("monai.data")
    assert original.get_parsed_content(shape.trainer).state.iteration > 0
    real = next(iter(original.get_parsed_content(shape.loader)))

    shape.delete_real_files()
    if name != "classification_template":  # whose ThreadDataLoader swallows errors and ends the epoch
        with pytest.raises((FileNotFoundError, RuntimeError)):
            shape.run("train")
    for path in saved_checkpoints():
        path.unlink()

    swapped = shape.run("train", "swap")
    loader, trainer = (swapped.get_parsed_content(node) for node in (shape.loader, shape.trainer))
    assert isinstance(loader, PrivacyWalkSampler) and trainer.state.iteration == len(loader) == IMAGES // BATCH
    assert loader.counts["emitted"] == loader.gate.accepted == IMAGES and saved_checkpoints()

    synthetic = next(iter(loader))
    for key in ("image", "label"):
        assert synthetic[key].dtype == real[key].dtype and synthetic[key].shape[1:] == real[key].shape[1:]
    for images in (torch.as_tensor(synthetic["image"]), torch.as_tensor(real["image"]).as_subclass(torch.Tensor)):
        if value_range is None:  # normalised, each image and channel by itself
            mean = images.mean(dim=(2, 3))
            torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-3, rtol=0)
        else:
            assert value_range[0] - 1e-6 <= images.min() and images.max() <= value_range[1] + 1e-6


@pytest.mark.parametrize("name", SHAPES)
def test_under_the_stock_overlay_for_several_processes(make_shape, one_process, name):
    shape = make_shape(name)
    shape.delete_real_files()
    parser = shape.run("train", "swap", "multi_gpu_train")
    loader = parser.get_parsed_content(shape.loader)
    sampler = parser.get_parsed_content(shape.loader.replace("dataloader", "sampler"))
    assert loader.sampler is sampler and sampler.epoch == 1 and loader.counts["emitted"] == IMAGES


def test_two_processes_share_out_the_epoch_without_the_real_files(make_shape):
    """Five validation images on two processes: three and two."""
    shape = make_shape("endoscopic_inbody")
    shape.delete_real_files()
    note = "lambda engine: @seen.extend(engine.state.batch['index'].tolist())"
    found = "{'seen': @seen, 'metrics': @validate#evaluator.state.metrics}"
    watch = {
        "+imports": ["$import ignite.engine as ignite_engine"],
        "seen": "$[]",
        "run": [
            f"$@train#trainer.add_event_handler(ignite_engine.Events.ITERATION_STARTED, {note})",
            "$@train#trainer.run()",
            f"$json.dump({found}, open('rank' + os.environ['RANK'] + '.json', 'w'))",
        ],
    }
    Path("configs/watch.json").write_text(json.dumps(watch))
    files = [f"configs/{name}.json" for name in ("train", "swap", "multi_gpu_train", "watch")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, "-m", "monai.bundle", "run", "--config_file", str(files)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads(Path(f"rank{rank}.json").read_text()) for rank in range(2)]
    shards = [rank["seen"] for rank in ranks]
    assert len(shards[0]) == len(shards[1]) and sorted(shards[0] + shards[1]) == list(range(IMAGES))
    load = ["$import monai_plan.utils as plan_utils", "$plan_utils.load_weights(@network, 'models/model.pt')"]
    alone = shape.run("train", "swap", initialize=load, run=["$@validate#evaluator.run()"])
    metrics = alone.get_parsed_content("validate#evaluator").state.metrics
    assert [rank["metrics"] for rank in ranks] == [metrics] * 2 and metrics["val_accu"] >= 0


def test_a_federated_client_trains_on_synthetic_batches(make_shape, tmp_path):
    shape = make_shape("endoscopic_inbody")
    shape.delete_real_files()
    configs = ["configs/train.json", "configs/swap.json"]
    client = MonaiAlgo(str(tmp_path), config_train_filename=configs, config_evaluate_filename=None)
    client.initialize()
    weights = {name: value.clone() for name, value in client.trainer.network.state_dict().items()}
    for part in (1, 2):
        client.train(ExchangeObject(weights=weights))
        assert client.trainer.state.epoch == part and client.trainer.data_loader.counts["emitted"] == part * IMAGES
    changes = client.get_weights().weights
    assert changes.keys() == weights.keys() and any(change.abs().max() > 0 for change in changes.values())
    client.finalize()


def test_real_images_are_mixed_in_only_when_told(make_shape, caplog):
    shape = make_shape("endoscopic_inbody")
    with caplog.at_level(logging.WARNING):
        parser = shape.run("train", "mix")
    loader = parser.get_parsed_content(shape.loader)
    assert parser.get_parsed_content(shape.trainer).state.iteration == len(loader) == IMAGES // BATCH
    assert sum(int(batch["is_real"].sum()) for batch in loader) == IMAGES // 4
    assert "25 % of the images of these batches are REAL" in caplog.text
    assert "this run trains on REAL images of patients: 25 % of each epoch" in caplog.text
    text = Path("configs/mix.json").read_text()
    Path("configs/mix.json").write_text(text.replace('"allow_mixed": true', '"allow_mixed": false'))
    with pytest.raises(RuntimeError) as caught:
        shape.run("train", "mix")
    assert "are real, of patients, so nothing is trained on it" in str(root_cause(caught.value))


def nested(swap):
    """Under the names of another shape; a node that nobody refers to."""
    dataset, loader = swap.pop("train_dataset"), swap.pop("train_dataloader")
    return {**swap, "train": {"dataset": dataset, "dataloader": {**loader, "dataset": "@train#dataset"}}}


def without(*nodes):
    return lambda swap: {name: node for name, node in swap.items() if name not in nodes}


@pytest.mark.parametrize(
    ("name", "spoil", "essential"),
    [
        ("classification_template", nested, 'top-level "train_dataloader", override that name'),
        (
            "endoscopic_inbody",
            without("train#dataloader"),
            "the dataset alone was swapped: it has no images, swap the loader",
        ),
        (
            "endoscopic_inbody",
            without("train_fp", "train#dataset"),
            "CacheDataset, which may hold real images. Override the config's dataset and dataloader together",
        ),
        (
            "endoscopic_inbody",
            without("train_fp", "train#dataset", "train#dataloader"),
            "Swap dataset and loader together",
        ),
    ],
    ids=["nested under another name", "dataset alone", "loader alone", "neither"],
)
def test_a_wrong_swap_stops_before_the_first_batch(make_shape, name, spoil, essential):
    """The real files are still there: without the handler some of these would silently train on them."""
    shape = make_shape(name)
    path = Path("configs/swap.json")
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(RuntimeError) as caught:
        shape.run("train", "swap")
    assert essential in str(root_cause(caught.value))
    # a final one may be saved on the way out
    assert all(path.name == "checkpoint_final_iteration=0.pt" for path in saved_checkpoints())


@pytest.mark.parametrize(
    ("name", "transforms"),
    [
        ("endoscopic_inbody", "train#deterministic_transforms"),
        ("classification_template", "base_transforms"),
        ("pathology_tumor", "train#preprocessing#transforms"),
    ],
)
def test_synthetic_images_lie_as_the_real_ones(make_shape, name, transforms):
    """MONAI's readers give the axis from left to right first."""
    make_shape(name)
    parser = ConfigParser()
    parser.read_config(["configs/train.json", "configs/swap.json"])
    channels = 1 if name == "classification_template" else 3
    upright = torch.zeros(channels, SIZE, SIZE)
    upright[:, : SIZE // 2] = 1.0  # bright above
    pixels = (upright * 255).byte().permute(1, 2, 0).numpy()
    pytest.importorskip("PIL.Image").fromarray(pixels if channels == 3 else pixels[..., 0]).save("marked.png")
    item = {"image": "marked.png"}
    for number, transform in enumerate(parser[transforms]):
        if transform["_target_"] in ("LoadImaged", "EnsureChannelFirstd"):
            item = parser.get_parsed_content(f"{transforms}#{number}")(item)
    node = "train_dataloader" if name == "classification_template" else "train#dataloader"
    synthetic = parser.get_parsed_content(f"{node}#image_transform")(upright[None])[0]
    for image in (item["image"], synthetic):
        assert image.shape == (channels, SIZE, SIZE)
        assert (image[..., : SIZE // 2].mean() > image[..., SIZE // 2 :].mean()).item()
        assert (image == image[:, :1]).all()  # along the other axis nothing changes


@pytest.mark.skipif(not PAGE.is_file(), reason="not a checkout")
def test_the_page_has_these_very_files():
    page = PAGE.read_text(encoding="utf-8")
    shown = dict(re.findall(r"<!-- tests/drop_in/(\S+) -->\n```json\n(.*?)```", page, flags=re.S))
    assert set(shown) == {*(f"{name}/swap.json" for name in SHAPES), "endoscopic_inbody/mix.json"}
    assert all(text == (CONFIGS / name).read_text(encoding="utf-8") for name, text in shown.items())
