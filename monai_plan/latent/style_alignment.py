"""Local style alignment: give a k-same centroid's image the local textures that averaging took from it.

After k-SALSA (Jeon et al., ECCV 2022, arXiv 2303.10824), written from its description: Adam moves the centroid so that,
crop by crop, the Gram matrices of its image's feature maps (Gatys et al., CVPR 2016) come near those of a source image,
while the maps themselves stay near those of the centroid's image.

The whole group still steers an aligned anchor, but each of its crops follows one patient, where every crop of the plain
centroid mixes all k. The plain centroid is the safer one (in a trial on plan_tb, 4 anchors of k = 12, alignment brought
the nearest source from 0.89 to 0.74 in the gate's embedding); only the gate can say whether an aligned one may be used.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from monai.utils import optional_import
from torch import nn

from monai_plan.latent.frozen import device_of, frozen
from monai_plan.latent.walks import split_batches
from monai_plan.networks.nets import StyleGenerator
from monai_plan.utils import RunError, require_counts

__all__ = ["FeatureMaps", "NetworkMaps", "StyleOptions", "align_style"]

tqdm, has_tqdm = optional_import("tqdm", name="tqdm")
logger = logging.getLogger(__name__)


class FeatureMaps(Protocol):
    """Images [B, C, H, W] in [-1, 1] -> feature maps of one or more levels, each [B, c, h, w]; differentiable."""

    def __call__(self, images: torch.Tensor) -> Sequence[torch.Tensor]: ...


class NetworkMaps(nn.Module):
    """The outputs of named layers of any network; of a copy, frozen and always in evaluation mode.

    It steers, so it must not be the gate's own embedder. For LPIPS' SqueezeNet, which takes grey images too:
    ``NetworkMaps(nn.Sequential(lpips.scaling, lpips.backbone), ["1.slice1", "1.slice2"])``.

    Args:
        network: images [B, C, H, W] in [-1, 1] -> anything; it is left as it is.
        layers: names of submodules that put out maps [B, c, h, w], e.g. ``["layer1", "layer2", "layer3"]`` of a
            ResNet such as ``IdentityEmbedder(...).network``.

    Raises:
        ValueError: no layer is given, or the network has none of that name.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        names = [name for name, _ in network.named_modules() if name]
        unknown = [layer for layer in layers if layer not in names]
        if isinstance(layers, str) or not layers or unknown:
            raise ValueError(f"layers must be a list of names among {names}, got {layers!r}")
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.layers = list(layers)
        self.eval()

    def train(self, mode: bool = True) -> NetworkMaps:
        """Stay in evaluation mode: the maps are a fixed ruler."""
        super().train(False)
        return self

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Images [B, C, H, W] in [-1, 1] -> the layers' outputs, in the order in which they were named.

        Raises:
            ValueError: the network does not run through one of the layers.
        """
        found: dict[str, torch.Tensor] = {}
        with ExitStack() as hooks:
            for layer in self.layers:
                module = self.network.get_submodule(layer)
                hooks.enter_context(module.register_forward_hook(partial(_keep, found, layer)))
            self.network(images)
        if len(found) < len(set(self.layers)):
            raise ValueError(f"the network ran through {list(found)} only, of {self.layers}; leave out the others")
        return [found[layer] for layer in self.layers]


@dataclass(frozen=True)
class StyleOptions:
    """How anchors are aligned.

    Attributes:
        iterations: Adam steps, >= 1.
        learning_rate: Adam's, in W itself; the default is a hundredth of plan_tb's ``LatentPrior.scale`` (0.54). A
            larger one gains little style and leaves the prior: in the trial above the energy rose from 0.8 to 1.5, and
            to 2.1 at 0.01.
        grid: crops a side, >= 1; no feature map may be smaller.
        content_weight: >= 0.
        style_weight: >= 0.

    Raises:
        ValueError: a value is out of range.
    """

    iterations: int = 100
    learning_rate: float = 0.005
    grid: int = 4
    content_weight: float = 1.0
    style_weight: float = 1.0

    def __post_init__(self) -> None:
        require_counts(iterations=self.iterations, grid=self.grid)
        rate, weights = self.learning_rate, (self.content_weight, self.style_weight)
        if not (0 < rate < math.inf and all(0 <= weight < math.inf for weight in weights)):
            raise ValueError(f"learning_rate must be > 0 and the weights >= 0, all finite, got {rate} and {weights}")


def align_style(
    centroids: torch.Tensor,
    sources: Sequence[torch.Tensor],
    generator: StyleGenerator,
    feature_maps: FeatureMaps,
    options: StyleOptions | None = None,
    batch: int = 8,
    progress: bool = True,
) -> torch.Tensor:
    """Move centroids until their images have the local style of their sources.

    Minimised is ``content_weight * content + style_weight * style``. Of each level F of the feature maps,
    ``content = |F(G(w)) - F(G(w_c))|^2 / |F(G(w_c))|^2``, and ``style`` is the same for the Gram matrices of all crops
    and those of the matched source crops; both are means over the levels. As shares of their targets they do not grow
    with channels, pixels or the network's scale, so that the weights mean the same for any network.

    Each crop is matched, for all levels together, to the source whose crop *at the same place* has the nearest mean
    features: medical images are aligned, and a texture belongs to its place. The match is made once, from the
    centroid's image, which keeps the loss smooth.

    The networks run in evaluation mode with constant noise, images clamped to [-1, 1], and are left as they were found;
    no chance is involved. Anchors do not depend on each other (up to rounding): the loss is a sum over them, and Adam
    works per element.

    Args:
        centroids: ``w_c`` of A groups, float, shape [A, D], A >= 1.
        sources: the images of each group, A tensors [k_a, C, H, W] of the generator's size, k_a >= 2, range [-1, 1].
        generator: renders the anchors; its device is where the work is done.
        feature_maps: on that device; e.g. :class:`NetworkMaps`. Not the gate's own embedder.
        options: default: :class:`StyleOptions`.
        batch: anchors at once, >= 1; bounds the memory. One group's sources pass through the network together.
        progress: show a progress bar where tqdm is installed.

    Returns:
        The aligned anchors, float32, shape [A, D], on the device of ``centroids``.

    Raises:
        ValueError: shapes or values do not fit, or a feature map is smaller than the grid.
        RunError: the loss is not finite.
    """
    options = options or StyleOptions()
    require_counts(batch=batch)
    _check(centroids, sources, generator)
    device, parts, aligned = device_of(generator), split_batches(len(centroids), batch), []
    networks = [network for network in (generator, feature_maps) if isinstance(network, nn.Module)]
    with frozen(*networks), torch.autocast(device.type, enabled=False):
        for part in tqdm(parts, desc="style", unit="batch") if progress and has_tqdm else parts:
            start = centroids[part].detach().to(device, torch.float32)
            images = (group.to(device, torch.float32) for group in sources[part])
            aligned.append(_align(start, images, generator, feature_maps, options))
    return torch.cat(aligned).to(centroids.device)


def cut(maps: torch.Tensor, grid: int) -> list[torch.Tensor]:
    """Maps [B, c, h, w] to grid x grid crops, row by row; where h or w is no multiple, the first are a pixel larger."""
    return [crop for row in maps.tensor_split(grid, dim=2) for crop in row.tensor_split(grid, dim=3)]


def gram(crop: torch.Tensor) -> torch.Tensor:
    """Products of every two channels, mean over the pixels: [B, c, h, w] to [B, c, c]."""
    flat = crop.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def source_grams(start: Sequence[torch.Tensor], sources: Sequence[torch.Tensor], grid: int) -> list[torch.Tensor]:
    """Match each crop of one image to the source with the nearest mean features in the crop at the same place.

    Args:
        start: the image's maps, each level [1, c, h, w].
        sources: its k sources' maps, each level [k, c, h, w].
        grid: crops a side.

    Returns:
        Of each level, the Gram matrices of the matched crops, [grid * grid, c, c]. All levels have one match, in which
        each counts by its squared distance as a share of the image's mean square.
    """
    distance = torch.zeros((), device=start[0].device)
    for own, theirs in zip(start, sources, strict=True):
        mean, means = (torch.stack([crop.mean(dim=(2, 3)) for crop in cut(maps, grid)]) for maps in (own, theirs))
        distance = distance + (means - mean).square().mean(dim=2) / _size(mean.flatten())  # [grid * grid, k]
    nearest = distance.argmin(dim=1).tolist()
    return [torch.cat([gram(crop[[k]]) for crop, k in zip(cut(maps, grid), nearest, strict=True)]) for maps in sources]


def _align(
    start: torch.Tensor,
    groups: Iterable[torch.Tensor],
    generator: StyleGenerator,
    feature_maps: FeatureMaps,
    options: StyleOptions,
) -> torch.Tensor:
    """One batch: latents [B, D] and B groups of images [k, C, H, W] to aligned latents [B, D]."""

    def maps_at(latents: torch.Tensor) -> Sequence[torch.Tensor]:
        return feature_maps(generator.synthesize(latents, noise="const").float().clamp(-1, 1))

    with torch.no_grad():
        content = maps_at(start)
        _check_maps(content, options.grid)
        of_anchors = [
            source_grams([level[row : row + 1] for level in content], feature_maps(images), options.grid)
            for row, images in enumerate(groups)
        ]
        style = [torch.stack(level) for level in zip(*of_anchors, strict=True)]  # each [B, grid * grid, c, c]
    w = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([w], lr=options.learning_rate)
    for iteration in range(options.iterations):
        maps = maps_at(w)
        grams = [torch.stack([gram(crop) for crop in cut(level, options.grid)], dim=1) for level in maps]
        loss = options.content_weight * _deviation(maps, content) + options.style_weight * _deviation(grams, style)
        if not torch.isfinite(loss).all():
            raise RunError(
                f"the loss is not finite at iteration {iteration}: the generator or the feature network gives NaN. "
                f"Check their weights, or take a smaller learning_rate than {options.learning_rate}"
            )
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    logger.info("%d anchors aligned; mean loss before the last step %.4g", len(w), float(loss.detach().mean()))
    return w.detach()


def _deviation(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> torch.Tensor:
    """Squared distance as a share of what is wanted, mean over the levels: two lists of [B, ...] to [B]."""
    shares = [(a - b).flatten(1).square().mean(dim=1) / _size(b.flatten(1)) for a, b in zip(found, wanted, strict=True)]
    return torch.stack(shares).mean(dim=0)


def _size(flat: torch.Tensor) -> torch.Tensor:
    """Mean square over the last axis; above 0 also for a level that is dark everywhere."""
    return flat.square().mean(dim=-1).clamp_min(1e-12)


def _keep(found: dict[str, torch.Tensor], layer: str, module: nn.Module, args: Any, output: torch.Tensor) -> None:
    found[layer] = output


def _check(centroids: torch.Tensor, sources: Sequence[torch.Tensor], generator: StyleGenerator) -> None:
    if centroids.ndim != 2 or len(centroids) == 0 or len(sources) != len(centroids):
        raise ValueError(
            f"centroids [A, D], A >= 1, and A groups of source images expected, got {tuple(centroids.shape)} and "
            f"{len(sources)} groups; give each centroid the images that it was averaged from"
        )
    if not torch.isfinite(centroids).all():
        raise ValueError("centroids hold NaN or infinite values; the inversion behind them diverged, run it again")
    size = generator.image_size
    for number, images in enumerate(sources):
        if images.shape[1:] != (generator.channels, size, size) or len(images) < 2:
            raise ValueError(
                f"sources of group {number} must be [k >= 2, {generator.channels}, {size}, {size}], got "
                f"{tuple(images.shape)}; read them at the generator's size, and group them with k-same first: aligned "
                "to a single image, an anchor would be that patient's"
            )
        if not bool((images.abs() <= 1 + 1e-3).all()):
            raise ValueError(
                f"sources of group {number} lie in {float(images.min()):.4g} .. {float(images.max()):.4g} and must lie "
                "in [-1, 1]; scale them as for training, or look for NaN in the files"
            )


def _check_maps(maps: Sequence[torch.Tensor], grid: int) -> None:
    shapes = [tuple(level.shape) for level in maps]
    if not shapes or any(len(shape) != 4 or min(shape[2:]) < grid for shape in shapes):
        raise ValueError(
            f"feature maps [B, c, h, w] with h, w >= {grid} expected, for {grid} x {grid} crops, got {shapes}; take "
            "earlier layers, or a smaller grid"
        )
