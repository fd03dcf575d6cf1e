"""The gate: no image leaves that lies nearer to a training patient than held-out real images do.

It knows one embedding and one threshold. It is a screen with a stated error rate, not a proof of privacy, and the
network behind it must be another one than those that steered the walk.
"""

from __future__ import annotations

import copy
import heapq
import logging
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.utils import eval_mode
from scipy.stats import beta
from torch import nn

from monai_plan.latent.frozen import device_of
from monai_plan.latent.gate_audit import SENSITIVITY, planted_sensitivity
from monai_plan.metrics.nearest import nearest_rows
from monai_plan.networks.nets.identity_embedder import IdentityEmbedder
from monai_plan.networks.nets.saved_network import restored
from monai_plan.utils import PlanKeys, load_tensors, save_tensors, uniform_at

__all__ = ["PrivacyGate", "require_holdout"]

logger = logging.getLogger(__name__)

_EMBEDDER = "embedder."
ZERO = 1e-5
"""Distances below it are rounding errors of one and the same embedding."""

Images = torch.Tensor | Iterable[torch.Tensor | Mapping[str, torch.Tensor]]


class PrivacyGate(nn.Module):
    """Accept images whose embedding is at least ``threshold`` away from every gallery entry.

    The gate always stays in evaluation mode and in float32, whatever surrounds it. ``accepted`` and ``rejected`` count
    the images that :meth:`accepts` has judged.

    Args:
        embedder: images [B, C, H, W] in [-1, 1] -> embeddings [B, E], e.g. an
            :class:`~monai_plan.networks.nets.IdentityEmbedder`; scaled to unit length here.
        gallery: embeddings of the training images, shape [N, E], N >= 1; no names, no patient ids.
        threshold: the smallest accepted Euclidean distance between unit embeddings, 0 .. 2.
        calibration: the record of :meth:`calibrate`, plain JSON values.

    Raises:
        ValueError: the gallery is empty or not finite, or the threshold is out of range.
    """

    gallery: torch.Tensor

    def __init__(
        self,
        embedder: nn.Module,
        gallery: torch.Tensor,
        threshold: float,
        calibration: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if gallery.ndim != 2 or len(gallery) == 0:
            raise ValueError(
                f"the gate's gallery must be [N, E] with N >= 1, got {tuple(gallery.shape)}. An empty gallery would "
                "accept every image: give it all training images"
            )
        if not torch.isfinite(gallery).all() or (gallery == 0).all(dim=1).any():
            raise ValueError(
                "the gate's gallery holds NaN, infinite or all-zero embeddings; check the embedder's weights"
            )
        if not 0 <= threshold <= 2:
            raise ValueError(f"distances of unit vectors lie in 0 .. 2, got the threshold {threshold}")
        self.embedder = embedder
        self.register_buffer("gallery", F.normalize(gallery.detach().float(), dim=1))
        self.threshold = float(threshold)
        self.calibration = dict(calibration or {})
        self.accepted = 0
        self.rejected = 0
        self.eval()

    def train(self, mode: bool = True) -> PrivacyGate:
        """Stay in evaluation mode: a verdict must not depend on the other images of a batch."""
        super().train(False)
        return self

    @torch.no_grad()
    def distances(self, images: torch.Tensor) -> torch.Tensor:
        """The Euclidean distance of each image's unit embedding to the nearest gallery entry.

        Args:
            images: float, shape [B, C, H, W], range [-1, 1].

        Returns:
            Distances, float32, shape [B], 0 .. 2, on the gate's device; 0 for an image that the embedder maps to
            zero, about which it can say nothing.

        Raises:
            ValueError: an image holds NaN or infinite values, or the embedding's width is not the gallery's.
        """
        with eval_mode(self.embedder):  # whoever else holds it may have switched it to training
            embeddings = _embed(self.embedder, images.to(self.gallery.device))
        return _nearest(embeddings, self.gallery)

    def accepts(self, images: torch.Tensor) -> torch.Tensor:
        """Whether each image may leave; counts the verdicts.

        Args:
            images: as for :meth:`distances`.

        Returns:
            bool, shape [B]: the distance is at least ``threshold``.
        """
        accepted = self.distances(images) >= self.threshold
        self.accepted += int(accepted.sum())
        self.rejected += int((~accepted).sum())
        return accepted

    forward = accepts

    @classmethod
    def calibrate(
        cls,
        embedder: nn.Module,
        gallery_images: Images,
        holdout_images: Images,
        false_rejection: float = 0.05,
        batch_size: int = 64,
        planted: int = 0,
        seed: int = 0,
    ) -> PrivacyGate:
        """Set the threshold so that at most ``false_rejection`` of held-out real images would be rejected.

        The threshold is an order statistic of their nearest distances. ``gate.calibration`` keeps: ``gallery``,
        ``holdout`` (numbers of images), ``false_rejection`` (asked for), ``rejected`` (held-out images below the
        threshold), ``threshold``, ``interval_95``: the exact, distribution-free 95 % interval of the rejection rate of
        new images from the hold-out's population (the rate at the (k+1)-th of n order statistics is Beta(k+1, n-k)).

        With ``planted``, altered copies of training images are then judged at that threshold, and the record has under
        ``planted`` what :func:`~monai_plan.latent.planted_sensitivity` gives. Light alterations of which fewer than
        99 % are found are warned of in the log: at this rate of false rejections no other threshold finds more.

        Args:
            embedder: as for the class; the gate keeps a copy.
            gallery_images: *all* training images [N, C, H, W], or an iterable of batches (tensors, or dicts with
                ``image``) such as a DataLoader.
            holdout_images: real images of *other* patients, of the same kind as the gallery's.
            false_rejection: share of new real patients that may be rejected, 0 < value < 1.
            batch_size: images embedded at once, where tensors are given.
            planted: of how many training images altered copies are planted, drawn by the seed; 0 for none. So many
                held-out images are drawn to paste parts into. Both stay in memory until the end.
            seed: of the images drawn and of the alterations.

        Raises:
            OptionalImportError: copies are to be planted and Pillow is missing (extra ``images``).
            ValueError: no gallery, ``false_rejection`` out of range, fewer than ``1 / false_rejection`` held-out
                images, NaN in an image, or a threshold of 0 (held-out images are in the gallery).
        """
        embedder = _for_inference(copy.deepcopy(embedder))  # whoever trains on, trains another one
        with eval_mode(embedder):
            copied, hosts = _DrawnImages(planted, seed, "to copy"), _DrawnImages(planted, seed, "to paste into")
            gallery = _embed_all(embedder, gallery_images, batch_size, copied)
            holdout = _embed_all(embedder, holdout_images, batch_size, hosts)
        count = len(holdout)
        rejected = require_holdout(count, false_rejection)
        nearest = _nearest(holdout, F.normalize(gallery, dim=1)).sort().values
        threshold = float(nearest[rejected])
        if threshold < ZERO:
            raise ValueError(
                f"{rejected + 1} of {count} held-out images lie at distance 0 from the gallery, so the gate would "
                "accept copies. The two sets overlap (split by patient), or the embedder maps all images to one point"
            )
        record = {
            "gallery": len(gallery),
            "holdout": count,
            "false_rejection": false_rejection,
            "rejected": int((nearest < threshold).sum()),
            "threshold": threshold,
            "interval_95": beta.ppf([0.025, 0.975], rejected + 1, count - rejected).tolist(),
        }
        gate = cls(embedder, gallery, threshold, record)
        if planted:
            found = planted_sensitivity(gate.distances, threshold, copied.stacked(), hosts.stacked(), seed, batch_size)
            gate.calibration["planted"] = found
            _warn_of_missed(found)
        return gate

    def save(self, path: str | os.PathLike) -> Path:
        """Write gallery, threshold and the embedder's weights as tensors only (schema ``privacy_gate``).

        The file holds embeddings of training images: treat it as confidential, though it names nobody.

        Raises:
            TypeError: the embedder is no :class:`~monai_plan.networks.nets.IdentityEmbedder`, whose arguments a file
                can name.
        """
        if not isinstance(self.embedder, IdentityEmbedder):
            raise TypeError(f"only a gate with an IdentityEmbedder can be saved, this one has {type(self.embedder)}")
        weights = {_EMBEDDER + name: tensor for name, tensor in self.embedder.state_dict().items()}
        meta = {"threshold": self.threshold, "calibration": self.calibration, "embedder": self.embedder.arguments}
        return save_tensors(path, {"gallery": self.gallery, **weights}, schema="privacy_gate", meta=meta)

    @classmethod
    def load(cls, path: str | os.PathLike) -> PrivacyGate:
        """Read a file of :meth:`save`, with the counters at 0.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is broken or of another kind.
        """
        kinds: dict[str, Any] = {"embedder": dict, "threshold": (int, float), "calibration": dict}
        tensors, meta = load_tensors(path, "privacy_gate", names=("gallery",), meta_kinds=kinds)
        weights = {k.removeprefix(_EMBEDDER): v for k, v in tensors.items() if k.startswith(_EMBEDDER)}
        embedder = restored(IdentityEmbedder, meta["embedder"], weights, path)
        width = meta["embedder"]["embedding_size"]
        if tensors["gallery"].dtype != torch.float32 or tensors["gallery"].shape[1:] != (width,):
            raise ValueError(
                f"the gallery in '{path}' is {tensors['gallery'].dtype} {tuple(tensors['gallery'].shape)}, and float32 "
                f"[N, {width}] is needed; the file was changed or is damaged. Run the stage train_gate again"
            )
        gate = cls(_for_inference(embedder), tensors["gallery"], meta["threshold"], meta["calibration"])
        gate.gallery.copy_(tensors["gallery"])  # the same bits: normalising twice rounds twice
        return gate


def _for_inference(embedder: nn.Module) -> nn.Module:
    """On a CPU a third less time. Not for training: there torch 2.13 corrupts memory with few channels."""
    return embedder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def require_holdout(count: int, false_rejection: float) -> int:
    """How many of ``count`` held-out images a gate may reject; at least one, or its rate cannot be shown.

    Raises:
        ValueError: ``false_rejection`` is not between 0 and 1, or there are fewer images than ``1 / false_rejection``.
    """
    if isinstance(false_rejection, bool) or not isinstance(false_rejection, int | float) or not 0 < false_rejection < 1:
        raise ValueError(f"false_rejection must lie between 0 and 1, got {false_rejection}; 0.05 is usual")
    rejected = math.floor(false_rejection * count + 1e-9)
    if rejected < 1:
        raise ValueError(
            f"{count} held-out images cannot show a false rejection rate of {false_rejection}: at least "
            f"{math.ceil(1 / false_rejection - 1e-9)} are needed. Hold out more patients, or set false_rejection "
            f"to {1 / max(count, 2):.2g} or more"
        )
    return rejected


def _embed(embedder: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Unit embeddings [B, E], float32, outside any autocast region."""
    broken = ~torch.isfinite(images).flatten(1).all(dim=1)
    if broken.any():
        raise ValueError(
            f"{int(broken.sum())} of {len(images)} images hold NaN or infinite values (first: "
            f"{int(broken.nonzero()[0])}) and cannot be judged; check the generator's weights, or the file read"
        )
    with torch.autocast(images.device.type, enabled=False):
        return F.normalize(embedder(images.float()).float(), dim=1)


def _nearest(embeddings: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """Distances [B]; an embedding of zero has no direction and counts as a copy, not as far from everybody."""
    return nearest_rows(embeddings, gallery)[0].sqrt() * (embeddings.norm(dim=1) > 0.5)


class _DrawnImages:
    """``count`` images of a stream of unknown length, every set of so many alike likely; batches change nothing."""

    def __init__(self, count: int, seed: int, purpose: str) -> None:
        self.count = count
        self.seed = seed
        self.purpose = purpose
        self._seen = 0
        self._kept: list[tuple[float, int, torch.Tensor]] = []  # a heap: those with the smallest draws

    def add(self, images: torch.Tensor) -> None:
        """Pass the stream's next images."""
        rows = torch.arange(self._seen, self._seen + len(images))
        for image, row, draw in zip(images, rows.tolist(), uniform_at(self.seed, self.purpose, rows), strict=True):
            if len(self._kept) >= self.count:
                if not self._kept or -float(draw) < self._kept[0][0]:
                    continue
                heapq.heappop(self._kept)
            heapq.heappush(self._kept, (-float(draw), row, image.as_subclass(torch.Tensor).to("cpu", copy=True)))
        self._seen += len(images)

    def stacked(self) -> torch.Tensor:
        """The images drawn, in the stream's order, on the CPU."""
        return torch.stack([image for _, _, image in sorted(self._kept, key=lambda entry: entry[1])])


def _embed_all(embedder: nn.Module, images: Images, batch_size: int, drawn: _DrawnImages) -> torch.Tensor:
    """Embeddings of all images, which also pass ``drawn``."""
    batches = images.split(batch_size) if isinstance(images, torch.Tensor) else images
    device = device_of(embedder)
    embeddings: list[torch.Tensor] = []
    for batch in batches:
        batch_images = torch.as_tensor(batch[PlanKeys.IMAGE] if isinstance(batch, Mapping) else batch)
        if len(batch_images):
            embeddings.append(_embed(embedder, batch_images.to(device)))
            drawn.add(batch_images)
    if not embeddings:
        raise ValueError(
            "no images to calibrate the gate on; the gallery needs all training images, the hold-out others"
        )
    return torch.cat(embeddings)


def _warn_of_missed(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    missed = {name: levels["light"]["rate"] for name, levels in found.items()}
    missed = {name: rate for name, rate in missed.items() if rate < SENSITIVITY}
    if missed:
        listed = ", ".join(f"{name} {100 * rate:.1f} %" for name, rate in missed.items())
        logger.warning(
            "the gate finds too few lightly altered copies of training images (%s; %g %% are wanted). Train its "
            "embedder for longer (embedder#epochs), or allow more false rejections (false_rejection)",
            listed,
            100 * SENSITIVITY,
        )
