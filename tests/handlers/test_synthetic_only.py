import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from monai_plan.handlers import SyntheticOnly


class MarkedLoader(DataLoader):
    is_synthetic = True


def rows():
    return TensorDataset(torch.zeros(6, 4), torch.zeros(6, dtype=torch.int64))


class Wrapper:
    """Hands the loader on without its mark."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        return iter(self.loader)

    def __len__(self):
        return len(self.loader)


class TruthyMark(list):
    is_synthetic = "yes"


def count_steps(loader, swap_to=None, swap_at=None):
    steps = []
    engine = Engine(lambda engine, batch: steps.append(batch))
    SyntheticOnly().attach(engine)
    if swap_to is not None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=swap_at), lambda e: e.set_data(swap_to))
    try:
        engine.run(loader, max_epochs=2)
    finally:
        count_steps.taken = len(steps)


def test_synthetic_loader_runs():
    count_steps(MarkedLoader(rows(), batch_size=2))
    assert count_steps.taken == 6


@pytest.mark.parametrize(
    "loader, name",
    [
        (DataLoader(rows(), batch_size=2), "DataLoader over .*TensorDataset"),
        ([1, 2, 3], "builtins.list"),
        (Wrapper(MarkedLoader(rows(), batch_size=2)), "Wrapper"),
        (TruthyMark([1, 2]), "TruthyMark"),
    ],
)
def test_anything_else_fails_before_the_first_step(loader, name):
    with pytest.raises(RuntimeError, match=f"{name}(.|\n)*PrivacyWalkSampler"):
        count_steps(loader)
    assert count_steps.taken == 0


@pytest.mark.parametrize("swap_at", [1, 3, 4])
def test_loader_swapped_later_never_reaches_the_network(swap_at):
    with pytest.raises(RuntimeError, match="SyntheticOnly"):
        count_steps(MarkedLoader(rows(), batch_size=2), DataLoader(rows(), batch_size=2), swap_at)
    assert count_steps.taken == swap_at


def test_in_a_monai_trainer():
    network = nn.Linear(4, 2)
    before = network.weight.detach().clone()
    trainer = SupervisedTrainer(
        torch.device("cpu"),
        1,
        DataLoader(rows(), batch_size=2),
        network,
        torch.optim.SGD(network.parameters(), 0.1),
        nn.CrossEntropyLoss(),
        train_handlers=[SyntheticOnly()],
    )
    with pytest.raises(RuntimeError, match="train#dataloader"):
        trainer.run()
    assert torch.equal(before, network.weight) and trainer.state.iteration == 0
