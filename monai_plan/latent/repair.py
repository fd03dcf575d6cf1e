"""Points that failed verification: moved on in image space by the true networks, judged again, or given up."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import nn

from monai_plan.latent.frozen import device_of, frozen
from monai_plan.latent.gate import PrivacyGate
from monai_plan.latent.verification import Judge, require_independent
from monai_plan.latent.walk_set import WalkSet
from monai_plan.latent.walks import WalkSteering, image_outputs, split_batches
from monai_plan.losses.walk import label_agreement

__all__ = ["repair_walks"]

logger = logging.getLogger(__name__)


def repair_walks(
    walks: WalkSet,
    steering: WalkSteering,
    gate: PrivacyGate,
    label_network: nn.Module | None = None,
    attempts: int = 5,
    step: float = 0.05,
    identity_weight: float = 1.0,
    label_weight: float = 1.0,
    batch_size: int = 32,
) -> WalkSet:
    """Try to mend the inner points that are not verified; what cannot be mended stays unverified.

    In each attempt a failing point follows the gradient of the true networks' ``L_id`` and ``L_class`` through the
    generator for one normalised step, and the gate judges its image anew. The gate's own gradient is never followed:
    a gate that steers no longer certifies. Points that pass are kept where they passed; the others go back to where
    they were, unverified.

    Args:
        walks: of :func:`~monai_plan.latent.verify_walks`, by the same generator.
        steering: the true networks.
        gate: the judge.
        label_network: as for :func:`~monai_plan.latent.verify_walks`.
        attempts: steps a point may take, >= 1.
        step: length of a step, as a share of the mean distance between the paths' ends.
        identity_weight, label_weight: of the two terms.
        batch_size: images at once.

    Returns:
        The walks on the CPU. To ``meta["counts"]`` it adds ``repaired`` and ``dropped``; ``verified`` counts all points
        that now pass.

    Raises:
        ValueError: ``attempts`` < 1, ``step`` <= 0, another generator verified the walks, or the gate steers, too.
    """
    if attempts < 1 or step <= 0:
        raise ValueError(f"attempts must be >= 1 and step > 0, got {attempts} and {step}")
    require_independent(steering, gate)
    judge = Judge(steering.generator, gate, label_network)
    judge.require_same_generator(walks)
    device = device_of(steering.generator)
    points, verified = walks.points.clone(), walks.verified.clone()
    failing = (~verified[:, 1:-1]).nonzero() + torch.tensor([0, 1])
    reach = step * float((walks.points[:, -1] - walks.points[:, 0]).norm(dim=1).mean())
    for part in split_batches(len(failing), batch_size):
        rows, columns = failing[part].unbind(dim=1)
        labels = walks.labels[rows].to(device)
        latents = points[rows, columns].to(device)
        waiting = torch.arange(len(latents), device=device)
        for _ in range(attempts):
            gradient = _gradient(latents[waiting], labels[waiting], steering, identity_weight, label_weight)
            latents[waiting] -= reach * gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-12)
            accepted, agreed = judge(latents[waiting], labels[waiting])
            passed = waiting[(accepted & agreed).to(device)]
            points[rows[passed.cpu()], columns[passed.cpu()]] = latents[passed].cpu()
            verified[rows[passed.cpu()], columns[passed.cpu()]] = True
            waiting = waiting[~(accepted & agreed).to(device)]
            if not len(waiting):
                break
    repaired = int(verified.sum() - walks.verified.sum())
    counts = {
        **walks.meta.get("counts", {}),
        "verified": int(verified.sum()),
        "repaired": repaired,
        "dropped": len(failing) - repaired,
    }
    logger.info("repaired %d of %d failing points; %d dropped", repaired, len(failing), len(failing) - repaired)
    return replace(walks, points=points, verified=verified, meta={**walks.meta, "counts": counts})


def _gradient(
    latents: torch.Tensor, labels: torch.Tensor, steering: WalkSteering, identity_weight: float, label_weight: float
) -> torch.Tensor:
    with frozen(steering.generator, steering.identity_network, steering.label_network), torch.enable_grad():
        points = latents.detach().requires_grad_(True)
        identity, label = image_outputs(points, steering, None)
        loss = identity_weight * steering.identity_loss(identity) + label_weight * label_agreement(label, labels)
        return torch.autograd.grad(loss.sum(), points)[0]
