"""The table of predictions: what stands in it, and that it is whole or absent."""

from __future__ import annotations

import csv

import pytest
import torch
from ignite.engine import Engine

from monai_plan.handlers import PredictionTable

NAMES = ["normal", "ill, severely"]
FILE = "filename_or_obj"


def evaluator():
    """An engine whose batches are their own answers (file, probabilities, name), given as MONAI's evaluators do."""

    def step(engine, batch):
        engine.state.batch = [{FILE: file} for file, _, _ in batch]
        return [{"pred": torch.tensor(values), "predicted_name": name} for _, values, name in batch]

    engine = Engine(step)
    return engine


def test_a_line_for_each_image(tmp_path):
    path = tmp_path / "results" / "predictions.csv"
    odd = b"/data/\xff.png".decode(errors="surrogateescape")  # a name that is not UTF-8
    answers = [
        [("/data/a.png", [0.75, 0.25], NAMES[0]), ('/data/"b",\n.png', [0.125, 0.875], NAMES[1])],
        [(odd, [0.4, 0.6], NAMES[0])],  # postprocessing, not the greatest probability, says which class it is
    ]
    engine = evaluator()
    PredictionTable(path, NAMES).attach(engine)
    for _ in range(2):  # the second run replaces what the first one wrote
        engine.run(answers)
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            assert list(csv.reader(stream)) == [
                ["file", "predicted", "probability_normal", "probability_ill, severely"],
                ["/data/a.png", "normal", "0.750000", "0.250000"],
                ['/data/"b",\n.png', "ill, severely", "0.125000", "0.875000"],
                [odd, "normal", "0.400000", "0.600000"],
            ]
    assert [file.name for file in path.parent.iterdir()] == ["predictions.csv"]


@pytest.mark.parametrize(
    ("values", "message"),
    [([0.2, 0.3, 0.5], "answers with 3 numbers and there are 2 names"), ([float("nan"), 0.5], "is no probability")],
)
def test_answers_that_are_none(tmp_path, values, message):
    engine, answers = evaluator(), [[("a", [0.5, 0.5], "normal")], [("b", values, "normal")]]
    PredictionTable(tmp_path / "predictions.csv", NAMES).attach(engine)
    with pytest.raises(ValueError, match=message):
        engine.run(answers)
    assert not list(tmp_path.iterdir())
