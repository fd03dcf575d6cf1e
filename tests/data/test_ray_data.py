"""A cluster makes the same files, the same rows and the same distances as one process."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_plan.data import export_images, ray_data, ray_distances
from monai_plan.data.export import ImageExport
from monai_plan.data.ray_data import export_images_with_ray, exported_dataset, synthetic_dataset
from monai_plan.data.ray_distances import nearest_distances_with_ray
from monai_plan.engines import Verification
from monai_plan.latent import PrivacyGate, WalkSet
from monai_plan.metrics import RealPatients, screening
from monai_plan.networks.nets import IdentityEmbedder, StyleGenerator
from monai_plan.utils import weights_digest

pytest.importorskip("PIL.Image")

OPTIONS = {"per_class": 6, "shard_size": 4, "batch_size": 3, "seed": 5}
"""Twelve images in three shards."""
REAL = 10
"""Patients of each kind, with one image each."""


@pytest.fixture(scope="module")
def cluster():
    """Ray on two cores of this machine, without network, dashboard and reports to its makers."""
    pytest.importorskip("ray.data")
    import ray

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray-") as folder:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex())  # else one is written to the home folder
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=0,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=100 * 2**20,
            _temp_dir=folder,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield Path(folder)
        ray.shutdown()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As Ray gives each actor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Walks, a generator and a gate that refuses about a third of their images, each with its file."""
    folder = tmp_path_factory.mktemp("private")
    torch.manual_seed(0)
    generator = StyleGenerator(16, 1, 2, z_dim=4, w_dim=4, mapping_layers=1, channel_base=64, channel_max=4).eval()
    verified = torch.zeros(6, 5, dtype=torch.bool)
    verified[:, 1:4] = True
    walks = WalkSet(2 * torch.randn(6, 5, 4), torch.tensor([0, 0, 0, 1, 1, 1]), verified, "linear")
    embedder = IdentityEmbedder(1, 8, block_inplanes=(4, 4, 4, 4)).eval()
    gate = PrivacyGate(embedder, torch.randn(20, 8), 0.0)
    with torch.no_grad():
        images = generator.synthesize(walks.points[:, 1:4].flatten(0, 1)).clamp(-1, 1)
    gate.threshold = float(gate.distances(images).quantile(0.3))
    files = {"walks": folder / "walks.safetensors", "generator": folder / "generator.safetensors"}
    files["gate"] = folder / "gate.safetensors"
    walks.save(files["walks"]), generator.save(files["generator"]), gate.save(files["gate"])
    return files


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """The export of one process."""
    folder = tmp_path_factory.mktemp("whole")
    gate = PrivacyGate.load(made["gate"])
    sources = (WalkSet.load(made["walks"]), StyleGenerator.load(made["generator"]), gate)
    export_images(*sources, folder, progress=False, **OPTIONS)
    assert gate.rejected
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def by_index(rows) -> dict[str, np.ndarray]:
    rows = sorted(rows, key=lambda row: row["index"])
    assert [row["index"] for row in rows] == list(range(len(rows)))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


# exports


def test_actors_write_the_files_of_one_process(cluster, made, whole, tmp_path):
    heard = []
    datalist = export_images_with_ray(**made, folder=tmp_path / "given", actors=2, record=heard.append, **OPTIONS)
    assert datalist == tmp_path / "given" / "datalist.json"
    assert tree(tmp_path / "given") == tree(whole) and len(heard) == 1


def test_it_goes_on_after_a_kill_and_outlives_a_lost_worker(cluster, made, whole, tmp_path, monkeypatch):
    """A kill has left one whole shard and half of another; then a worker is killed over the first that it makes."""
    given = tmp_path / "given"
    shutil.copytree(whole / "images" / "00001", given / "images" / "00001")
    shutil.copy(whole / "export.json", given)
    (given / "images" / ".00000.part-killed").mkdir()
    (given / "images" / ".00000.part-killed" / "000000000.png").write_bytes(b"half")
    marker = tmp_path / "died"

    class Mortal(ray_data._ShardWriter):
        def __call__(self, batch):
            if not marker.exists():
                marker.touch()
                (given / "images" / ".00000.part-lost").mkdir()
                (given / "images" / ".00000.part-lost" / "000000000.png").write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    monkeypatch.setattr(ray_data, "_ShardWriter", Mortal)
    before = (given / "images" / "00001" / "index.csv").stat().st_mtime_ns
    export_images_with_ray(**made, folder=given, actors=1, **OPTIONS)
    assert marker.exists() and tree(given) == tree(whole)
    assert (given / "images" / "00001" / "index.csv").stat().st_mtime_ns == before


def test_a_shard_of_a_lost_worker_is_not_written_again(made, whole):
    """It was whole, and nobody had heard of it."""
    source = ray_data._Source.of(**made, folder=str(whole), **OPTIONS)
    before = tree(whole)
    writer = ray_data._ShardWriter(source, source.export("cpu").folder.settings, "cpu")
    writer({"shard": np.array([0, 1, 2])})
    assert tree(whole) == before


def test_an_actors_error_reaches_the_caller(cluster, made, tmp_path):
    gate = PrivacyGate.load(made["gate"])
    gate.threshold = 2.0
    gate.save(tmp_path / "strict.safetensors")
    files = {**made, "gate": tmp_path / "strict.safetensors"}
    with pytest.raises(RuntimeError, match="rejected all 50 attempts"):
        export_images_with_ray(**files, folder=tmp_path / "given", actors=1, **OPTIONS)
    assert not [name for name in tree(tmp_path / "given") if not name.startswith((".", "images/.", "export.json"))]


def test_a_complete_export_needs_no_actor(cluster, made, whole, monkeypatch):
    monkeypatch.setattr(ray_data, "_numbers", None)
    before = tree(whole)
    export_images_with_ray(**made, folder=whole, **OPTIONS)
    assert tree(whole) == before


def test_a_node_with_other_files_is_refused(made, tmp_path):
    source = ray_data._Source.of(**made, folder=str(tmp_path), **OPTIONS)
    settings = {**source.export("cpu").folder.settings, "generator": "another", "seed": 6}
    with pytest.raises(ValueError, match="has another generator, seed than the process that began this"):
        ray_data._ShardWriter(source, settings, "cpu").export  # noqa: B018


def test_a_node_that_does_not_share_the_folder_is_refused(made, tmp_path):
    source = ray_data._Source.of(**made, folder=str(tmp_path), **OPTIONS)
    writer = ray_data._ShardWriter(source, source.export("cpu").folder.settings, "cpu")
    with pytest.raises(ValueError, match="does not see .*export.json"):
        writer({"shard": np.array([0])})
    assert not tree(tmp_path)


# data sets


def test_rows_and_distances_are_those_of_one_process(cluster, made, whole):
    """Distances and the screening test of an audit, on the images as they are made."""
    torch.manual_seed(1)
    network = IdentityEmbedder(1, 8, block_inplanes=(4, 4, 4, 4)).eval()
    verification = Verification(network, torch.zeros(2 * REAL, dtype=torch.bool), "views")
    images = torch.rand(2 * REAL, 1, 16, 16) * 2 - 1
    real = RealPatients(
        tuple(map(str, range(2 * REAL))), torch.arange(2 * REAL) < REAL, torch.zeros(2 * REAL, dtype=torch.int64)
    )
    references = {"training": verification.embed(images[:REAL]), "held_out": verification.embed(images[REAL:])}

    streamed = synthetic_dataset(**made, actors=1, **OPTIONS)
    found = nearest_distances_with_ray(streamed, network, references, actors=1, batch_size=5)
    found = by_index(found.take_all())

    sources = (WalkSet.load(made["walks"]), StyleGenerator.load(made["generator"]), PrivacyGate.load(made["gate"]))
    export = ImageExport(*sources, whole, **OPTIONS)
    rows = [row for number in range(3) for row in export.images(number)]
    assert set(found) == {"index", "label", "path_id", "position", "nearest_training", "nearest_held_out"}
    for name, place in (("label", 1), ("path_id", 2), ("position", 3)):
        np.testing.assert_array_equal(found[name], np.array([row[place] for row in rows], dtype=found[name].dtype))

    to_real = verification.distances(torch.stack([row[0] for row in rows]), images)
    for name, columns in (("training", slice(REAL)), ("held_out", slice(REAL, None))):
        expected = to_real[:, columns].amin(dim=1)
        np.testing.assert_allclose(found[f"nearest_{name}"], expected, atol=1e-6)
    among_real = verification.distances(images, images).fill_diagonal_(0)
    attack = screening(to_real, among_real, real, 0, "embedding")
    assert attack.value == np.mean(found["nearest_training"] < found["nearest_held_out"])
    assert attack.details["mml_training"] == pytest.approx(found["nearest_training"].mean(), abs=1e-6)

    logs = [path.read_bytes() for path in cluster.rglob("*") if path.is_file() and "logs" in path.parts]
    private = [row.numpy().tobytes() for row in references["training"]]
    private += [f"{value:.4f}".encode() for value in references["training"][0].tolist()]
    assert logs and not [known for known in private for log in logs if known in log]


def test_an_export_is_read_back(cluster, whole):
    rows = by_index(exported_dataset(whole).take_all())
    items = json.loads((whole / "datalist.json").read_text())["training"]
    assert rows["image"].shape == (12, 1, 16, 16) and rows["image"].dtype == np.float32
    assert [(item["label"], item["group"]) for item in items] == [
        (label, f"path-{path}") for label, path in zip(rows["label"], rows["path_id"], strict=True)
    ]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_format, package", [("png", "PIL"), ("nifti", "nibabel"), ("dicom", "pydicom")])
def test_every_format_is_read_as_it_was_written(tmp_path, channels, image_format, package):
    pytest.importorskip(package)
    torch.manual_seed(0)
    sizes = {"z_dim": 4, "w_dim": 4, "mapping_layers": 1, "channel_base": 64, "channel_max": 4}
    generator = StyleGenerator(16, channels, 1, **sizes)
    verified = torch.tensor([[False, True, True, True, False]])
    walks = WalkSet(torch.randn(1, 5, 4), torch.tensor([0]), verified, "linear")
    walks.meta["generator"] = weights_digest(generator)
    export_images(walks, generator, None, tmp_path, 3, image_format, shard_size=3, progress=False)
    export = ImageExport(walks, generator, None, tmp_path, 3, image_format, shard_size=3)
    (columns,) = ray_data._read_shards({"shard": np.array([0])}, export.shards)
    expected = torch.stack([row[0] for row in export.images(0)]).numpy()
    np.testing.assert_allclose(columns["image"], expected, atol=0 if image_format == "nifti" else 0.5 / 127.5 + 1e-6)


# refusals


def test_what_cannot_be_is_refused_at_once(made, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_data, "connected_ray", None)
    monkeypatch.setattr(ray_distances, "connected_ray", None)
    embedder = IdentityEmbedder(1, 8, block_inplanes=(4, 4, 4, 4))
    good = {"training": torch.eye(8)[:2]}
    with pytest.raises(FileNotFoundError):
        export_images_with_ray(tmp_path / "none", made["generator"], made["gate"], tmp_path / "given", 6)
    with pytest.raises(ValueError, match="'per_class' is 0"):
        synthetic_dataset(**made, per_class=0)
    with pytest.raises(ValueError, match="'actors' is 0"):
        synthetic_dataset(**made, per_class=6, actors=0)
    with pytest.raises(ValueError, match="num_gpus is -1"):
        synthetic_dataset(**made, per_class=6, num_gpus=-1)
    with pytest.raises(ValueError, match="no readable manifest.json"):
        exported_dataset(tmp_path)
    with pytest.raises(TypeError, match="must be an IdentityEmbedder, got Linear"):
        nearest_distances_with_ray(None, torch.nn.Linear(1, 1), good)
    with pytest.raises(ValueError, match=r"'training' are \(2, 7\), and finite embeddings \[N, 8\]"):
        nearest_distances_with_ray(None, embedder, {"training": torch.ones(2, 7)})
    with pytest.raises(ValueError, match="'training' have lengths from 1 to 1.01 instead of 1"):
        nearest_distances_with_ray(None, embedder, {"training": torch.diag(torch.tensor([1.0] * 7 + [1.01]))})
    with pytest.raises(ValueError, match="no reference was given"):
        nearest_distances_with_ray(None, embedder, {})
    assert not (tmp_path / "given").exists()


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((2, 1, 16, 16), np.uint8), r"got torch.uint8 \(1, 16, 16\)"),
        (np.zeros((2, 16, 16), np.float32), r"got torch.float32 \(16, 16\)"),
        (np.full((2, 1, 16, 16), np.nan, np.float32), "images must be finite"),
        (np.full((2, 1, 16, 16), 127.5, np.float32), r"must lie in \[-1, 1\], got 127.5 .. 127.5"),
        (np.full((2, 1, 16, 16), -1.01, np.float32), r"must lie in \[-1, 1\], got -1.01 .. -1.01"),
    ],
)
def test_images_of_another_kind_are_refused(images, message):
    embedder = IdentityEmbedder(1, 8, block_inplanes=(4, 4, 4, 4))
    finder = ray_distances._NearestFinder(embedder.arguments, None, "cpu")
    finder.networks = embedder, {"training": torch.eye(8)[:2]}
    with pytest.raises(ValueError, match=message):
        finder({"image": images})


def test_without_ray_the_error_names_the_extra(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(ImportError, match=r'pip install "monai_plan\[ray\]"'):
        synthetic_dataset(**made, per_class=6)
