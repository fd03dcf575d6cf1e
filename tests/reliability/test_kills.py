"""What a kill leaves is whole or absent, and the next run clears it away. All stages: benchmarks/kill_trials.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events

from monai_plan.__main__ import main
from monai_plan.handlers import WeightsSaver
from monai_plan.utils import (
    atomic_folder,
    atomic_path,
    delete_left_parts,
    files,
    locked,
    read_or_make_key,
    save_tensors,
    write_json,
)

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
posix = pytest.mark.skipif(os.name != "posix", reason="needs fork and locks")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed_in(context) -> None:
    """A process of its own enters the context and is killed there."""
    child = os.fork()
    if child == 0:
        with context as partial:
            (partial / "half" if partial.is_dir() else partial).write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)


@posix
@pytest.mark.parametrize("part", ["kills", "faults"])
def test_stages_that_are_killed_or_starved_go_on_to_the_same_files(tmp_path, part):
    words = ["--parts", part, "--quick", "--json", str(tmp_path / "found.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "reliability.py"), *words], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    if part == "kills":
        assert found["kills"] == found["kills_survived"] == 4, found["kill_faults"]
        return
    for name in ("disk_full", "disk_locked", "clock_jumps"):
        trials = found[name]
        assert trials is None or trials["trials"] == trials["passed"] > 0, (found["disk_faults"], found["clock_faults"])


@posix
@pytest.mark.parametrize("kind", [atomic_path, atomic_folder])
def test_the_next_writer_clears_away_what_a_kill_has_left(tmp_path, kind):
    target = tmp_path / "model.pt"
    killed_in(kind(target))
    killed_in(kind(target))
    assert names(tmp_path) == [".model.part-1.pt"]
    with kind(target) as partial:
        assert names(tmp_path) == [partial.name] and (partial.is_file() or not list(partial.iterdir()))
    assert ".model.part-1.pt" not in names(tmp_path)


@posix
@pytest.mark.parametrize("kind", [atomic_path, atomic_folder])
def test_what_a_living_writer_works_on_stays(tmp_path, kind):
    target = tmp_path / "model.pt"
    with kind(target) as first:
        delete_left_parts(tmp_path)
        with kind(target) as second:
            assert first.exists() and second.exists() and first != second
        assert first.exists()


@posix
def test_folders_are_cleared_of_parts_and_of_nothing_else(tmp_path):
    killed_in(atomic_path(tmp_path / "a" / "b" / "ledger.json"))
    killed_in(atomic_folder(tmp_path / "a" / "release"))
    killed_in(atomic_path(tmp_path / "elsewhere" / "ledger.json"))
    strangers = [".note.part-x.txt", ".00001.part-0123456789abcdef", "plain.part-1"]
    for name in strangers:
        (tmp_path / name).write_text("a stranger's")
    delete_left_parts(tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "none")
    assert not any((tmp_path / "a" / "b").iterdir()) and names(tmp_path / "a") == ["b"]
    assert names(tmp_path / "elsewhere") == [".ledger.part-1.json"]
    assert set(strangers) <= set(names(tmp_path))


@posix
def test_where_a_lock_keeps_its_own_process_out_there_are_no_locks(tmp_path, monkeypatch):
    """As on a share of Windows: of a locked file every other handle is refused."""
    locked_files = set()

    def flock(handle, how):
        inode = os.fstat(handle).st_ino
        locked_files.discard(inode) if how == files.fcntl.LOCK_UN else locked_files.add(inode)

    def pwrite(handle, *_):
        if os.fstat(handle).st_ino in locked_files:
            raise PermissionError(13, "Permission denied")

    killed_in(atomic_path(tmp_path / "a.json"))
    monkeypatch.setattr(files.fcntl, "flock", flock)
    monkeypatch.setattr(os, "pwrite", pwrite)
    write_json(tmp_path / "a.json", {"a": 1})
    assert names(tmp_path) == [".a.part-1.json", "a.json"] and not locked_files


@posix
def test_where_nothing_keeps_locks_no_part_is_taken_for_left(tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    killed_in(atomic_path(tmp_path / "a.json"))
    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    write_json(tmp_path / "a.json", {"a": 1})
    assert names(tmp_path) == [".a.part-1.json", "a.json"]
    with locked(tmp_path / "a.json"):
        assert "keeps no locks" in caplog.text


def test_tensors_are_written_under_no_second_temporary_name(tmp_path):
    """Those of safetensors' own writer are nobody's to clear away."""
    seen = []
    sys.addaudithook(lambda event, found: seen.append(str(found[0])) if event == "open" else None)
    save_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)}, "test")
    assert any(".a.part-" in name for name in seen)  # by Python, which keeps the file and its lock
    assert names(tmp_path) == ["a.safetensors"]


def test_a_key_is_made_where_the_disk_has_no_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    key = read_or_make_key(tmp_path / "patients.key")
    assert len(key) == 32 and read_or_make_key(tmp_path / "patients.key") == key


# weights


def trained(path: Path, scores: list[float], best: bool, fail_at: int = 0) -> torch.nn.Module:
    """A network whose weight is the number of the epoch, and whose key metric is the epoch's score."""
    network = torch.nn.Linear(1, 1, bias=False)
    engine = Engine(lambda *_: None)
    engine.state.key_metric_name = "auroc"

    @engine.on(Events.EPOCH_STARTED)
    def train() -> None:
        torch.nn.init.constant_(network.weight, engine.state.epoch)
        engine.state.metrics["auroc"] = scores[engine.state.epoch - 1]
        if engine.state.epoch == fail_at:
            raise RuntimeError("diverged")

    WeightsSaver(path, network, best).attach(engine)
    engine.run([0], max_epochs=len(scores))
    return network


@pytest.mark.parametrize(
    ("scores", "best", "epoch"),
    [
        ([0.5, 0.9, 0.9, 0.7], True, 2),
        ([0.5, 0.4], True, 1),
        ([0.5, 0.4], False, 2),
        ([float("nan"), 0.4, 0.5], True, 3),
    ],
)
def test_the_epoch_that_is_kept(tmp_path, scores, best, epoch):
    trained(tmp_path / "model.pt", scores, best)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["weight"].item() == epoch
    assert names(tmp_path) == ["model.pt"]


def test_after_an_error_nothing_stands_under_the_final_name(tmp_path):
    """Half-trained weights would be taken for final ones by whoever runs the next stage."""
    with pytest.raises(RuntimeError, match="diverged"):
        trained(tmp_path / "identity.pt", [0.5, 0.6, 0.7], best=False, fail_at=2)
    assert names(tmp_path) == []


def test_weights_are_whole_or_absent_and_equal_ones_give_equal_bytes(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    trained(path, [0.5], best=True)
    whole = path.read_bytes()
    trained(tmp_path / "other.pt", [0.5], best=True)
    assert (tmp_path / "other.pt").read_bytes() == whole
    monkeypatch.setattr(torch, "save", lambda content, stream: stream.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trained(path, [0.5], best=True)
    assert path.read_bytes() == whole and names(tmp_path) == ["model.pt", "other.pt"]


# the pipeline's private book


def test_a_lost_ledger_is_noticed_before_any_work(pipeline_words, tmp_path, capsys):
    output = tmp_path / "output"
    ledger = output / "private" / "ledger.json"
    write_json(output / "stages" / "walk.json", {"inputs": {}, "outputs": {}, "kept": [str(ledger)]})
    assert main(pipeline_words()) == 2
    shown = capsys.readouterr().err
    assert f"'{ledger}' is lost" in shown and "Restore it from your copy" in shown
    assert names(output / "stages") == ["walk.json"] and not ledger.exists()


def test_the_pipeline_records_what_must_be_kept():
    from monai_plan.pipeline import STAGES

    walk, train = STAGES[-2:]
    assert walk.keeps == ("ledger_file", "key_file") and "classes_file" in train.writes
    assert replace(train).keeps == ()
