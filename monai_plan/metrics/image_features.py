"""Images to rows of features, for what compares sets of images: KID, FID, precision and recall, memorisation.

Figures of two extractors, two image sizes or two resizers must never be compared (Parmar et al., CVPR 2022), so all
three stand in :attr:`ImageFeatures.name`, which goes into every record.
"""

from __future__ import annotations

import copy
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.utils import optional_import
from torch import nn

from monai_plan.utils import generator_for, import_torchvision, read_weights

__all__ = ["ImageFeatures", "load_image_features", "torchvision_weights"]

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALVES = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
"""Mean and deviation under which a network sees images in [-1, 1]."""


@dataclass(frozen=True)
class _Extractor:
    architecture: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    published: str = ""
    """torchvision's enumeration of weights; empty: only a file will do."""


_EXTRACTORS = {
    "inception": _Extractor("inception_v3", 299, *IMAGENET, "Inception_V3_Weights"),
    "squeezenet": _Extractor("squeezenet1_1", 224, *IMAGENET, "SqueezeNet1_1_Weights"),
    "resnet50": _Extractor("resnet50", 224, *IMAGENET, "ResNet50_Weights"),
    "radimagenet": _Extractor("resnet50", 224, *HALVES),
}
_AUTO = ("inception", "squeezenet", "resnet50")
RANDOM_SIZE, RANDOM_WIDTHS = 64, (3, 32, 64, 128, 256)


class ImageFeatures(nn.Module):
    """A network as a fixed ruler: grey to RGB, resize, normalise, one row of float32 features an image.

    The network is copied, frozen, kept in evaluation mode and run in channels-last layout and float32, whatever its
    caller's autocast.

    Args:
        network: images [B, C, size, size] -> features [B, F], or maps [B, F, h, w], which are averaged over h and w.
        name: what stands in the records, e.g. ``"squeezenet1_1 (ImageNet)"``; the resizer is added to it.
        size: images are resized to this many pixels a side, bilinear with antialiasing; 0 leaves them as they are.
        mean: of each channel that the network takes, for images in [0, 1]. One number: a network for grey images.
        std: the same for the deviation. The defaults hand three channels in [-1, 1] to the network.

    Raises:
        ValueError: mean and std are not both of 1 or of 3 numbers, or ``size`` is negative.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        name: str,
        size: int = 0,
        mean: Sequence[float] = HALVES[0],
        std: Sequence[float] = HALVES[1],
    ) -> None:
        super().__init__()
        if len(mean) not in (1, 3) or len(std) != len(mean) or size < 0:
            raise ValueError(
                f"mean {mean} and std {std} must have one number for each channel that the network takes, 1 or 3, and "
                f"size {size} must be 0 or more; e.g. size=224, mean=(0.5,), std=(0.5,) for a network of grey images"
            )
        frozen = copy.deepcopy(network).requires_grad_(False)
        self.network = frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.size = size
        self.name = f"{name}, {f'bilinear antialiased to {size} px' if size else 'not resized'}"
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.eval()

    def train(self, mode: bool = True) -> ImageFeatures:
        """Stay in evaluation mode: the features are a fixed ruler."""
        return super().train(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features of images.

        Args:
            images: float, shape [B, 1 or 3, H, W], range [-1, 1].

        Returns:
            float32, shape [B, F].

        Raises:
            ValueError: the shape is not as above, or the network takes grey images only and gets others.
        """
        channels = self.mean.shape[1]
        if images.ndim != 4 or images.shape[1] not in {1, channels}:
            raise ValueError(
                f"images must be [B, {' or '.join(map(str, sorted({1, channels})))}, H, W] for {self.name}, got "
                f"{tuple(images.shape)}; take the channels wanted"
            )
        images = images.float()
        with torch.autocast(images.device.type, enabled=False):
            if self.size and images.shape[2:] != (self.size, self.size):
                images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)
            images = ((images + 1) / 2 - self.mean) / self.std
            features = self.network(images.contiguous(memory_format=torch.channels_last)).float()
        return features.flatten(2).mean(dim=2) if features.ndim > 2 else features


def load_image_features(
    extractor: str = "auto", weights: str | os.PathLike = "", size: int = 0, download: bool = False
) -> ImageFeatures:
    """A feature extractor by name; nothing is downloaded unless ``download`` is set.

    - ``inception``: torchvision's Inception v3 (ImageNet), 2,048 features at 299 px. It is not the TensorFlow network
      of published FIDs, so its figures compare only with each other.
    - ``squeezenet``: torchvision's SqueezeNet 1.1 (ImageNet), 512 features at 224 px; at 128 px fast on a CPU.
    - ``resnet50``: ImageNet, or a file of the same network trained otherwise (SwAV), 2,048 features at 224 px.
    - ``radimagenet``: a file of the authors' PyTorch ResNet-50 (RadImageNet, Mei et al., Radiology AI 2022), 2,048
      features at 224 px; it sees images in [-1, 1].
    - ``random``: a fixed random convolutional network, 256 features at 64 px. Naeem et al. (ICML 2020)
      find random embeddings the better choice where images are unlike ImageNet's; less sensitive, but always there.
    - ``auto``: the first of Inception, SqueezeNet and ResNet-50 in torch hub's cache, else, with a warning, ``random``.

    Args:
        extractor: one of these names. A network of your own: :class:`ImageFeatures` itself.
        weights: a ``.safetensors`` or ``.pth`` state dict; empty looks into torch hub's cache.
        size: pixels a side that images are resized to; 0 is the extractor's usual size.
        download: fetch torchvision's weights if the cache has none.

    Raises:
        ImportError: torchvision is not installed, and the extractor is neither ``random`` nor ``auto``.
        FileNotFoundError: no weights.
        ValueError: the name is unknown, the file does not fit it, or it takes no file.
    """
    if extractor not in (*_EXTRACTORS, "random", "auto"):
        raise ValueError(f"no extractor {extractor!r}; choose among {', '.join(_EXTRACTORS)}, random, auto")
    if weights and extractor in ("random", "auto"):
        raise ValueError(
            f"extractor {extractor!r} takes no weights, got '{weights}'; name the network of that file: "
            f"{', '.join(_EXTRACTORS)}"
        )
    if extractor == "auto":
        for candidate in _AUTO:
            try:
                return load_image_features(candidate, size=size, download=download)
            except (ImportError, FileNotFoundError) as error:
                reason = error
        warnings.warn(
            f"features are those of a random network, the weakest choice: {reason}. Name extractor and weights to use "
            "a trained one",
            stacklevel=2,
        )
        extractor = "random"
    if extractor == "random":
        return ImageFeatures(_random_network(), "random convolutions, pooled", size or RANDOM_SIZE)
    chosen = _EXTRACTORS[extractor]
    state = torchvision_weights(chosen.published, weights, download)
    network = _headless(chosen.architecture)
    _load(network, state, chosen.architecture, weights)
    origin = Path(weights).name if weights else "ImageNet"
    return ImageFeatures(
        network, f"{chosen.architecture} ({origin}), pooled", size or chosen.size, chosen.mean, chosen.std
    )


def torchvision_weights(
    published: str, path: str | os.PathLike = "", download: bool = False
) -> dict[str, torch.Tensor]:
    """A state dict from a file, else from torch hub's cache, else, only if ``download`` is set, from torchvision.

    Args:
        published: torchvision's enumeration, e.g. ``"SqueezeNet1_1_Weights"``; empty: only a file will do.
        path: a ``.safetensors`` or ``.pth`` file; empty looks into the cache.
        download: fetch what the cache does not have.

    Raises:
        ImportError: torchvision is not installed.
        FileNotFoundError: there are no weights.
        ValueError: the file holds more than tensors, or is truncated.
    """
    if path:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no weights at '{path}'; give a .safetensors or .pth file of that network")
        return read_weights(path)
    if not published:
        raise FileNotFoundError("this extractor has no published weights that torchvision knows; give their file")
    url = getattr(_models(), published).DEFAULT.url
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not cached.is_file() and not download:
        raise FileNotFoundError(
            f"no file given, and no {published} at '{cached}'. Give the weights' file, or allow the download once "
            "(download=True)"
        )
    return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)


def _models():
    try:
        import_torchvision()
    except ImportError as error:
        raise ImportError('trained extractors need torchvision: pip install "monai_plan[quality]"') from error
    return optional_import("torchvision.models")[0]


def _headless(architecture: str) -> nn.Module:
    """torchvision's network up to its last pooling."""
    options = (
        {"aux_logits": False, "transform_input": False, "init_weights": False} if "inception" in architecture else {}
    )
    with torch.random.fork_rng(devices=[]):
        network = getattr(_models(), architecture)(weights=None, **options)
    if hasattr(network, "features"):
        return network.features
    network.fc = nn.Identity()
    return network


def _load(network: nn.Module, state: dict[str, torch.Tensor], architecture: str, path: str | os.PathLike) -> None:
    """Load under the names that wrappers give; heads, projections and prototypes are left out."""
    children = [name for name, _ in network.named_children()]

    def plain(name: str) -> str:
        name = re.sub(r"^((module|backbone|features)\.)+", "", name)
        first, _, rest = name.partition(".")
        if first.isdigit() and int(first) < len(children):  # RadImageNet: Sequential of the network's children
            name = f"{children[int(first)]}.{rest}"
        return name

    given = {plain(name): tensor for name, tensor in state.items()}
    wanted = network.state_dict().keys()
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    try:
        if missing:
            raise KeyError(f"it has no '{missing[0]}' and {len(missing) - 1} others")
        network.load_state_dict({name: given[name] for name in wanted if name in given}, strict=False)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"'{path}' does not hold the weights of torchvision's {architecture}: {error}. Name the extractor that "
            "belongs to the file"
        ) from error


def _random_network() -> nn.Sequential:
    """He-initialised 3x3 convolutions of stride 2; the same weights in every run and on every machine."""
    rng = generator_for(0, "random image features")
    layers: list[nn.Module] = []
    for inputs, outputs in zip(RANDOM_WIDTHS, RANDOM_WIDTHS[1:], strict=False):
        layer = nn.utils.skip_init(nn.Conv2d, inputs, outputs, 3, stride=2, padding=1)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=rng)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)
