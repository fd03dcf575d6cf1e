"""The benchmarks keep up with the code: each can be imported and knows its common options."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import monai_plan
from monai_plan.latent import AnchorSet

FOLDER = Path(monai_plan.__file__).resolve().parent.parent / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="not a checkout")
COMMANDS = ("audit", "gan", "gan_curves", "gan_memorisation", "k_same", "paper_table", "sampler", "walk")
COMMANDS += ("recipe_search", "reliability", "walk_tradeoff")


@pytest.mark.parametrize("name", COMMANDS)
def test_says_how_it_is_used(name):
    done = subprocess.run([sys.executable, str(FOLDER / f"{name}.py"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "--quick" in done.stdout and "--json" in done.stdout


def test_all_are_known():
    others = {
        "bad_input_trials",
        "bad_inputs",
        "common",
        "expectations",
        "fault_trials",
        "fuzz",
        "fuzz_targets",
        "image_sets",
        "kill_trials",
        "load",
        "paired",
        "paper_cells",
        "paper_pictures",
        "paper_rows",
        "plain_style_gan",
        "small_gan",
        "soak",
        "stage_trials",
    }
    assert {path.stem for path in FOLDER.glob("*.py")} == {*COMMANDS, *others}


@pytest.fixture
def paired(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return __import__("paired")


def test_paired_difference_by_hand(paired):
    right = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    same = paired.paired_difference(right, right)
    assert same["p"] == 1.0 and same["difference"] == 0.0
    found = paired.paired_difference(right, torch.zeros(4, 2))
    # patients 0.2292 / 4, seeds 0.03125 / 2, less the cells' 0.125 / 8: 0.0573, with 2.453 degrees of freedom
    assert found["difference"] == 0.625
    reach = 0.0573**0.5 * 3.6248
    assert found["interval_95"] == pytest.approx([0.625 - reach, 0.625 + reach], abs=2e-3)


def test_paired_difference_keeps_its_promise(paired):
    """Rows that differ by chance of training alone are told apart in about one of twenty comparisons."""
    torch.manual_seed(3)
    alarms = 0
    for _ in range(300):
        ease = torch.randn(80, 1)

        def run(ease=ease):
            logits = ease + 0.5 + 0.3 * torch.randn(80, 1) + 0.2 * torch.randn(1, 5) + 0.5 * torch.randn(80, 5)
            return (logits > 0).double()

        alarms += paired.paired_difference(run(), run())["p"] < 0.05
    assert alarms / 300 < 0.1


@pytest.mark.parametrize(
    ("row", "images", "taught"),
    [
        ("real", "real", False),
        ("gate_only", "gate_only", False),
        ("linear+teacher", "linear", True),
        ("plan", "plan", True),
        ("plan-teacher", "plan", False),
        ("plan+mixup", "plan", False),
        ("plan_published", "plan_published", False),
        ("plan_amortised", "plan_amortised", True),
        ("k12", "k12", False),
        ("k12_walk", "k12_walk", True),
        ("k5_walk-teacher", "k5_walk", False),
        ("plan+long", "plan", True),
        ("linear+long", "linear", False),
        ("plan_published+long", "plan_published", False),
        ("k12_walk+long", "k12_walk", True),
        ("linear+teacher+long", "linear", True),
    ],
)
def test_rows_of_the_table_and_their_labels(monkeypatch, row, images, taught):
    monkeypatch.syspath_prepend(str(FOLDER))
    table = __import__("paper_cells")
    assert table.plain(row) == images and table.is_taught(row) == taught


def test_a_cell_is_made_again_only_where_something_changed(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    table = object.__new__(__import__("paper_cells").PaperTable)
    table.options = argparse.Namespace(work=tmp_path)
    table.sets = argparse.Namespace(device=torch.device("cpu"))
    made = []
    for made_with in ("a", "a", "b"):
        table.made_with = made_with
        found = table.cell("row.attack", lambda: made.append(1) or {"mia": len(made)})
    assert found == {"mia": 2} and len(made) == 2


def test_a_curriculum_begins_with_the_first_images_and_ends_with_all(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    order = torch.arange(100, 200)
    sampler = __import__("recipe_search").Curriculum(order, draws=4000, seed=0)
    epochs = [set(sampler) for _ in range(7)]
    assert [max(drawn) for drawn in epochs] == [129, 143, 157, 171, 185, 199, 199]
    assert len(sampler) == 4000 and epochs[0] == set(range(100, 130)) and epochs[6] == set(range(100, 200))


def test_the_single_anchor_of_a_class_is_shown_only_if_it_passes(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    paper_rows = __import__("paper_rows")

    class Generator(torch.nn.Linear):
        def synthesize(self, w, noise):
            return w.reshape(-1, 1, 1, 2)

    def walked(walk, pairs):
        assert pairs.labels.unique().tolist() == [0]
        return paper_rows.Made(torch.zeros(2, 1, 1, 2), torch.zeros(2, dtype=torch.long), {"available": 2})

    rows = object.__new__(paper_rows.PaperRows)
    rows.generator, rows.classes, rows.per_class = Generator(2, 2), 3, 4
    rows.options = argparse.Namespace(pairs=2, seed=0)
    rows.sets = argparse.Namespace(passing=lambda latents, labels: labels == 2)
    rows.guided, rows.walked = lambda steps: None, walked
    latents = torch.tensor([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3], [0.5, 0.5], [0.7, 0.7]])
    made = rows.between(AnchorSet(latents, torch.tensor([0, 0, 0, 1, 2]), "random"))
    assert made.labels.tolist() == [0, 0, 2] and made.images[2].flatten().tolist() == pytest.approx([0.7, 0.7])
    assert made.about == {"available": 2, "classes_of_one_anchor": [1, 2], "of_them_accepted": [2]}


@pytest.mark.parametrize(
    ("there", "compared"),
    [([80, 40], ["coverage", "fid", "kid"]), ([80, 30], ["kid", "kid_images"]), ([80, 10], []), ([80, 0], [])],
)
def test_quality_of_a_row_with_too_few_images_of_a_class(monkeypatch, there, compared):
    monkeypatch.syspath_prepend(str(FOLDER))
    paper_cells = __import__("paper_cells")
    rng = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.tensor([0, 1]), torch.tensor(there))
    table = object.__new__(paper_cells.PaperTable)
    table.known = tuple(torch.randn(60, 8, generator=rng) for _ in range(2))
    table.maker = argparse.Namespace(classes=2)
    real = argparse.Namespace(labels=torch.repeat_interleave(torch.tensor([0, 1]), torch.tensor([60, 40])))
    table.sets = argparse.Namespace(real={"training": real}, extracted=lambda images: images)
    images = torch.randn(len(labels), 8, generator=rng)
    table.images = lambda row: argparse.Namespace(images=images, labels=labels)
    found = table.quality("linear")
    assert sorted(name for name, value in found.items() if value is not None) == compared
    assert found.get("kid_images", 75) == 75
