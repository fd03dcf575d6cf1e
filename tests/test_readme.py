"""The README's promises: its swap recipe runs, its links and commands point at what is there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow

from monai_plan.__main__ import main
from monai_plan.engines import TaughtPrepareBatch, save_teachers
from monai_plan.latent import PrivacyGate, WalkSet
from monai_plan.networks.nets import IdentityEmbedder, StyleGenerator

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = [
    *("README.md", "CHANGELOG.md", "bundles/plan_tb/docs/README.md", "bundles/plan_dr/docs/README.md"),
    *(f"docs/{path.name}" for path in sorted((REPOSITORY / "docs").glob("*.md"))),
]
FILES = ("walks_private.safetensors", "generator.safetensors", "gate.safetensors")


def recipe(name: str = "swap") -> str:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    return re.search(rf"<!-- {name}\.json.*?```json\n(.*?)```", text, flags=re.S)[1]


@pytest.fixture
def release(tmp_path):
    """The three files that the recipe names, of tiny networks."""
    rng = torch.Generator().manual_seed(0)
    points, verified = torch.randn(4, 5, 8, generator=rng), torch.zeros(4, 5, dtype=torch.bool)
    WalkSet(points, torch.tensor([0, 0, 1, 1]), verified, "private").save(tmp_path / FILES[0])
    StyleGenerator(8, 1, 2, z_dim=8, w_dim=8, channel_base=64, channel_max=8).save(tmp_path / FILES[1])
    embedder = IdentityEmbedder().eval()
    gallery = torch.randn(3, embedder(torch.zeros(1, 1, 8, 8)).shape[1], generator=rng)
    PrivacyGate(embedder, gallery, 0.01).save(tmp_path / FILES[2])
    return tmp_path


@pytest.mark.parametrize("taught", [False, True])
def test_the_swap_recipe_trains_without_the_real_list(release, taught):
    """Shaped like a model-zoo config: the training list is opened at parsing, and closed in finalize; it is gone."""
    config = {
        "imports": ["$import torch"],
        "device": "$torch.device('cpu')",
        "train_fp": "$open('/deleted/train.json')",
        "network": "$torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))",
        "train": {
            "dataset": {"_target_": "Dataset", "data": "$json.load(@train_fp)"},
            "dataloader": {"_target_": "DataLoader", "dataset": "@train#dataset", "batch_size": 4},
            "handlers": [{"_target_": "StatsHandler", "output_transform": "$lambda x: None"}],
            "trainer": {
                "_target_": "SupervisedTrainer",
                "device": "@device",
                "max_epochs": 1,
                "train_data_loader": "@train#dataloader",
                "network": "@network",
                "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.01},
                "loss_function": {"_target_": "torch.nn.CrossEntropyLoss"},
                "train_handlers": "@train#handlers",
            },
        },
        "initialize": [],
        "run": ["$@train#trainer.run()"],
        "finalize": ["$@train_fp.close()"],
    }
    (release / "train.json").write_text(json.dumps(config))
    (release / "swap.json").write_text(recipe().replace("runs/first/private", str(release)))
    files = [str(release / "train.json"), str(release / "swap.json")]
    if taught:
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
        path = save_teachers(release / "teachers.safetensors", [network])
        files.append(str(release / "teach.json"))
        Path(files[-1]).write_text(recipe("teach").replace("teachers.safetensors", str(path)))
    overrides = {"train#dataset#images_per_epoch": 6, "train#dataloader#batch_size": 4}
    workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **overrides)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    loader = workflow.parser.get_parsed_content("train#dataloader")
    assert loader.counts["emitted"] == 6
    prepare = workflow.parser.get_parsed_content("train#trainer").prepare_batch
    assert isinstance(prepare, TaughtPrepareBatch) == taught
    handlers = workflow.parser.get_parsed_content("train#handlers")
    assert [type(handler).__name__ for handler in handlers] == ["StatsHandler", "SyntheticOnly"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files(document):
    path = REPOSITORY / document
    text = path.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (path.parent / link).exists()]
    assert not missing, missing


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_configs_are_there(document):
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    missing = [name for name in re.findall(r"bundles/[\w/]+\.(?:json|conf)", text) if not (REPOSITORY / name).is_file()]
    assert not missing, missing


def test_named_options_of_the_command_line_exist(capsys):
    text = "\n".join((REPOSITORY / document).read_text(encoding="utf-8") for document in DOCUMENTS)
    commands = re.findall(r"^python -m monai_plan (\w+) ((?:[^\n\\]|\\\n)*)", text, flags=re.M)
    shown = {name for name, _ in commands}
    assert shown == {"audit", "convert", "datalist", "generate", "ledger", "pipeline", "release"}
    for name, words in commands:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        known = capsys.readouterr().out
        options = [
            word for word in shlex.split(words.replace("\\\n", " "), comments=True) if re.fullmatch(r"--\w+", word)
        ]
        assert not [option for option in options if option not in known], (name, words)
