"""LPIPS between whole sets of images as matrix products, and the mean minimal distance (mmL) of a synthetic set.

LPIPS (Zhang et al., CVPR 2018, eq. 1) is ``sum_l 1/(H_l W_l) sum_hw |sqrt(w_l) * (y_l - y0_l)|^2`` with unit-normalised
features y: one squared Euclidean distance between the features scaled by ``sqrt(w_l / (H_l W_l))``. So the features are
extracted once per image and the pairs cost one multiplication each.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from monai.networks.utils import eval_mode
from monai.utils import optional_import
from torch import nn

from monai_plan.metrics.image_features import torchvision_weights
from monai_plan.metrics.nearest import nearest_rows
from monai_plan.utils import import_torchvision

__all__ = [
    "EmbeddingFeatures",
    "LPIPSFeatures",
    "MapFeatures",
    "load_perceptual_features",
    "mean_minimal_distance",
    "nearest_distances",
    "pairwise_distances",
]

SMALLEST = 32
HELD_BYTES = 2**30
"""Gallery features held at once; a larger gallery is compared in blocks of this size."""


class LPIPSFeatures(nn.Module):
    """Images -> features whose squared Euclidean distance is LPIPS (version 0.1, SqueezeNet 1.1).

    The linear heads come with the lpips package. The backbone comes from a file, else from torch hub's cache, and is
    downloaded only if ``download`` is set. Grey images are repeated to three channels.

    Args:
        backbone_weights: a ``.safetensors`` or ``.pth`` file with the weights of torchvision's ``squeezenet1_1`` or of
            its ``.features``; ``None`` looks into torch hub's cache.
        download: fetch the backbone from torchvision's address if the cache has none.

    Raises:
        ImportError: lpips or torchvision is not installed.
        FileNotFoundError: the given file, or the cached one, does not exist.
        ValueError: the file holds other weights, or more than tensors.
    """

    def __init__(self, backbone_weights: str | os.PathLike | None = None, download: bool = False) -> None:
        super().__init__()
        lpips = _import_lpips()
        weights = torchvision_weights("SqueezeNet1_1_Weights", backbone_weights or "", download)
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore", UserWarning)  # torchvision: lpips calls it by a deprecated argument
            model = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
        self.scaling, self.backbone = model.scaling_layer, model.net
        _load_backbone(self.backbone, weights, backbone_weights)
        for level, head in enumerate(model.lins):
            self.register_buffer(f"weight{level}", head.model[-1].weight.detach().clamp(min=0).sqrt())
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> LPIPSFeatures:
        """Stay in evaluation mode: the features are a fixed ruler."""
        super().train(False)
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features of images.

        Args:
            images: float, shape [B, 1 or 3, H, W], H, W >= 32, range [-1, 1].

        Returns:
            float32, shape [B, F]; F grows with the image (about 120,000 at 64x64, 2.2 million at 256x256).

        Raises:
            ValueError: the shape is not as above.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3) or min(images.shape[2:]) < SMALLEST:
            raise ValueError(
                f"LPIPS needs images [B, 1 or 3, H, W] of at least {SMALLEST}x{SMALLEST}, got {tuple(images.shape)}; "
                "take the channel wanted, or resize them"
            )
        scaled = []
        for level, features in enumerate(self.backbone(self.scaling(images.float().expand(-1, 3, -1, -1)))):
            unit = features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
            weight = getattr(self, f"weight{level}") / (unit.shape[2] * unit.shape[3]) ** 0.5
            scaled.append((unit * weight).flatten(1))
        return torch.cat(scaled, dim=1)


class EmbeddingFeatures(nn.Module):
    """Unit embeddings of any network, as a stand-in for LPIPS; squared distances lie in 0 .. 4.

    Args:
        embedder: images [B, C, H, W] -> embeddings [B, E].
    """

    def __init__(self, embedder: nn.Module) -> None:
        super().__init__()
        self.embedder = embedder
        self.eval()

    def train(self, mode: bool = True) -> EmbeddingFeatures:
        """Stay in evaluation mode: the embedder may be a gate's, and its verdicts must not change."""
        super().train(False)
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] in [-1, 1] -> unit embeddings, float32, [B, E]."""
        return F.normalize(self.embedder(images.float()).float(), dim=1)


class MapFeatures(nn.Module):
    """LPIPS's distance on the maps of any network, all channels weighing the same, where LPIPS itself cannot be had.

    Args:
        maps: images [B, C, H, W] -> maps [B, c, h, w] of one or more levels, e.g.
            :class:`monai_plan.latent.NetworkMaps`.
    """

    def __init__(self, maps: nn.Module) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] in [-1, 1] -> features, float32, [B, F]."""
        levels = [F.normalize(level.float(), dim=1) for level in self.maps(images)]
        return torch.cat([(level / (level.shape[2] * level.shape[3]) ** 0.5).flatten(1) for level in levels], dim=1)


def load_perceptual_features(
    weights: str | os.PathLike | None = None, fallback: nn.Module | None = None
) -> tuple[nn.Module, str]:
    """True LPIPS features where they can be had offline, else unit embeddings of another network.

    Args:
        weights: the backbone's file, see :class:`LPIPSFeatures`; ``None`` looks into torch hub's cache.
        fallback: e.g. an :class:`~monai_plan.networks.nets.IdentityEmbedder`; used, with a warning, only where
            ``weights`` is ``None`` and lpips or the cached backbone is missing.

    Returns:
        The features and the name under which to report distances: ``"lpips_squeeze"`` or ``"embedding"``. Distances of
        the two must never be compared.

    Raises:
        ImportError, FileNotFoundError: LPIPS cannot be had, and there is no fallback or ``weights`` was given.
    """
    try:
        return LPIPSFeatures(weights), "lpips_squeeze"
    except (ImportError, FileNotFoundError) as error:
        if fallback is None or weights is not None:
            raise
        warnings.warn(f"distances are measured on embeddings, not by LPIPS: {error}", stacklevel=2)
        return EmbeddingFeatures(fallback), "embedding"


def nearest_distances(
    query_images: torch.Tensor,
    gallery_images: torch.Tensor,
    features: Callable[[torch.Tensor], torch.Tensor],
    batch_size: int = 32,
) -> torch.Tensor:
    """The distance of each query image to its nearest gallery image.

    Gallery features are extracted once and held in blocks of at most 1 GiB; only where the gallery needs several blocks
    are the queries' features extracted again for each.

    Args:
        query_images: float, shape [N, C, H, W], range [-1, 1].
        gallery_images: the same, shape [M, C, H, W], M >= 1. Compare only figures against galleries of equal size: a
            smaller one is farther away by itself.
        features: one of :func:`load_perceptual_features`, or any map to rows [B, F].
        batch_size: images whose features are extracted at once.

    Returns:
        Squared Euclidean distances of features (LPIPS itself with :class:`LPIPSFeatures`), float32, shape [N], on the
        CPU.

    Raises:
        ValueError: a set is empty, sizes differ, or an image holds NaN.
    """
    _check_sets(query_images, gallery_images)
    nearest = torch.full((len(query_images),), torch.inf)
    with _extractor(features, query_images) as extract:
        for _, held in _held_blocks(gallery_images, extract, batch_size):
            found = [nearest_rows(extract(batch), held)[0].cpu() for batch in query_images.split(batch_size)]
            nearest = torch.minimum(nearest, torch.cat(found))
    return nearest


def pairwise_distances(
    query_images: torch.Tensor,
    gallery_images: torch.Tensor,
    features: Callable[[torch.Tensor], torch.Tensor],
    batch_size: int = 32,
) -> torch.Tensor:
    """The distance of each query image to each gallery image, as matrix products.

    Features of the smaller set are held in blocks of at most 1 GiB, while the larger one passes by once a block. From
    ``|q|^2 + |g|^2 - 2 q.g`` a distance has an error of some 1e-6 times the features' squared length, so that equal
    images may lie a little off 0; see :func:`nearest_distances` for exact small ones.

    Args:
        query_images: as for :func:`nearest_distances`.
        gallery_images: the same.
        features: the same.
        batch_size: images whose features are extracted at once.

    Returns:
        Squared Euclidean distances of features (LPIPS itself with :class:`LPIPSFeatures`), float32, >= 0, shape [N, M],
        on the CPU.

    Raises:
        ValueError: a set is empty, sizes differ, or an image holds NaN.
    """
    _check_sets(query_images, gallery_images)
    if len(gallery_images) > len(query_images):
        return pairwise_distances(gallery_images, query_images, features, batch_size).T.contiguous()
    found = torch.empty(len(query_images), len(gallery_images))
    with _extractor(features, query_images) as extract:
        for first, held in _held_blocks(gallery_images, extract, batch_size):
            lengths = held.square().sum(dim=1)
            for place, batch in enumerate(query_images.split(batch_size)):
                rows = extract(batch)
                squares = rows.square().sum(dim=1, keepdim=True) + lengths - 2 * rows @ held.T
                begin = place * batch_size
                found[begin : begin + len(batch), first : first + len(held)] = squares.clamp_min(0).cpu()
    return found


def _check_sets(query_images: torch.Tensor, gallery_images: torch.Tensor) -> None:
    for name, images in (("query", query_images), ("gallery", gallery_images)):
        if images.ndim != 4 or len(images) == 0 or not torch.isfinite(images).all():
            raise ValueError(
                f"{name} images must be finite, [N, C, H, W] with N >= 1, got {tuple(images.shape)}; look for an empty "
                "folder, or for NaN in what the generator made"
            )
    if query_images.shape[2:] != gallery_images.shape[2:]:
        raise ValueError(
            f"query images are {tuple(query_images.shape[2:])} and gallery images {tuple(gallery_images.shape[2:])}; "
            "resize one of them"
        )


@contextmanager
def _extractor(
    features: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor
) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """The features of images, where the network is, without gradients and in evaluation mode."""
    modules = [features] if isinstance(features, nn.Module) else []
    device = next((parameter.device for module in modules for parameter in module.parameters()), images.device)
    with eval_mode(*modules), torch.no_grad():
        yield lambda batch: features(batch.to(device))


def _held_blocks(
    images: torch.Tensor, extract: Callable[[torch.Tensor], torch.Tensor], batch_size: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """The first image's number and the features [n, F] of each block that is held at once."""
    sample = extract(images[:1])
    block = max(1, HELD_BYTES // (4 * sample.shape[1]))
    for first in range(0, len(images), block):
        batches = images[first : first + block].split(batch_size)
        held = sample.new_empty(sum(map(len, batches)), sample.shape[1], dtype=torch.float32)
        for place, batch in enumerate(batches):
            held[place * batch_size : place * batch_size + len(batch)] = extract(batch)
        yield first, held


def mean_minimal_distance(
    query_images: torch.Tensor,
    gallery_images: torch.Tensor,
    features: Callable[[torch.Tensor], torch.Tensor],
    batch_size: int = 32,
) -> float:
    """mmL: the mean over the query images of :func:`nearest_distances`. Screening, not a proof of privacy."""
    return float(nearest_distances(query_images, gallery_images, features, batch_size).mean())


def _import_lpips():
    advice = 'LPIPS needs the packages lpips and torchvision: pip install "monai_plan[lpips]"'
    try:
        import_torchvision()
    except ImportError as error:
        raise ImportError(advice) from error
    lpips, found = optional_import("lpips")
    if not found:
        raise ImportError(advice)
    return lpips


def _load_backbone(backbone: nn.Module, weights: dict[str, torch.Tensor], path: str | os.PathLike | None) -> None:
    """Distribute the weights of ``squeezenet1_1().features`` over lpips' slices, which keep its layers' numbers."""
    plain = {name.removeprefix("features."): value for name, value in weights.items()}
    try:
        for part in backbone.children():
            for number, layer in part.named_children():
                prefix = f"{number}."
                layer.load_state_dict({k.removeprefix(prefix): v for k, v in plain.items() if k.startswith(prefix)})
    except RuntimeError as error:
        raise ValueError(f"'{path}' does not hold the weights of torchvision's squeezenet1_1: {error}") from error
