"""The watch by hand: the discriminator's figures, the limits, the alarm."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from monai_plan.handlers import MemorisationWatch


class Brightness(nn.Module):
    """The logit is the mean grey value, plus the label."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.batches: list[int] = []

    def forward(self, images, labels):
        assert not self.training and not torch.is_grad_enabled()
        self.batches.append(len(images))
        return self.gain * images.mean(dim=(1, 2, 3)) + labels


def grey(value: float, count: int) -> torch.Tensor:
    return torch.full((count, 1, 4, 4), value)


def watch(training=0.5, held_out=-0.1, **changes) -> MemorisationWatch:
    labels = torch.zeros(8, dtype=torch.int64)
    arguments = {"score_limit": 0.2, "p_limit": 0.01, "patience": 2, "batch_size": 3, **changes}
    return MemorisationWatch(Brightness(), grey(training, 8), labels, grey(held_out, 5), labels[:5], **arguments)


def figures(score: float, p: float) -> dict[str, float]:
    return {"memorisation_score": score, "memorisation_p": p, "discriminator_gap": 1.5}


@pytest.mark.parametrize(
    ("training", "held_out", "generated", "gap", "r_v"),
    [
        (0.5, 0.5, -0.5, 0.0, 0.0),  # held-out images look as real
        (0.5, -0.5, -0.5, 1.0, 1.0),  # they look as fake as samples
        (0.5, 0.25, -0.5, 0.25, 0.25),
        (0.5, 0.25, 0.5, 0.25, None),  # nothing to compare with
        (0.5, 0.25, 1.0, 0.25, None),
    ],
)
def test_the_discriminators_figures(training, held_out, generated, gap, r_v):
    handler = watch(training, held_out)
    handler.discriminator.train()
    result = handler.gap(grey(generated, 7), torch.zeros(7, dtype=torch.int64))
    assert result["discriminator_gap"] == pytest.approx(gap)
    assert result["discriminator_r_v"] == pytest.approx(float("nan") if r_v is None else r_v, nan_ok=True)
    assert handler.discriminator.batches == [3, 2] * 3  # the same batches of each kind
    assert handler.discriminator.training


def test_labels_go_with_their_images():
    images = torch.arange(6.0).div(-10)[:, None, None, None].expand(-1, 1, 4, 4)
    labels = [0, 0, 0, 5, 5, 5]
    handler = MemorisationWatch(Brightness(), images, labels, images, labels, num_images=4)
    for chosen, chosen_labels in handler._real:
        assert len(chosen) == 4 and torch.equal(chosen_labels == 5, chosen[:, 0, 0, 0] < -0.25)


@pytest.mark.parametrize(
    ("score", "p", "expected"),
    [(0.3, 0.001, True), (0.3, 0.01, True), (0.3, 0.02, False), (0.2, 0.001, False), (-1.0, 1.0, False)],
)
def test_both_limits_must_be_passed(score, p, expected):
    assert watch().memorises(figures(score, p)) is expected


@pytest.mark.parametrize("stop", [True, False])
def test_alarm_after_patience_once_a_streak(tmp_path, caplog, stop):
    handler, engine = watch(stop=stop, folder=tmp_path), Engine(lambda *_: None)
    answers = []
    with caplog.at_level(logging.WARNING):
        for iteration, score in enumerate([0.9, 0.1, 0.9, 0.8, 0.7, 0.0, 0.9], start=1):
            engine.state.iteration = iteration
            answers.append(handler.update(engine, figures(score, 0.001)))
    assert answers == [False, False, False, stop, stop, False, False]
    assert len(caplog.records) == 1 and "score 0.80 (limit 0.20" in caplog.text and "p = 0.0010" in caplog.text
    assert ("the run stops here" if stop else "take the best checkpoint") in caplog.text
    written = json.loads((tmp_path / "memorisation.json").read_text())
    assert written["alarms"] == [{"iteration": 4, **figures(0.8, 0.001)}]
    assert (written["iteration"], written["consecutive"], written["patience"]) == (7, 1, 2)


def test_the_count_survives_a_checkpoint(tmp_path):
    first, engine = watch(), Engine(lambda *_: None)
    first.update(engine, figures(0.9, 0.001))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = watch(stop=True)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.update(engine, figures(0.9, 0.001)) and len(second.alarms) == 1


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="no memorisation_p, only memorisation_score"):
        watch().memorises({"memorisation_score": 0.0})
    with pytest.raises(ValueError, match="training split has 2 images and 1 labels"):
        MemorisationWatch(Brightness(), grey(0, 2), torch.zeros(1), grey(0, 1), torch.zeros(1))
    with pytest.raises(ValueError, match="held-out split has 0 images"):
        MemorisationWatch(Brightness(), grey(0, 2), torch.zeros(2), grey(0, 0), torch.zeros(0))
