"""Teachers: several classifiers of one kind, kept in one file."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from monai_plan.engines import load_teachers, save_teachers, train_teachers


def factory(classes: int = 2) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, classes)
    )


def loader() -> DataLoader:
    rng = torch.Generator().manual_seed(0)
    items = [
        {"image": torch.randn(1, 2, 2, generator=rng) + (1.5 if label else -1.5), "label": label}
        for label in (0, 1) * 16
    ]
    return DataLoader(items, batch_size=8)


def train(**options) -> list[torch.nn.Module]:
    return train_teachers(factory, loader(), loader(), options.pop("count", 2), 2, 0.02, "cpu", **options)


def test_they_learn_differ_and_repeat():
    before = torch.get_rng_state()
    teachers = train(count=3)
    assert torch.equal(before, torch.get_rng_state())
    batch = torch.stack([item["image"] for item in loader().dataset])
    labels = torch.tensor([item["label"] for item in loader().dataset])
    answers = [teacher(batch) for teacher in teachers]
    assert all((answer.argmax(dim=1) == labels).float().mean() > 0.9 for answer in answers)
    assert not torch.allclose(answers[0], answers[1]) and not torch.allclose(answers[1], answers[2])
    assert all(torch.equal(a, teacher(batch)) for a, teacher in zip(answers, train(count=3), strict=True))
    assert not torch.equal(answers[0], train(count=1, seed=1)[0](batch))
    assert not any(teacher.training or p.requires_grad for teacher in teachers for p in teacher.parameters())


def test_none_is_refused():
    with pytest.raises(ValueError, match="hard labels"):
        train(count=0)


def test_file_gives_them_back(tmp_path):
    teachers = train()
    path = save_teachers(tmp_path / "teachers.safetensors", teachers)
    like = factory()
    again = load_teachers(path, like)
    assert like.training and all(p.requires_grad for p in like.parameters())
    batch = torch.randn(5, 1, 2, 2)
    assert len(again) == 2
    assert all(torch.equal(a(batch), b(batch)) for a, b in zip(teachers, again, strict=True))
    assert not any(network.training or p.requires_grad for network in again for p in network.parameters())


def test_other_networks_are_refused(tmp_path):
    path = save_teachers(tmp_path / "teachers.safetensors", train())
    with pytest.raises(ValueError, match="num_classes"):
        load_teachers(path, factory(classes=3))
