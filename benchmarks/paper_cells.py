"""The cells of the paper's table: classifiers, attacks, distances and quality of a row, each kept in a file."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import statistics
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from common import about, over_seeds
from image_sets import ImageSets
from paired import mean_with_interval, paired_difference
from paper_rows import Made, PaperRows
from torch import nn

from monai_plan.metrics import (
    RealPatients,
    classification_figures,
    classifier_outputs,
    density_and_coverage,
    frechet_distance,
    kernel_distance,
    membership_attack,
    membership_network,
    nearest_synthetic_scores,
    pairwise_distances,
)
from monai_plan.utils import fingerprint, generator_for, load_tensors, patient_of, save_tensors, sha256_of, write_json

HELD_OUT = ("validation", "testing")
REFERENCES = (
    *("linear", "gate_only", "real", "linear+teacher", "gate_only+teacher", "linear_few"),
    *("linear+long", "gate_only+long", "real+long"),
)
FILES = ("generator_file", "identity_file", "label_file", "gate_file", "guide_file", "latents_file")
CONFIG = ("image_size", "channels", "num_classes", "network_factory", "resnet_widths", "augment", "walk")
SETTINGS = (
    *("images", "pairs", "steps", "published_pairs", "published_steps", "published_iterations", "epochs", "draws"),
    *("teachers", "seed", "patience"),
)

LONG = 2
"""Rows ``+long`` are trained for so many times the epochs; chosen by recipe_search.py."""

FEWEST_COMPARED = 50
"""Images below which no KID is given."""


def plain(row: str) -> str:
    """The row whose images a row is trained on."""
    return re.sub(r"([+-]teacher|[+]mixup)?([+]long)?$", "", row)


def is_taught(row: str) -> bool:
    """Whether a row's labels are the teachers'."""
    row = row.removesuffix("+long")
    ours = row.startswith("plan") and row != "plan_published" or row.endswith("_walk")
    return row.endswith("+teacher") or (ours and plain(row) == row)


class PaperTable:
    """Cells by row, made when they are asked for and kept in a folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.sets = ImageSets(options)
        self.maker = PaperRows(self.sets, options)
        splits = self.sets.config.get_parsed_content("splits")
        self.patients = {name: [patient_of(item) for item in splits[name]] for name in ("training", *HELD_OUT)}
        real = self.sets.real
        self.real_images = torch.cat([real[name].images for name in self.patients])
        names = tuple(name for split in self.patients.values() for name in split)
        member = torch.arange(len(names)) < len(self.patients["training"])
        labels = torch.cat([real[name].labels for name in self.patients])
        self.everyone = RealPatients(names, member, labels)
        config = self.sets.config
        files = [config.get_parsed_content(name) for name in FILES]
        settings = [config.get(name) for name in CONFIG]
        pixels = hashlib.sha256(self.real_images.contiguous().numpy().data).hexdigest()
        drawn = {name: value for name, value in vars(options).items() if name in SETTINGS}
        measures = (self.sets.distance, bool(options.extractor_weights))
        self.made_with = fingerprint(
            *([sha256_of(file) if Path(file).is_file() else None for file in files], settings, pixels, drawn, measures),
            *(list(self.patients.items()), labels.tolist()),
        )

    def cell(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A finished cell, from its file if it was made with the same weights, data and settings."""
        path = Path(self.options.work, f"{name}.json")
        if path.is_file():
            kept = json.loads(path.read_text())
            if kept["made_with"] == self.made_with:
                return kept["cell"]
        found = make()
        write_json(path, {"made_with": self.made_with, "cell": found, **about(self.sets.device)})
        return found

    def images(self, row: str) -> Made:
        """The images of a row, made once."""
        row = plain(row)
        path = Path(self.options.work, f"{row}.safetensors")
        if path.is_file():
            tensors, header = load_tensors(path, schema="paper_row")
            if header["made_with"] == self.made_with:
                return Made(tensors["images"], tensors["labels"], header["about"])
        made = self.maker.rows[row]()
        if made.walks is not None:
            made.walks.save(Path(self.options.work, f"{row}.walks.safetensors"))
        tensors = {"images": made.images, "labels": made.labels}
        save_tensors(path, tensors, schema="paper_row", meta={"made_with": self.made_with, "about": made.about})
        return made

    @cached_property
    def shares(self) -> torch.Tensor:
        """How often each class is among the training images."""
        return torch.tensor(self.sets.config.get_parsed_content("class_shares"))

    @cached_property
    def teachers(self) -> list[nn.Module]:
        """Networks trained on the real training images, with seeds of their own."""
        networks = []
        for seed in range(self.options.teachers):
            path = Path(self.options.work, f"teacher_{seed}.safetensors")
            network = self.sets.config.get_parsed_content("network_factory")()
            kept = load_tensors(path, schema="teacher") if path.is_file() else ({}, {})
            if kept[1].get("made_with") == self.made_with:
                network.load_state_dict(kept[0])
            else:
                real = self.sets.real["training"]
                network = self.sets.trained(real.images, real.labels, 1000 + seed, self.shares)
                state = {name: value.contiguous() for name, value in network.state_dict().items()}
                save_tensors(path, state, schema="teacher", meta={"made_with": self.made_with})
            networks.append(network.eval().requires_grad_(False))
        return networks

    def classified(self, row: str, seed: int) -> dict[str, Any]:
        """A classifier's answers about the real images, and its figures on the test split."""
        made = self.images(row)
        teachers = self.teachers if is_taught(row) else ()
        settings: dict[str, Any] = {"shares": self.shares, "teachers": teachers, "mix": "+mixup" in row}
        if row.endswith("+long"):
            settings["epochs"] = LONG * self.options.epochs
        network = self.sets.trained(made.images, made.labels, seed, **settings)
        answers = {name: self.sets.answers(network, self.sets.real[name].images) for name in self.patients}
        figures = {name: classification_figures(answers[name], self.sets.real[name].labels) for name in HELD_OUT}
        right = answers["testing"].argmax(dim=1) == self.sets.real["testing"].labels
        return {
            "validation": figures["validation"],
            "testing": figures["testing"],
            "right": right.int().tolist(),
            "answers": {name: part.tolist() for name, part in answers.items()},
        }

    def classifiers(self, row: str) -> list[dict[str, Any]]:
        """The cells of a row's classifiers, one a seed."""
        return [
            self.cell(f"{row}.classifier.{seed}", lambda seed=seed: self.classified(row, seed))
            for seed in self.options.seeds
        ]

    def attacked(self, row: str) -> dict[str, Any]:
        """The attacker's network on each classifier; the validation images, which chose its epoch, stay out."""
        tested = set(self.patients["testing"])
        rows = self.everyone.member | torch.tensor([name in tested for name in self.everyone.patients])
        part = self.everyone.part(rows)
        found = []
        for cell in self.classifiers(row):
            answers = cell["answers"]
            probabilities = torch.tensor([line for name in self.patients for line in answers[name]])
            outputs = classifier_outputs(probabilities, self.everyone.labels)[rows]
            found.append(membership_network(outputs, part, self.options.seed))
        return {
            "mia": statistics.fmean(f.value for f in found),
            "mia_low": statistics.fmean(f.interval[0] for f in found),
            "mia_high": statistics.fmean(f.interval[1] for f in found),
            "mia_control": statistics.fmean(f.control for f in found),
            "mia_control_low": statistics.fmean(f.control_interval[0] for f in found),
            "mia_control_high": statistics.fmean(f.control_interval[1] for f in found),
            "mia_by_seed": [f.value for f in found],
        }

    def distances(self, row: str) -> dict[str, Any]:
        """Nearest real images, and membership by them."""
        made = self.images(row)
        to_real = pairwise_distances(made.images, self.real_images, self.sets.features)
        member = self.everyone.member
        if row == "real":  # a patient's own images are not a neighbour's
            numbers = self.everyone.numbers
            to_real[numbers[member][:, None] == numbers[None]] = torch.inf
        chosen = member.nonzero()[:, 0][torch.randperm(int(member.sum()), generator=generator_for(0, "members"))]
        equal = min(len(chosen), int((~member).sum()))
        found = {
            "mml_train": float(to_real[:, member].amin(dim=1).mean()),
            "mml_members": float(to_real[:, chosen[:equal]].amin(dim=1).mean()),
            "mml_holdout": float(to_real[:, (~member).nonzero()[:equal, 0]].amin(dim=1).mean()),
            "least_train": float(to_real[:, member].min()),
        }
        if row == "real":
            return found
        attack = membership_attack("distance", nearest_synthetic_scores(to_real), self.everyone, self.options.seed)
        low, high = attack.interval
        return found | {
            "mia_distance": attack.value,
            "mia_distance_low": low,
            "mia_distance_high": high,
            "mia_distance_control": attack.control,
        }

    @cached_property
    def known(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of training images and of test images."""
        return tuple(self.sets.extracted(self.sets.real[name].images) for name in ("training", "testing"))

    def quality(self, row: str) -> dict[str, Any]:
        """KID, FID, coverage, of as many images as there are training images; of the real row, the floors.

        Where a class has too few images for that, KID is of fewer, in the same shares, and what depends on the number
        is left out; where it has none, everything is.
        """
        training, testing = self.known
        if row == "real":
            return _compared(training, testing)
        made = self.images(row)
        wanted = torch.bincount(self.sets.real["training"].labels, minlength=self.maker.classes)
        there = torch.bincount(made.labels, minlength=self.maker.classes)
        part = min(1.0, float((there / wanted)[wanted > 0].min()))
        counts = (part * wanted).round().long().tolist()
        if part == 0 or sum(counts) < FEWEST_COMPARED:
            return {"kid": None, "fid": None, "coverage": None}
        order = torch.randperm(len(made.images), generator=generator_for(0, "images compared"))
        rows = torch.cat([order[made.labels[order] == label][:count] for label, count in enumerate(counts)])
        found = _compared(self.sets.extracted(made.images[rows]), testing)
        return found if part == 1 else {"kid": found["kid"], "fid": None, "coverage": None, "kid_images": len(rows)}

    def row(self, name: str) -> dict[str, Any]:
        """All figures of a row that need no other row."""
        classifiers = self.classifiers(name)
        figures: dict[str, Any] = {}
        for split, suffix in (("testing", ""), ("validation", "_validation")):
            for measure in ("accuracy", "auroc", "kappa"):
                figures |= over_seeds(f"{measure}{suffix}", [cell[split][measure] for cell in classifiers])
        figures |= over_seeds("kappa_median", [self.median_kappa(cell["answers"]["testing"]) for cell in classifiers])
        figures["accuracy_interval_95"] = list(mean_with_interval(self.right(classifiers))[1])
        figures["recall"] = [
            statistics.fmean(shares) for shares in zip(*(c["testing"]["recall"] for c in classifiers), strict=True)
        ]
        made = self.images(name)
        patients = len(set(self.patients["training"]))
        return {
            **figures,
            **self.cell(f"{name}.attack.{'.'.join(map(str, self.options.seeds))}", lambda: self.attacked(name)),
            **self.cell(f"{plain(name)}.distances", lambda: self.distances(plain(name))),
            **self.cell(f"{plain(name)}.quality", lambda: self.quality(plain(name))),
            **made.about,
            "images": len(made.images),
            "images_per_patient": made.about["available"] / patients,
        }

    def median_kappa(self, answers: list[list[float]]) -> float:
        """Quadratic kappa where the median grade is the answer, rather than the most probable one."""
        probabilities = torch.tensor(answers)
        median = (probabilities.cumsum(dim=1) < 0.5).sum(dim=1).clamp_max(probabilities.shape[1] - 1)
        certain = torch.nn.functional.one_hot(median, probabilities.shape[1]).float()
        return classification_figures(certain, self.sets.real["testing"].labels)["kappa"]

    def right(self, classifiers: list[dict[str, Any]]) -> torch.Tensor:
        """Share of right answers by test patient and seed, [patients, seeds]."""
        scores = torch.tensor([cell["right"] for cell in classifiers]).double().T
        names = self.patients["testing"]
        order = {name: place for place, name in enumerate(dict.fromkeys(names))}
        number = torch.tensor([order[name] for name in names])
        counts = torch.bincount(number)
        return (
            torch.zeros(len(order), scores.shape[1], dtype=torch.double).index_add_(0, number, scores) / counts[:, None]
        )

    def compared(self, name: str) -> dict[str, Any]:
        """Accuracy against the reference rows, paired by patient and seed."""
        found: dict[str, Any] = {}
        for reference in REFERENCES:
            if reference in self.options.rows and reference != name:
                against = paired_difference(*(self.right(self.classifiers(row)) for row in (name, reference)))
                found[f"accuracy_p_vs_{reference}"] = against["p"]
                found[f"accuracy_minus_{reference}"] = against["difference"]
                found[f"accuracy_minus_{reference}_95"] = against["interval_95"]
        return found


def _compared(features: torch.Tensor, testing: torch.Tensor) -> dict[str, float]:
    return {
        "kid": kernel_distance(features, testing),
        "fid": frechet_distance(features, testing),
        "coverage": density_and_coverage(features, testing)[1],
    }
