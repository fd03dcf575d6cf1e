"""Tiny models and settings, so that every stage of a bundle runs within seconds."""

from __future__ import annotations

import copy
import json
import random
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

import monai_plan as plan
from monai_plan.pipeline import STAGES

BUNDLES = Path(plan.__file__).resolve().parent.parent / "bundles"
BUNDLE = BUNDLES / "plan_tb"
TINY = {
    "image_size": 32,
    "resnet_widths": [4, 4, 8, 8],
    "images_per_epoch": 32,
    "batch_size": 16,
    "epochs": 1,
    "k": 2,
    "teacher_count": 2,
    "phantoms": {"patients_per_class": 12, "visits": 4, "fractions": [0.5, 0.25, 0.25]},
}
"""For every stage."""
TINY_PHANTOMS = {
    "plan_tb": TINY["phantoms"],
    "plan_dr": {"kind": "fundus", "patients_per_class": 8, "fractions": [0.5, 0.25, 0.25]},
}
TINY_STAGE = {
    "train_gan": {
        "gan#channel_base": 128,
        "gan#channel_max": 16,
        "gan#images": 32,
        "gan#images_per_epoch": 32,
        "gan#amp": False,
        "gan#quality_images": 16,
        "gan#class_signal#measure#epochs": 1,
        "gan#class_signal#measure#iterations": 1,
    },
    "train_identity": {"identity#epochs": 1},
    "train_gate": {"embedder#epochs": 1},
    "invert": {
        "inversion#encoder_iterations": 2,
        "inversion#options#iterations": 2,
    },
    "evaluate": {"audit#images": 24, "audit#iterations": 2},
    "walk": {
        "walk#anchors_per_class": 4,
        "walk#pairs_per_class": 2,
        "walk#points_per_class": 12,
        "walk#iterations": 2,
        "walk#guide_latents": 8,
        "walk#guide_iterations": 2,
        "walk#guide_rounds": 1,
    },
}
"""For a single one."""


def config_files(stage: str, *overlays: str, bundle: str = "plan_tb") -> list[str]:
    """The configs of one stage of a bundle, and further ones on top."""
    names = [*(["train"] if stage == "train" else ["train", stage]), *overlays]
    return [str(BUNDLES / bundle / "configs" / f"{name}.json") for name in names]


@dataclass
class StageRun:
    """One stage of a bundle with tiny settings and folders of its own."""

    stage: str
    output: Path
    models: Path
    overlays: tuple[str, ...] = ()
    bundle: str = "plan_tb"

    @property
    def configs(self) -> list[str]:
        """The stage's files and the overlays."""
        return config_files(self.stage, *self.overlays, bundle=self.bundle)

    def workflow(self, **overrides) -> ConfigWorkflow:
        """Ready to ``initialize``, ``run``, ``finalize``."""
        settings = {**self.settings(), **overrides}
        return ConfigWorkflow(self.configs, workflow_type="train", logging_file=False, **settings)

    def settings(self) -> dict:
        """The overrides."""
        folders = {
            "output_dir": str(self.output),
            "models_dir": str(self.models),
            "private_dir": str(self.models),
            "release_dir": str(self.output / "release"),
        }
        phantoms = {"phantoms": TINY_PHANTOMS[self.bundle]}
        return copy.deepcopy({**TINY, **phantoms, **TINY_STAGE.get(self.stage, {}), **folders})

    def command(self, **overrides) -> list[str]:
        """The same from a shell."""
        files = self.configs
        words = [
            sys.executable,
            "-m",
            "monai.bundle",
            "run",
            "--config_file",
            files[0] if len(files) == 1 else str(files),
        ]
        for name, value in {**self.settings(), **overrides}.items():
            words += [f"--{name}", str(value)]
        return words


@pytest.fixture
def stage_run(tmp_path, tiny_models):
    """A function: stage and overlays -> its run, on a copy of the tiny models."""

    def make(stage: str, *overlays: str) -> StageRun:
        models = tmp_path / "models"
        shutil.copytree(tiny_models, models, dirs_exist_ok=True)
        return StageRun(stage, tmp_path / "output", models, overlays)

    return make


@pytest.fixture
def dr_stage_run(tmp_path, tiny_dr_models):
    """The same of plan_dr."""

    def make(stage: str, *overlays: str) -> StageRun:
        models = tmp_path / "models"
        shutil.copytree(tiny_dr_models, models, dirs_exist_ok=True)
        return StageRun(stage, tmp_path / "output", models, overlays, "plan_dr")

    return make


@pytest.fixture(autouse=True)
def same_random_state():
    """Every test starts from the same seed; bundles call set_determinism, which must not reach the next test."""
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    deterministic = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> Path:
    """A models folder of plan_tb as its stages would write it, with untrained tiny networks."""
    return _untrained(tmp_path_factory.mktemp("models"), "plan_tb")


@pytest.fixture(scope="session")
def tiny_dr_models(tmp_path_factory) -> Path:
    """The same of plan_dr."""
    return _untrained(tmp_path_factory.mktemp("dr_models"), "plan_dr")


def _untrained(folder: Path, bundle: str) -> Path:
    parser = ConfigParser()
    parser.read_config(config_files("walk", bundle=bundle))
    folders = {"models_dir": str(folder), "private_dir": str(folder), "phantoms": TINY_PHANTOMS[bundle]}
    parser.update({**TINY, **TINY_STAGE["walk"], "device": "$torch.device('cpu')", **folders})
    channels, classes = parser["channels"], parser["num_classes"]
    shape = {"channel_base": 128, "channel_max": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "label.pt")
        torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "model.pt")
        torch.save(parser.get_parsed_content("walk#identity_def").state_dict(), folder / "identity.pt")
        factory = parser.get_parsed_content("network_factory")
        plan.engines.save_teachers(folder / "teachers.safetensors", [factory(), factory()])
        plan.networks.nets.StyleGenerator(32, channels, classes, **shape).save(folder / "generator.safetensors")
        plan.networks.nets.StyleDiscriminator(32, channels, classes, **shape).save(folder / "discriminator.safetensors")
        widths = TINY["resnet_widths"]
        embedder = plan.networks.nets.IdentityEmbedder(channels, layers=[1, 1, 1, 1], block_inplanes=widths)
    gallery = torch.stack([item["image"] for item in parser.get_parsed_content("real_dataset")])
    # an untrained generator's images are alike: accept them wherever they lie
    with torch.no_grad():
        plan.latent.PrivacyGate(embedder, embedder.eval()(gallery), threshold=1e-4).save(folder / "gate.safetensors")
    _invert_at_random(parser.get_parsed_content("splits")["training"], folder)
    for name in ("line", "walk"):
        planner = parser.get_parsed_content("walk#line_planner")
        linear = replace(planner, label_network=None)()  # an untrained one sees a single class
        replace(linear, kind="linear" if name == "line" else "private").save(parser.get_parsed_content(f"{name}_file"))
    parser.get_parsed_content("walk#record")
    return folder


def _invert_at_random(items: list[dict], folder: Path) -> None:
    """Latents of the training images as the stage invert would write them, but drawn from the prior."""
    generator = plan.networks.nets.StyleGenerator.load(folder / "generator.safetensors").eval()
    labels = torch.tensor([item["label"] for item in items])
    z = torch.randn(len(items), generator.z_dim, generator=torch.Generator().manual_seed(0))
    errors = torch.full((len(items),), 0.1)
    plan.latent.InvertedImages(
        generator.map_latents(z, labels).detach(),
        labels,
        *(errors, errors),
        patients=tuple(item["patient_id"] for item in items),
        images=tuple(item["image"] for item in items),
        splits=("training",) * len(items),
        meta={"generator": plan.utils.weights_digest(generator)},
    ).save(folder / "latents.safetensors")


@pytest.fixture(scope="session")
def radiographs_master(tmp_path_factory) -> Path:
    """40 phantoms of 20 patients as PNG files with a CSV, as a user would bring them."""
    image_module = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("radiographs")
    draw = plan.transforms.RenderPhantom(image_size=32)
    lines = ["file,label,patient_id"]
    items = plan.data.phantom_datalist(patients_per_class=10, visits=2)
    for item in sum((items[split] for split in ("training", "validation", "testing")), []):
        pixels = ((torch.as_tensor(draw(item["image"]))[0] + 1) * 127.5).round().to(torch.uint8).numpy()
        name = f"{item['patient_id']}-{item['visit']}.png"
        image_module.fromarray(pixels).save(folder / name)
        lines.append(f"{name},{'ill' if item['label'] else 'well'},{item['patient_id']}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def radiographs(radiographs_master, tmp_path) -> Path:
    """A copy of them that a test may spoil."""
    return Path(shutil.copytree(radiographs_master, tmp_path / "radiographs"))


@pytest.fixture
def pipeline_words(radiographs, tmp_path):
    """A function: further ``ID=VALUE`` -> the words after ``python -m monai_plan`` for a tiny pipeline."""

    def make(*pairs: str, dataset_dir: Path = radiographs, output_dir: Path = tmp_path / "output") -> list[str]:
        return tiny_pipeline(dataset_dir, output_dir, *pairs)

    return make


def tiny_pipeline(dataset_dir: Path, output_dir: Path, *pairs: str) -> list[str]:
    """The words after ``python -m monai_plan`` for a tiny pipeline, with further ``ID=VALUE``."""
    settings = {name: value for name, value in TINY.items() if name != "phantoms"}
    for stage in STAGES:
        settings.update(TINY_STAGE.get(stage.name, {}))
    settings |= {"gan#batch_size": 8, "false_rejection": 0.25}
    given = {pair.partition("=")[0] for pair in pairs}
    words = [f"{name}={json.dumps(value)}" for name, value in settings.items() if name not in given]
    folders = ["--dataset_dir", str(dataset_dir), "--output_dir", str(output_dir)]
    return ["pipeline", "--bundle", str(BUNDLE), *folders, "--set", *words, *pairs]
