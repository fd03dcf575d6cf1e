"""Train the guide of walks in W on answers of the true networks, and say how far it can be trusted."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.networks.utils import eval_mode
from scipy.stats import rankdata

from monai_plan.latent.frozen import device_of, frozen
from monai_plan.latent.small_training import minimise
from monai_plan.latent.walks import WalkSteering, image_outputs, split_batches
from monai_plan.losses.walk import label_agreement
from monai_plan.networks.nets import LatentGuide, StyleGenerator
from monai_plan.utils import generator_for

__all__ = ["GuideReport", "TeacherAnswers", "ask_networks", "guide_latents", "judge_guide", "train_guide"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherAnswers:
    """What the identity and label networks say of the images of latents.

    Attributes:
        latents: float32, shape [N, D].
        identity: the identity network's outputs, float32, shape [N, p].
        label: the label network's logits, float32, shape [N, classes].
    """

    latents: torch.Tensor
    identity: torch.Tensor
    label: torch.Tensor

    def __len__(self) -> int:
        return len(self.latents)

    def __add__(self, other: TeacherAnswers) -> TeacherAnswers:
        """The answers of both."""
        return TeacherAnswers(
            torch.cat([self.latents, other.latents]),
            torch.cat([self.identity, other.identity]),
            torch.cat([self.label, other.label]),
        )


@dataclass(frozen=True)
class GuideReport:
    """The guide against the true networks, on latents that it was not trained on.

    Attributes:
        count: latents.
        identity_correlation: Spearman's rank correlation of ``L_id``; NaN where it is constant.
        identity_error: mean absolute error of ``L_id``, in nats (or the open-set loss's unit).
        identity_mean: mean of the true ``L_id``, to compare the error with.
        identity_bias: mean of the guide's ``L_id`` less the true mean: > 0 errs on the safe side.
        label_agreement: share of latents with the same most likely class.
        label_error: mean absolute error of the cross-entropy to the true most likely class, in nats.
    """

    count: int
    identity_correlation: float
    identity_error: float
    identity_mean: float
    identity_bias: float
    label_agreement: float
    label_error: float


def guide_latents(generator: StyleGenerator, count: int, seed: int) -> torch.Tensor:
    """Latents to learn from: half of them drawn from the prior, half between two draws of one class, where walks begin.

    Args:
        generator: with ``map_latents``, ``z_dim`` and ``num_classes``.
        count: latents, >= 2.
        seed: of the draws; the global random state is not touched.

    Returns:
        float32, shape [count, w_dim], on the generator's device, classes in equal shares.
    """
    device, rng = device_of(generator), generator_for(seed, "latents of the guide")
    classes = max(1, int(generator.num_classes))
    labels = torch.arange(count) % classes
    with eval_mode(generator):
        start, end = (
            generator.map_latents(torch.randn(count, generator.z_dim, generator=rng).to(device), labels.to(device))
            for _ in range(2)
        )
    fraction = torch.rand(count, 1, generator=rng) * (torch.arange(count) // classes % 2)[:, None]
    return torch.lerp(start, end, fraction.to(device)).float()


@torch.no_grad()
def ask_networks(
    latents: torch.Tensor, steering: WalkSteering, batch_size: int = 64, amp_dtype: torch.dtype | None = None
) -> TeacherAnswers:
    """Render latents [N, D] with constant noise and ask the true networks, ``batch_size`` at a time."""
    device = device_of(steering.generator)
    with frozen(steering.generator, steering.identity_network, steering.label_network):
        parts = [
            image_outputs(latents[part].to(device), steering, amp_dtype)
            for part in split_batches(len(latents), batch_size)
        ]
    identity, label = (torch.cat(outputs) for outputs in zip(*parts, strict=True))
    return TeacherAnswers(latents.to(device), identity, label)


def train_guide(
    answers: TeacherAnswers,
    steering: WalkSteering,
    guide: LatentGuide | None = None,
    iterations: int = 2000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: bool = True,
) -> LatentGuide:
    """Train a guide, or go on with one when answers along the paths that it found have been added.

    The loss is the mean squared error of both outputs, each in units of its own deviation, and the Huber loss of
    ``L_id`` in units of its own: the walk follows that number's gradient.

    Args:
        answers: of the true networks; a tenth should be kept back for :func:`judge_guide`.
        steering: for its ``identity_loss``.
        guide: to go on with; ``None`` makes one.
        iterations: Adam steps with a learning rate that falls to 0 on a cosine.
        batch_size: latents a step.
        learning_rate: the first step's.
        seed: of weights and batches; the global random state is left as it was.
        progress: show a progress bar where tqdm is installed.

    Returns:
        The guide, in evaluation mode, on the answers' device.

    Raises:
        ValueError: there are fewer than 2 latents, a count is below 1, or the loss is not finite.
    """
    if len(answers) < 2 or iterations < 1 or batch_size < 1:
        raise ValueError(
            f"need at least 2 latents, 1 iteration and a batch of 1, got {len(answers)}, {iterations} and {batch_size}"
        )
    device, rng = answers.latents.device, generator_for(seed, "batches of the guide")
    if guide is None:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(generator_for(seed, "weights of the guide").initial_seed())
            guide = LatentGuide(answers.latents.shape[1], answers.identity.shape[1], answers.label.shape[1])
        guide.standardise(answers.latents.cpu())
    guide = guide.to(device).train()
    truth = steering.identity_loss(answers.identity)
    spread = [float(value.std().clamp_min(1e-6)) for value in (answers.identity, answers.label, truth)]

    def loss() -> torch.Tensor:
        rows = torch.randint(len(answers), (batch_size,), generator=rng).to(device)
        identity, label = guide(answers.latents[rows])
        return (
            F.mse_loss(identity / spread[0], answers.identity[rows] / spread[0])
            + F.mse_loss(label / spread[1], answers.label[rows] / spread[1])
            + F.huber_loss(steering.identity_loss(identity) / spread[2], truth[rows] / spread[2])
        )

    last = minimise(guide, loss, iterations, learning_rate, "guide", progress)
    if not torch.isfinite(last):
        raise ValueError(f"the guide's loss is {last.item()}: lower its learning_rate (now {learning_rate})")
    return guide.eval()


@torch.no_grad()
def judge_guide(guide: LatentGuide, answers: TeacherAnswers, steering: WalkSteering) -> GuideReport:
    """Compare a guide with the true networks' answers to latents that it has not seen."""
    identity, label = guide(answers.latents)
    guessed, true = steering.identity_loss(identity), steering.identity_loss(answers.identity)
    classes = answers.label.argmax(dim=1)
    errors = label_agreement(label, classes) - label_agreement(answers.label, classes)
    return GuideReport(
        count=len(answers),
        identity_correlation=_rank_correlation(guessed, true),
        identity_error=float((guessed - true).abs().mean()),
        identity_mean=float(true.mean()),
        identity_bias=float((guessed - true).mean()),
        label_agreement=float((label.argmax(dim=1) == classes).float().mean()),
        label_error=float(errors.abs().mean()),
    )


def _rank_correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Spearman's, ties at their average rank; NaN where one of them is constant."""
    ranks = torch.stack([torch.as_tensor(rankdata(value.cpu().numpy())) for value in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])
