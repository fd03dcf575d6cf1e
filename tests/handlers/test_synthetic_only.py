import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from monai_plan.data import PrivacyWalkDataset
from monai_plan.handlers import SyntheticOnly
from monai_plan.latent import WalkSet


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


class MixedLoader(DataLoader):
    real_share = 0.25


class AllReal(DataLoader):
    real_share = 1.0


def count_steps(loader, swap_to=None, swap_at=None, **options):
    steps = []
    engine = Engine(lambda engine, batch: steps.append(batch))
    SyntheticOnly(**options).attach(engine)
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


def test_the_dataset_alone_is_told_apart():
    walks = WalkSet(torch.randn(2, 3, 4), torch.tensor([0, 1]), torch.zeros(2, 3, dtype=torch.bool), "linear")
    with pytest.raises(RuntimeError, match="the dataset alone was swapped: it has no images, swap the loader, too"):
        count_steps(DataLoader(PrivacyWalkDataset(walks, 4)))


def test_a_share_of_real_images_is_let_through_only_when_told(caplog):
    with pytest.raises(RuntimeError, match='25 % of the images .* are real, of patients(.|\n)*"allow_mixed": true'):
        count_steps(MixedLoader(rows(), batch_size=2))
    assert count_steps.taken == 0 and not caplog.text.count("REAL")
    count_steps(MixedLoader(rows(), batch_size=2), allow_mixed=True)
    assert count_steps.taken == 6
    assert caplog.text.count("this run trains on REAL images of patients: 25 % of each epoch") == 1


@pytest.mark.parametrize("loader", [AllReal(rows()), DataLoader(rows())])
def test_what_is_real_altogether_is_never_let_through(loader):
    with pytest.raises(RuntimeError, match="does not promise synthetic images"):
        count_steps(loader, allow_mixed=True)


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
