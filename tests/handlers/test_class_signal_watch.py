"""When the class signal is measured, and where its figures go."""

from __future__ import annotations

import json

import pytest
from ignite.engine import Engine, Events

from monai_plan.handlers import ClassSignalWatch


@pytest.mark.parametrize(("every", "measured"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5]), (0, [])])
def test_every_so_many_epochs_and_after_the_last(tmp_path, every, measured):
    engine = Engine(lambda engine, batch: {"images": 16})
    watch = ClassSignalWatch(lambda: {"class_auroc": engine.state.epoch / 10}, every, tmp_path)
    watch.attach(engine)
    seen = {}
    engine.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda engine: seen.update({engine.state.epoch: engine.state.metrics.get("class_auroc")}),
    )
    engine.run(range(3), max_epochs=5)
    assert seen == {epoch: epoch / 10 if epoch in measured else None for epoch in range(1, 6)}
    assert [record["images"] for record in watch.records] == [epoch * 3 * 16 for epoch in measured]
    if measured:
        assert json.loads((tmp_path / "class_signal.json").read_text()) == watch.records
    again = ClassSignalWatch(lambda: {}, every)
    again.load_state_dict(watch.state_dict())
    assert again.records == watch.records
