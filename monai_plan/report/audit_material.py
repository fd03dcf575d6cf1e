"""What an audit's attacks are made from: images, names, distances and what classifiers say, each made once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from monai.networks.utils import eval_mode
from torch import nn

from monai_plan.engines import Verification, fit_verification
from monai_plan.metrics import (
    RealPatients,
    classifier_outputs,
    density_and_coverage,
    frechet_distance,
    kernel_distance,
    pairwise_distances,
)
from monai_plan.utils import PlanKeys, generator_for, patient_of

__all__ = ["EMBEDDING", "HELD_OUT", "AuditMaterial"]

HELD_OUT = ("validation", "testing")
EMBEDDING = "embedding"
AT_ONCE = 64

Item = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class AuditMaterial:
    """Real images of members and held-out patients, synthetic ones, and the distances between them.

    Args:
        splits: the data list: ``training`` (members), ``validation`` and ``testing`` (held out), ``labels``, and
            ``canaries`` where coins were thrown.
        load_image: item -> the same with ``image`` [C, H, W] in [-1, 1].
        synthetic: the images that would be released: batches with ``image``, ``label`` and ``path_id``.
        embedder: a new network, images -> unit embeddings [B, E]; trained here as the audit's own.
        augment: ``(images, rng) -> images``, for its training.
        features: name to features whose squared Euclidean distance is a perceptual one, e.g. ``lpips_squeeze``; may be
            empty. Never a network that steered or judged a walk.
        images: synthetic images attacked at most; one epoch of the loader at most.
        patients: real patients at most, of members and of held-out ones each; of more, so many are drawn.
        iterations: training steps of the verification network.
        seed: of all draws.
        device: where networks compute.
    """

    splits: Mapping[str, Any]
    load_image: Callable[[Item], Item]
    synthetic: Iterable[Mapping[str, Any]]
    embedder: nn.Module
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor]
    features: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]
    images: int = 2000
    patients: int = 2000
    iterations: int = 800
    seed: int = 0
    device: str | torch.device = "cpu"

    @cached_property
    def items(self) -> list[tuple[str, Item]]:
        """Every real image's split and item, in the order of all matrices' columns."""
        chosen: set[str] = set()
        for side in (("training",), HELD_OUT):
            names = list(dict.fromkeys(patient_of(item) for split in side for item in self.splits[split]))
            order = torch.randperm(len(names), generator=generator_for(self.seed, "patients audited", *side))
            chosen.update(names[place] for place in order[: self.patients].tolist())
        found = [(split, item) for split in ("training", *HELD_OUT) for item in self.splits[split]]
        return [(split, item) for split, item in found if patient_of(item) in chosen]

    @cached_property
    def real_images(self) -> torch.Tensor:
        """Real images, float32 [N, C, H, W]."""
        return self.stacked(item for _, item in self.items)

    @cached_property
    def real(self) -> RealPatients:
        """Whose they are."""
        return RealPatients(
            tuple(patient_of(item) for _, item in self.items),
            torch.tensor([split == "training" for split, _ in self.items]),
            torch.tensor([int(item[PlanKeys.LABEL]) for _, item in self.items]),
        )

    def of_split(self, split: str) -> tuple[torch.Tensor, list[str]]:
        """The real images of a split, [n, C, H, W], and whose each is."""
        rows = self.rows(split)
        return self.real_images[rows], [name for name, row in zip(self.real.patients, rows, strict=True) if row]

    def rows(self, *splits: str) -> torch.Tensor:
        """Bool [N]: the real images of some splits."""
        return torch.tensor([split in splits for split, _ in self.items])

    def canaries(self) -> Sequence[Item]:
        """The items of patients whose presence in the training a coin decided."""
        return self.splits.get("canaries", ())

    def stacked(self, items: Iterable[Item]) -> torch.Tensor:
        """The images of items, float32 [n, C, H, W]."""
        loaded = [torch.as_tensor(self.load_image(item)[PlanKeys.IMAGE]) for item in items]
        return torch.stack([image.as_subclass(torch.Tensor).float() for image in loaded])

    @cached_property
    def _drawn(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        parts: list[list[torch.Tensor]] = [[], [], []]
        for batch in self.synthetic:
            for part, key in zip(parts, (PlanKeys.IMAGE, PlanKeys.LABEL, PlanKeys.PATH_ID), strict=True):
                part.append(torch.as_tensor(batch[key]).as_subclass(torch.Tensor).cpu())
            if sum(map(len, parts[0])) >= self.images:
                break
        if not parts[0]:
            raise ValueError("the loader of synthetic images gave none; plan the walks again, and look at its length")
        images, labels, paths = (torch.cat(part)[: self.images] for part in parts)
        return images.float(), labels.long().flatten(), paths

    @property
    def synthetic_images(self) -> torch.Tensor:
        """Synthetic images, float32 [S, C, H, W]."""
        return self._drawn[0]

    @property
    def synthetic_labels(self) -> torch.Tensor:
        """Their classes, int64 [S]."""
        return self._drawn[1]

    @cached_property
    def paths(self) -> torch.Tensor:
        """Their paths, numbered 0 .. P - 1, int64 [S]; images of one path are alike."""
        return self._drawn[2].unique(return_inverse=True)[1]

    def to_paths(self, distances: torch.Tensor) -> torch.Tensor:
        """Distances to synthetic images [n, S] -> to the nearest image of each path [n, P]."""
        nearest = distances.new_full((len(distances), int(self.paths.max()) + 1), torch.inf)
        return nearest.scatter_reduce(1, self.paths.expand_as(distances), distances, "amin")

    @cached_property
    def verification(self) -> Verification:
        """The audit's own network, trained on members and held-out patients alike."""
        return fit_verification(
            self.real_images,
            self.real.patients,
            self.real.member,
            self.embedder,
            self.augment,
            self.iterations,
            unseen={patient_of(item) for item in self.canaries()},
            seed=self.seed,
            device=self.device,
        )

    @property
    def names(self) -> list[str]:
        """All distances; tests that are made with a single one take the first."""
        return [*self.features, EMBEDDING]

    def distances(self, name: str, queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
        """Distances [n, m] of images, perceptual ones or the verification network's."""
        if name == EMBEDDING:
            return self.verification.distances(queries, gallery)
        return pairwise_distances(queries, gallery, self.features[name])

    @cached_property
    def to_real(self) -> dict[str, torch.Tensor]:
        """Distance's name to [S, N]."""
        return {name: self.distances(name, self.synthetic_images, self.real_images) for name in self.names}

    @cached_property
    def among_real(self) -> dict[str, torch.Tensor]:
        """Distance's name to [N, N]."""
        return {name: self.distances(name, self.real_images, self.real_images).fill_diagonal_(0) for name in self.names}

    @torch.no_grad()
    def outputs(self, network: nn.Module) -> torch.Tensor:
        """What a classifier says of each real image, as an attacker reads it, [N, F]."""
        with eval_mode(network.to(self.device)):
            logits = [network(part.to(self.device)).float().cpu() for part in self.real_images.split(AT_ONCE)]
        return classifier_outputs(torch.cat(logits).softmax(dim=1), self.real.labels)

    def data_description(self) -> dict[str, Any]:
        """Numbers of images and patients attacked, and a hash over all pixels as they were read."""
        splits = {}
        for split in ("training", *HELD_OUT):
            items = [item for found, item in self.items if found == split]
            splits[split] = {
                "images": len(items),
                "patients": len(set(map(patient_of, items))),
                "by_class": _counts([int(item[PlanKeys.LABEL]) for item in items]),
            }
        return {
            "images_sha256": hashlib.sha256(self.real_images.contiguous().numpy().data).hexdigest(),
            "splits": splits,
            "classes": {str(number): str(name) for number, name in self.splits["labels"].items()},
            "image_size": self.real_images.shape[-1],
            "channels": self.real_images.shape[1],
        }

    def synthetic_description(self) -> dict[str, Any]:
        """Numbers of synthetic images."""
        judged = getattr(self.synthetic, "gate", None) is not None
        counts = self.synthetic.counts if judged else {}  # type: ignore[attr-defined]
        return {
            "images": len(self.synthetic_images),
            "by_class": _counts(self.synthetic_labels.tolist()),
            "paths": int(self.paths.max()) + 1,
            "gate_rejected": counts.get("rejected"),
            "gate_emitted": counts.get("emitted"),
        }

    @torch.no_grad()
    def quality(self, extract: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Distances of distributions to held-out images, beside those of as many training images.

        Args:
            extract: images [B, C, H, W] in [-1, 1] -> features [B, F].
        """
        member = self.real.member
        count = min(len(self.synthetic_images), int(member.sum()))
        rng = generator_for(self.seed, "images compared")
        chosen = self.synthetic_images[torch.randperm(len(self.synthetic_images), generator=rng)[:count]]
        training = self.real_images[member][torch.randperm(int(member.sum()), generator=rng)[:count]]
        generated, known, unseen = (
            torch.cat([extract(part.to(self.device)).cpu() for part in images.split(AT_ONCE)])
            for images in (chosen, training, self.real_images[~member])
        )
        return {
            "images": count,
            "kid": kernel_distance(generated, unseen),
            "kid_of_training_images": kernel_distance(known, unseen),
            "fid": frechet_distance(generated, unseen),
            "fid_of_training_images": frechet_distance(known, unseen),
            "coverage_of_training_images": density_and_coverage(generated, known)[1],
        }


def _counts(labels: Sequence[int]) -> dict[str, int]:
    return {str(label): count for label, count in sorted(Counter(labels).items())}
