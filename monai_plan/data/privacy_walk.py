"""Synthetic training batches from privacy-preserving walks, made on the device while training runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import torch
from monai.utils import convert_to_tensor
from monai.utils.type_conversion import get_torch_dtype_from_string
from torch import nn
from torch.utils.data import DataLoader, Sampler
from torch.utils.data.distributed import DistributedSampler

from monai_plan.data.prefetch import BackgroundBatches, CountedBatch
from monai_plan.data.walk_dataset import PrivacyWalkDataset
from monai_plan.data.walk_planning import WalkPools
from monai_plan.data.walk_pool import WalkPool
from monai_plan.data.walk_rendering import JudgedBatch, WalkRenderer
from monai_plan.latent.frozen import device_of
from monai_plan.transforms.pass_gate import ImageGate, require_gate
from monai_plan.utils import PlanKeys

__all__ = ["PrivacyWalkDataLoader", "PrivacyWalkDataset", "PrivacyWalkSampler"]

logger = logging.getLogger(__name__)

INDEX = "index"
_NEXT_TURN = 1_000_003  # keeps the orders of repeated passes over one epoch apart from those of other epochs
# what configs of ordinary loaders leave behind: there are no workers, nothing to pin and nothing to collate
_WORKER_OPTIONS = {
    *("num_workers", "pin_memory", "pin_memory_device", "persistent_workers", "prefetch_factor", "timeout"),
    *("worker_init_fn", "multiprocessing_context", "collate_fn", "in_order"),
    *("buffer_size", "buffer_timeout", "use_thread_workers"),  # MONAI's ThreadDataLoader
}


class PrivacyWalkSampler(DataLoader):
    """Yields whole batches of synthetic images, not indices: a data loader that any MONAI trainer takes as it is.

    Each batch is a dict, batch first, on ``device``: ``image`` float32 [B, C, H, W]; ``label`` ``[B, *label_shape]``;
    ``path_id`` int64 [B]; ``position`` float32 [B], in points from the path's start (3.25: a quarter of the way from
    point 3 to point 4); ``index`` int64 [B]. All are plain tensors.

    *With a gate* a position is drawn continuously between neighbouring points of a path that are both verified (so that
    the label network, if ``verify_walks`` asked one, has confirmed the class on both sides), and an image leaves only
    after the gate accepted it. A class without such neighbours is drawn from its verified points alone, and one without
    any, as in walks that were never verified, from between all inner points, with a warning. Rejected images are drawn
    again, also from other paths of the class, together with those of the next batches, of which up to three are begun
    early. *Without a gate* (the gallery is not at hand) only the walks' verified points are emitted, with constant
    noise and at full precision: no place between them, and never an end; all verified points of a class take turns.

    An image depends on (the dataset's seed, index, epoch, turn) alone, not on ranks or on its batch, up to the float
    noise of other images in a forward. The epoch is the sampler's, which MONAI trainers set; ``turn`` counts passes
    within an epoch that nobody advanced, so that every pass has fresh images. ``state_dict`` resumes in mid-epoch, with
    the very same images: give the loader to the checkpoint beside the trainer. This needs a sampler whose order depends
    on its epoch only, as the default and DistributedSampler have it.

    A dataset with a planner has other walks in each epoch. With ``prefetch`` they are planned in a thread while the
    epoch before is shown, hence also once after the last epoch; otherwise when the epoch begins.

    State and ``counts`` (``emitted``: images; ``rejected``: draws on the way to them) are of the batches that were
    handed out, whatever has been made already. An error comes with its batch.

    Images are made without gradients and outside autocast and inference mode, whatever the training loop has switched
    on where it asks for a batch.

    The loader owns ``generator``: it is put into evaluation mode and frozen for good. There are no workers and no
    pinning; ``num_workers``, ``pin_memory``, ``collate_fn`` and the like, left over from a stock config, are ignored
    with a warning. Global random state is neither used nor changed.

    Args:
        dataset: which paths; also holds the seed.
        generator: with ``synthesize(w, noise, rng)``, ``w_dim`` and ``channels``, e.g. a
            :class:`~monai_plan.networks.nets.StyleGenerator`.
        gate: e.g. a :class:`~monai_plan.latent.gate.PrivacyGate`; ``None`` for verified points only.
        batch_size: images a batch and rank, >= 1.
        shuffle: another order in each epoch; must be off where ``sampler`` is given.
        sampler: which indices, e.g. a DistributedSampler; ``None`` takes all.
        drop_last: drop the last batch if it is short.
        device: where images are made; ``None``: where ``generator`` is.
        label_dtype: e.g. ``"int64"`` (cross-entropy) or ``"float32"`` (binary cross-entropy).
        label_shape: the shape of one label, all ones, e.g. (1, 1, 1) for labels [B, 1, 1, 1].
        channels: grey images are repeated to so many channels; ``None``: as generated.
        value_range: what [-1, 1] is mapped to, e.g. (0, 1).
        image_transform: applied last, to the batch's images [B, C, H, W], e.g. an intensity normalisation. Its result
            is cast to float32. The gate has judged the images before it. It must not draw from global random state.
        noise: "const", or "random" (with a gate only; rendered one by one, so that an image stays replayable).
        max_attempts: draws an image may take before the run fails, >= 1.
        amp: render in bfloat16 (with a gate only).
        prefetch: batches that a background thread prepares ahead of the training step, e.g. 2; the same batches. On
            CUDA it has a stream of its own. On a CPU it shares the cores with the training. The thread ends with its
            pass, an error, ``break``, and the interpreter.
        worker_options: leftovers of other loaders, see above.

    Raises:
        TypeError: ``dataset`` is no :class:`PrivacyWalkDataset`, ``generator`` cannot render, or an option is unknown.
        ValueError: the arguments contradict each other, or without a gate a class has no verified point.
        RunError: while iterating: the gate rejected every attempt for an image, or an image is not finite. In
            place of an epoch's first batch also whatever the planner raises, and what is wrong with its walks.
    """

    is_synthetic = True  # monai_plan.utils.synthetic.SYNTHETIC_MARK
    dataset: PrivacyWalkDataset
    batch_size: int

    def __init__(
        self,
        dataset: PrivacyWalkDataset,
        generator: nn.Module,
        gate: ImageGate | None = None,
        batch_size: int = 1,
        shuffle: bool = False,
        sampler: Sampler | Iterable | None = None,
        drop_last: bool = False,
        device: str | torch.device | None = None,
        label_dtype: str | torch.dtype = "int64",
        label_shape: Sequence[int] = (),
        channels: int | None = None,
        value_range: Sequence[float] = (-1.0, 1.0),
        image_transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        noise: str = "const",
        max_attempts: int = 50,
        amp: bool = False,
        prefetch: int = 0,
        **worker_options: Any,
    ) -> None:
        _check_sources(dataset, generator, gate)
        _check_options(
            generator, gate, batch_size, label_shape, channels, value_range, noise, max_attempts, amp, prefetch
        )
        _drop_worker_options(worker_options)
        if gate is None:
            dataset.pool.require_verified(generator)
        if sampler is None:  # one replica; MONAI's trainers advance the epoch of a DistributedSampler
            sampler = DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=shuffle, seed=dataset.seed)
            shuffle = False
        super().__init__(dataset, batch_size=batch_size, shuffle=shuffle, sampler=sampler, drop_last=drop_last)
        if len(self) == 0:
            raise ValueError(
                f"an epoch of {len(dataset)} images has no batch of {batch_size}; lower batch_size, raise "
                "images_per_epoch, or set drop_last to false"
            )
        self.device = device_of(generator) if device is None else torch.device(device)
        self.renderer = WalkRenderer(
            generator.to(self.device).eval().requires_grad_(False),
            gate.to(self.device) if isinstance(gate, nn.Module) else gate,
            batch_size,
            self.device,
            noise,
            max_attempts,
            amp,
        )
        self._pools = WalkPools(dataset, self.device, generator if gate is None else None)
        self._warned: set[int] = set()  # classes
        self.label_dtype = get_torch_dtype_from_string(label_dtype) if isinstance(label_dtype, str) else label_dtype
        self.label_shape = tuple(label_shape)
        self.channels = channels
        self.value_range = (float(value_range[0]), float(value_range[1]))
        self.image_transform = image_transform
        self.prefetch = prefetch
        self.counts = {"emitted": 0, "rejected": 0}
        self._requested_epoch = 0
        self._epoch: int | None = None  # of the pass begun last; None: none yet
        self._turn = -1
        self._batches = 0  # handed out in that pass
        self._resuming = False

    @property
    def gate(self) -> ImageGate | None:
        """What judges the images."""
        return self.renderer.gate

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be the first one of ``epoch``, from its beginning; also replays an epoch."""
        self._request_epoch(epoch)
        self._epoch, self._turn, self._batches, self._resuming = None, -1, 0, False

    def state_dict(self) -> dict[str, Any]:
        """The position in the stream and the counts, in plain numbers."""
        return {
            "epoch": self._current_epoch() if self._epoch is None else self._epoch,
            "turn": self._turn,
            "batches": self._batches,
            "counts": dict(self.counts),
            **self._fingerprint(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass continue after the last batch that was handed out before :meth:`state_dict`.

        Raises:
            ValueError: the state is of another seed, epoch size or batch size.
        """
        other = {name: state[name] for name, value in self._fingerprint().items() if state[name] != value}
        if other:
            raise ValueError(
                f"the saved stream has {other} and this loader {self._fingerprint()}; it cannot be continued. Use the "
                "same settings, or start anew without loading the loader's state"
            )
        self._epoch, self._turn, self._batches = state["epoch"], state["turn"], state["batches"]
        self._resuming = self._turn >= 0 and self._batches < len(self)
        self.counts = dict(state["counts"])
        self._request_epoch(state["epoch"])

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:  # type: ignore[override]
        epoch = self._current_epoch()  # read at the first batch: trainers set it after they made the iterator
        turn, first = self._turn + 1 if epoch == self._epoch else 0, 0
        if self._resuming:
            epoch, turn, first = int(self._epoch or 0), self._turn, self._batches
        pool = self._pool_of(epoch)
        self._epoch, self._turn, self._batches, self._resuming = epoch, turn, first, False
        source = self._prepare(pool, self._order(epoch, turn), epoch, turn, first)
        prepared = BackgroundBatches(source, self.prefetch, self.device) if self.prefetch else source
        with closing(prepared):
            for number, (batch, rejected) in enumerate(prepared, start=first + 1):
                self._batches = number
                self.counts["emitted"] += len(batch[INDEX])
                self.counts["rejected"] += rejected
                yield batch

    def _fingerprint(self) -> dict[str, int]:
        return {"seed": self.dataset.seed, "images_per_epoch": len(self.dataset), "batch_size": self.batch_size}

    def _current_epoch(self) -> int:
        return getattr(self.sampler, "epoch", self._requested_epoch)

    def _request_epoch(self, epoch: int) -> None:
        self._requested_epoch = epoch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def _order(self, epoch: int, turn: int) -> list[list[int]]:
        """The indices of each batch of one pass."""
        current = self._current_epoch()
        self._request_epoch(epoch + turn * _NEXT_TURN)
        try:
            return list(self.batch_sampler or ())
        finally:
            self._request_epoch(current)

    def _pool_of(self, epoch: int) -> WalkPool:
        """The walks of an epoch; those of the next one are begun where things are prepared ahead."""
        pool = self._pools.of(epoch)
        if self.prefetch:
            self._pools.begin(epoch + 1)
        if self.gate is None:  # a checkpoint may have been loaded into it meanwhile
            pool.require_verified(self.renderer.generator)
        unverified = sorted(set(pool.unverified_classes) - self._warned)
        if unverified and self.gate is not None:
            self._warned.update(unverified)
            logger.warning(
                "class(es) %s have no verified point: the walks were never verified, or gate and label network refused "
                "them all. Their images are drawn from anywhere between inner points; the gate judges each, but their "
                "class is doubtful. Verify the walks, walk more pairs of these classes, or train the label network on",
                unverified,
            )
        return pool

    def _prepare(
        self, pool: WalkPool, order: Sequence[Sequence[int]], epoch: int, turn: int, first: int
    ) -> Generator[CountedBatch, None, None]:
        """The batches of one pass from number ``first`` on.

        What the training loop has switched on in its thread (gradients, autocast, inference mode) is off while a batch
        is made, and on again where it is handed out.
        """
        judged = self.renderer.batches(pool, order, epoch, turn, first)
        while True:
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                batch = next(judged, None)
                if batch is None:
                    return
                prepared = CountedBatch(self._pack(batch), batch.rejected)
            yield prepared

    def _pack(self, judged: JudgedBatch) -> dict[str, torch.Tensor]:
        images = judged.images
        low, high = self.value_range
        if self.value_range != (-1.0, 1.0):
            images = low + (images + 1) * ((high - low) / 2)
        if self.channels is not None:
            images = images.expand(-1, self.channels, -1, -1).contiguous()
        if self.image_transform is not None:
            images = convert_to_tensor(self.image_transform(images), dtype=torch.float32, device=self.device)
            if len(images) != len(judged.indices):
                raise ValueError(
                    f"image_transform made {tuple(images.shape)} of {len(judged.indices)} images; it gets the whole "
                    "batch [B, C, H, W] and must keep B"
                )
        columns = {
            PlanKeys.LABEL: self.dataset.walks.labels[judged.paths].to(self.label_dtype).view(-1, *self.label_shape),
            PlanKeys.PATH_ID: judged.paths,
            PlanKeys.POSITION: judged.positions.float(),
            INDEX: judged.indices,
        }
        return {str(PlanKeys.IMAGE): images, **{str(key): value.to(self.device) for key, value in columns.items()}}


PrivacyWalkDataLoader = PrivacyWalkSampler


def _check_sources(dataset: Any, generator: Any, gate: Any) -> None:
    if not isinstance(dataset, PrivacyWalkDataset):
        raise TypeError(
            "PrivacyWalkSampler needs a PrivacyWalkDataset and got "
            f"{type(dataset).__module__}.{type(dataset).__qualname__}, which may hold real images. Override the "
            "config's dataset and dataloader together"
        )
    if not isinstance(generator, nn.Module) or not callable(getattr(generator, "synthesize", None)):
        raise TypeError(
            f"generator must be a network with synthesize(w, noise, rng), got {type(generator).__qualname__}; give a "
            "StyleGenerator, e.g. monai_plan.networks.nets.StyleGenerator.load(path)"
        )
    width = dataset.walks.points.shape[2]
    if generator.w_dim != width:
        raise ValueError(
            f"the generator's latents have {generator.w_dim} dimensions and the walks' {width}; "
            "the walks belong to another generator"
        )
    if gate is not None:
        require_gate(gate, "give a PrivacyGate or None")


def _check_options(
    generator: Any,
    gate: Any,
    batch_size: int | None,
    label_shape: Sequence[int],
    channels: int | None,
    value_range: Sequence[float],
    noise: str,
    max_attempts: int,
    amp: bool,
    prefetch: int,
) -> None:
    if batch_size is None or batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    if max_attempts < 1:
        raise ValueError(f"max_attempts must be >= 1, got {max_attempts}")
    if isinstance(prefetch, bool) or not isinstance(prefetch, int) or prefetch < 0:
        raise ValueError(f"prefetch is a number of batches, 0 for none ahead, e.g. 2; got {prefetch!r}")
    if any(size != 1 for size in label_shape):
        raise ValueError(
            f"one image has one label, so label_shape may hold ones only, e.g. (1, 1, 1); got {label_shape}"
        )
    if channels is not None and generator.channels not in (1, channels):
        raise ValueError(
            f"only grey images can be repeated to {channels} channels; the generator makes {generator.channels}"
        )
    if len(value_range) != 2 or not value_range[0] < value_range[1]:
        raise ValueError(f"value_range must be (low, high) with low < high, got {tuple(value_range)}")
    if noise not in ("const", "random"):
        raise ValueError(f"noise must be 'const' or 'random', got '{noise}'")
    if gate is None and (noise != "const" or amp):
        raise ValueError(
            "without a gate only images that were verified beforehand may be emitted: with constant noise and at full "
            f"precision. Give a gate, or set noise to 'const' (is '{noise}') and amp to false (is {amp})"
        )


def _drop_worker_options(options: Mapping[str, Any]) -> None:
    unknown = sorted(options.keys() - _WORKER_OPTIONS)
    if unknown:
        raise TypeError(f"PrivacyWalkSampler got unknown options {unknown}")
    ignored = {name: value for name, value in options.items() if value}
    if ignored:
        logger.warning("batches are made on the device, without workers or pinning; ignored: %s", ignored)
