"""Synthetic batches with a share of real images among them, for those who may train on both."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from monai.utils import convert_to_tensor
from torch.utils.data import DataLoader, Dataset

from monai_plan.data.privacy_walk import PrivacyWalkSampler
from monai_plan.utils import PlanKeys, generator_for

__all__ = ["MixedBatches"]

logger = logging.getLogger(__name__)

IMAGE, LABEL = PlanKeys.IMAGE.value, PlanKeys.LABEL.value


class MixedBatches(DataLoader):
    """The batches of a privacy walk sampler, a share of whose images are real patients' instead.

    **Whoever trains on it trains on real patients**; nothing that is said of synthetic images holds for that network.
    Hence it has to be written into a config, warns when it is made, carries no mark of a synthetic loader (so that
    :class:`~monai_plan.handlers.SyntheticOnly` refuses it unless told ``allow_mixed``), and declares its
    ``real_share``, which table and certificate repeat.

    A batch is a dict of plain tensors on the sampler's device: ``image`` float32 [B, C, H, W], ``label`` as the sampler
    has it, ``is_real`` bool [B]. Length, batch sizes, epochs and shards are those of ``synthetic``.

    The share is kept to within one image a pass, at places spread evenly over it. The real images are taken in an order
    that depends on (the synthetic dataset's seed, epoch, turn) alone, each once before any comes again, and ranks have
    different ones. So the stream is reproducible, also after ``load_state_dict``, as far as the real dataset's
    transforms are.

    Args:
        synthetic: gives the batches.
        real: map-style; items with ``image`` [C, H, W], of the size, channels and value range of the synthetic images,
            and ``label``, one number. Classes come as often as they do there.
        real_share: above 0 and below 1.

    Raises:
        TypeError: ``synthetic`` is no PrivacyWalkSampler, or ``real`` no map-style dataset.
        ValueError: a share out of range, or fewer real images than ranks.
    """

    batch_size: int

    def __init__(self, synthetic: PrivacyWalkSampler, real: Dataset, real_share: float) -> None:
        if not isinstance(synthetic, PrivacyWalkSampler):
            raise TypeError(
                f"synthetic must be a PrivacyWalkSampler, got {type(synthetic).__qualname__}; the real images go into "
                "'real'"
            )
        if not hasattr(real, "__getitem__") or not hasattr(real, "__len__"):
            raise TypeError(
                f"real must be a dataset with a length, got {type(real).__qualname__}; give the dataset of your own "
                "loader, not the loader"
            )
        if isinstance(real_share, bool) or not isinstance(real_share, (int, float)) or not 0 < real_share < 1:
            raise ValueError(
                f"real_share must lie above 0 and below 1, e.g. 0.25, got {real_share!r}; for synthetic images alone "
                "give the trainer the PrivacyWalkSampler itself"
            )
        super().__init__(
            synthetic.dataset,
            batch_size=synthetic.batch_size,
            sampler=synthetic.sampler,  # whose epoch MONAI's trainers set
            drop_last=synthetic.drop_last,
        )
        self.synthetic = synthetic
        self.real = real
        self.real_share = float(real_share)
        self._ranks = getattr(synthetic.sampler, "num_replicas", 1)
        self._order: tuple[tuple[int, ...], torch.Tensor] = ((), torch.empty(0))  # of one lap over the real images
        if len(real) < self._ranks:
            raise ValueError(
                f"real has {len(real)} images for {self._ranks} processes; give one for each, or start fewer"
            )
        logger.warning(
            "%g %% of the images of these batches are REAL images of patients; a network trained on them has seen more "
            "than synthetic images",
            100 * self.real_share,
        )

    @property
    def counts(self) -> dict[str, int]:
        """Those of ``synthetic``: images that were made, whether or not a real one took their place."""
        return self.synthetic.counts

    def set_epoch(self, epoch: int) -> None:
        """See :meth:`PrivacyWalkSampler.set_epoch`."""
        self.synthetic.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The position in the stream."""
        return {**self.synthetic.state_dict(), **self._fingerprint()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`PrivacyWalkSampler.load_state_dict`.

        Raises:
            ValueError: the state is of another stream.
        """
        saved = {name: state.get(name) for name in self._fingerprint()}
        if saved != self._fingerprint():
            raise ValueError(
                f"the saved stream has {saved} and this loader {self._fingerprint()}; it cannot be continued. Use the "
                "same settings, or start anew without loading the loader's state"
            )
        self.synthetic.load_state_dict(state)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:  # type: ignore[override]
        for batch in self.synthetic:
            place = self.synthetic.state_dict()
            yield self._mixed(batch, place["epoch"], place["turn"], place["batches"] - 1)

    def _fingerprint(self) -> dict[str, Any]:
        return {"real_share": self.real_share, "real_images": len(self.real)}

    def _mixed(self, batch: Mapping[str, torch.Tensor], epoch: int, turn: int, number: int) -> dict[str, torch.Tensor]:
        images, labels = batch[IMAGE], batch[LABEL]
        # the real images before each place of the pass: a place is real where this number grows
        before = [math.floor((number * self.batch_size + row) * self.real_share) for row in range(len(images) + 1)]
        is_real = torch.tensor([low < high for low, high in zip(before, before[1:], strict=False)])
        for row in is_real.nonzero().flatten().tolist():
            images[row], labels[row] = self._real_item(self._real_index(epoch, turn, before[row]), images, labels)
        return {IMAGE: images, LABEL: labels, "is_real": is_real.to(images.device)}

    def _real_index(self, epoch: int, turn: int, count: int) -> int:
        """Which real image comes after ``count`` others of this rank's pass."""
        rank = getattr(self.synthetic.sampler, "rank", 0)
        each = len(self.real) // self._ranks
        lap, place = divmod(count, each)
        if self._order[0] != (epoch, turn, lap):
            rng = generator_for(self.synthetic.dataset.seed, "real images", epoch, turn, lap)
            self._order = (epoch, turn, lap), torch.randperm(len(self.real), generator=rng)
        return int(self._order[1][rank * each + place])

    def _real_item(self, index: int, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        item = self.real[index]
        if not isinstance(item, Mapping) or IMAGE not in item or LABEL not in item:
            raise TypeError(
                f"item {index} of the real dataset is a {type(item).__qualname__} and must be a dict with '{IMAGE}' "
                f"and '{LABEL}'; transforms that cut an image into several cannot be mixed"
            )
        image = convert_to_tensor(item[IMAGE], dtype=images.dtype, device=images.device)
        label = convert_to_tensor(item[LABEL], dtype=labels.dtype, device=labels.device)
        if image.shape != images.shape[1:] or label.numel() != 1:
            raise ValueError(
                f"item {index} of the real dataset has an image of {tuple(image.shape)} and a label of "
                f"{tuple(label.shape)}, and the synthetic images are {tuple(images.shape[1:])} with one number each; "
                "resize the real ones in their transform, or set the sampler's 'channels' or 'image_transform'"
            )
        return image, label.reshape(labels.shape[1:])
