"""How much of the classes a generator carries: a classifier trained on its samples alone, judged on real images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from monai.engines import default_prepare_batch
from monai.metrics import compute_roc_auc
from monai.networks.utils import eval_mode
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from monai_plan.engines.classification import initial_network, predict, train_classifier
from monai_plan.latent.frozen import device_of
from monai_plan.utils import PlanKeys, generator_for

__all__ = ["class_signal"]


class _FreshSamples(IterableDataset):
    """Batches of a generator's samples, made where it is; every pass goes on where the last one stopped."""

    def __init__(
        self, generator: Any, batches: int, batch_size: int, shares: torch.Tensor, noise: str, amp: bool, seed: int
    ) -> None:
        self.generator = generator
        self.batches, self.batch_size = batches, batch_size
        self.shares, self.noise, self.amp, self.seed = shares, noise, amp, seed
        self.device = device_of(generator)
        self.drawn = 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for _ in range(self.batches):
            self.drawn += 1
            yield self._draw()

    def _draw(self) -> dict[str, torch.Tensor]:
        rng = generator_for(self.seed, "fresh samples", self.drawn, device=self.device)
        chosen = generator_for(self.seed, "fresh labels", self.drawn)
        labels = torch.multinomial(self.shares, self.batch_size, replacement=True, generator=chosen).to(self.device)
        z = torch.randn(self.batch_size, self.generator.z_dim, device=self.device, generator=rng)
        with eval_mode(self.generator), torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            images = self.generator.synthesize(self.generator.map_latents(z, labels), noise=self.noise, rng=rng)
        return {PlanKeys.IMAGE: images.float().clamp(-1, 1), PlanKeys.LABEL: labels}


def class_signal(
    generator: Any,
    network_factory: Callable[[], nn.Module],
    validation_loader: DataLoader,
    device: str | torch.device,
    test_loader: Iterable[Mapping[str, Any]] | None = None,
    epochs: int = 10,
    iterations: int = 24,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    class_shares: Sequence[float] | None = None,
    noise: str = "random",
    prepare_batch: Callable = default_prepare_batch,
    amp: bool = False,
    seed: int = 0,
) -> dict[str, float]:
    """Train a new classifier on fresh samples of a generator, no latent twice, and measure it on real images.

    The classifier's best epoch is chosen by its AUROC on ``validation_loader``. Figures measured on the same images,
    as they are without ``test_loader``, are thus a little too good: enough to compare generators and to follow a
    training, not to be reported. Global random state is left as it was; the generator's weights and mode too.

    Args:
        generator: with ``map_latents(z, labels)``, ``synthesize(w, noise, rng)``, ``z_dim`` and ``num_classes``, e.g. a
            :class:`~monai_plan.networks.nets.StyleGenerator`; used on the device where it is.
        network_factory: makes an untrained classifier, images [B, C, S, S] -> logits [B, num_classes].
        validation_loader: real images in [-1, 1] with labels, not augmented; dicts with ``image`` and ``label``, every
            class must occur.
        device: where the classifier is trained.
        test_loader: further real images, on which the figures are measured instead.
        epochs: times that the classifier is validated, >= 1.
        iterations: batches of samples an epoch, >= 1.
        batch_size: samples a batch, >= 1.
        learning_rate: of the classifier.
        class_shares: how often each class is drawn, [num_classes], in proportion; ``None`` for equally often.
        noise: the generator's: "random" as in training, "const" or "none".
        prepare_batch: as of :func:`~monai_plan.engines.train_classifier`, e.g. one that augments; a copy is used, so
            that its draws are the same each time.
        amp: bfloat16 autocast, of generator and classifier.
        seed: of latents, labels and classifier; the same seed gives the same figures.

    Returns:
        ``class_auroc`` (one-vs-rest, averaged over the classes), ``class_accuracy``, ``class_balanced_accuracy`` (mean
        recall), ``class_validation_auroc`` (the best epoch's), and for each class k ``class_recall_<k>`` and
        ``class_shift_<k>``: its mean predicted probability less its share of the real images. A generator whose
        intensities are off shifts it; so do ``class_shares`` other than the real ones. A class without test images
        makes its recall and the AUROC NaN.

    Raises:
        ValueError: a count is below 1, the shares do not fit the classes, or training fails (see there).
    """
    if iterations < 1 or batch_size < 1:
        raise ValueError(f"iterations is {iterations} and batch_size {batch_size}; both must be at least 1")
    shares = _shares(class_shares, generator.num_classes)
    samples = _FreshSamples(generator, iterations, batch_size, shares, noise, amp, seed)
    network = initial_network(network_factory, seed)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(generator_for(seed, "class signal").initial_seed())  # dropout
        best = train_classifier(
            network,
            DataLoader(samples, batch_size=None),
            validation_loader,
            epochs,
            learning_rate,
            device,
            prepare_batch=copy.deepcopy(prepare_batch),
            amp=amp,
            description="class signal",
        )
        judged = validation_loader if test_loader is None else test_loader
        probabilities, labels = predict(network, judged, device, amp)
    return {**_figures(probabilities, labels), "class_validation_auroc": best.auroc}


def _shares(class_shares: Sequence[float] | None, classes: int) -> torch.Tensor:
    shares = torch.tensor([1.0] * classes if class_shares is None else list(class_shares), dtype=torch.float64)
    if len(shares) != classes or not (shares > 0).all() or not shares.isfinite().all():
        raise ValueError(
            f"class_shares is {class_shares}; give one positive number for each of the generator's {classes} classes, "
            f"e.g. {[round(1 / classes, 3)] * classes}"
        )
    return shares


def _figures(probabilities: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Plain figures of probabilities [N, K] against labels [N]."""
    correct = probabilities.argmax(dim=1) == labels
    one_hot = nn.functional.one_hot(labels, probabilities.shape[1]).double()
    recalls = (one_hot * correct[:, None]).sum(dim=0) / one_hot.sum(dim=0)
    shifts = probabilities.double().mean(dim=0) - one_hot.mean(dim=0)
    return {
        "class_auroc": float(compute_roc_auc(probabilities, one_hot)),  # type: ignore[arg-type]
        "class_accuracy": float(correct.double().mean()),
        "class_balanced_accuracy": float(recalls.nanmean()),
        **{f"class_recall_{k}": float(recall) for k, recall in enumerate(recalls)},
        **{f"class_shift_{k}": float(shift) for k, shift in enumerate(shifts)},
    }
