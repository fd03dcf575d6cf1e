"""The average by hand."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine

from monai_plan.handlers import GeneratorEMA


class Weight(torch.nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([value]))
        self.register_buffer("mean", torch.tensor([value]))
        self.register_buffer("count", torch.tensor(int(value)))


@pytest.mark.parametrize(
    ("half_life", "ramp_up", "images", "iteration", "decay"),
    [
        (8, 1e6, 8, 1, 0.5),  # one half-life in one batch
        (8, 1e6, 4, 1, 0.5**0.5),
        (8, 1e6, 1, 5, 0.5**0.125),
        (10_000, 0.05, 8, 1, 0.5**20),  # the ramp: half-life 0.05 * 8
        (10_000, 0.05, 8, 100, 0.5 ** (1 / 5)),
        (10, 0.05, 8, 100, 0.5 ** (8 / 10)),  # ramp over
        (10_000, 0.0, 8, 1, 0.0),  # no memory at all
    ],
)
def test_one_step(half_life, ramp_up, images, iteration, decay):
    generator, average = Weight(3.0), Weight(1.0)
    engine = Engine(lambda *_: None)
    engine.state.iteration, engine.state.output = iteration, {"images": images}
    GeneratorEMA(generator, average, half_life, ramp_up)(engine)
    expected = 3.0 + decay * (1.0 - 3.0)
    assert average.weight.item() == pytest.approx(expected, rel=1e-5)
    assert average.mean.item() == pytest.approx(expected, rel=1e-5)
    assert average.count.item() == 3  # whole numbers are copied
    assert generator.weight.item() == 3.0 and generator.weight.requires_grad


def test_attached_it_runs_every_iteration_and_freezes_the_average():
    generator, average = Weight(1.0), Weight(0.0)
    handler = GeneratorEMA(generator, average, half_life=4, ramp_up=1e6)
    engine = Engine(lambda *_: {"images": 4})
    handler.attach(engine)
    engine.run([0, 0, 0], max_epochs=2)
    assert average.weight.item() == pytest.approx(1 - 0.5**6)
    assert not average.weight.requires_grad and not average.training
