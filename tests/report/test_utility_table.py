"""The table with networks whose predictions are known."""

import json

import pytest
import torch
from monai.data import DataLoader, Dataset
from torch import nn

from monai_plan.report import UtilityTable, utility_table_text

TEST = ([-0.8, -0.2, -0.3, 0.6], [0, 0, 1, 1])  # by sign: 3 of 4 right; 3 of 4 pairs in order
TRAIN = ([-1.0, -0.5, 0.5, 1.0], [0, 0, 1, 1])


def loader(values, labels, shuffle=False, **attributes):
    items = [{"image": torch.full((1, 1, 1), float(v)), "label": c} for v, c in zip(values, labels, strict=True)]
    made = DataLoader(Dataset(items), batch_size=2, shuffle=shuffle)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


class Sign(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, images):
        x = self.weight * images.flatten()
        return torch.stack([-x, x], dim=1)


def random_network():
    return Sign(float(torch.randn(())))


class Failing:
    dataset = ()

    def __iter__(self):
        raise RuntimeError("the gate is exhausted")

    def __len__(self):
        return 1


def table(folder, rows=None, **options):
    defaults = {
        "network_factory": random_network,
        "validation_loader": loader(*TRAIN),
        "test_loader": loader(*TEST),
        "epochs": 2,
        "learning_rate": 0.01,
        "device": "cpu",
        "gallery_images": loader(*TRAIN),
        "features": lambda images: images.flatten(1),
        "metric_name": "pixels",
        "output_dir": folder,
    }
    rows = rows or {
        "real": loader(*TRAIN, shuffle=True),
        "plan": loader([-0.9, 0.9, 0.4], [0, 1, 1], shuffle=True, counts={"emitted": 7, "rejected": 2}),
    }
    return UtilityTable(rows=rows, **{**defaults, **options})


def test_figures_of_known_networks(tmp_path, capsys):
    trained = {"real": Sign(2.0), "plan": Sign(-2.0)}
    result = table(tmp_path, trained=trained, network_factory=None).run()
    real, plan = result["real"], result["plan"]
    assert (real["accuracy"], real["auroc"], real["recall"]) == (0.75, 0.75, [1.0, 0.5])
    assert (plan["accuracy"], plan["auroc"], plan["recall"]) == (0.25, 0.25, [0.0, 0.5])
    # squared distances: -0.8 -> -1: 0.04; -0.2 -> -0.5: 0.09; -0.3 -> -0.5: 0.04; 0.6 -> 0.5: 0.01
    assert real["mml_train"] == pytest.approx(0.18 / 4)
    assert plan["mml_train"] == pytest.approx((0.01 + 0.01 + 0.01) / 3)
    assert (real["images"], real["gate_emitted"], real["gate_rejected"]) == (4, None, None)
    assert (plan["images"], plan["gate_emitted"], plan["gate_rejected"]) == (3, 7, 2)
    assert real["accuracy_sd"] is None and real["per_seed"][0]["best_epoch"] is None
    assert json.loads((tmp_path / "table.json").read_text()) == result
    text = (tmp_path / "table.txt").read_text()
    assert text == capsys.readouterr().out and "2/9" in text and "0.750 [0.301, 0.954]" in text


def test_schema(tmp_path):
    result = table(tmp_path, seeds=[0, 1]).run()
    assert list(result) == ["real", "plan", "about"]
    keys = {
        "accuracy",
        "accuracy_sd",
        "auroc",
        "auroc_sd",
        "kappa",
        "kappa_sd",
        "calibration_error",
        "brier",
        "recall",
        "mml_train",
        "images",
        "draws_per_epoch",
        "per_seed",
    }
    assert set(result["plan"]) == keys | {"gate_emitted", "gate_rejected"}
    assert [one["seed"] for one in result["plan"]["per_seed"]] == [0, 1]
    about = result["about"]
    assert set(about) == {"mml_metric", "seeds", "n_test", "n_train", "epochs", "versions", "date", "note"}
    assert (about["mml_metric"], about["seeds"], about["n_test"], about["n_train"]) == ("pixels", [0, 1], 4, 4)


def test_real_images_mixed_in_are_said(tmp_path):
    rows = {"real": loader(*TRAIN, shuffle=True), "plan": loader([-0.9, 0.9], [0, 1], real_share=0.25)}
    made = table(tmp_path, rows, trained={"real": Sign(2.0), "plan": Sign(2.0)}).run()
    assert made["plan"]["real_share"] == 0.25 and "real_share" not in made["real"]
    assert "WARNING: 25 % of the training images of plan are REAL images" in (tmp_path / "table.txt").read_text()


class Steps(nn.Module):
    """Five classes of colour images by their mean brightness."""

    def __init__(self, off=0.0):
        super().__init__()
        self.off = nn.Parameter(torch.tensor(off))

    def forward(self, images):
        return -50 * (images.mean(dim=(1, 2, 3))[:, None] + self.off - torch.linspace(-1, 1, 5)).abs()


def test_grades_come_with_kappa(tmp_path):
    """One class too high throughout: right for the highest of five grades alone."""
    values, grades = [-1.0, -0.5, 0.0, 0.5, 1.0] * 2, [0, 1, 2, 3, 4] * 2
    items = [{"image": torch.full((3, 1, 1), v), "label": c} for v, c in zip(values, grades, strict=True)]
    colour = DataLoader(Dataset(items), batch_size=5)
    result = table(
        tmp_path,
        {"real": colour, "plan": colour},
        trained={"real": Steps(), "plan": Steps(0.5)},
        network_factory=None,
        validation_loader=colour,
        test_loader=colour,
        gallery_images=colour,
    ).run()
    by_chance = sum((t - a) ** 2 for t in range(5) for a in (1, 2, 3, 4, 4)) / 25
    assert result["plan"]["kappa"] == pytest.approx(1 - 0.8 / by_chance)
    assert (result["real"]["kappa"], result["real"]["per_seed"][0]["kappa_interval_95"]) == (1, None)
    low, high = result["plan"]["per_seed"][0]["kappa_interval_95"]
    text = (tmp_path / "table.txt").read_text()
    assert f"{result['plan']['kappa']:.3f} [{low:.3f}, {high:.3f}]" in text and "AUROC" in text
    assert [word for word in text.splitlines()[0].split() if word == "kappa"] == ["kappa"]
    assert "kappa" not in utility_table_text(table(tmp_path / "two").run()).splitlines()[0]


def test_subgroups_and_the_networks_behind_the_rows(tmp_path):
    trained = {"real": Sign(2.0), "plan": Sign(-2.0)}
    groups = {"sex": ["F", "F", "M", "M"]}
    measured, networks = table(tmp_path, trained=trained, network_factory=None, subgroups=groups).measure()
    assert networks == trained and not list(tmp_path.iterdir())
    first = measured["real"]["per_seed"][0]
    assert first["subgroups"] == {"sex": {"smaller groups": {"n": 4}}}  # too few to be named
    assert (first["kappa"], first["confusion"]) == (0.5, [[2, 0], [1, 1]])


def test_mean_and_spread_over_seeds(tmp_path):
    """The first seed's network is given (accuracy 3/4), the second's is made: it is wrong (1/4) at learning rate 0."""
    result = table(
        tmp_path, trained={"real": Sign(1.0)}, network_factory=lambda: Sign(-1.0), seeds=[3, 4], learning_rate=0.0
    ).run()
    assert result["real"]["accuracy"] == 0.5 and result["real"]["accuracy_sd"] == pytest.approx(0.125**0.5)
    assert result["plan"]["accuracy"] == 0.25 and result["plan"]["accuracy_sd"] == 0
    assert "0.500 ± 0.354" in utility_table_text(result)


def test_same_seed_same_table_and_global_state_untouched(tmp_path):
    torch.manual_seed(1)
    jobs = [table(tmp_path / str(i), seeds=[0, 1]) for i in range(2)]
    state = torch.get_rng_state()
    first = jobs[0].run()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    second = jobs[1].run()
    for result in (first, second):
        del result["about"]["date"]
    assert first == second


def test_synthetic_rows_may_have_labels_of_their_own(tmp_path):
    seen = {}

    def prepare(name):
        def call(batch, device, non_blocking=False, **kwargs):
            seen.setdefault(name, []).append(batch["image"].flatten().tolist())
            return batch["image"], batch["label"]

        return call

    options = {"prepare_batch": prepare("hard"), "synthetic_prepare_batch": prepare("taught")}
    table(tmp_path, **options).measure()
    assert {value for batch in seen["hard"] for value in batch} == set(TRAIN[0])
    assert {round(value, 3) for batch in seen["taught"] for value in batch} == {-0.9, 0.9, 0.4}


def test_mml_images_limits_the_synthetic_rows_only(tmp_path):
    rows = {"real": loader(*TRAIN), "plan": loader([-0.9, 0.8, 0.4], [0, 1, 1])}
    result = table(tmp_path, rows, trained={"real": Sign(1.0), "plan": Sign(1.0)}, mml_images=1).run()
    assert result["plan"]["mml_train"] == pytest.approx(0.01)
    assert result["real"]["mml_train"] == pytest.approx(0.18 / 4)


def test_failing_row_leaves_nothing(tmp_path):
    rows = {"real": loader(*TRAIN), "plan": Failing()}
    with pytest.raises(RuntimeError, match="exhausted"):
        table(tmp_path, rows).run()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rows": {"about": None}}, "names other than 'about'"),
        ({"seeds": []}, "at least one"),
        ({"seeds": [1, 1]}, "different integers"),
        ({"trained": {"line": None}}, "without a row: \\['line'\\]"),
        ({"mml_images": 0}, "mml_images must be >= 1"),
    ],
)
def test_refuses(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        table(tmp_path, **options)


def test_warns_of_images_nearer_than_unseen_patients(tmp_path):
    result = table(tmp_path).run()
    result["real"]["mml_train"], result["plan"]["mml_train"] = 0.5, 0.4
    assert "WARNING: the images of plan lie nearer" in utility_table_text(result)
    result["plan"]["mml_train"] = 0.5
    assert "WARNING" not in utility_table_text(result)
