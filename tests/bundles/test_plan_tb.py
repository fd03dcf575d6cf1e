"""The bundle: every stage runs from its config, from any directory, and the swap keeps its promise."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import config_files
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.data import CacheDataset

import monai_plan as plan
from monai_plan.transforms import RenderPhantomd
from monai_plan.utils import root_cause

BUNDLE = Path(plan.__file__).resolve().parent.parent / "bundles" / "plan_tb"
pytestmark = pytest.mark.skipif(not BUNDLE.is_dir(), reason="not a checkout")
SHIPPED = {  # file -> its room
    "generator.safetensors": "models",
    "walks_linear.safetensors": "models",
    "walks_private.safetensors": "models",
    "label.pt": "models",
    "model.pt": "models",
    "guide.safetensors": "private",
    "gate.safetensors": "private",
    "discriminator.safetensors": "private",
    "identity.pt": "private",
    "latents.safetensors": "private",
    "teachers.safetensors": "private",
}
ROWS = ("real", "linear", "plan")


def in_shell(words, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd="/", capture_output=True, text=True, env=environment, **options)


def run(workflow) -> None:
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def test_train_from_another_directory(stage_run):
    job = stage_run("train")
    (job.models / "model.pt").unlink()
    done = in_shell(job.command(**{"train#trainer#max_epochs": 2}))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().splitlines()[-1].endswith(str(job.output))
    table = json.loads((job.output / "table.json").read_text())
    for row in ROWS:
        assert all(isinstance(table[row][name], float) for name in ("accuracy", "auroc", "mml_train")), row
        assert 0 <= table[row]["accuracy"] <= 1 and table[row]["mml_train"] >= 0
    for picture in (*(f"samples_{row}.png" for row in ROWS), "walk_beside_line.png"):
        assert (job.output / picture).read_bytes()[:4] == b"\x89PNG", picture
    weights = torch.load(job.models / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in weights.values())
    assert sorted(path.name for path in job.models.iterdir()) == sorted(
        [*SHIPPED, "ledger.json", ".ledger.json.lock", "classes.json"]
    )
    assert json.loads((job.models / "classes.json").read_text()) == {"0": "normal", "1": "tuberculosis"}


@pytest.mark.parametrize(
    ("stage", "ids"),
    [
        ("train_gan", ["generator_file", "discriminator_file"]),
        ("train_identity", ["identity_file"]),
        ("train_label", ["label_file", "teachers_file"]),
        ("train_gate", ["gate_file"]),
        ("invert", ["latents_file"]),
        ("walk", ["line_file", "walk_file"]),
    ],
)
def test_each_stage_writes_its_file(stage_run, stage, ids):
    job = stage_run(stage)
    workflow = job.workflow()
    files = [Path(workflow.parser.get_parsed_content(name)) for name in ids]
    for file in files:
        file.unlink()
    before = {path.name for path in job.models.iterdir()}
    run(workflow)
    made = {file.name for file in files} | ({"encoder.safetensors"} if stage == "invert" else set())
    assert {path.name for path in job.models.iterdir()} == before | made
    base = None if stage in ("invert", "walk") else stage_run("train").workflow  # which puts the old files back
    reader = {
        "train_gan": "generator",
        "train_gate": "gate",
        "train_label": "$plan.utils.load_weights(@network_def, @label_file)",
        "train_identity": None,
        "invert": None,
        "walk": None,
    }[stage]
    if stage == "walk":
        linear, private = (plan.latent.WalkSet.load(file) for file in files)
        assert (linear.kind, private.kind) == ("linear", "private") and linear.points.shape == (4, 8, 128)
        assert torch.equal(linear.points[:, [0, -1]], private.points[:, [0, -1]])
        assert not torch.equal(linear.points, private.points)
    elif stage == "invert":
        inverted = plan.latent.InvertedImages.load(files[0])
        assert {name: inverted.splits.count(name) for name in set(inverted.splits)} == {
            "training": 48,
            "validation": 24,
        }
        record = json.loads((job.output / "inversion.json").read_text())
        assert record["perceptual"]["training"]["count"] == 12 and (job.output / "inversion.png").is_file()
    elif reader is None:
        weights = torch.load(files[0], weights_only=True)
        assert weights["fc.weight"].shape == (12, 8)  # twelve training patients of eight features
    else:
        config = base(loaded=reader if reader.startswith("$") else f"@{reader}")
        assert isinstance(config.parser.get_parsed_content("loaded"), torch.nn.Module)


@pytest.mark.parametrize("anchors", ["centroids", "spread", "style_aligned"])
def test_k_same_anchors_by_option(stage_run, anchors):
    job = stage_run("walk")
    (job.models / "ledger.json").unlink()
    workflow = job.workflow(**{"walk#anchors": f"@walk#{anchors}"})
    run(workflow)
    made, centroids = (workflow.parser.get_parsed_content(f"walk#{name}") for name in ("anchors", "centroids"))
    assert torch.equal(made.latents, centroids.latents) == (anchors == "centroids")
    ends = plan.latent.WalkSet.load(job.models / "walks_private.safetensors").points[:, [0, -1]].flatten(0, 1)
    assert all(any(torch.equal(end, latent) for latent in made.latents) for end in ends)
    ledger = plan.latent.Ledger.load(job.models / "ledger.json")
    assert ledger.grouping.k == 2 and {record.kind for record in ledger.walks} == {"linear", "private"}


def test_random_anchors_need_no_latents_and_no_ledger(stage_run):
    job = stage_run("walk", "random_anchors")
    for name in ("ledger.json", "latents.safetensors"):
        (job.models / name).unlink()
    run(job.workflow())
    assert not (job.models / "ledger.json").exists()
    walks = plan.latent.WalkSet.load(job.models / "walks_private.safetensors")
    assert len(walks) == 4 and "pairs" not in walks.meta and "k" not in walks.meta


def test_latents_in_w_plus_are_kept_apart(stage_run):
    job = stage_run("invert")
    latents = job.models / "w_plus.safetensors"
    settings = {"inversion#options#space": "w+", "latents_file": str(latents)}
    run(job.workflow(**settings))
    assert plan.latent.InvertedImages.load(latents).latents.shape == (72, 8, 128)
    walk = stage_run("walk")
    (walk.models / "w_plus.safetensors").write_bytes(latents.read_bytes())
    with pytest.raises(RuntimeError) as error:
        walk.workflow(latents_file=str(walk.models / "w_plus.safetensors")).run()
    assert "inverted into W+, and walks run in W" in str(root_cause(error.value))


@pytest.mark.parametrize("k", [2, 5, 20])
def test_overlays_for_k(k):
    parser = ConfigParser()
    parser.read_config(config_files("walk", f"k{k}"))
    assert parser["k"] == k and "@k" in parser["walk#grouping"]


@pytest.mark.parametrize("method", ["published", "amortised"])
def test_other_walks_by_option(stage_run, method):
    job = stage_run("walk")
    workflow = job.workflow(**{"walk#method": f"@walk#{method}"})
    planner = workflow.parser.get_parsed_content("walk#planner")
    assert planner.walk.func is {"published": plan.latent.walk_private, "amortised": plan.latent.walk_amortised}[method]
    run(workflow)
    walks = plan.latent.WalkSet.load(job.models / "walks_private.safetensors")
    assert walks.meta["counts"]["inner"] == 4 * 6 and walks.meta["coverage"]


def test_the_audit_writes_its_certificate(stage_run):
    job = stage_run("evaluate")
    run(job.workflow(**{"audit#show_real_images": True, "subgroups": ["visit"]}))
    folder = job.output / "certificate"
    assert {path.name for path in folder.iterdir()} == {
        *("certificate.json", "certificate.html", "model_card.md", "datasheet.md", "config.json")
    }
    record = json.loads((folder / "certificate.json").read_text())
    tests = {test["id"]: test for test in record["tests"]}
    assert {name.split("/")[0] for name in tests} == set(plan.report.TESTS)
    not_run = {name for name, test in tests.items() if test["verdict"] == "not run"}
    # the tiny latents are of training images alone
    assert not_run == {"membership_reconstruction", "membership_shadow", "canaries"}
    assert set(record["utility"]["rows"]) == {"real", "plan"} and record["release"] == {"mode": "walks", "k": 2}
    assert record["files"]["gate.safetensors"]["sha256"] == plan.utils.sha256_of(job.models / "gate.safetensors")
    assert record["utility"]["rows"]["plan"]["per_seed"][0]["subgroups"]["visit"] == {"smaller groups": {"n": 24}}
    page = (folder / "certificate.html").read_text()
    assert "data:image/png;base64" in page and str(job.output) not in page


def test_an_audit_in_a_release_script(stage_run):
    """Tiny networks pass nothing: the exit code says so, after the certificate was written."""
    job = stage_run("evaluate")
    done = in_shell(job.command(**{"audit#exit_code": True}))
    assert done.returncode == 1, done.stderr[-3000:]
    assert "verdict: " in done.stdout.splitlines()[-1] and (job.output / "certificate" / "certificate.json").is_file()


def test_canaries_are_out_of_every_stage_and_audited(stage_run):
    job = stage_run("evaluate")
    workflow = job.workflow(canaries={"count": 8, "seed": 1})
    splits = workflow.parser.get_parsed_content("splits")
    left_out = {item["patient_id"] for item in splits["canaries"] if not item["canary"]}
    assert left_out and not left_out & {item["patient_id"] for item in splits["training"]}
    run(workflow)
    record = json.loads((job.output / "certificate" / "certificate.json").read_text())
    found = next(test for test in record["tests"] if test["id"] == "canaries")["result"]
    assert found["details"]["canaries"] == 8 and found["n"] == 8 - len(left_out)


def test_steering_by_likeness(stage_run):
    job = stage_run("train_gate", "train_likeness")
    run(job.workflow())
    gates = [plan.latent.PrivacyGate.load(job.models / f"{name}.safetensors") for name in ("gate", "likeness")]
    assert gates[1].calibration["false_rejection"] == 0.5 and not torch.equal(gates[0].gallery, gates[1].gallery)
    walk = stage_run("walk")
    run(walk.workflow(**{"walk#steering": "@walk#open_set"}))
    with pytest.raises(RuntimeError) as error:  # the gate's own network
        same = {"walk#steering": "@walk#open_set", "likeness_file": str(walk.models / "gate.safetensors")}
        config = walk.workflow(**same)
        config.parser.get_parsed_content("walk#planner")
    assert "also steers" in str(root_cause(error.value))


def test_fresh_walks_in_every_epoch(stage_run):
    configs = {
        stage: json.loads((BUNDLE / "configs" / f"{stage}.json").read_text()) for stage in ("train", "fresh_walks")
    }
    for name in ("initialize", "run", "finalize"):  # walk.json has others, so the overlay says them again
        assert configs["fresh_walks"][name] == configs["train"][name]
    job = stage_run("walk", "fresh_walks")
    workflow = job.workflow(**{"epochs": 2, "walk#planner#label_network": None})  # it is untrained
    workflow.initialize()
    planner = workflow.parser.get_parsed_content("walk#planner")
    trainer = workflow.parser.get_parsed_content("train#trainer")
    generator = workflow.parser.get_parsed_content("generator")
    rows = []

    def note(engine):
        rows.append((engine.state.epoch, engine.state.batch))

    trainer.add_event_handler(Events.ITERATION_STARTED, note)
    workflow.run()
    workflow.finalize()
    assert {epoch for epoch, _ in rows} == {1, 2} and (job.output / "table.json").is_file()
    for epoch, batch in rows:  # each image is that of its place on that epoch's walks
        walks = planner(epoch)
        low = batch["position"].long().clamp(max=walks.points.shape[1] - 3)
        ends = walks.points[batch["path_id"], low], walks.points[batch["path_id"], low + 1]
        images = generator.synthesize(torch.lerp(*ends, (batch["position"] - low).unsqueeze(1)), noise="const")
        torch.testing.assert_close(batch["image"], images.clamp(-1, 1), atol=1e-3, rtol=0)


def test_a_killed_gan_stage_goes_on_where_it_was(stage_run):
    job = stage_run("train_gan")
    (job.models / "generator.safetensors").unlink()
    settings = {"gan#images": 32 * 400}
    process = subprocess.Popen(
        job.command(**settings), cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    checkpoint = job.output / "train_gan" / "checkpoint.pt"
    try:
        deadline = time.monotonic() + 120
        while not checkpoint.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL and checkpoint.is_file()
    assert not (job.models / "generator.safetensors").exists()
    reached = torch.load(checkpoint, weights_only=True)["position"]["epoch"]
    workflow = job.workflow(**{"gan#images": 32 * (reached + 1)})
    begun = []
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("gan#trainer")
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: begun.append(engine.state.epoch))
    workflow.run()
    assert begun == [reached + 1]
    plan.networks.nets.StyleGenerator.load(job.models / "generator.safetensors", image_size=32)


def test_the_gan_stage_on_two_processes(stage_run):
    job = stage_run("train_gan")
    (job.models / "generator.safetensors").unlink()
    words = job.command(**{"gan#images": 64, "gan#images_per_epoch": 64})
    files = words[words.index("--config_file") + 1].replace("]", f", '{BUNDLE / 'configs' / 'multi_gpu_train.json'}']")
    words[words.index("--config_file") + 1] = files
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = in_shell([*launch, *words[1:]], timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    plan.networks.nets.StyleGenerator.load(job.models / "generator.safetensors", image_size=32)
    saved = torch.load(job.output / "train_gan" / "checkpoint.pt", weights_only=True)
    assert saved["position"] == {"epoch": 1, "iteration": 2}  # 64 images in batches of 16 on two processes
    records = json.loads((job.output / "train_gan" / "quality.json").read_text())
    assert [record["images"] for record in records] == [64]


def test_a_stage_killed_between_checkpoint_and_file_only_writes_it(stage_run):
    job = stage_run("train_gan")
    run(job.workflow())
    written = (job.models / "generator.safetensors").read_bytes()
    (job.models / "generator.safetensors").unlink()
    run(job.workflow())
    assert (job.models / "generator.safetensors").read_bytes() == written


def test_all_properties_are_there(stage_run):
    workflow = stage_run("train").workflow()
    workflow.initialize()
    assert workflow.check_properties() == []


def test_the_trainer_reads_no_real_training_image(stage_run, monkeypatch):
    seen: list[str] = []
    draw = RenderPhantomd.__call__
    monkeypatch.setattr(RenderPhantomd, "__call__", lambda self, item: seen.append(item["image"]) or draw(self, item))
    built: list[list] = []
    cache = CacheDataset.__init__
    monkeypatch.setattr(
        CacheDataset, "__init__", lambda self, data, *a, **k: built.append(list(data)) or cache(self, data, *a, **k)
    )
    workflow = stage_run("train").workflow()
    workflow.initialize()
    workflow.run()
    splits = workflow.parser.get_parsed_content("splits")
    training = {item["image"] for item in splits["training"]}
    assert seen and not training & set(seen)
    assert not any(item["image"] in training for data in built for item in data)
    assert set(seen) == {item["image"] for item in splits["validation"]}


def test_real_images_in_the_trainer_stop_the_run(stage_run):
    workflow = stage_run("train").workflow(**{"train#dataloader": "@real_dataloader"})
    workflow.initialize()
    with pytest.raises(RuntimeError) as caught:
        workflow.run()
    assert "SyntheticOnly: the trainer's loader is monai.data" in str(root_cause(caught.value))


def test_epochs_can_be_overridden(stage_run):
    workflow = stage_run("train").workflow(**{"train#trainer#max_epochs": 3})
    workflow.initialize()
    assert workflow.parser.get_parsed_content("train#trainer").state.max_epochs == 3


@pytest.mark.parametrize("config", sorted((BUNDLE / "configs").glob("*.json")), ids=lambda path: path.stem)
def test_targets_are_dotted(config):
    """A bare name is looked up in every loaded package, and another one may win."""

    def targets(node):
        if isinstance(node, dict):
            yield from [node["_target_"]] if "_target_" in node else []
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
            yield from targets(child)

    assert all("." in target for target in targets(ConfigParser.load_config_file(str(config))))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_load(name):
    file = BUNDLE / SHIPPED[name] / name
    assert file.is_file(), f"{name} must ship with the bundle"
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / f"{config}.json") for config in ("train", "walk")])
    parser.update({"bundle_root": str(BUNDLE), "device": "$torch.device('cpu')", "test_file": str(file)})
    network = {"identity.pt": "walk#identity_def", "label.pt": "network_def", "model.pt": "network_def"}.get(name)
    if network:
        assert plan.utils.load_weights(parser.get_parsed_content(network), file)
    elif name.startswith("walks"):
        walks = plan.latent.WalkSet.load(file)
        assert walks.verified.any() and walks.labels.unique().tolist() == [0, 1] and walks.meta["k"] == 12
        generator = parser.get_parsed_content("generator")
        assert generator.synthesize(walks.points[0, 1:2]).shape == (1, 1, 64, 64)
    elif name.startswith("latents"):
        inverted = plan.latent.InvertedImages.load(file)
        assert plan.latent.latents_by_patient(inverted, parser.get_parsed_content("generator"))
    elif name.startswith("discriminator"):
        assert plan.networks.nets.StyleDiscriminator.load(file).config["image_size"] == 64
    elif name.startswith("guide"):
        assert plan.networks.nets.LatentGuide.load(file).config["num_classes"] == 2
    else:
        assert parser.get_parsed_content(name.partition(".")[0]) is not None


def test_shipped_weights_are_small():
    folders = (BUNDLE / room for room in set(SHIPPED.values()))
    sizes = {path.name: path.stat().st_size for room in folders for path in room.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 35 * 10**6 and max(sizes.values(), default=0) < 25 * 10**6, sizes


def test_folders_lie_in_the_bundle_whatever_the_directory():
    words = ["--config_file", str(BUNDLE / "configs" / "train.json")]
    printed = {"initialize": ["$print('folders', @models_dir, @private_dir, @output_dir)"], "run": [], "finalize": []}
    options = [word for name, value in printed.items() for word in (f"--{name}", str(value))]
    done = in_shell([sys.executable, "-m", "monai.bundle", "run", *words, *options])
    assert f"folders {BUNDLE}/models {BUNDLE}/private {BUNDLE}/output" in done.stdout, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("overlay", "own", "folder"),
    [("train", False, "output"), ("train", True, "own"), ("evaluate", False, "models"), ("evaluate", True, "own")],
)
def test_shipped_weights_stay_as_they_are(tmp_path, overlay, own, folder):
    """They have hashes and a certificate; a default run must leave them alone, and an audit must read them."""
    parser = ConfigParser()
    parser.read_config([BUNDLE / "configs" / f"{name}.json" for name in dict.fromkeys(("train", overlay))])
    parser["bundle_root"] = str(BUNDLE)
    if own:
        parser["models_dir"] = str(tmp_path / "own")
    expected = tmp_path / "own" if own else BUNDLE / folder
    assert parser.get_parsed_content("model_file") == str(expected / "model.pt")


def test_configs_are_found_only_where_they_are(tmp_path):
    done = in_shell([sys.executable, "-m", "monai.bundle", "run", "--config_file", str(tmp_path / "train.json")])
    assert done.returncode != 0 and f"Cannot find the config file: {tmp_path / 'train.json'}" in done.stderr


def test_every_row_starts_from_new_weights(stage_run):
    """The reference must not start from the network that synthetic images have trained."""
    parser = stage_run("train").workflow().parser

    def weights(network):
        return torch.cat([value.flatten() for value in network.parameters()])

    factory, network = parser.get_parsed_content("network_factory"), parser.get_parsed_content("network")
    fresh = weights(network).clone()
    torch.nn.utils.vector_to_parameters(torch.zeros_like(fresh), network.parameters())
    seed = parser.get_parsed_content("seeds")[0]
    assert torch.equal(weights(plan.engines.initial_network(factory, seed)), fresh)
    assert not torch.equal(weights(plan.engines.initial_network(factory, seed + 1)), fresh)
    made, exported = factory(), parser.get_parsed_content("network_def")
    assert [v.shape for v in made.parameters()] == [v.shape for v in exported.parameters()]
