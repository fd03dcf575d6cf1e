"""The step behind every synthetic image: latents are rendered, and the gate judges what came out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from monai_plan.transforms.pass_gate import ImageGate

__all__ = ["NOT_FINITE", "JudgedImages", "render_and_judge"]

NOT_FINITE = (
    "the generator made an image with NaN or infinite values. Its weights may be damaged or of another model than the "
    "walks; with amp, try without"
)


class JudgedImages(NamedTuple):
    """Images with their verdicts.

    Attributes:
        images: float32 [B, C, H, W] in [-1, 1], on the latents' device.
        finite: bool [B], on the CPU: the others hold NaN, or held infinite values, and were never judged.
        accepted: bool [B], on the CPU; false where not finite.
    """

    images: torch.Tensor
    finite: torch.Tensor
    accepted: torch.Tensor


@torch.no_grad()
def render_and_judge(
    generator: Any,
    gate: ImageGate | None,
    latents: torch.Tensor,
    rngs: Sequence[torch.Generator] | None = None,
    amp: bool = False,
) -> JudgedImages:
    """Render latents and ask the gate about each image, in float32 whatever surrounds the call.

    Args:
        generator: with ``synthesize(w, noise, rng)``, in evaluation mode.
        gate: judges; ``None`` accepts every image, for points that were verified beforehand.
        latents: float32 [B, D], on the generator's device.
        rngs: one random state an image, for random noise; the images are then rendered one by one. ``None``: constant
            noise.
        amp: render in bfloat16; the gate judges in float32 all the same.

    Raises:
        TypeError: the gate's answer is not one bool an image.
    """
    device = latents.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=amp):
        if rngs is None:
            images = generator.synthesize(latents, noise="const").float()
        else:
            pairs = zip(latents.split(1), rngs, strict=True)
            images = torch.cat([generator.synthesize(w, noise="random", rng=rng).float() for w, rng in pairs])
    finite = torch.isfinite(images).flatten(1).all(dim=1).cpu()
    images, accepted = images.clamp(-1, 1), finite
    judged = images if finite.all() else images[finite.to(images.device)]  # the gate is for images
    if gate is not None and len(judged):
        with torch.autocast(device, enabled=False):
            verdicts = gate.accepts(judged)
        if verdicts.dtype != torch.bool or verdicts.shape != (len(judged),):
            raise TypeError(
                f"gate.accepts must give bool [{len(judged)}], got {verdicts.dtype} {tuple(verdicts.shape)}"
            )
        accepted = finite.clone()
        accepted[finite] = verdicts.cpu()
    return JudgedImages(images, finite, accepted)
