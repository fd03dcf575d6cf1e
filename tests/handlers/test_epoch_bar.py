"""The progress bar counts the whole run's iterations."""

from __future__ import annotations

import pytest
from ignite.engine import Engine, Events

from monai_plan.handlers import EpochBar

pytest.importorskip("tqdm")


@pytest.mark.parametrize("output", [{"g_loss": 0.25}, None, 3.0])
def test_bar_over_the_whole_run(capsys, output):
    engine = Engine(lambda *_: output)
    EpochBar("GAN").attach(engine)
    engine.run(range(3), max_epochs=2)
    shown = capsys.readouterr().err
    assert "GAN" in shown and "6/6" in shown
    assert ("g_loss=0.25" in shown) == isinstance(output, dict)


def test_bar_of_a_resumed_run(capsys):
    engine = Engine(lambda *_: None)

    @engine.on(Events.STARTED)
    def resume(engine):
        engine.state.epoch, engine.state.iteration = 1, 3

    EpochBar("GAN").attach(engine)
    engine.run(range(3), max_epochs=2)
    assert "6/6" in capsys.readouterr().err
