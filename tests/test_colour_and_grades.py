"""Every part that was made on grey images of two classes, on colour images of five."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from torch import nn

import monai_plan as plan
from monai_plan.engines import StyleGanTrainer, class_signal, initial_network
from monai_plan.handlers import GeneratorQuality, MemorisationWatch, SampleGrid
from monai_plan.networks.nets import IdentityEmbedder, LatentEncoder, StyleDiscriminator, StyleGenerator
from monai_plan.networks.nets.narrow_resnet import narrow_resnet
from monai_plan.utils import generator_for

Image = pytest.importorskip("PIL.Image")

SIZE, CHANNELS, CLASSES = 16, 3, 5
NAMES = ["none", "mild", "moderate", "severe", "proliferative"]
SHAPE = {"channel_base": 64, "channel_max": 8}
THIN = {"layers": [1, 1, 1, 1], "block_inplanes": [4, 4, 8, 8]}


def picture(*key) -> torch.Tensor:
    """Coarse colours drawn by the key."""
    coarse = torch.rand(1, CHANNELS, 4, 4, generator=generator_for(0, "colour picture", *key)) * 2 - 1
    return nn.functional.interpolate(coarse, SIZE, mode="bilinear")[0]


def items(split: str, patients: int) -> list[dict]:
    return [
        {"image": picture(split, n), "label": n % CLASSES, "patient_id": f"{split}{n}", "group_id": f"{split}{n}"}
        for n in range(patients)
    ]


def stacked(split: str, patients: int) -> tuple[torch.Tensor, torch.Tensor]:
    found = items(split, patients)
    return torch.stack([item["image"] for item in found]), torch.tensor([item["label"] for item in found])


def classifier(outputs: int = CLASSES) -> nn.Module:
    return narrow_resnet(CHANNELS, outputs, **THIN)


def features(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1) / SIZE


@pytest.fixture(scope="module")
def generator() -> StyleGenerator:
    return initial_network(lambda: StyleGenerator(SIZE, CHANNELS, CLASSES, z_dim=8, w_dim=8, **SHAPE), seed=0).eval()


@pytest.fixture(scope="module")
def gate() -> plan.latent.PrivacyGate:
    """Its embedder is the image itself, so that altered copies are near and other images far."""
    images = [stacked(split, 40)[0] for split in ("training", "validation")]
    return plan.latent.PrivacyGate.calibrate(nn.Flatten(), *images, planted=10)


@pytest.fixture(scope="module")
def walks(generator, gate) -> plan.latent.WalkSet:
    label = initial_network(classifier, seed=1).eval()
    identity = initial_network(lambda: classifier(7), seed=2).eval()
    steering = plan.latent.WalkSteering(generator, identity, label)
    pairs = plan.latent.pair_anchors(plan.latent.random_anchors(generator, 3, seed=0), 2, seed=0)
    points = plan.latent.walk_guided(pairs, 6, steering, iterations=3, progress=False)
    return plan.latent.verify_walks(points, pairs.labels, generator, gate)


# training


def test_a_generator_is_trained_measured_and_shown(tmp_path):
    plan.utils.import_torchvision()
    pytest.importorskip("torch_fidelity")
    generator = StyleGenerator(SIZE, CHANNELS, CLASSES, z_dim=8, w_dim=8, **SHAPE)
    discriminator = StyleDiscriminator(SIZE, CHANNELS, CLASSES, mapping_layers=2, **SHAPE)
    training, held_out = stacked("training", 40), stacked("validation", 15)
    trainer = StyleGanTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=DataLoader(Dataset(items("training", 8)), batch_size=4),
        generator=generator,
        discriminator=discriminator,
        g_optimizer=torch.optim.Adam(generator.parameters(), 0.002),
        d_optimizer=torch.optim.Adam(discriminator.parameters(), 0.002),
        augment=plan.networks.layers.AugmentPipe(0.5),
        train_handlers=[
            SampleGrid(generator, tmp_path, per_class=2),
            GeneratorQuality(
                generator,
                plan.metrics.GenerationQuality(features, *training, *held_out, num_images=40),
                class_shares=[20, 5, 10, 4, 1],
                num_images=40,
                folder=tmp_path,
                watch=MemorisationWatch(discriminator, *training, *held_out),
            ),
        ],
    )
    trainer.run()
    with Image.open(tmp_path / "samples_0000002.png") as grid:
        assert (grid.mode, grid.size) == ("RGB", (2 * SIZE + 2, CLASSES * (SIZE + 2) - 2))
    record = json.loads((tmp_path / "quality.json").read_text())[0]
    assert record["n_training_by_class"] == {str(label): 8 for label in range(CLASSES)}
    assert {name for name in record if name.startswith("intensity_mean_drift")} == {
        f"intensity_mean_drift_{label}" for label in range(CLASSES)
    }
    assert all(np.isfinite(record[name]) for name in ("kid", "recall_0", "coverage_2", "discriminator_gap"))


def test_class_signal(generator):
    loader = DataLoader(Dataset(items("validation", 20)), batch_size=10)
    figures = class_signal(generator, classifier, loader, "cpu", epochs=1, iterations=2, batch_size=10)
    assert {f"class_recall_{label}" for label in range(CLASSES)} < set(figures)
    assert all(np.isfinite(value) for value in figures.values())


# walks


def test_every_grade_is_walked_and_sampled(generator, gate, walks):
    assert walks.labels.tolist() == [label for label in range(CLASSES) for _ in range(2)]
    dataset = plan.data.PrivacyWalkDataset(walks, images_per_epoch=20, seed=0)
    batches = list(plan.data.PrivacyWalkSampler(dataset, generator, gate, batch_size=10))
    assert all(batch["image"].shape == (10, CHANNELS, SIZE, SIZE) for batch in batches)
    assert torch.bincount(torch.cat([batch["label"] for batch in batches])).tolist() == [4] * CLASSES


def test_gate_is_tried_with_casts_of_colour(gate):
    assert set(gate.calibration["planted"]) == set(plan.transforms.COPY_ALTERATIONS)
    assert gate.calibration["planted"]["colour"]["light"]["n"] == 10


def test_release_in_pictures_is_read_again_in_the_grades_order(tmp_path, generator, walks):
    plan.data.write_release(walks, generator, tmp_path / "given", "images", labels=NAMES, progress=False)
    with Image.open(next((tmp_path / "given" / "images").iterdir())) as image:
        assert (image.mode, image.size) == ("RGB", (SIZE, SIZE))
    content = json.loads((tmp_path / "given" / "manifest.json").read_text())
    assert [content["classes"][str(label)]["name"] for label in range(CLASSES)] == NAMES
    _, rows = plan.data.radiograph_table.read_source(tmp_path / "given")
    assert {row.label for row in rows} == set(NAMES)


def test_inversion_and_groups(generator):
    encoder = plan.latent.fit_encoder(generator, 2, batch_size=4, progress=False, **{"block_inplanes": (4, 4, 8, 8)})
    assert isinstance(encoder, LatentEncoder)
    images, labels = stacked("training", 20)
    options = plan.latent.InversionOptions(iterations=2, patience=1)
    prior = plan.latent.LatentPrior.fit(generator, samples=100)
    found = plan.latent.invert_batch(images, labels, generator, features, encoder, prior, options)
    patients = plan.latent.average_by_patient(found.latents, labels, [f"p{n}" for n in range(20)])
    grouping = plan.latent.group_patients(patients, k=2, method="greedy")
    assert sorted(group.label for group in grouping.groups) == [label for label in range(CLASSES) for _ in range(2)]


# reports


def test_pictures(tmp_path, generator, walks):
    training = DataLoader(Dataset(items("training", 10)), batch_size=5)
    (file,) = plan.report.write_sample_grids({"real": training}, tmp_path, CLASSES, per_class=3)
    with Image.open(file) as grid:
        assert (grid.mode, grid.size) == ("RGB", (3 * (SIZE + 2) - 2, CLASSES * (SIZE + 2) - 2))
        assert grid.getpixel((grid.width - 1, grid.height - 1)) == (255, 255, 255)  # two images a grade
    figure = plan.report.write_walk_figure(walks, walks, generator, training, features, tmp_path, steps_shown=3)
    with Image.open(figure) as drawn:
        assert drawn.mode in ("RGB", "RGBA")


def test_audit_and_certificate(tmp_path, generator, gate, walks):
    dataset = plan.data.PrivacyWalkDataset(walks, images_per_epoch=20, seed=0)
    splits = {split: items(split, 10) for split in ("training", "validation", "testing")}
    material = plan.report.AuditMaterial(
        splits={**splits, "labels": {str(number): name for number, name in enumerate(NAMES)}},
        load_image=dict,
        synthetic=plan.data.PrivacyWalkSampler(dataset, generator, gate, batch_size=20),
        embedder=initial_network(lambda: IdentityEmbedder(CHANNELS, **THIN), seed=0),
        augment=plan.networks.layers.AugmentPipe(0.5),
        features={"pixels": features},
        images=20,
        iterations=1,
    )
    discriminator = StyleDiscriminator(SIZE, CHANNELS, CLASSES, mapping_layers=2, **SHAPE)
    targets = plan.report.AuditTargets(classifier=classifier(), gate=gate, discriminator=discriminator)
    real = DataLoader(Dataset(splits["training"]), batch_size=10)
    table = plan.report.UtilityTable(
        rows={"real": real, "plan": real},
        network_factory=classifier,
        trained={"real": classifier(), "plan": classifier()},
        validation_loader=real,
        test_loader=DataLoader(Dataset(splits["testing"]), batch_size=10),
        epochs=1,
        learning_rate=0.01,
        device="cpu",
        gallery_images=real,
        features=features,
        metric_name="pixels",
        output_dir=tmp_path,
    )
    record = plan.report.audit_release(material, targets, {}, table, features, {}, "{}", name="eyes")
    written = plan.report.write_certificate(record, tmp_path / "certificate", [])
    page = written["certificate.html"].read_text(encoding="utf-8")
    assert f"{SIZE} × {SIZE} pixels, colour" in page and all(name in page for name in NAMES)
    run = {test["id"] for test in record["tests"] if test["result"]}
    assert {"inference", "linkability", "membership_network", "membership_discriminator", "screening/pixels"} < run
    kappa = record["utility"]["rows"]["plan"]["kappa"]
    assert kappa is not None and all(name in written["model_card.md"].read_text() for name in NAMES)
    assert len(plan.report.closest_pairs(material, 2)) == 2
