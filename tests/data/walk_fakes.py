"""A generator whose images spell out their latent, walks that spell out their place, and a gate with one rule."""

from __future__ import annotations

import torch
from torch import nn

from monai_plan.latent.walk_set import WalkSet
from monai_plan.utils import weights_digest

STEPS = 6  # points a path: 0 and 5 are ends


class SpellingGenerator(nn.Module):
    """Latent (path / 10, position / 10, class, 1 at ends) to a 2x2 image of these four numbers."""

    w_dim, channels, image_size, num_classes = 4, 1, 2, 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.calls = 0
        self.fail_at_call: int | None = None

    def synthesize(self, w, noise="const", rng=None):
        self.calls += 1
        if self.calls == self.fail_at_call:
            raise OSError("injected fault")
        image = (w * self.scale).view(-1, 1, 2, 2)
        if noise == "random":
            image = image + 0.01 * torch.randn(image.shape, generator=rng)
        return image


class RuleGate:
    """Accepts an image whose position on its path lies within [low, high] and whose path is not banned."""

    def __init__(self, low: float = 0.0, high: float = 99.0, banned: tuple[int, ...] = ()) -> None:
        self.low, self.high, self.banned = low, high, banned
        self.seen = 0
        self.rejected = 0

    def accepts(self, images):
        path, position = (images[:, 0, 0, 0] * 10).round(), images[:, 0, 0, 1] * 10
        good = (position >= self.low) & (position <= self.high)
        for banned in self.banned:
            good &= path != banned
        self.seen += len(images)
        self.rejected += int((~good).sum())
        return good


def spelling_walks(verified: dict[int, tuple[int, ...]] | None = None, labels=(0, 0, 0, 1, 1, 1)) -> WalkSet:
    """Six paths of six points, three a class; ``verified`` maps a path to its verified points."""
    count = len(labels)
    points = torch.zeros(count, STEPS, 4)
    points[..., 0] = torch.arange(count).view(-1, 1) / 10
    points[..., 1] = torch.arange(STEPS) / 10
    points[..., 2] = torch.tensor(labels, dtype=torch.float32).view(-1, 1)
    points[:, [0, -1], 3] = 1
    mask = torch.zeros(count, STEPS, dtype=torch.bool)
    for path, shown in (verified or {}).items():
        mask[path, list(shown)] = True
    meta = {"generator": weights_digest(SpellingGenerator())}
    return WalkSet(points, torch.tensor(labels, dtype=torch.int64), mask, "linear", meta)
