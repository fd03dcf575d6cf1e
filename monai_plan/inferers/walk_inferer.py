"""Latents in, gated images out, behind the interface of MONAI's inferers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer
from monai.networks.utils import eval_mode
from monai.utils import convert_to_tensor
from torch import nn

from monai_plan.latent.frozen import device_of
from monai_plan.latent.rendering import NOT_FINITE, render_and_judge
from monai_plan.transforms.pass_gate import ImageGate, require_gate
from monai_plan.utils import RunError

__all__ = ["PrivacyWalkInferer"]

REFUSED = ("raise", "nan")


class PrivacyWalkInferer(Inferer):
    """Renders the points of walks with constant noise, and hands out what the gate accepts.

    As ``inferer`` of a MONAI evaluator over a loader of latents it puts images into ``pred``. A row is judged for
    itself: to have refused ones replaced by other places of their walk, use
    :class:`~monai_plan.data.PrivacyWalkSampler`.

    Args:
        gate: e.g. a :class:`~monai_plan.latent.PrivacyGate`.
        refused: what becomes of images that the gate refuses: ``"raise"`` an error, and none of the batch is handed
            out; or ``"nan"``: they are NaN throughout, so that the rows stay aligned with their labels.

    Raises:
        TypeError: ``gate`` cannot judge.
        ValueError: ``refused`` is something else.
    """

    def __init__(self, gate: ImageGate, refused: str = "raise") -> None:
        require_gate(gate, "give a PrivacyGate. For points that were verified beforehand there is PrivacyWalkSampler")
        if refused not in REFUSED:
            raise ValueError(f"refused must be one of {REFUSED}, got {refused!r}")
        self.gate = gate
        self.refused = refused

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Render and judge one batch.

        Args:
            inputs: latents, float, shape [B, w_dim], finite.
            network: a generator with ``synthesize(w, noise, rng)`` and ``w_dim``, e.g. a
                :class:`~monai_plan.networks.nets.StyleGenerator`; put into evaluation mode meanwhile.
            args, kwargs: without effect; MONAI's engines hand on what ``prepare_batch`` adds.

        Returns:
            Plain float32 images [B, C, S, S] in [-1, 1] on the network's device, without gradients and at full
            precision, whatever the caller has switched on.

        Raises:
            TypeError: ``network`` cannot render.
            ValueError: ``inputs`` are no latents of this network.
            RunError: the gate refused an image and ``refused`` is ``"raise"``, or an image is not finite.
        """
        if not isinstance(network, nn.Module) or not callable(getattr(network, "synthesize", None)):
            raise TypeError(
                f"network must have synthesize(w, noise, rng), got {type(network).__qualname__}; give a StyleGenerator"
            )
        latents = convert_to_tensor(inputs, dtype=torch.float32, device=device_of(network), track_meta=False)
        if latents.ndim != 2 or latents.shape[1] != network.w_dim:
            raise ValueError(
                f"inputs must be latents [B, {network.w_dim}], got {tuple(latents.shape)}; they belong to another "
                "generator, or are images. Give points of a WalkSet, e.g. walks.points[walks.verified]"
            )
        if not torch.isfinite(latents).all():
            raise ValueError("inputs hold NaN or infinite values; the stage that made the walks diverged, run it again")
        with eval_mode(network):
            images, finite, accepted = render_and_judge(network, self.gate, latents)
        if not finite.all():
            raise RunError(NOT_FINITE)
        if not accepted.all():
            if self.refused == "raise":
                rows = (~accepted).nonzero()[:, 0].tolist()
                raise RunError(
                    f"the gate refused {len(rows)} of {len(accepted)} images (rows {', '.join(map(str, rows[:10]))}"
                    f"{', …' if len(rows) > 10 else ''}), and none of the batch is handed out. Leave these latents "
                    "out, take verified points of walks, or set refused='nan'"
                )
            images[~accepted.to(images.device)] = torch.nan
        return images
