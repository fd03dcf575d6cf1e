"""Paths by few control points: a natural cubic spline through the ends and points at equal intervals between them."""

from __future__ import annotations

import torch
from scipy.interpolate import CubicSpline

__all__ = ["spline_basis", "spline_offsets", "spline_positions"]


def spline_positions(steps: int, control_points: int) -> torch.Tensor:
    """Where the ends and the control points lie, in points from the path's start: float64, [control_points + 2]."""
    return torch.linspace(0, steps - 1, control_points + 2, dtype=torch.float64)


def spline_basis(steps: int, control_points: int) -> torch.Tensor:
    """The matrix from ends and control points to the points of a path.

    Args:
        steps: points of the path, both ends included, >= 3.
        control_points: inner control points, 1 .. steps - 2.

    Returns:
        float32, shape [steps, control_points + 2]; first and last column belong to the ends. With ``steps - 2`` control
        points it is the identity.
    """
    knots = spline_positions(steps, control_points).numpy()
    spline = CubicSpline(knots, torch.eye(control_points + 2).double().numpy(), bc_type="natural")
    return torch.as_tensor(spline(range(steps))).float()


def spline_offsets(points: torch.Tensor, control_points: int) -> torch.Tensor:
    """How far the control points of given paths lie from the straight line, by least squares.

    Args:
        points: [P, T, D].
        control_points: 1 .. T - 2.

    Returns:
        [P, control_points, D].
    """
    steps = points.shape[1]
    fraction = torch.linspace(0, 1, steps, device=points.device).view(1, -1, 1)
    bend = points - torch.lerp(points[:, :1], points[:, -1:], fraction)
    basis = spline_basis(steps, control_points)[1:-1, 1:-1].to(points)
    return torch.linalg.pinv(basis) @ bend[:, 1:-1]
