"""A whole audit on tiny images: what runs, what cannot, what a generator that copies looks like."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from monai_plan.engines import initial_network
from monai_plan.latent import PrivacyGate
from monai_plan.networks.nets import IdentityEmbedder
from monai_plan.report import (
    TESTS,
    AuditMaterial,
    AuditTargets,
    audit_release,
    closest_pairs,
    print_verdict,
    require_audit,
    shareable_config,
    write_certificate,
)
from monai_plan.utils import generator_for, sha256_of

SIZE = 32
PATIENTS = {"training": 24, "validation": 20, "testing": 20}
FIGURES = {"auroc": 0.8, "auroc_interval_95": None, "recall": [1.0, 0.6], "kappa": 0.6, "calibration_error": 0.1}
FIGURES |= {"brier": 0.2, "confusion": [[2, 0], [1, 2]], "subgroups": {}}
ROW = {"accuracy": 0.8, **FIGURES, "per_seed": [{"seed": 0, "accuracy": 0.8, **FIGURES}]}
CONFIG = shareable_config({"seed": 1, "dataset_dir": "/data", "k": {"at_most": 2}})
TABLE = {"real": ROW, "plan": {**ROW, "accuracy": 0.7}, "about": {"note": "small"}}


def picture(*key):
    coarse = torch.rand(1, 1, 8, 8, generator=generator_for(0, "picture", *key)) * 2 - 1
    return nn.functional.interpolate(coarse, SIZE, mode="bilinear")[0]


def splits():
    found = {
        name: [
            {"image": f"{name}{patient}", "label": patient % 2, "patient_id": f"{name}-{patient}", "group_id": "g"}
            for patient in range(count)
        ]
        for name, count in PATIENTS.items()
    }
    return {**found, "labels": {"0": "well", "1": "ill"}}


def load(item):
    return {**item, "image": picture(item["image"])}


def batches(copies, count=40):
    """Synthetic images: new ones, or slightly noisy copies of training images."""
    for number in range(count // 20):
        rows = range(20 * number, 20 * number + 20)
        own = [picture(f"training{row % 24}" if copies else f"new{row}") for row in rows]
        noise = 0.01 * torch.randn(20, 1, SIZE, SIZE, generator=generator_for(0, "noise", number))
        labels = torch.tensor([row % 24 % 2 for row in rows])
        yield {"image": torch.stack(own) + noise, "label": labels, "path_id": torch.tensor(rows)}


class Loader:
    gate = "there is one"
    counts = {"emitted": 40, "rejected": 3}

    def __init__(self, copies):
        self.copies = copies

    def __iter__(self):
        return batches(self.copies)


def pixels(images):
    return images.flatten(1) / SIZE


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images):
        x = self.scale * images.mean(dim=(1, 2, 3))
        return torch.stack([-x, x], dim=1)


class Realness(Classifier):
    """Images and labels to how bright the image is: it knows nobody."""

    def forward(self, images, labels):
        return self.scale * images.mean(dim=(1, 2, 3))


def material(copies=False, **options):
    return AuditMaterial(
        splits=splits(),
        load_image=load,
        synthetic=Loader(copies),
        embedder=initial_network(lambda: IdentityEmbedder(block_inplanes=(4, 4, 8, 8)), seed=0),
        augment=lambda images, rng: images,
        features={"pixels": pixels},
        images=40,
        iterations=2,
        **options,
    )


def targets(**options):
    return AuditTargets(classifier=Classifier(), **options)


def gate():
    found = material()
    images, _ = found.of_split("training")
    return PrivacyGate(nn.Flatten(), images.flatten(1), threshold=0.05)


def audited(found, held, limits=None):
    utility = SimpleNamespace(measure=lambda: (TABLE, {"real": Classifier()}))
    return audit_release(found, held, limits or {}, utility, pixels, {}, CONFIG, name="pictures")


@pytest.fixture(scope="module")
def copying():
    found = material(copies=True)
    return found, audited(found, targets())


@pytest.fixture(scope="module")
def clean():
    errors = torch.linspace(0, 1, 44)
    inverted = SimpleNamespace(
        patients=tuple(f"p{row}" for row in range(44)),
        splits=("training",) * 24 + ("validation",) * 20,
        labels=torch.zeros(44, dtype=torch.int64),
        pixel_error=errors[torch.randperm(44, generator=torch.Generator().manual_seed(0))],
    )
    groups = {"k": 12, "smallest_group": 13, "patients": 24, "spread": False}
    held = targets(gate=gate(), discriminator=Realness(), inverted=inverted, groups=groups)
    return audited(material(), held, {"membership_distance": {"at_least": 0.1, "at_most": 0.9}})


def by_id(record):
    return {test["id"]: test for test in record["tests"]}


def test_a_copying_generator_is_found_by_every_attack_on_images(copying):
    tests = by_id(copying[1])
    # the density asks for five neighbours, and there are one or two copies of a patient
    for name, least in (("membership_distance/pixels", 0.8), ("membership_density/pixels", 0.4)):
        assert tests[name]["result"]["interval"][0] > least and tests[name]["result"]["value"] > 0.6
        assert tests[name]["result"]["control"] == pytest.approx(0.5, abs=0.1)
    assert tests["screening/pixels"]["result"]["interval"][0] > 0.5
    assert tests["inference"]["result"]["value"] > 0.2  # members' labels are copied, others' are guessed
    assert tests["linkability"]["result"]["interval"][0] > 0.2  # two copies of a patient may each take a half


def test_on_new_images_intervals_hold_the_baseline(clean):
    tests = by_id(clean)
    for name in ("screening/pixels", "membership_distance/pixels", "membership_density/pixels", "membership_network"):
        low, high = tests[name]["result"]["interval"]
        assert low <= 0.5 <= high, name
    for name in ("singling_out", "linkability"):
        low, high = tests[name]["result"]["interval"]
        assert low <= 0 <= high, name


def test_every_test_has_a_result_or_a_reason(clean, copying):
    for record in (clean, copying[1]):
        assert {test["id"].split("/")[0] for test in record["tests"]} == set(TESTS)
        assert all((test["result"] is None) == bool(test["not_run"]) for test in record["tests"])
    assert [name for name, test in by_id(clean).items() if test["not_run"]] == ["membership_shadow", "canaries"]
    missing = {name for name, test in by_id(copying[1]).items() if test["not_run"]}
    assert missing >= {"membership_discriminator", "membership_reconstruction", "gate_planted_copies", "k_same"}


def test_what_the_record_says_of_data_and_targets(clean, copying):
    data = clean["data"]
    assert data["splits"]["training"] == {"images": 24, "patients": 24, "by_class": {"0": 12, "1": 12}}
    assert data["classes"] == {"0": "well", "1": "ill"} and data["image_size"] == SIZE
    assert data["images_sha256"] == copying[1]["data"]["images_sha256"]
    assert clean["synthetic"]["paths"] == 40 and clean["synthetic"]["gate_rejected"] == 3
    tests = by_id(clean)
    assert tests["membership_distance/pixels"]["limit"] == {"at_least": 0.1, "at_most": 0.9}
    assert tests["k_same"]["result"]["value"] == pytest.approx(1 / 13) and clean["release"]["k"] == 12
    assert tests["gate_released"]["result"]["value"] == 0
    assert tests["membership_network"]["result"]["details"]["trained_on_real_images"]["value"] > 0
    assert tests["gate_planted_copies"]["result"]["details"]["planted"]["exact"]["light"]["rate"] == 1
    assert clean["utility"]["rows"] == {"real": ROW, "plan": {**ROW, "accuracy": 0.7}}
    json.dumps(clean, allow_nan=False)


def test_equal_seeds_give_equal_findings(copying):
    again = audited(material(copies=True), targets())
    assert again["tests"] == copying[1]["tests"]


@pytest.mark.parametrize("copied, bound", [("those left in", (0.3, 9)), ("all", (0, 0.5))])
def test_coins_become_a_bound(copied, bound):
    """Of sixteen patients every second was left in; copies of them, or of all sixteen, are released."""
    planted = splits()
    thrown = [{**item, "canary": row % 2 == 0} for row, item in enumerate(planted["training"][:16])]
    planted["training"] = [item for item in thrown if item["canary"]] + planted["training"][16:]
    planted["canaries"] = thrown
    images = torch.stack([load(item)["image"] for item in thrown if item["canary"] or copied == "all"])
    batch = {"image": images, "label": torch.zeros(len(images)), "path_id": torch.arange(len(images))}
    found = by_id(audited(replace(material(), splits=planted, synthetic=[batch]), targets()))["canaries"]["result"]
    assert found["details"]["canaries"] == 16 and (found["n"], found["n_control"]) == (8, 8)
    assert bound[0] <= found["value"] <= bound[1]


def test_the_certificate_of_it(tmp_path, clean, capsys):
    written = write_certificate(clean, tmp_path, required=("membership_distance",))
    assert print_verdict(written["certificate.json"]) == "passed"
    assert "certificate, model card and datasheet in" in capsys.readouterr().out
    failing = write_certificate({**clean, "tests": [_failing(clean)]}, tmp_path)
    with pytest.raises(SystemExit) as caught:
        print_verdict(failing["certificate.json"], exit_code=True)
    assert caught.value.code == 1


def _failing(record):
    return {**by_id(record)["membership_distance/pixels"], "limit": {"at_most": 0.01}}


def test_pairs_for_readers_who_may_see_them(copying):
    sheets = closest_pairs(copying[0], count=4)
    assert len(sheets) == 2 and all(png.startswith(b"\x89PNG") for png in sheets.values())


LIMITS = {"screening": {"at_most": 0.6}}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"limits": {"membership": {"at_most": 0.6}}}, "membership"),
        ({"limits": {"screening": {"at_most": 0.4, "at_least": 0.6}}}, "screening"),
        ({"required": ["screening", "everything"]}, "everything"),
        ({"mode": "all"}, "audit#mode is 'all'"),
        ({"splits": {**splits(), "validation": [], "testing": splits()["testing"][:3]}}, "finds 3"),
    ],
)
def test_an_audit_that_could_not_be_finished(change, message):
    good = {"splits": splits(), "limits": LIMITS, "required": ["screening"]}
    require_audit(**good)
    with pytest.raises(ValueError, match=message):
        require_audit(**{**good, **change})


def test_the_config_can_be_checked(clean, tmp_path):
    assert json.loads(CONFIG) == {"seed": 1, "k": {"at_most": 2}}  # no place on this machine
    written = write_certificate(clean, tmp_path, config=CONFIG)
    assert sha256_of(written["config.json"]) == clean["config_sha256"]
    with pytest.raises(ValueError, match="config_sha256 is not that of config"):
        write_certificate(clean, tmp_path / "other", config="{}")
    assert not list((tmp_path / "other").iterdir())


def test_of_many_patients_some_are_drawn():
    few = material(patients=10)
    assert (few.real.members, few.real.held_out) == (10, 10) and len(few.items) == 20
    assert few.items == material(patients=10).items and few.items != material(patients=10, seed=1).items
    images, patients = few.of_split("training")
    assert len(images) == len(patients) == 10 and all(name.startswith("training-") for name in patients)


def test_canaries_are_never_fitted_on():
    planted = splits()
    planted["canaries"] = [{**item, "canary": True} for item in planted["training"][:6]]
    found = replace(material(), splits=planted)
    named = dict(zip(found.real.patients, found.verification.probe.tolist(), strict=True))
    assert all(named[item["patient_id"]] for item in planted["canaries"])


def test_figures_of_quality_are_made_where_the_network_is():
    class Elsewhere(nn.Module):
        def forward(self, images):
            assert images.device.type == "meta"
            return torch.ones(len(images), 3)

    with pytest.raises(AssertionError):
        material().quality(Elsewhere())
    # the figures themselves are of ones, so no more than that the images were moved is seen
    replace(material(), device="meta").quality(lambda images: Elsewhere()(images) + torch.rand(len(images), 3))


def test_a_loader_without_images():
    with pytest.raises(ValueError, match="gave none"):
        _ = replace(material(), synthetic=[]).synthetic_images


def test_images_of_a_path_count_as_one():
    items = {"image": torch.zeros(5, 1, 2, 2), "label": torch.zeros(5), "path_id": torch.tensor([7, 3, 7, 3, 9])}
    found = replace(material(), synthetic=[items])
    assert found.paths.tolist() == [1, 0, 1, 0, 2]
    distances = torch.tensor([[5.0, 4, 3, 2, 1], [1, 2, 3, 4, 5]])
    assert found.to_paths(distances).tolist() == [[2, 3, 1], [2, 1, 5]]


def test_settings_to_be_shared_name_no_place():
    """Not of the data, even where it is relative, and not of the auditor's key."""
    config = {
        "seed": 1,
        "dataset_dir": "wards/roe",
        "datalist": "$roe",
        "output_dir": "/home/roe/run",
        "audit": {"signing_key": "/home/roe/key.pem", "images": 24, "mode": "walks"},
        "files": ["/home/roe/a", "~/b", "c"],
    }
    kept = {"seed": 1, "audit": {"images": 24, "mode": "walks"}, "files": ["c"]}
    assert json.loads(shareable_config(config)) == kept
