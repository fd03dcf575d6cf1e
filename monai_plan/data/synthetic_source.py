"""Single synthetic images of a wanted class, for transforms and for loops of one's own."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence

import torch
from torch import nn

from monai_plan.data.privacy_walk import PrivacyWalkSampler
from monai_plan.data.walk_dataset import PrivacyWalkDataset
from monai_plan.latent.walk_set import WalkSet
from monai_plan.transforms.pass_gate import ImageGate
from monai_plan.utils import PlanKeys

__all__ = ["SyntheticSource"]


class SyntheticSource:
    """A class and a number in, one synthetic image out; the same one for the same two and the same seed.

    Images are drawn and judged as :class:`~monai_plan.data.PrivacyWalkSampler` does it: with a gate each has passed it,
    without one only verified points of the walks are shown. A batch costs the sampler less than as many single images
    here, so this is for :class:`~monai_plan.transforms.RandSyntheticImaged`, where real and synthetic images are mixed.

    Several threads may ask at once. The generator is put into evaluation mode and frozen for good.

    Args:
        walks: finished walks, or the path of their file.
        generator: that the walks were made for, e.g. a :class:`~monai_plan.networks.nets.StyleGenerator`.
        gate: e.g. a :class:`~monai_plan.latent.PrivacyGate`; ``None`` for verified points only.
        seed: of all draws.
        device: where images are made; ``None``: where ``generator`` is.
        channels: grey images are repeated to so many channels; ``None``: as generated.
        value_range: what [-1, 1] is mapped to, e.g. (0, 1): the range of the images among which these are to stand.
        max_attempts: draws an image may take before the gate's refusals raise, >= 1.

    Attributes:
        classes: the labels that the walks have.

    Raises:
        TypeError: ``walks`` is neither a WalkSet nor a path, or ``generator`` cannot render.
        ValueError: the arguments contradict each other, or without a gate a class has no verified point.
        FileNotFoundError: there is no such file.

    Example:
        >>> from monai_plan.networks.nets import StyleGenerator
        >>> generator = StyleGenerator(64, 1, num_classes=2, z_dim=8, w_dim=8, channel_base=64, channel_max=8)
        >>> points, verified = torch.randn(4, 5, 8), torch.tensor([[False, True, True, True, False]] * 4)
        >>> walks = WalkSet(points, torch.tensor([0, 0, 1, 1]), verified, "private")  # or a path of such a file
        >>> class AcceptAll:  # in its place: PrivacyGate.load(path)
        ...     def accepts(self, images):
        ...         return torch.ones(len(images), dtype=torch.bool)
        >>> source = SyntheticSource(walks, generator, AcceptAll(), value_range=(0, 1))
        >>> image = source(label=1, number=7)
        >>> image.shape, torch.equal(image, source(1, 7)), torch.equal(image, source(1, 8))
        (torch.Size([1, 64, 64]), True, False)
    """

    def __init__(
        self,
        walks: WalkSet | str | os.PathLike,
        generator: nn.Module,
        gate: ImageGate | None = None,
        seed: int = 0,
        device: str | torch.device | None = None,
        channels: int | None = None,
        value_range: Sequence[float] = (-1.0, 1.0),
        max_attempts: int = 50,
    ) -> None:
        walks = PrivacyWalkDataset(walks, 1).walks
        dataset = PrivacyWalkDataset(walks, len(walks.labels.unique()), seed)  # one place a class
        self._loaders = {
            item[PlanKeys.LABEL.value]: PrivacyWalkSampler(
                dataset,
                generator,
                gate,
                sampler=[item["index"]],
                device=device,
                channels=channels,
                value_range=value_range,
                max_attempts=max_attempts,
            )
            for item in (dataset[index] for index in range(len(dataset)))
        }
        self.classes = tuple(sorted(self._loaders))

    def __call__(self, label: int, number: int) -> torch.Tensor:
        """One image of a class.

        Args:
            label: one of ``classes``.
            number: which one, from 0 on. All paths of the class take turns.

        Returns:
            A plain float32 tensor, shape [C, H, W], in ``value_range``, on the device.

        Raises:
            ValueError: there is no walk of this class, or the number is negative.
            RunError: the gate rejected every attempt, or the image is not finite.
        """
        if label not in self._loaders:
            raise ValueError(
                f"there is no walk of class {label!r}, only of {list(self.classes)}; number classes as in the data "
                "list of the walks, or walk between anchors of this class, too"
            )
        if number < 0:
            raise ValueError(f"images are numbered from 0 on, got {number}")
        loader = copy.copy(self._loaders[label])  # another thread may ask it for another number
        loader.set_epoch(number)
        (batch,) = loader
        return batch[PlanKeys.IMAGE.value][0]
