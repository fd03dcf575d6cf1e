"""A record as an audit leaves it, with every kind of test, verdict and awkward name."""

from __future__ import annotations

import math
from typing import Any

SHA = "0123456789abcdef" * 4
EVIL = '<script>alert("Lungenentzündung")</script> | *bold*'
LONG = "A_very_long_name_of_a_data_set_from_a_university_hospital_with_many_departments_2019-2025_version_17"


def result(name: str, value: float, interval: Any, measure: str = "AUROC", **others: Any) -> dict[str, Any]:
    half = measure in ("AUROC", "balanced accuracy", "share")
    return {
        "name": name.split("/")[0],
        "measure": measure,
        "value": value,
        "interval": interval,
        "baseline": 0.5 if half else 0.0,
        "control": 0.497 if half else 0.021,
        "control_interval": [0.431, 0.566] if half else [0.004, 0.068],
        "n": 463,
        "n_control": 199,
        "resolvable": 0.048,
        "seed": 7,
        "details": {},
        "curve": [],
        **others,
    }


def case_of(name: str, found: Any, limit: Any = None) -> dict[str, Any]:
    ran = isinstance(found, dict)
    return {"id": name, "result": found if ran else None, "not_run": None if ran else found, "limit": limit}


def seen(attainable: float) -> dict[str, Any]:
    return {"details": {"attainable": attainable}}


def sample_tests() -> list[dict[str, Any]]:
    two_sided = {"figure": "value", "at_most": 0.6, "at_least": 0.4}
    excess = {"at_most": 0.05}
    curve = [[0.05 * i, min(1.0, 0.05 * i + 0.1 * math.sin(math.pi * 0.05 * i))] for i in range(1, 20)]
    rates = {str(rate): {"tpr": 1.08 * rate, "interval_95": [0.6 * rate, 1.9 * rate]} for rate in (0.1, 0.05, 0.01)}
    planted = {
        name: {
            level: {"amount": amount, "rate": rate, "interval_95": [rate - 0.021, min(1.0, rate + 0.006)], "n": 463}
            for level, amount, rate in (("light", 1, 0.998), ("medium", 2, 0.871 - shift), ("strong", 4, 0.402 - shift))
        }
        for shift, name in enumerate(("crop", "rotate"))
        for shift in (shift / 20,)
    }
    tests = [
        ("screening/lpips_squeeze", 0.5134, [0.4612, 0.5656], "share", {"at_most": 0.6}, seen(0.7301)),
        ("screening/embedding", 0.4417, [0.3911, 0.4923], "share", {"at_most": 0.6}, {}),
        ("membership_distance/lpips_squeeze", 0.5318, [0.4843, 0.5793], "AUROC", two_sided, {"curve": curve}),
        ("membership_distance/embedding", 0.4381, [0.3899, 0.4863], "AUROC", two_sided, {"curve": curve}),
        ("membership_network", 0.5072, [0.4655, 0.5489], "balanced accuracy", two_sided, {}),
        ("membership_discriminator", 0.7731, [0.7314, 0.8148], "AUROC", None, {"curve": curve}),
        ("reidentification", -0.0123, [-0.0511, 0.0265], "excess rate", excess, seen(0.0486)),
        ("singling_out", 0.0081, [-0.0119, 0.0281], "excess rate", excess, {}),
        ("inference", 0.0377, [-0.0212, 0.0966], "excess rate", {"at_most": 0.1}, {}),
        ("canaries", 0.3127, [0.3127, None], "epsilon", None, {"control": None, "control_interval": None}),
    ]
    found = [case_of(name, result(name, *figures, **more), limit) for name, *figures, limit, more in tests]
    strangers = {"value": 0.5222, "interval": [0.4333, 0.6111]}
    found[2]["result"]["details"] = {
        "distance": "lpips_squeeze",
        "tpr_at_fpr": rates,
        "validation_against_testing": strangers,
    }
    found[8]["result"]["control_interval"] = None
    found += [
        case_of("membership_shadow", "it needs many generators trained on random halves of the patients"),
        case_of("linkability", "no patient has two images", {"at_most": 0.05}),
    ]
    gate = result("gate_planted_copies", 0.9963, [0.9911, 0.9988], "rate", baseline=0.05, details={"planted": planted})
    risk = {"baseline": 0.0, "control": None, "control_interval": None, "resolvable": 0.0, "seed": None}
    unknown = {"resolvable": None, "control": None, "control_interval": None}
    groups = {"k": 12, "smallest_group": 12, "patients": 455, "spread": True}
    same = result("k_same", 1 / 12, [1 / 12, 1 / 12], "nominal risk 1/k", **{**risk, "n_control": 0}, details=groups)
    copied = {"near": 68, "patients": 5, "synthetic_images": 2048, "share": 0.0332, "quantile": 0.0101}
    near = result("near_copies", 0.0281, [0.0195, 0.0367], "excess share", details=copied, seed=7)
    passed = {"images": 2048, "rejected": 0}
    released = result("gate_released", 0.0, [0.0, 0.0], "rate", **{**risk, "resolvable": 1 / 2048}, details=passed)
    return [
        *found,
        case_of("near_copies/lpips_squeeze", near, excess),
        case_of("gate_planted_copies", gate, {"at_least": 0.99}),
        case_of("gate_released", released, {"at_most": 0.0}),
        case_of("k_same", same, {"at_most": 0.09}),
        case_of(
            "an_id_of_next_year/pixels",
            result("an_id_of_next_year", 0.12345, None, "surprise", **unknown),
        ),
    ]


def utility_row(shift: float) -> dict[str, Any]:
    return {
        "accuracy": 0.861 - shift,
        "auroc": 0.921 - shift,
        "auroc_interval_95": [0.871 - shift, 0.961 - shift],
        "recall": [0.88 - shift, 0.84 - shift],
        "kappa": 0.722 - shift,
        "calibration_error": 0.041 + shift,
        "brier": None,
        "confusion": [[60, 8], [10, 54]],
        "subgroups": {
            "age": {"smaller groups": {"n": 7}, "young": {"n": 125, "accuracy": 0.861 - shift, "auroc": None}},
            "sex": {"F": {"n": 61, "accuracy": 0.852 - shift, "auroc": 0.913 - shift}, "M": {"n": 71}},
        },
        "per_seed": [],
    }


def sample_record() -> dict[str, Any]:
    """A failed audit in which something of everything is found; ``nan`` and ``inf`` are among the figures."""
    return {
        "schema": "monai_plan certificate",
        "version": 1,
        "about": {
            "title": "Privacy audit of synthetic images: Shenzhen chest radiographs",
            "date": "2026-03-01T14:05:00+00:00",
            "seconds": 812.4,
            "machine": "CPU, 2 threads",
            "versions": {"monai_plan": "0.1.0", "monai": "1.6.1", "torch": "2.13.0"},
            "seed": 7,
        },
        "release": {"mode": "walks", "k": 12},
        "data": {
            "name": LONG,
            "datalist_sha256": None,
            "images_sha256": SHA,
            "splits": {
                "training": {"images": 463, "patients": 463, "by_class": {"0": 228, "1": 235}},
                "validation": {"images": 67, "patients": 67, "by_class": {"0": 33, "1": 34}},
                "testing": {"images": 132, "patients": 132, "by_class": {"0": 65, "1": 67}},
            },
            "classes": {"0": "normal", "1": EVIL},
            "image_size": 64,
            "channels": 1,
        },
        "files": {
            "generator.safetensors": {"role": "generator", "sha256": SHA, "bytes": 4812345},
            "walks_private.safetensors": {"role": "walks", "sha256": SHA, "bytes": 912345},
        },
        "config_sha256": SHA,
        "synthetic": {
            "images": 2048,
            "by_class": {"0": 1024, "1": 1024},
            "paths": 124,
            "gate_rejected": 31,
            "gate_emitted": 2048,
        },
        "tests": sample_tests(),
        "utility": {
            "rows": {"real": utility_row(0.0), "linear": utility_row(0.08), "plan": utility_row(0.07)},
            "quality": {"kid": 0.0213, "fid": math.nan, "coverage": 0.87},
            "note": "Means over 3 seeds.",
        },
    }


def passing_record() -> dict[str, Any]:
    """The same with its passing tests alone."""
    record = sample_record()
    keep = ("screening/lpips_squeeze", "membership_distance/lpips_squeeze", "membership_network", "singling_out")
    safeguards = ("gate_planted_copies", "gate_released", "k_same")
    tests = [test for test in record["tests"] if test["id"] in (*keep, *safeguards)]
    return {**record, "tests": tests}
