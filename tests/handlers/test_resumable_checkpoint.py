"""Kill, resume, and files that must be refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from monai_plan.handlers import ResumableCheckpoint


class Killed(RuntimeError):
    pass


class Run:
    """Three iterations an epoch; each adds one to a weight through an optimizer with state."""

    def __init__(self, path: Path, kill_at: int = 0, size: int = 2, epochs: int = 3, **more) -> None:
        self.network = torch.nn.Linear(size, 1, bias=False)
        torch.nn.init.zeros_(self.network.weight)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1.0)
        self.visited: list[tuple[int, int]] = []
        self.epochs = epochs

        def step(engine, batch):
            if engine.state.iteration == kill_at:
                raise Killed
            self.network.weight.grad = torch.full_like(self.network.weight, -1.0)
            self.optimizer.step()
            self.visited.append((engine.state.epoch, engine.state.iteration))

        self.engine = Engine(step)
        objects = {"network": self.network, "optimizer": self.optimizer, **more}
        self.handler = ResumableCheckpoint(path, objects)
        self.handler.attach(self.engine)

    def run(self) -> Run:
        self.engine.run(range(3), max_epochs=self.epochs)
        return self


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "checkpoint.pt"


def test_a_killed_run_goes_on_after_the_last_whole_epoch(path):
    with pytest.raises(Killed):
        Run(path, kill_at=5).run()
    resumed = Run(path).run()
    assert resumed.visited == [(2, 4), (2, 5), (2, 6), (3, 7), (3, 8), (3, 9)]
    whole = Run(path.with_name("other.pt")).run()
    assert torch.equal(resumed.network.weight, whole.network.weight)
    assert whole.visited[3:] == resumed.visited
    assert sorted(file.name for file in path.parent.iterdir()) == ["checkpoint.pt", "other.pt"]


def test_a_finished_run_is_not_run_again(path):
    Run(path).run()
    again = Run(path).run()
    assert again.visited == [] and again.network.weight.abs().max() > 0


def test_a_finished_run_can_be_prolonged(path):
    Run(path, epochs=1).run()
    assert Run(path, epochs=2).run().visited == [(2, 4), (2, 5), (2, 6)]


def test_the_file_loads_with_weights_only(path):
    Run(path).run()
    saved = torch.load(path, weights_only=True)
    assert saved["version"] == 1 and saved["position"] == {"epoch": 3, "iteration": 9}


def test_a_failing_save_keeps_the_old_file_and_leaves_no_partial(path, monkeypatch):
    run = Run(path).run()
    before = path.read_bytes()

    def fail(content, target):
        Path(target).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        run.handler.save(run.engine)
    assert path.read_bytes() == before and [file.name for file in path.parent.iterdir()] == [path.name]


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def good(path: Path) -> dict:
    Run(path).run()
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "truncated or foreign"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "truncated or foreign"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "truncated or foreign"),
        (lambda path: path.write_text("hello world\n"), "truncated or foreign"),
        (lambda path: path.write_bytes(pickle.dumps(Payload())), "truncated or foreign"),
        (lambda path: torch.save(Payload(), path), "truncated or foreign"),
        (lambda path: torch.save(torch.zeros(3), path), "holds a Tensor"),
        (lambda path: torch.save([1, 2], path), "holds a list"),
        (lambda path: torch.save({"weight": torch.zeros(2)}, path), "truncated or foreign"),
        (lambda path: torch.save({**good(path), "state": None}, path), "truncated or foreign"),
        (lambda path: torch.save({**good(path), "version": 2}, path), "has version 2 .* reads 1"),
        (lambda path: torch.save({**good(path), "state": {"network": {}}}, path), r"holds \['network'\] and this run"),
        (
            lambda path: torch.save({**good(path), "state": {"network": {}, "optimizer": {}}}, path),
            "'network' .* another configuration",
        ),
        (
            lambda path: torch.save({**good(path), "state": {**good(path)["state"], "optimizer": {}}}, path),
            "'optimizer' .* another configuration",
        ),
    ],
)
def test_unusable_files_are_refused_with_path_and_advice(path, monkeypatch, tmp_path, write, message):
    monkeypatch.chdir(tmp_path)
    good(path)
    write(path)
    with pytest.raises(ValueError, match=message) as caught:
        Run(path).run()
    assert str(path) in str(caught.value) and "Delete" in str(caught.value)
    assert not (tmp_path / "executed").exists()  # nothing was unpickled


def test_other_shapes_are_refused(path):
    Run(path).run()
    with pytest.raises(ValueError, match=r"(?s)'network' in .*another configuration.*size mismatch.*Delete"):
        Run(path, size=3).run()


def test_other_objects_are_refused(path):
    Run(path).run()
    with pytest.raises(ValueError, match="this run has.*'second'"):
        Run(path, second=torch.nn.Linear(1, 1)).run()


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    ResumableCheckpoint(path, {}, fingerprint="phantoms").save(Engine(lambda engine, batch: None))
    ResumableCheckpoint(path, {}, fingerprint="phantoms").resume(Engine(lambda engine, batch: None))
    with pytest.raises(ValueError, match="other data or with other settings.*Delete"):
        ResumableCheckpoint(path, {}, fingerprint="hospital").resume(Engine(lambda engine, batch: None))
