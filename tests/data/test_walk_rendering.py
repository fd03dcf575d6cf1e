"""Forwards of one size, and what goes wrong comes with its batch."""

from __future__ import annotations

import pytest
import torch
from walk_fakes import RuleGate, SpellingGenerator, spelling_walks

from monai_plan.data.walk_pool import WalkPool
from monai_plan.data.walk_rendering import WalkRenderer

BATCH = 4


class Notes(SpellingGenerator):
    """Keeps the paths and positions of every forward; some forwards have a broken image."""

    def __init__(self, broken=()):
        super().__init__()
        self.forwards, self.broken = [], broken

    def synthesize(self, w, noise="const", rng=None):
        images = super().synthesize(w, noise, rng).clone()
        self.forwards.append(w[:, :2])
        if self.calls in self.broken:
            images[-1] = float("nan")
        return images


def make(gate, generator=None, max_attempts=50):
    generator = generator or Notes()
    renderer = WalkRenderer(generator, gate, BATCH, torch.device("cpu"), "const", max_attempts, False)
    return renderer, generator


def pool(images):
    return WalkPool(spelling_walks(), images, seed=0)


def order(images, size=BATCH):
    return torch.arange(images).split(size)


def attempts_of(renderer, index, gate):
    """How many draws of an image are rejected, found one draw after the other."""
    for attempt in range(renderer.max_attempts):
        place = pool(64).places([index], 0, 0, attempt)
        if gate.accepts(renderer.generator.synthesize(pool(64).latents(*place)))[0]:
            return attempt, *(float(value) for value in place)
    raise AssertionError(f"no attempt for {index}")


def test_each_image_is_its_first_accepted_draw():
    gate = RuleGate(low=2.5, banned=(1,))
    renderer, _ = make(gate)
    for batch in renderer.batches(pool(64), order(64), 0, 0):
        expected = [attempts_of(renderer, int(index), gate) for index in batch.indices]
        assert batch.rejected == sum(attempts for attempts, *_ in expected)
        assert list(zip(batch.paths.tolist(), batch.positions.tolist(), strict=True)) == [e[1:] for e in expected]
        torch.testing.assert_close(batch.images[:, 0, 0, 1] * 10, batch.positions.float())


@pytest.mark.parametrize("low, most", [(0.0, 16), (1.3, 20), (2.5, 38)])
def test_rejected_images_cost_no_forward_of_their_own(low, most):
    """64 images in 16 batches: every forward is full, but for the last ones of a block."""
    gate = RuleGate(low=low)
    renderer, generator = make(gate)
    batches = list(renderer.batches(pool(64), order(64), 0, 0))
    sizes = [len(forward) for forward in generator.forwards]
    drawn = 64 + sum(batch.rejected for batch in batches)
    assert sum(sizes) == drawn == gate.seen and (gate.rejected > 0) == (low > 0)
    full = sizes.index(next((size for size in sizes if size < BATCH), BATCH)) if min(sizes) < BATCH else len(sizes)
    assert full >= 16 and sum(sizes[full:]) <= 3 * BATCH
    assert len(sizes) <= most


def test_at_most_four_batches_are_begun():
    """One image never passes: all others of four batches do, then it is drawn alone until the first batch fails."""

    class NeverTheFirst:
        def accepts(self, images):
            return torch.arange(len(images)) > 0

    renderer, generator = make(NeverTheFirst(), max_attempts=30)
    with pytest.raises(RuntimeError, match="rejected all 30 attempts for 1 of the 4 images"):
        list(renderer.batches(pool(64), order(64), 0, 0))
    sizes = [len(forward) for forward in generator.forwards]
    assert len(sizes) == 30 and sum(size - 1 for size in sizes) == 4 * BATCH - 1 and sizes[-20:] == [1] * 20


def test_blocks_do_not_share_forwards():
    renderer, generator = make(RuleGate(low=2.5))
    batches = list(renderer.batches(pool(200), order(200), 0, 0))
    assert [batch.indices.tolist() for batch in batches] == [list(part) for part in order(200)]
    sizes = torch.tensor([len(forward) for forward in generator.forwards]).cumsum(0)
    for block in (16, 32, 48):
        drawn = sum(len(batch.indices) + batch.rejected for batch in batches[:block])
        assert drawn in sizes


@pytest.mark.parametrize("first, rendered_from", [(0, 0), (1, 0), (15, 0), (16, 16), (31, 16), (50, 48)])
def test_a_later_start_renders_its_block_again(first, rendered_from):
    whole, _ = make(RuleGate(low=2.5))
    renderer, generator = make(RuleGate(low=2.5))
    rest = list(renderer.batches(pool(200), order(200), 0, 0, first))
    expected = list(whole.batches(pool(200), order(200), 0, 0))[first:]
    assert len(rest) == 50 - first == len(expected)
    for one, other in zip(rest, expected, strict=True):
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(one, other, strict=True))
    if rest:
        paths, positions = pool(200).places(list(order(200)[rendered_from]), 0)
        assert torch.equal(generator.forwards[0], pool(200).latents(paths, positions)[:, :2])


@pytest.mark.parametrize("broken", [1, 2, 4])
def test_broken_image_fails_its_own_batch_and_is_never_judged(broken):
    """Forward 1 ends with batch 0; later ones, shifted by the rejected images before them, with a later batch."""
    finite = []

    class Watching(RuleGate):
        def accepts(self, images):
            finite.append(bool(torch.isfinite(images).all()))
            return super().accepts(images)

    renderer, generator = make(Watching(low=1.5), generator=Notes(broken=(broken,)))
    made = []
    with pytest.raises(RuntimeError, match="NaN or infinite"):
        for batch in renderer.batches(pool(64), order(64), 0, 0):
            made.append(batch)
    path, position = (generator.forwards[broken - 1][-1] * 10).tolist()
    draws = [[pool(64).places(indices, 0, 0, attempt) for attempt in range(8)] for indices in order(64)]
    near = [
        [(paths - path).abs() + (positions - position).abs() < 1e-4 for paths, positions in attempts]
        for attempts in draws
    ]
    (number,) = {n for n, attempts in enumerate(near) if any(row.any() for row in attempts)}
    assert all(finite) and len(made) == number


def test_all_images_of_a_forward_broken():
    generator = SpellingGenerator()
    generator.scale.data.fill_(float("inf"))
    renderer, _ = make(RuleGate(), generator=generator)
    with pytest.raises(RuntimeError, match="NaN or infinite"):
        next(renderer.batches(pool(64), order(8), 0, 0))
