"""The pictures, read back."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from monai_plan.latent import WalkSet
from monai_plan.report import figures, write_sample_grids, write_walk_figure


class FlatGenerator(nn.Module):
    """w [T, 1] -> images [T, 1, 4, 4] of that grey."""

    def synthesize(self, w, noise="random", rng=None):
        assert noise == "const" and not self.training
        return w.view(-1, 1, 1, 1).expand(-1, 1, 4, 4)


def walk_set(inner, kind="linear"):
    points = torch.tensor([[[-1.0], [inner], [0.5], [1.0]]] * 2)
    verified = torch.tensor([[False, True, False, False]] * 2)
    return WalkSet(points, torch.tensor([0, 1]), verified, kind)


def batch(greys, labels):
    return {"image": torch.tensor(greys).view(-1, 1, 1, 1).expand(-1, 1, 3, 3), "label": torch.tensor(labels)}


def test_samples_one_line_a_class(tmp_path):
    """Class 0 gives greys -1, 0 (black, middle); class 1 only one image, so the rest of its line is white."""
    batches = [batch([-1.0, -0.2], [0, 1]), batch([0.0, 0.9], [0, 0])]
    state = torch.get_rng_state()
    files = write_sample_grids({"real": batches, "plan": batches[:1]}, tmp_path, num_classes=2, per_class=2)
    assert [file.name for file in files] == ["samples_real.png", "samples_plan.png"]
    picture = np.asarray(Image.open(files[0]))
    assert picture.shape == (8, 8)
    assert picture[[0, 0, 5, 5], [0, 5, 0, 5]].tolist() == [0, 128, 102, 255]
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_of_other_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'real' gave no image"):
        write_sample_grids({"real": [batch([0.0], [5])]}, tmp_path, num_classes=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("as_loader", [False, True])
def test_walk_figure(tmp_path, monkeypatch, as_loader):
    drawn = {}
    draw = figures._draw

    def spy(walks, images, distances, *rest):
        drawn.update(distances)
        return draw(walks, images, distances, *rest)

    monkeypatch.setattr(figures, "_draw", spy)
    gallery = torch.tensor([-1.0, 0.4]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    file = write_walk_figure(
        walk_set(-0.5),
        walk_set(-0.3, "private"),
        FlatGenerator(),
        [{"image": gallery}] if as_loader else gallery,
        lambda images: images[:, 0, 0, :1],
        tmp_path,
        steps_shown=8 if as_loader else 3,  # a path of four points shows four
    )
    # squared distances to the nearer of the greys -1 and 0.4
    assert drawn["line"].tolist() == pytest.approx([0, 0.25, 0.01, 0.36], abs=1e-6)
    assert drawn["walk"].tolist() == pytest.approx([0, 0.49, 0.01, 0.36], abs=1e-6)
    assert file == tmp_path / "walk_beside_line.png" and list(tmp_path.iterdir()) == [file]
    assert np.asarray(Image.open(file)).std() > 0


@pytest.mark.parametrize(
    "private, path, steps_shown, message",
    [
        (
            WalkSet(torch.ones(2, 4, 1), torch.tensor([0, 1]), torch.zeros(2, 4, dtype=torch.bool), "x"),
            0,
            3,
            "same anchors",
        ),
        (walk_set(0.0), 2, 3, "path must lie in 0 .. 1"),
        (walk_set(0.0), 0, 1, "steps_shown be >= 2"),
    ],
)
def test_refuses(tmp_path, private, path, steps_shown, message):
    with pytest.raises(ValueError, match=message):
        write_walk_figure(
            walk_set(-0.5),
            private,
            FlatGenerator(),
            torch.zeros(1, 1, 4, 4),
            lambda x: x.flatten(1),
            tmp_path,
            path=path,
            steps_shown=steps_shown,
        )
