"""``--quiet``: neither bars nor information, but the result, warnings and errors; and nothing stays switched off."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest
from ignite.engine import Engine
from ignite.handlers import ProgressBar
from monai.apps.utils import get_logger
from monai.handlers import StatsHandler

from monai_plan.__main__ import main
from monai_plan.commands import exchange
from monai_plan.commands.console import said_by
from monai_plan.handlers import EpochBar

tqdm = pytest.importorskip("tqdm")
auto = pytest.importorskip("tqdm.auto")
NOISE = (
    "bar of tqdm",
    "bar of auto",
    "bar that decides",
    "bar of ignite",
    "bar of ours",
    "information",
    "a line",
)
KEPT = ("a log warning", "a library's warning", "a python warning")


@pytest.fixture
def noisy(monkeypatch, tmp_path):
    """``pack`` shows all that a stage of a bundle can show."""
    name = f"monai.test_{tmp_path.name}"

    def pack_bundle(bundle, folder, private=False):
        print("a line on the way")
        logging.getLogger("test").info("information of a log")
        logging.getLogger("test").warning("a log warning")
        logging.getLogger(name).info("information of a library")
        logging.getLogger(name).warning("a library's warning")
        logging.getLogger("monai.bundle.workflows").warning("Logging file is set to False, skipping logging.")
        warnings.warn("a python warning", stacklevel=1)
        for bar in (tqdm.tqdm, auto.tqdm):
            for _ in bar(range(2), desc=f"bar of {'tqdm' if bar is tqdm.tqdm else 'auto'}"):
                pass
        list(tqdm.tqdm(range(2), desc="bar that decides", disable=False))
        engine = Engine(lambda engine, batch: {"loss": 0.0})
        ProgressBar(desc="bar of ignite").attach(engine, output_transform=lambda output: output)
        EpochBar("bar of ours").attach(engine)
        StatsHandler(output_transform=lambda output: output["loss"]).attach(engine)
        engine.run([0, 1], max_epochs=1)
        packed = tmp_path / "packed.zip"
        packed.write_bytes(b"")
        return packed

    monkeypatch.setattr(exchange, "pack_bundle", pack_bundle)
    return name


@pytest.mark.filterwarnings("always:a python warning")
@pytest.mark.parametrize("words", [["--quiet", "pack"], ["pack", "--quiet"], ["pack"]], ids=" ".join)
@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_shown(noisy, capsys, recwarn, words, as_json):
    handler = get_logger(noisy).handlers[0]  # bound to stdout, as those that MONAI makes when it is imported
    before = logging.getLogger().level, handler.stream, handler.level
    assert main([*words, "--bundle", "b", *(["--json"] if as_json else [])]) == 0
    shown = capsys.readouterr()
    everything = shown.out + shown.err
    quiet = "--quiet" in words
    assert {text: text in everything for text in NOISE} == dict.fromkeys(NOISE, not quiet)
    assert all(text in shown.err for text in KEPT[:2]) and KEPT[2] in {str(w.message) for w in recwarn}
    assert not [w for w in recwarn if "StatsHandler" in str(w.message)], "quiet must not make others complain"
    assert "packed.zip" in shown.out and "Logging file" not in everything
    assert shown.out.count("\n") == (1 if quiet or as_json else 2) or as_json
    assert shown.err.count("a log warning") == shown.err.count("a library's warning") == 1

    assert before == (logging.getLogger().level, handler.stream, handler.level)  # all as it was
    list(tqdm.tqdm(range(2), desc="afterwards"))
    assert "afterwards" in capsys.readouterr().err


def test_what_was_said_is_not_lost_with_a_fault(capsys):
    def fail():
        print("halfway")
        raise ValueError("fault")

    with pytest.raises(ValueError, match="fault"):
        said_by(fail)
    assert capsys.readouterr().err == "halfway\n" and sys.stdout is not None
