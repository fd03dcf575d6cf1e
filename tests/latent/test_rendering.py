"""Every image is rendered as asked, clamped, and judged in float32 if it is one at all."""

from __future__ import annotations

import pytest
import torch

from monai_plan.latent.rendering import render_and_judge

LATENTS = torch.tensor([[0.5, 3.0], [-0.5, 0.1], [torch.inf, 0.0], [0.2, torch.nan]])


class Pixels:
    """A latent is an image of its numbers; notes how it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str, bool]] = []

    def synthesize(self, w, noise="const", rng=None):
        self.asked.append((len(w), noise, torch.is_autocast_enabled("cpu")))
        image = w.view(-1, 1, 1, 2)
        return image if noise == "const" else image + torch.randn(image.shape, generator=rng)


class Positive:
    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def accepts(self, images):
        assert images.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        self.seen.append(images)
        return images[:, 0, 0, 0] > 0


@pytest.mark.parametrize("amp", [False, True])
def test_images_and_verdicts(amp):
    generator, gate = Pixels(), Positive()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images, finite, accepted = render_and_judge(generator, gate, LATENTS, amp=amp)
    assert torch.equal(images[:2, 0, 0], torch.tensor([[0.5, 1.0], [-0.5, 0.1]]))
    assert finite.tolist() == [True, True, False, False] and accepted.tolist() == [True, False, False, False]
    assert generator.asked == [(4, "const", amp)] and torch.equal(gate.seen[0], images[:2])


def test_without_a_gate_images_are_accepted_and_others_not():
    images, finite, accepted = render_and_judge(Pixels(), None, LATENTS.clone().requires_grad_())
    assert accepted.tolist() == finite.tolist() == [True, True, False, False] and not images.requires_grad


def test_a_gate_is_not_asked_about_nothing():
    gate = Positive()
    assert not render_and_judge(Pixels(), gate, LATENTS[2:]).accepted.any() and not gate.seen


def test_random_noise_is_drawn_for_each_image_alone():
    def noisy(*seeds):
        generator = Pixels()
        rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
        images = render_and_judge(generator, None, torch.zeros(len(seeds), 2), rngs).images
        assert generator.asked == [(1, "random", False)] * len(seeds)
        return images

    assert torch.equal(noisy(1, 2), noisy(2, 1).flip(0)) and not torch.equal(noisy(1), noisy(2))


@pytest.mark.parametrize("answer", [torch.ones(1, dtype=torch.bool), torch.ones(2)])
def test_another_answer_than_one_bool_an_image_is_an_error(answer):
    gate = Positive()
    gate.accepts = lambda images: answer
    with pytest.raises(TypeError, match=r"must give bool \[2\]"):
        render_and_judge(Pixels(), gate, LATENTS[:2])
