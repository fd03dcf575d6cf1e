"""Walks in one forward pass: a network learns from solved paths, and its proposals are verified like all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.utils import eval_mode

from monai_plan.latent.anchors import AnchorPairs, pair_anchors, random_anchors
from monai_plan.latent.frozen import device_of
from monai_plan.latent.small_training import minimise
from monai_plan.latent.spline import spline_basis, spline_offsets
from monai_plan.latent.walks import WalkSteering, walk_linear
from monai_plan.networks.nets import WalkNetwork
from monai_plan.utils import generator_for

__all__ = ["fit_walk_network", "train_walk_network", "walk_amortised"]

ANCHOR_SEED = 2_000_003
"""Added to the seed: the anchors learned from are not those walked between."""


def train_walk_network(
    points: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    control_points: int = 8,
    iterations: int = 1000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: bool = True,
) -> WalkNetwork:
    """Learn to propose paths like those that a solver found, e.g. :func:`~monai_plan.latent.walk_guided`.

    Args:
        points: solved paths, float32, [P, T, D], both ends included, P >= 2.
        labels: int64, [P].
        num_classes: classes of the generator.
        control_points: inner control points of the proposals, at most T - 2.
        iterations: Adam steps with a learning rate that falls to 0 on a cosine.
        batch_size: paths a step.
        learning_rate: the first step's.
        seed: of weights and batches; the global random state is left as it was.
        progress: show a progress bar where tqdm is installed.

    Returns:
        The network, in evaluation mode, on the device of ``points``.

    Raises:
        ValueError: there are fewer than 2 paths, too many control points, or a count is below 1.
    """
    if points.ndim != 3 or len(points) < 2 or not 1 <= control_points <= points.shape[1] - 2:
        raise ValueError(
            f"need at least 2 paths [P, T, D] and 1 to T - 2 control points, got {tuple(points.shape)} and "
            f"{control_points}"
        )
    if iterations < 1 or batch_size < 1:
        raise ValueError(f"iterations and batch_size must be >= 1, got {iterations} and {batch_size}")
    rng, offsets = generator_for(seed, "batches of the walker"), spline_offsets(points, control_points)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(generator_for(seed, "weights of the walker").initial_seed())
        network = WalkNetwork(points.shape[2], num_classes, control_points)
    network.standardise(points[:, [0, -1]].flatten(0, 1).cpu(), offsets.cpu())
    network = network.to(points.device).train()

    def loss() -> torch.Tensor:
        rows = torch.randint(len(points), (batch_size,), generator=rng).to(points.device)
        proposed = network(points[rows, 0], points[rows, -1], labels[rows].to(points.device))
        return F.mse_loss(proposed / network.offset_scale, offsets[rows] / network.offset_scale)

    minimise(network, loss, iterations, learning_rate, "walker", progress)
    return network.eval()


def fit_walk_network(
    walk: Callable[[AnchorPairs, int, WalkSteering], torch.Tensor],
    steering: WalkSteering,
    steps: int,
    paths_per_class: int = 256,
    control_points: int = 8,
    seed: int = 0,
    **training: Any,
) -> WalkNetwork:
    """Solve walks between random anchors, and learn from them.

    Args:
        walk: the solver, e.g. ``functools.partial(walk_guided, guide=guide)``.
        steering: its networks.
        steps: points of the solved paths, both ends included, >= 3.
        paths_per_class: of them.
        control_points: of the proposals, at most steps - 2.
        seed: of anchors, pairs, weights and batches.
        training: further arguments of :func:`train_walk_network`.

    Raises:
        ValueError: a count is too small.
    """
    generator = steering.generator
    anchors = random_anchors(generator, max(8, paths_per_class // 4), seed=seed + ANCHOR_SEED)
    pairs = pair_anchors(anchors, paths_per_class, seed=seed)
    points = walk(pairs, steps, steering)
    count = min(control_points, steps - 2)
    return train_walk_network(points, pairs.labels, max(1, int(generator.num_classes)), count, seed=seed, **training)


def walk_amortised(pairs: AnchorPairs, steps: int, steering: WalkSteering | None, network: WalkNetwork) -> torch.Tensor:
    """Propose paths in one forward pass.

    Args:
        pairs: the ends, kept as they are.
        steps: points of each path, both ends included, >= 3; need not be that of the paths learned from.
        steering: not used; there so that walks swap.
        network: of :func:`train_walk_network`.

    Returns:
        Points, float32, [P, steps, D], on the device of ``pairs``; the ends are bit-identical to the anchors. No point
        is verified yet, see :func:`~monai_plan.latent.verify_walks` and :func:`~monai_plan.latent.repair_walks`.

    Raises:
        ValueError: the path has fewer inner points than the network has control points, or a label it does not know.
    """
    points = walk_linear(pairs, steps)
    count, classes = network.config["control_points"], network.config["num_classes"]
    if count > steps - 2:
        raise ValueError(f"the walk network proposes {count} control points; set steps to at least {count + 2}")
    if len(pairs) and int(pairs.labels.max()) >= classes:
        raise ValueError(f"a pair has label {int(pairs.labels.max())} and the walk network knows {classes} classes")
    device = device_of(network)
    with eval_mode(network):
        offsets = network(pairs.start.to(device), pairs.end.to(device), pairs.labels.to(device))
    bend = spline_basis(steps, count)[:, 1:-1].to(points.device) @ offsets.to(points.device)
    points[:, 1:-1] += bend[:, 1:-1]
    return points
