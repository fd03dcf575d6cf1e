"""Measuring, recording and keeping the best, by a generator of one number."""

from __future__ import annotations

import json
import logging
import math

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, Events
from monai.handlers import TensorBoardStatsHandler
from torch import nn

from monai_plan.handlers import GeneratorQuality, MemorisationWatch, ResumableCheckpoint, generator_quality
from monai_plan.handlers.generator_quality import class_counts

NAN = math.nan


class Shift(nn.Module):
    """z + shift, one pixel an entry of z, plus noise of a tenth."""

    z_dim, num_classes = 4, 2

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, z, labels, noise, rng):
        assert noise == "random" and not self.training and not torch.is_grad_enabled()
        return z.view(-1, 1, 2, 2) + self.shift + 0.1 * torch.randn(len(z), 1, 2, 2, generator=rng)


class Measure:
    """Gives prepared values of kid (and score), and remembers what it was shown."""

    floors = {"floor_kid": 0.25}
    description = {"features": "grey values, 2 px", "n_held_out": 7}

    def __init__(self, kids, scores=None, p=0.001) -> None:
        self.kids, self.scores, self.p = list(kids), scores, p
        self.shown: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, images, labels):
        self.shown.append((images, labels))
        figures = {"kid": self.kids[len(self.shown) - 1], "recall": 0.5}
        if self.scores is not None:
            figures |= {"memorisation_score": self.scores[len(self.shown) - 1], "memorisation_p": self.p}
        return figures


class Writer:
    """Stands for a SummaryWriter."""

    def __init__(self) -> None:
        self.curves: dict[str, list[tuple[int, float]]] = {}

    def add_scalar(self, tag, value, step):
        self.curves.setdefault(tag, []).append((step, value))

    def flush(self):
        pass


def train(quality: GeneratorQuality, epochs: int, *handlers, iterations: int = 2) -> Engine:
    """Each iteration adds one to the generator's shift."""

    def step(engine, batch):
        with torch.no_grad():
            quality.generator.shift += 1
        return {"images": 10}

    engine = Engine(step)
    engine.state.device = torch.device("cpu")
    for handler in (quality, *handlers):
        handler.attach(engine)
    engine.run(range(iterations), max_epochs=epochs)
    return engine


def watch(**changes) -> MemorisationWatch:
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(4, 1), nn.Flatten(0))
    discriminator.forward = lambda images, labels: images.mean(dim=(1, 2, 3))
    images, labels = torch.ones(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)
    return MemorisationWatch(discriminator, images, labels, images - 0.5, labels, **changes)


@pytest.mark.parametrize(
    ("shares", "total", "expected"),
    [
        ([1, 1], 6, [3, 3]),
        ([1, 1], 7, [4, 3]),
        ([326, 336], 10, [5, 5]),
        ([0.9, 0.1], 16, [14, 2]),
        ([1, 1, 1], 2, [1, 1, 0]),
        ([0, 5], 3, [0, 3]),
    ],
)
def test_counts_of_classes(shares, total, expected):
    assert class_counts(shares, total) == expected


@pytest.mark.parametrize("shares", [[], [0, 0], [1, -1], [NAN, 1]])
def test_wrong_shares_are_refused(shares):
    with pytest.raises(ValueError, match="class_shares is"):
        class_counts(shares, 4)
    with pytest.raises(ValueError, match="3 entries and the generator 2 classes"):
        GeneratorQuality(Shift(), Measure([]), class_shares=[1, 1, 1])


def test_the_same_samples_each_time_as_users_see_them():
    measure = Measure([1.0, 1.0])
    quality = GeneratorQuality(Shift(), measure, class_shares=[3, 1], num_images=12, batch_size=5)
    before = torch.get_rng_state()
    quality.generator.train()
    train(quality, 2, iterations=0 + 1)
    assert quality.generator.training and torch.equal(before, torch.get_rng_state())
    (first, labels), (second, _) = measure.shown
    assert first.shape == (12, 1, 2, 2) and labels.bincount().tolist() == [9, 3] and labels.dtype == torch.int64
    assert first.max() == 1 and first.min() >= -1  # clamped
    inside = (first < 1) & (second < 1) & (first > -1)
    torch.testing.assert_close(second[inside] - first[inside], torch.ones(int(inside.sum())))  # one iteration on


@pytest.mark.parametrize(("every", "epochs", "measured"), [(1, 3, [2, 4, 6]), (2, 5, [4, 8, 10]), (9, 2, [4])])
def test_when_it_measures(every, epochs, measured):
    quality = GeneratorQuality(Shift(), Measure([1.0] * 9), num_images=4, every=every)
    train(quality, epochs)
    assert [record["iteration"] for record in quality.records] == measured


def test_an_interrupted_run_is_measured_at_its_end():
    class Stop:
        def attach(self, engine):
            engine.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda: engine.terminate())

    quality = GeneratorQuality(Shift(), Measure([1.0] * 9), num_images=4, every=5)
    train(quality, 5, Stop())
    assert [record["iteration"] for record in quality.records] == [3]


def test_records_and_picture(tmp_path):
    quality = GeneratorQuality(Shift(), Measure([3.0, NAN]), num_images=4, folder=tmp_path / "run")
    train(quality, 2)
    records = json.loads((tmp_path / "run" / "quality.json").read_text())
    assert [record.pop("seconds") >= 0 for record in records] == [True, True]
    common = {"features": "grey values, 2 px", "n_held_out": 7, "floor_kid": 0.25, "recall": 0.5}
    assert records == [
        {"iteration": 2, "images": 20, "kid": 3.0, **common},
        {"iteration": 4, "images": 40, "kid": None, **common},
    ]
    pytest.importorskip("matplotlib")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["quality.json", "quality.png"]
    kid, recall = quality._curves([["kid", "floor_kid"], ["recall"]]).axes
    assert [line.get_label() for line in kid.lines] == ["kid", "real against real", "kept"]
    assert kid.lines[0].get_xdata().tolist() == [20, 40] and kid.lines[1].get_ydata()[0] == 0.25
    assert recall.lines[0].get_ydata().tolist() == [0.5, 0.5]


def test_without_matplotlib_there_is_no_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(generator_quality, "can_draw", False)
    train(GeneratorQuality(Shift(), Measure([3.0]), num_images=4, folder=tmp_path), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["quality.json"]


@pytest.mark.parametrize(
    ("kids", "lower_is_better", "best"),
    [
        ([3.0, 1.0, 2.0], True, 2),
        ([3.0, 1.0, 2.0], False, 1),
        ([NAN, 2.0, NAN], True, 2),
        ([NAN, 2.0, math.inf], False, 2),
        ([1.0, 1.0, 1.0], True, 1),
        ([5.0, -1.0, -2.0], True, 3),
    ],
)
def test_keeps_the_best(caplog, kids, lower_is_better, best):
    quality = GeneratorQuality(Shift(), Measure(kids), num_images=4, lower_is_better=lower_is_better)
    train(quality, 3, iterations=1)
    assert quality.generator.shift == 3
    with caplog.at_level(logging.INFO):
        quality.load_best()
    assert quality.generator.shift == best
    assert f"of iteration {best} ({10 * best} images seen): kid {kids[best - 1]:g}" in caplog.text


def test_what_memorises_is_never_the_best(caplog):
    quality = GeneratorQuality(Shift(), Measure([3, 2, 1], [0, 0.1, 0.5]), num_images=4, watch=watch())
    engine = train(quality, 3, iterations=1)
    assert engine.state.metrics["discriminator_gap"] == 0.5 and "discriminator_r_v" in engine.state.metrics
    quality.load_best()
    assert quality.generator.shift == 2


def test_the_watch_stops_the_run():
    quality = GeneratorQuality(Shift(), Measure([1] * 9, [0] + [0.5] * 8), num_images=4, watch=watch(stop=True))
    engine = train(quality, 9, iterations=1)
    assert engine.state.epoch == 3 and [alarm["iteration"] for alarm in quality.watch.alarms] == [3]
    assert len(quality.records) == 3  # not again at the end


@pytest.mark.parametrize("measure", [Measure([NAN, NAN]), Measure([1, 1], [0.9, 0.9])])
def test_nothing_to_keep_is_an_error(measure):
    quality = GeneratorQuality(Shift(), measure, num_images=4, watch=measure.scores and watch())
    train(quality, 2)
    with pytest.raises(RuntimeError, match="none of 2 measurements can be kept"):
        quality.load_best()


def test_an_unknown_key_is_refused():
    with pytest.raises(ValueError, match="'fid' is none of the figures measured, which are floor_kid, kid, recall"):
        train(GeneratorQuality(Shift(), Measure([1]), num_images=4, key="fid"), 1)


def test_curves_reach_tensorboard():
    """MONAI's handler writes what is in the metrics; no value is written twice, and the last epoch's is."""
    writer = Writer()
    stats = TensorBoardStatsHandler(summary_writer=writer, output_transform=lambda output: output)
    quality = GeneratorQuality(Shift(), Measure([3, 2, 1], [0.1, 0.2, 0.3]), num_images=4, every=2, watch=watch())
    train(quality, 5, stats, iterations=1)
    assert writer.curves["kid"] == [(2, 3), (4, 2), (5, 1)]
    assert writer.curves["memorisation_score"] == [(2, 0.1), (4, 0.2), (5, 0.3)]
    assert writer.curves["floor_kid"] == [(2, 0.25), (4, 0.25), (5, 0.25)]
    assert writer.curves["discriminator_gap"] == [(2, 0.5), (4, 0.5), (5, 0.5)]
    assert writer.curves["images"] == [(1, 10), (2, 10), (3, 10), (4, 10), (5, 10)]  # the output's, by iteration


def test_a_resumed_run_keeps_best_and_records(tmp_path, monkeypatch):
    monkeypatch.setattr(generator_quality, "can_draw", False)  # no need of its time

    def part(kids, scores, epochs):
        quality = GeneratorQuality(Shift(), Measure(kids, scores), num_images=4, folder=tmp_path, watch=watch())
        objects = {"generator": quality.generator, "quality": quality, "watch": quality.watch}
        train(quality, epochs, ResumableCheckpoint(tmp_path / "checkpoint.pt", objects))
        return quality

    part([1.0, 2.0], [0.0, 0.5], 2)
    resumed = part([3.0, 0.5], [0.5, 0.5], 4)
    assert [record["kid"] for record in json.loads((tmp_path / "quality.json").read_text())] == [1.0, 2.0, 3.0, 0.5]
    assert [alarm["iteration"] for alarm in resumed.watch.alarms] == [6]
    assert resumed.generator.shift == 8
    resumed.load_best()
    assert resumed.generator.shift == 2
    finished = part([], [], 4)  # nothing is measured again
    finished.load_best()
    assert finished.generator.shift == 2 and len(finished.records) == 4


def test_other_processes_wait_and_follow(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(idist, "get_rank", lambda: 1)
    monkeypatch.setattr(idist, "broadcast", lambda value, src: told.append((value, src)) or float(len(told) == 2))
    quality = GeneratorQuality(Shift(), Measure([]), num_images=4, folder=tmp_path)
    engine = train(quality, 9)
    assert told == [(0.0, 0)] * 2 and engine.state.epoch == 2  # process 0 asked for the end
    quality.load_best()
    assert quality.records == [] and list(tmp_path.iterdir()) == []


def test_a_stopped_run_stays_stopped_when_it_is_started_again(tmp_path):
    def run() -> tuple[GeneratorQuality, Engine]:
        alarmed = watch(stop=True, patience=2)
        quality = GeneratorQuality(
            Shift(), Measure([5.0, 4.0, 3.0, 2.0, 1.0], [0.0, 0.9, 0.9, 0.9, 0.9]), watch=alarmed
        )
        objects = {"generator": quality.generator, "quality": quality, "watch": alarmed}
        return quality, train(quality, 9, ResumableCheckpoint(tmp_path / "checkpoint.pt", objects))

    first, engine = run()
    assert engine.state.epoch == 3 and len(first.records) == 3
    again, engine = run()
    assert engine.state.iteration == 6 and len(again.records) == 3
    again.load_best()
    assert again.generator.shift.item() == 2  # of the measurement before it memorised


def test_nothing_to_do_after_a_resume_is_no_error(tmp_path):
    def run(epochs: int) -> GeneratorQuality:
        quality = GeneratorQuality(Shift(), Measure([5.0, 4.0]), every=5)
        objects = {"generator": quality.generator, "quality": quality}
        train(quality, epochs, ResumableCheckpoint(tmp_path / "checkpoint.pt", objects))
        return quality

    run(4)
    assert len(run(3).records) == 1
