"""The auditor's own embedding: a verification network that tells whether two images are of one patient.

It is trained apart from every network that steered or judged the walk, on pairs of images of one patient, members and
held-out patients alike, so that it favours neither; some patients of both kinds are kept out to measure its skill.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from monai.networks.utils import eval_mode
from monai.utils import optional_import
from torch import nn

from monai_plan.losses import TwoViewContrastiveLoss
from monai_plan.utils import generator_for, require_counts

__all__ = ["LEAST_PATIENTS", "Verification", "fit_verification"]

trange, has_tqdm = optional_import("tqdm", name="trange")

LEAST_PATIENTS = 4
"""Of members and of others: two for the training, two to measure the skill on."""
EMBEDDED_AT_ONCE = 256


@dataclass(frozen=True)
class Verification:
    """A trained verification network.

    Attributes:
        network: images [B, C, H, W] in [-1, 1] -> embeddings of unit length [B, E], in evaluation mode.
        probe: bool, shape [N]: the images of patients that it was not trained on.
        pairs: what it was trained on: "visits" (two images of one patient wherever there are two) or "views" (two
            augmentations of one image, where no patient has a second one).
    """

    network: nn.Module
    probe: torch.Tensor
    pairs: str

    @torch.no_grad()
    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings of images [N, C, H, W] in [-1, 1]: float32 [N, E] of unit length, on the CPU."""
        device = next(self.network.parameters()).device
        with eval_mode(self.network):
            return torch.cat([self.network(part.to(device)).float().cpu() for part in images.split(EMBEDDED_AT_ONCE)])

    def distances(self, queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
        """Euclidean distances of embeddings, float32 [N, M], 0 .. 2, of images [N, …] and [M, …]."""
        return torch.cdist(self.embed(queries), self.embed(gallery), compute_mode="donot_use_mm_for_euclid_dist")


def fit_verification(
    images: torch.Tensor,
    patients: Sequence[str],
    member: torch.Tensor,
    network: nn.Module,
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor],
    iterations: int = 800,
    pairs: int = 32,
    learning_rate: float = 1e-3,
    probe_share: float = 0.5,
    unseen: Collection[str] = (),
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Verification:
    """Train a network so that two images of a patient lie close together and images of two patients far apart.

    Each step draws ``pairs`` different patients and two images of each (one twice, where there is no second), alters
    both by ``augment`` and minimises the contrastive loss (Chen et al., SimCLR, ICML 2020) with the patient in the
    place of the image. What such a network can do to patients of chest X-rays: Packhäuser et al., Scientific Reports
    2022. The global random state is left alone.

    Args:
        images: real images, float [N, C, H, W], range [-1, 1].
        patients: whose each is, N names.
        member: bool [N]: an image that the generator was trained on. Patients kept out are drawn in the same share from
            members and from the others.
        network: images -> embeddings of unit length [B, E], e.g. a new
            :class:`~monai_plan.networks.nets.IdentityEmbedder`; trained in place.
        augment: ``(images, rng) -> images``, e.g. :class:`~monai_plan.networks.layers.AugmentPipe`.
        iterations: steps of AdamW, >= 1; its learning rate falls to 0 on a cosine.
        pairs: patients a step, >= 2; as many as there are, if fewer.
        learning_rate: the first step's.
        probe_share: of the patients kept out, 0 < share < 1.
        unseen: further patients kept out, e.g. canaries, whose counterparts are in no split.
        seed: of the choice of patients and of the training.
        device: where to train.
        progress: show a progress bar where tqdm is installed.

    Raises:
        ValueError: an argument is out of range, or members or others are fewer than 4 patients.
    """
    require_counts(iterations=iterations)
    require_counts(2, pairs=pairs)
    if not 0 < probe_share < 1:
        raise ValueError(
            f"probe_share must lie between 0 and 1, got {probe_share}; 0.25 keeps every fourth patient out"
        )
    rows: dict[str, list[int]] = {}
    for row, patient in enumerate(patients):
        rows.setdefault(patient, []).append(row)
    probed: set[str] = set()
    rng = generator_for(seed, "verification")
    for side in (True, False):
        names = [name for name, where in rows.items() if bool(member[where[0]]) is side and name not in unseen]
        if len(names) < LEAST_PATIENTS:
            raise ValueError(
                f"{len(names)} {'training' if side else 'held-out'} patients are too few to train a verification "
                f"network and to measure its skill; each side needs {LEAST_PATIENTS} at least. Hold out more patients"
            )
        chosen = torch.randperm(len(names), generator=rng)[: round(len(names) * probe_share)]
        probed.update(names[place] for place in chosen.tolist())
    probed.update(unseen)
    trained = [where for name, where in rows.items() if name not in probed]
    device = torch.device(device)
    network.to(device).train()
    loss_function = TwoViewContrastiveLoss()
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    bar = {"desc": "verification network", "unit": "it", "mininterval": 1.0}
    with torch.enable_grad():
        for step in trange(iterations, **bar) if progress and has_tqdm else range(iterations):
            first, second = _draw_pairs(trained, pairs, generator_for(seed, "pairs", step))
            views = [
                augment(images[chosen].to(device), generator_for(seed, "view", step, side))
                for side, chosen in enumerate((first, second))
            ]
            loss = loss_function(network(torch.cat(views)))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    several = any(len(where) > 1 for where in trained)
    probe = torch.tensor([patient in probed for patient in patients])
    return Verification(network.eval(), probe, "visits" if several else "views")


def _draw_pairs(patients: list[list[int]], count: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows of each of ``count`` different patients; the same row twice where a patient has but one."""
    first, second = [], []
    for place in torch.randperm(len(patients), generator=rng)[:count].tolist():
        where = patients[place]
        two = torch.randperm(len(where), generator=rng)[:2].tolist()
        first.append(where[two[0]])
        second.append(where[two[-1]])
    return torch.tensor(first), torch.tensor(second)
