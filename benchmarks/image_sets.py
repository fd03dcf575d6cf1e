"""Sets of images of one data set, measured alike: distance to real patients, KID, and the classifiers they train."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from common import bundle_config
from torch import nn
from torch.utils.data import DataLoader, Sampler, WeightedRandomSampler

from monai_plan.data import stack_images
from monai_plan.engines import (
    AugmentedPrepareBatch,
    TaughtPrepareBatch,
    initial_network,
    predict,
    train_classifier,
)
from monai_plan.latent import WalkSet, WalkSteering
from monai_plan.latent.verification import Judge
from monai_plan.metrics import kernel_distance, load_image_features, load_perceptual_features, nearest_distances
from monai_plan.metrics.intervals import auroc_with_interval
from monai_plan.utils import generator_for

SPLITS = ("validation", "testing", "training")
DRAWN_AT_ONCE = 64


class ImageSets:
    """Networks, gate and real images of one data set."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.config = config = bundle_config(options)
        self.steering: WalkSteering = config.get_parsed_content("walk#steering")
        self.gate = config.get_parsed_content("gate")
        self.judge = Judge(self.steering.generator, self.gate, self.steering.label_network)
        self.device = self.judge.device
        load, splits = config.get_parsed_content("load_image"), config.get_parsed_content("splits")
        self.real = {name: stack_images([load(item) for item in splits[name]]) for name in SPLITS}
        self.features, self.distance = load_perceptual_features(options.lpips_weights or None, self.gate.embedder)
        extractor = "squeezenet" if options.extractor_weights else "random"
        self.extractor = load_image_features(extractor, options.extractor_weights)
        self.real_features = self.extracted(self.real["validation"].images)
        # galleries of equal size: of patients that the generator was trained on, and of others
        self.others = torch.cat([self.real["validation"].images, self.real["testing"].images])
        chosen = torch.randperm(len(self.real["training"].images), generator=generator_for(0, "gallery of members"))
        count = min(len(self.others), len(chosen))
        self.others, self.members = self.others[:count], self.real["training"].images[chosen[:count]]

    @torch.no_grad()
    def extracted(self, images: torch.Tensor) -> torch.Tensor:
        """Features for KID, a few images at a time."""
        return torch.cat([self.extractor(part) for part in images.split(DRAWN_AT_ONCE)])

    def passing(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Which latents give images that the gate accepts and the label network agrees with, bool on the CPU."""
        parts = zip(latents.split(DRAWN_AT_ONCE), labels.split(DRAWN_AT_ONCE), strict=True)
        verdicts = [self.judge(*part) for part in parts]
        return torch.cat([accepted & agreed for accepted, agreed in verdicts])

    def measure(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        """Distances, KID and classifiers of a set of images."""
        nearest = nearest_distances(images, self.real["training"].images, self.features)
        halves = [nearest_distances(images, gallery, self.features) for gallery in (self.members, self.others)]
        embedded = torch.cat([self.gate.distances(part).cpu() for part in images.split(DRAWN_AT_ONCE)])
        record: dict[str, Any] = {
            "images": len(images),
            "distance_mean": float(nearest.mean()),
            "distance_5_percent": float(nearest.quantile(0.05)),
            "distance_least": float(nearest.min()),
            "distance_members": float(halves[0].mean()),
            "distance_others": float(halves[1].mean()),
            "gate_distance_mean": float(embedded.mean()),
            "kid": kernel_distance(self.extracted(images), self.real_features),
        }
        per_seed = [self.classify(images, labels, seed) for seed in self.options.seeds]
        for name in per_seed[0] if per_seed else ():
            values = [figures[name] for figures in per_seed]
            record[name] = statistics.fmean(values)
            record[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
            record[f"{name}_by_seed"] = values
        return record

    def classify(self, images: torch.Tensor, labels: torch.Tensor, seed: int) -> dict[str, float]:
        """A classifier trained on the set, its classes equally often; its figures on each real split."""
        network = self.trained(images, labels, seed)
        found = {}
        for name, of in self.real.items():
            probabilities = self.answers(network, of.images)
            found[f"auroc_{name}"] = auroc_with_interval(probabilities, of.labels)[0]
            found[f"accuracy_{name}"] = float((probabilities.argmax(dim=1) == of.labels).double().mean())
        return found

    def trained(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        seed: int,
        shares: torch.Tensor | None = None,
        teachers: Sequence[nn.Module] = (),
        mix: bool = False,
        augment: nn.Module | None = None,
        sampler: Sampler | None = None,
        epochs: int | None = None,
    ) -> nn.Module:
        """A classifier trained on images drawn from a set with replacement, its epoch chosen on validation images.

        Args:
            images, labels: the set.
            seed: of the initial weights, the order and dropout.
            shares: how often each class is drawn, [classes]; by default equally often.
            teachers: networks whose mean answer about each augmented, blended image is its label; none for hard labels.
            mix: blend images and their hard labels in pairs (mixup), a control for what teachers add.
            augment: by default the bundle's.
            sampler: which images an epoch draws, in place of ``shares``.
            epochs: by default the option's.
        """
        network = initial_network(self.config.get_parsed_content("network_factory"), seed)
        classes = int(self.config.get_parsed_content("num_classes"))
        counts = torch.bincount(labels, minlength=classes).double()
        often = torch.ones(classes).double() if shares is None else shares.double()
        often = torch.where(counts > 0, often / counts.clamp_min(1), 0.0)
        with torch.random.fork_rng():
            torch.manual_seed(generator_for(seed, "classifier").initial_seed())
            if sampler is None:
                draws = self.options.draws
                sampler = WeightedRandomSampler(often[labels], draws, generator=generator_for(seed, "order"))
            drawn = DataLoader(_items(images, labels), batch_size=32, sampler=sampler)
            validation = self.real["validation"]
            validation_loader = DataLoader(_items(validation.images, validation.labels), batch_size=64)
            augment = augment or self.config.get_parsed_content("augment")
            prepare = AugmentedPrepareBatch(augment, seed)
            if teachers:
                prepare = TaughtPrepareBatch(augment, teachers, seed=seed)
            elif mix:
                prepare = MixedPrepareBatch(augment, classes, seed)
            epochs = epochs or self.options.epochs
            train_classifier(network, drawn, validation_loader, epochs, 1e-3, self.device, prepare)
        return network

    def answers(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """A network's probabilities, [N, classes]."""
        labels = torch.zeros(len(images), dtype=torch.long)
        return predict(network, DataLoader(_items(images, labels), batch_size=64), self.device)[0]


def accepted_points(walks: WalkSet, per_class: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and labels of verified points drawn at random, up to so many of each class."""
    paths, points = walks.verified.nonzero(as_tuple=True)
    labels = walks.labels[paths]
    order = torch.randperm(len(labels), generator=generator_for(seed, "points used"))
    chosen = torch.cat([order[labels[order] == label][:per_class] for label in labels.unique()])
    return walks.points[paths, points][chosen], labels[chosen]


class MixedPrepareBatch(AugmentedPrepareBatch):
    """Images blended in pairs as :class:`TaughtPrepareBatch` does it, their hard labels blended alike."""

    def __init__(self, augment: Any, classes: int, seed: int) -> None:
        super().__init__(augment, seed)
        self.classes = classes

    def __call__(self, batchdata: Any, device: Any, non_blocking: bool = False, **kwargs: Any) -> tuple[Any, Any]:
        images, labels = super().__call__(batchdata, device, non_blocking, **kwargs)
        rng = self._next_rng()
        own = 0.5 + 0.5 * torch.rand(len(images), 1, 1, 1, generator=rng).to(images)
        partner = torch.randperm(len(images), generator=rng)
        hard = torch.nn.functional.one_hot(labels, self.classes).to(images)
        return torch.lerp(images[partner], images, own), torch.lerp(hard[partner], hard, own.flatten(1))


def _items(images: torch.Tensor, labels: torch.Tensor) -> list[dict[str, Any]]:
    return [{"image": image, "label": int(label)} for image, label in zip(images, labels, strict=True)]
