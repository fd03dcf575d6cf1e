"""Same seed and version, same images: within a process, between processes, and from version to version by a record."""

import json
import os
import subprocess
import sys
from pathlib import Path

import determinism_record as record
import pytest
import torch
from monai.data import DataLoader
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

import monai_plan as plan
from monai_plan.data import PrivacyWalkSampler
from monai_plan.data.synthetic_source import SyntheticSource

RECORDED = json.loads(record.FIXTURE.read_text())
ADVICE = (
    f"the record of version {RECORDED['version']} has something else, and this is {plan.__version__}. If you meant to "
    "change what a seed gives, say so in CHANGELOG.md ('Same seeds give other images') and record it anew: python "
    "tests/reliability/determinism_record.py. If not, whoever updates would get other images: find out why"
)
NOISE = 1e-4
"""What rounding may change in an image in [-1, 1]; a grey level of 8 bits is 8e-3."""


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def exact():
    return record.exact_figures()


@pytest.fixture(scope="module")
def epoch():
    """One of 32 images."""
    return record.epoch_of(record.sampler(8, 32))


def test_the_shipped_weights_are_those_of_the_record():
    assert record.weights() == RECORDED["weights"], ADVICE


def test_the_record_has_all_that_is_made(exact):
    assert set(exact) == set(RECORDED["exact"]) and set(record.MEASURED) == set(RECORDED["measured"])


@pytest.mark.parametrize("name", RECORDED["exact"])
def test_draws_orders_and_names_are_those_of_the_record_on_any_machine(exact, name):
    assert exact[name] == RECORDED["exact"][name], ADVICE


@pytest.mark.parametrize("name", RECORDED["measured"])
def test_images_and_latents_are_those_of_the_record_to_the_bit_on_the_same_kind_of_cpu(name):
    make, tolerance = record.MEASURED[name]
    value, wanted = make(), RECORDED["measured"][name]
    sample = torch.tensor(wanted["sample"], dtype=torch.float64)
    assert torch.allclose(record.sample(value), sample, rtol=0, atol=tolerance), ADVICE
    if record.environment() == RECORDED["environment"]:
        assert record.digest(value) == wanted["sha256"], ADVICE
    assert record.digest(make()) == record.digest(value), "a second run in the same process gave other bits"


def digests_of_another_process(threads: int) -> dict[str, str]:
    code = (
        "import json, torch, determinism_record as record\n"
        f"torch.set_num_threads({threads})\n"
        "names = ['images of the sampler', 'planned walks', 'inverted latents', 'distances of the gate']\n"
        "print(json.dumps({name: record.digest(record.MEASURED[name][0]()) for name in names}))"
    )
    paths = [str(Path(record.__file__).parent), str(Path(plan.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_another_process_makes_the_same_bits():
    theirs = digests_of_another_process(threads=1)
    assert theirs == {name: record.digest(record.MEASURED[name][0]()) for name in theirs}


def test_two_threads_make_the_same_images():
    with_one = record.sampled_images()
    torch.set_num_threads(2)
    assert torch.allclose(record.sampled_images(), with_one, rtol=0, atol=NOISE)


def same_by_index(found, wanted, tolerance):
    """All images of ``found`` are in ``wanted``: same place, same class, same pixels within a tolerance."""
    row = {int(index): number for number, index in enumerate(wanted["index"])}
    rows = [row[int(index)] for index in found["index"]]
    exact = all(torch.equal(found[key], wanted[key][rows]) for key in ("path_id", "position", "label"))
    return exact and torch.allclose(found["image"], wanted["image"][rows], rtol=0, atol=tolerance)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_an_image_does_not_depend_on_the_batch_size(epoch, batch_size):
    """Up to rounding: kernels differ with the number of images."""
    assert same_by_index(record.epoch_of(record.sampler(batch_size, 32)), epoch, NOISE)


def test_batches_that_are_prepared_ahead_are_the_same_bits(epoch):
    assert same_by_index(record.epoch_of(record.sampler(8, 32, prefetch=2)), epoch, 0)


def test_two_ranks_make_the_images_of_one_process(epoch):
    shown = []
    for rank in range(2):
        dataset = record.sampler(8, 32).dataset
        shares = DistributedSampler(dataset, num_replicas=2, rank=rank, shuffle=False)
        loader = PrivacyWalkSampler(dataset, record.shipped_generator(), record.shipped_gate(), 8, sampler=shares)
        found = record.epoch_of(loader)
        assert same_by_index(found, epoch, NOISE)
        shown += found["index"].tolist()
    assert sorted(shown) == list(range(32))


def test_an_epoch_is_replayed_and_others_are_others(epoch):
    loader = record.sampler(8, 32, shuffle=True)
    first, other, again = (record.epoch_of(loader, number) for number in (1, 2, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert same_by_index(first, epoch, NOISE) and not torch.equal(first["index"], epoch["index"])  # shuffled
    assert not torch.equal(first["image"], other["image"])


def test_a_resumed_loader_goes_on_with_the_same_bits():
    whole, loader = record.epoch_of(record.sampler(4, 32)), record.sampler(4, 32)
    loader.set_epoch(1)
    batches = iter(loader)
    for _ in range(5):
        next(batches)
    resumed = record.sampler(4, 32)
    resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    rest = torch.cat([batch["image"] for batch in resumed])
    assert torch.equal(rest, whole["image"][20:])


class OnDemand(Dataset):
    """Images of a class and number, made in a loader's workers."""

    def __init__(self):
        self.source = SyntheticSource(record.shipped_walks(), record.shipped_generator(), record.shipped_gate())

    def __len__(self):
        return 6

    def __getitem__(self, number):
        return self.source(number % 2, number)


def test_images_on_demand_are_the_same_bits_in_any_number_of_workers():
    stacks = [torch.cat(list(DataLoader(OnDemand(), batch_size=2, num_workers=workers))) for workers in (0, 1, 2)]
    assert torch.equal(stacks[0], stacks[1]) and torch.equal(stacks[0], stacks[2])
    assert not torch.equal(stacks[0][0], stacks[0][2])
