"""Adversarial training of a class-conditional style-based generator as a MONAI trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.engines import Trainer, default_prepare_batch
from monai.engines.utils import IterationEvents
from torch.utils.data import DataLoader

from monai_plan.engines.parallel import average_gradients, mean_over_ranks, share_state
from monai_plan.losses.style_gan import (
    PathLengthPenalty,
    StyleGanObjective,
    discriminator_logistic_loss,
    generator_logistic_loss,
    gradient_penalty,
    relativistic_discriminator_loss,
    relativistic_generator_loss,
)
from monai_plan.utils import PlanKeys, autocast_dtype, generator_for

__all__ = ["StyleGanTrainer", "require_batch"]

Figures = dict[str, torch.Tensor]

_LAZY = ("r1", "r2", "path_length_penalty")


class StyleGanTrainer(Trainer):
    """Alternates one discriminator and one generator step a batch, with lazy regularisation and augmentation.

    After each iteration ``engine.state.output`` is a dict of numbers ``g_loss, d_loss, r1, r2, path_length_penalty,
    real_sign, p, images``. The lazy ones (``r1``, ``r2``, ``path_length_penalty``) keep their last value in between
    (0 before the first, also in a resumed run).
    ``real_sign`` is the mean sign of D on the real batch, which steers adaptive augmentation (with the relativistic
    loss, where only differences mean anything, that of D(real) - D(fake)); ``images`` is the number of real images that
    all processes saw. Nothing is decollated: ``postprocessing`` gets the whole batch and these figures as one dict.

    R1 and R2 are taken at the images that the discriminator sees, after augmentation. (StyleGAN2-ADA differentiates
    through the augmentation; taken so the penalty is cheaper, and does not depend on contrast and scale.)

    Every draw is keyed by (seed, purpose, iteration, process, part of the batch), in a resumed run too. A loader whose
    sampler has ``seek`` (:class:`monai_plan.data.ImageStream`) goes on where it was left, so that a resumed run sees
    the batches that it would have seen. Under ``torchrun`` the processes' gradients are averaged.

    Args:
        device: where to train.
        max_epochs: epochs.
        train_data_loader: batches with images [B, C, S, S] in [-1, 1] and labels int64 [B]; drop the last short batch.
        generator: network with ``map_latents``, ``synthesize``, ``z_dim``, ``num_ws`` and ``w_avg``
            (``StyleGenerator``).
        discriminator: ``(images, labels) -> logits [B]``.
        g_optimizer, d_optimizer: their optimizers.
        augment: ``(images, rng) -> images``, differentiable, with a buffer ``p`` (``AugmentPipe``).
        objective: losses and regularisers.
        path_length: the running mean of path lengths; give one to keep it in a checkpoint.
        epoch_length: iterations an epoch; the loader is repeated as needed. Default: the loader's length.
        accumulate: parts into which a batch is cut, one after the other, to save memory, >= 1; must divide the batch.
        w_avg_decay: decay of the running mean of w per batch of latents.
        seed: see above.
        amp: autocast, in ``amp_dtype``; gradient penalties and path lengths stay in float32.
        amp_dtype: default :func:`monai_plan.utils.autocast_dtype`; float16 needs gradient scalers, and networks with
            ``clamp``.
        g_scaler, d_scaler: gradient scalers, to keep them in a checkpoint. Default: made where float16 needs them.
        prepare_batch: as in ``monai.engines``.
        non_blocking, postprocessing, key_train_metric, additional_metrics, train_handlers: as in
            ``monai.engines.Trainer``.

    Raises:
        ValueError: ``accumulate`` < 1; while it runs: an empty batch, a batch without labels or one that ``accumulate``
            does not divide, or losses that are not finite.
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
        objective: StyleGanObjective | None = None,
        path_length: PathLengthPenalty | None = None,
        epoch_length: int | None = None,
        accumulate: int = 1,
        w_avg_decay: float = 0.995,
        seed: int = 0,
        amp: bool = False,
        amp_dtype: torch.dtype | None = None,
        g_scaler: torch.amp.GradScaler | None = None,
        d_scaler: torch.amp.GradScaler | None = None,
        prepare_batch: Callable = default_prepare_batch,
        non_blocking: bool = False,
        postprocessing: Callable | None = None,
        key_train_metric: dict | None = None,
        additional_metrics: dict | None = None,
        train_handlers: Sequence | None = None,
    ) -> None:
        if accumulate < 1:
            raise ValueError(f"accumulate is {accumulate}; a batch is cut into that many parts: 1 leaves it whole")
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
        self.objective = objective or StyleGanObjective()
        self.path_length = (path_length or PathLengthPenalty()).to(self.state.device)
        self.accumulate = accumulate
        self.w_avg_decay = w_avg_decay
        self.seed = seed
        self.amp_dtype = amp_dtype or autocast_dtype(self.state.device)
        scaled = amp and self.amp_dtype is torch.float16
        self.g_scaler, self.d_scaler = (
            scaler or torch.amp.GradScaler(self.state.device.type, enabled=scaled) for scaler in (g_scaler, d_scaler)
        )
        self._lazy: Figures = {}
        self.add_event_handler(
            Events.STARTED, lambda: share_state(self.generator, self.discriminator, self.path_length)
        )
        self.add_event_handler(Events.EPOCH_STARTED, self._seek)

    def _seek(self) -> None:
        """Tell the sampler where the run stands; it matters to the first epoch of a resumed run."""
        sampler: Any = getattr(self.state.dataloader, "sampler", None)
        if hasattr(sampler, "seek"):
            sampler.seek(self.state.iteration * self.state.dataloader.batch_size)

    def _autocast(self, enabled: bool = True) -> torch.autocast:
        return torch.autocast(self.state.device.type, self.amp_dtype, enabled=self.amp and enabled)

    def _rng(self, purpose: str, part: int, device: str | torch.device = "cpu") -> torch.Generator:
        return generator_for(self.seed, purpose, self.state.iteration, idist.get_rank(), part, device=device)

    def _parts(self, *tensors: torch.Tensor) -> Iterator[tuple[int, tuple[torch.Tensor, ...]]]:
        yield from enumerate(zip(*(tensor.chunk(self.accumulate) for tensor in tensors), strict=True))

    def _due(self, interval: int) -> bool:
        return (self.state.iteration - 1) % interval == 0

    def _styles(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Style latents [B, num_ws, w_dim] of new z, mixed from two of them with the objective's probability."""
        batch, device = len(labels), self.state.device

        def mapped() -> torch.Tensor:
            return self.generator.map_latents(
                torch.randn(batch, self.generator.z_dim, device=device, generator=rng), labels
            )

        w = mapped()
        with torch.no_grad():
            mean = mean_over_ranks(w.detach().float().mean(dim=0))
            self.generator.w_avg.lerp_(mean, 1 - self.w_avg_decay)
        if not self.objective.mixing:
            return w
        mixed = torch.rand(batch, device=device, generator=rng) < self.objective.mixing
        cut = torch.randint(1, self.generator.num_ws, (batch,), device=device, generator=rng)
        layers = torch.arange(self.generator.num_ws, device=device)
        second = (mixed[:, None] & (layers >= cut[:, None]))[:, :, None]
        return torch.where(second, mapped()[:, None], w[:, None])

    def _fake(self, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        return self.generator.synthesize(self._styles(labels, rng), noise="random", rng=rng).float()

    def _penalty(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with self._autocast(False):  # gradients of gradients lose too much in half precision
            images = images.detach().requires_grad_(True)
            return gradient_penalty(self.discriminator(images, labels), images)

    def _update(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, network: torch.nn.Module) -> None:
        average_gradients(network.parameters())  # scaled: an overflow in one process must be seen in all
        scaler.step(optimizer)
        scaler.update()

    def _discriminator_step(self, real: torch.Tensor, labels: torch.Tensor) -> Figures:
        self.discriminator.requires_grad_(True)
        self.d_optimizer.zero_grad(set_to_none=True)
        objective, figures = self.objective, _Sums(self.accumulate)
        lazy = objective.penalty_interval if self._due(objective.penalty_interval) else 0
        for part, (real_part, labels_part) in self._parts(real, labels):
            with torch.no_grad(), self._autocast():
                fake_part = self._fake(labels_part, self._rng("discriminator", part, self.state.device))
            with torch.no_grad():
                seen = self.augment(torch.cat([real_part, fake_part]), self._rng("augment D", part))
            seen_real, seen_fake = seen.chunk(2)
            with self._autocast():
                real_logits = self.discriminator(seen_real, labels_part)
                fake_logits = self.discriminator(seen_fake, labels_part)
                loss_of = relativistic_discriminator_loss if objective.relativistic else discriminator_logistic_loss
                total = loss = loss_of(real_logits, fake_logits)
            for name, gamma, images in (("r1", objective.r1_gamma, seen_real), ("r2", objective.r2_gamma, seen_fake)):
                if lazy and gamma:
                    penalty = self._penalty(images, labels_part)
                    total = total + penalty * (gamma / 2 * lazy)
                    figures.add(name, penalty)
            figures.add("d_loss", loss)
            margin = real_logits - fake_logits if objective.relativistic else real_logits
            figures.add("real_sign", margin.sign().mean())
            self.d_scaler.scale(total / self.accumulate).backward()
        self._update(self.d_optimizer, self.d_scaler, self.discriminator)
        return figures.mean

    def _generator_step(self, real: torch.Tensor, labels: torch.Tensor) -> Figures:
        self.discriminator.requires_grad_(False)
        self.g_optimizer.zero_grad(set_to_none=True)
        objective, figures = self.objective, _Sums(self.accumulate)
        for part, (real_part, labels_part) in self._parts(real, labels):
            rng = self._rng("augment G", part)
            with self._autocast():
                fake = self._fake(labels_part, self._rng("generator", part, self.state.device))
            with self._autocast():
                fake_logits = self.discriminator(self.augment(fake, rng), labels_part)
                if objective.relativistic:
                    with torch.no_grad():
                        real_logits = self.discriminator(self.augment(real_part, rng), labels_part)
                    loss = relativistic_generator_loss(real_logits, fake_logits)
                else:
                    loss = generator_logistic_loss(fake_logits)
            figures.add("g_loss", loss)
            if part == self.accumulate - 1:
                self.fire_event(IterationEvents.FORWARD_COMPLETED)
                self.fire_event(IterationEvents.LOSS_COMPLETED)
            self.g_scaler.scale(loss / self.accumulate).backward()
        if objective.path_length_weight and self._due(objective.path_length_interval):
            for part, (labels_part,) in self._parts(labels):
                figures.add("path_length_penalty", self._path_length(labels_part, part))
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        self._update(self.g_optimizer, self.g_scaler, self.generator)
        return figures.mean

    def _path_length(self, labels: torch.Tensor, part: int) -> torch.Tensor:
        """Path length regularisation on half a part, as in StyleGAN2; adds to the generator's gradients."""
        rng = self._rng("path length", part, self.state.device)
        with self._autocast(False):
            ws = self._styles(labels[: max(1, len(labels) // 2)], rng)
            if ws.ndim == 2:
                ws = ws[:, None].expand(-1, self.generator.num_ws, -1)
            images = self.generator.synthesize(ws, noise="random", rng=rng)
            penalty = self.path_length(images, ws, rng)
        self.path_length.mean.copy_(mean_over_ranks(self.path_length.mean))
        weight = self.objective.path_length_weight * self.objective.path_length_interval
        self.g_scaler.scale(penalty * (weight / self.accumulate)).backward()
        return penalty

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
        if len(labels) % self.accumulate:
            raise ValueError(
                f"a batch of {len(labels)} images cannot be cut into {self.accumulate} equal parts; let 'accumulate' "
                "divide the batch size, and drop the last short batch (drop_last)"
            )
        self.generator.train()
        self.discriminator.train()
        if not self._lazy:
            self._lazy = {name: torch.zeros((), device=real.device) for name in _LAZY}
        figures = {**self._lazy, **self._discriminator_step(real, labels), **self._generator_step(real, labels)}
        self._lazy = {name: figures[name] for name in _LAZY}
        values = mean_over_ranks(torch.stack(list(figures.values()))).tolist()
        output: dict[str, Any] = dict(zip(figures, values, strict=True))
        output["p"] = float(self.augment.p)
        output["images"] = len(labels) * idist.get_world_size()
        if not all(map(math.isfinite, values)):
            raise ValueError(
                f"the losses are {output} at iteration {engine.state.iteration}: training has diverged. Lower the "
                "learning rates, or switch amp off"
            )
        engine.state.output = output
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output  # what postprocessing made of it


class _Sums:
    """Means of figures over the parts of a batch."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.mean: Figures = {}

    def add(self, name: str, value: torch.Tensor) -> None:
        part = value.detach().float() / self.parts
        self.mean[name] = self.mean[name] + part if name in self.mean else part


def require_batch(images: int, batch_size: int, accumulate: int = 1) -> None:
    """Refuse a training split that does not fill one batch, and a batch that cannot be cut into equal parts.

    Raises:
        ValueError: there are fewer images than ``batch_size``, or ``accumulate`` does not divide it.
    """
    if accumulate < 1 or batch_size % accumulate:
        raise ValueError(
            f"a batch of {batch_size} images cannot be cut into {accumulate} equal parts; let gan#accumulate divide "
            "gan#batch_size"
        )
    if images < batch_size:
        raise ValueError(
            f"the training split has {images} images, which do not fill a batch of {batch_size}; short batches are "
            f"dropped. Set a smaller batch (pipeline: --set gan#batch_size={images}), or give more images"
        )
