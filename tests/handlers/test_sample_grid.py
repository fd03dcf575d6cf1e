"""Sample grids: which latents, which files."""

from __future__ import annotations

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, Events

from monai_plan.handlers import SampleGrid

Image = pytest.importorskip("PIL.Image")


class Flat(torch.nn.Module):
    """Every image is its label: class 0 black, class 1 white."""

    num_classes, z_dim = 2, 4

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, z, labels, noise):
        assert noise == "const"
        self.seen.append(z)
        return (labels.float() * 2 - 1)[:, None, None, None].expand(-1, 1, 8, 8)


def test_one_row_a_class_and_the_same_latents_each_time(tmp_path):
    network = Flat()
    engine = Engine(lambda *_: None)

    @engine.on(Events.STARTED)
    def set_device(engine):
        engine.state.device = torch.device("cpu")

    SampleGrid(network, tmp_path / "grids", per_class=3, every=2).attach(engine)
    before = torch.get_rng_state()
    engine.run(range(5), max_epochs=4)
    assert sorted(path.name for path in (tmp_path / "grids").iterdir()) == [
        "samples_0000010.png",
        "samples_0000020.png",
    ]
    assert torch.equal(before, torch.get_rng_state())
    assert len(network.seen) == 2 and torch.equal(*network.seen) and network.seen[0].shape == (6, 4)
    with Image.open(tmp_path / "grids" / "samples_0000010.png") as picture:
        assert picture.size == (3 * 8 + 2 * 2, 2 * 8 + 2)
        assert picture.getpixel((0, 0)) == 0 and picture.getpixel((0, 10)) == 255


def test_only_process_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(idist, "get_rank", lambda: 1)
    network = Flat()
    SampleGrid(network, tmp_path)(Engine(lambda *_: None))
    assert list(tmp_path.iterdir()) == [] and network.seen == []
