"""Adversarial training of a class-conditional style-based generator as a MONAI trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.engines import Trainer, default_prepare_batch
from monai.engines.utils import IterationEvents
from torch.utils.data import DataLoader

from monai_plan.losses.style_gan import discriminator_logistic_loss, generator_logistic_loss, r1_penalty
from monai_plan.utils import PlanKeys, generator_for

__all__ = ["StyleGanTrainer", "require_batch"]


class StyleGanTrainer(Trainer):
    """Alternates one discriminator and one generator step a batch: logistic loss, lazy R1, augmentation.

    After each iteration ``engine.state.output`` is a dict of numbers ``g_loss, d_loss, r1, real_sign, p, images``
    where ``real_sign`` is the mean sign of D on the real batch, which steers adaptive augmentation, and ``images`` the
    batch's size. Nothing is decollated: ``postprocessing`` gets the whole batch and these figures as one dict.

    Args:
        device: where to train.
        max_epochs: epochs.
        train_data_loader: batches with images [B, C, S, S] in [-1, 1] and labels int64 [B]; drop the last short batch.
        generator: network with ``map_latents``, ``synthesize``, ``z_dim`` and ``w_avg`` (``StyleGenerator``).
        discriminator: ``(images, labels) -> logits [B]``.
        g_optimizer, d_optimizer: their optimizers.
        augment: ``(images, rng) -> images``, differentiable, with a buffer ``p`` (``AugmentPipe``).
        epoch_length: iterations an epoch; the loader is repeated as needed. Default: the loader's length.
        r1_gamma: weight of the R1 penalty (StyleGAN2-ADA's rule of thumb: 0.0002 * size**2 / batch).
        r1_interval: iterations between R1 penalties, whose weight is scaled accordingly.
        w_avg_decay: decay of the running mean of w per batch of latents (two an iteration).
        seed: latents, noise and augmentation of an iteration are drawn from (seed, iteration), in a resumed run too.
        amp: bfloat16 autocast (R1 stays in float32).
        prepare_batch: as in ``monai.engines``.
        non_blocking, postprocessing, key_train_metric, additional_metrics, train_handlers: as in
            ``monai.engines.Trainer``.

    Raises:
        ValueError: an empty batch, a batch without labels, or losses that are not finite.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: DataLoader,
        generator: torch.nn.Module,
        discriminator: torch.nn.Module,
        g_optimizer: torch.optim.Optimizer,
        d_optimizer: torch.optim.Optimizer,
        augment: torch.nn.Module,
        epoch_length: int | None = None,
        r1_gamma: float = 0.05,
        r1_interval: int = 16,
        w_avg_decay: float = 0.995,
        seed: int = 0,
        amp: bool = False,
        prepare_batch: Callable = default_prepare_batch,
        non_blocking: bool = False,
        postprocessing: Callable | None = None,
        key_train_metric: dict | None = None,
        additional_metrics: dict | None = None,
        train_handlers: Sequence | None = None,
    ) -> None:
        super().__init__(
            device=torch.device(device),
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            non_blocking=non_blocking,
            prepare_batch=prepare_batch,
            postprocessing=postprocessing,
            key_metric=key_train_metric,
            additional_metrics=additional_metrics,
            handlers=train_handlers,
            amp=amp,
            decollate=False,  # the output is one figure a batch, not one an image
        )
        self.generator: Any = generator
        self.discriminator = discriminator
        self.g_optimizer = g_optimizer
        self.d_optimizer = d_optimizer
        self.augment: Any = augment
        self.r1_gamma = r1_gamma
        self.r1_interval = r1_interval
        self.w_avg_decay = w_avg_decay
        self.seed = seed

    def _autocast(self, enabled: bool = True) -> torch.autocast:
        return torch.autocast(self.state.device.type, torch.bfloat16, enabled=self.amp and enabled)

    def _fake(self, labels: torch.Tensor, purpose: str) -> torch.Tensor:
        rng = generator_for(self.seed, purpose, self.state.iteration, device=self.state.device)
        z = torch.randn(labels.shape[0], self.generator.z_dim, device=self.state.device, generator=rng)
        w = self.generator.map_latents(z, labels)
        with torch.no_grad():
            self.generator.w_avg.lerp_(w.detach().float().mean(dim=0), 1 - self.w_avg_decay)
        return self.generator.synthesize(w, noise="random", rng=rng).float()

    def _discriminator_step(self, real: torch.Tensor, labels: torch.Tensor, rng: torch.Generator) -> dict[str, float]:
        self.discriminator.requires_grad_(True)
        lazy = self.r1_gamma > 0 and (self.state.iteration - 1) % self.r1_interval == 0
        with torch.no_grad(), self._autocast():
            fake = self._fake(labels, "discriminator")
        with torch.no_grad():
            augmented = self.augment(torch.cat([real, fake]), rng)
        seen_real, seen_fake = augmented.chunk(2)
        with self._autocast():
            real_logits = self.discriminator(seen_real, labels)
            loss = discriminator_logistic_loss(real_logits, self.discriminator(seen_fake, labels))
        total, penalty = loss, torch.zeros(())
        if lazy:
            with self._autocast(False):  # gradients of gradients lose too much in bfloat16
                seen_real = seen_real.detach().requires_grad_(True)
                penalty = r1_penalty(self.discriminator(seen_real, labels), seen_real)
            total = loss + penalty * (self.r1_gamma / 2 * self.r1_interval)
        self.d_optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.d_optimizer.step()
        return {
            "d_loss": float(loss.detach()),
            "r1": float(penalty.detach()),
            "real_sign": float(real_logits.detach().sign().mean()),
        }

    def _generator_step(self, labels: torch.Tensor, rng: torch.Generator) -> dict[str, float]:
        self.discriminator.requires_grad_(False)
        with self._autocast():
            fake = self._fake(labels, "generator")
        with self._autocast():
            loss = generator_logistic_loss(self.discriminator(self.augment(fake, rng), labels))
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        self.g_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        self.g_optimizer.step()
        return {"g_loss": float(loss.detach())}

    def _iteration(self, engine: Any, batchdata: dict[str, torch.Tensor]) -> dict[str, Any]:
        if batchdata is None:
            raise ValueError("the trainer got an empty batch; check that the training data loader yields batches")
        real, labels = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking)
        if labels is None:
            raise ValueError(
                "the batch has no labels and this generator is class-conditional; check that the dataset's items hold "
                f"'{PlanKeys.LABEL}' beside '{PlanKeys.IMAGE}' (all 0 for one class)"
            )
        real = torch.as_tensor(real).as_subclass(torch.Tensor)
        labels = torch.as_tensor(labels).as_subclass(torch.Tensor).long().flatten()
        self.generator.train()
        self.discriminator.train()
        rng = generator_for(self.seed, "augment", engine.state.iteration)
        output: dict[str, Any] = {**self._discriminator_step(real, labels, rng), **self._generator_step(labels, rng)}
        output["p"] = float(self.augment.p)
        output["images"] = real.shape[0]
        if not all(map(torch.isfinite, map(torch.tensor, (output["d_loss"], output["g_loss"])))):
            raise ValueError(
                f"the losses are {output} at iteration {engine.state.iteration}: training has diverged. Lower the "
                "learning rates, or switch amp off"
            )
        engine.state.output = output
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output  # what postprocessing made of it


def require_batch(images: int, batch_size: int) -> None:
    """Refuse a training split that does not fill one batch.

    Raises:
        ValueError: there are fewer images than ``batch_size``.
    """
    if images < batch_size:
        raise ValueError(
            f"the training split has {images} images, which do not fill a batch of {batch_size}; short batches are "
            f"dropped. Set a smaller batch (pipeline: --set gan#batch_size={images}), or give more images"
        )
