"""The progress bar counts the whole run's iterations."""

from __future__ import annotations

import subprocess
import sys

import ignite.distributed as idist
import pytest
from ignite.engine import Engine, Events

from monai_plan.handlers import EpochBar

pytest.importorskip("tqdm")


@pytest.mark.parametrize(
    ("output", "figure"),
    [({"g_loss": 0.25, "name": "x"}, "g_loss=0.25"), (3.0, "output=3"), (None, ""), ([1, 2], "")],
)
def test_one_bar_over_the_whole_run(capsys, output, figure):
    engine = Engine(lambda *_: output)
    EpochBar("GAN").attach(engine)
    engine.run(range(3), max_epochs=2)
    shown = capsys.readouterr().err
    assert "GAN" in shown and "6/6" in shown and "/3" not in shown and figure in shown
    assert ("=" in shown) == bool(figure)


def test_images_are_counted_where_the_output_has_them(capsys):
    engine = Engine(lambda *_: {"images": 16, "g_loss": 0.5})
    EpochBar("GAN").attach(engine)
    engine.run(range(3), max_epochs=2)
    shown = capsys.readouterr().err
    assert "96/96" in shown and "img/s" in shown and "g_loss=0.5" in shown and "images=" not in shown


def test_only_process_0_shows_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(idist, "get_rank", lambda: 1)
    engine = Engine(lambda *_: {"images": 16})
    EpochBar("GAN").attach(engine)
    engine.run(range(3), max_epochs=2)
    assert capsys.readouterr().err == ""


def test_a_resumed_run_starts_where_it_was_left(capsys):
    engine = Engine(lambda *_: None)
    EpochBar("GAN").attach(engine)

    @engine.on(Events.STARTED)  # as a checkpoint handler would, whatever the order of the handlers
    def resume(engine):
        engine.state.epoch, engine.state.iteration = 1, 3

    engine.run(range(3), max_epochs=2)
    shown = capsys.readouterr().err
    assert "3/6" in shown and "6/6" in shown and "0/6" not in shown


def test_a_finished_run_shows_no_bar_and_an_error_is_not_swallowed(capsys):
    engine = Engine(lambda *_: 1 / 0)
    EpochBar("GAN").attach(engine)
    with pytest.raises(ZeroDivisionError):
        engine.run(range(3), max_epochs=1)
    done = Engine(lambda *_: None)
    EpochBar("finished").attach(done)
    done.add_event_handler(Events.STARTED, lambda engine: setattr(engine.state, "epoch", 1))
    done.run(range(3), max_epochs=1)
    assert "finished" not in capsys.readouterr().err


def test_a_missing_tqdm_names_the_extra():
    code = (
        "import sys; sys.modules['tqdm'] = sys.modules['tqdm.auto'] = None\n"
        "from ignite.engine import Engine; from monai_plan.handlers import EpochBar\n"
        "engine = Engine(lambda *_: None); EpochBar().attach(engine); engine.run([0])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode != 0 and "monai_plan[bundle]" in result.stderr
