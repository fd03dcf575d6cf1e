"""The ResNet that the package's own image networks have in common."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets import ResNet

__all__ = ["narrow_resnet"]


def narrow_resnet(channels: int, outputs: int, layers: Sequence[int], block_inplanes: Sequence[int]) -> ResNet:
    """MONAI's 2D ResNet of basic blocks with a linear head.

    Args:
        channels: image channels.
        outputs: width of the head.
        layers: blocks of each of the four stages.
        block_inplanes: channels of each of the four stages; ResNet-18 has (64, 128, 256, 512).
    """
    return ResNet(
        block="basic",
        layers=list(layers),
        block_inplanes=list(block_inplanes),
        spatial_dims=2,
        n_input_channels=channels,
        conv1_t_stride=2,
        num_classes=outputs,
    )
