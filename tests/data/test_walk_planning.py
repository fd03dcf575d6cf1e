"""Walks kept, or planned anew for each epoch: the same images whenever and wherever they were planned."""

from __future__ import annotations

import copy
import gc
import json
import threading
import time
import traceback
import weakref
from dataclasses import replace

import pytest
import torch
from ignite.engine import Events
from monai.data import DistributedSampler
from monai.engines import SupervisedTrainer
from torch import nn
from walk_fakes import RuleGate, SpellingGenerator, spelling_walks

from monai_plan.data import PrivacyWalkDataset, PrivacyWalkSampler
from monai_plan.data.walk_planning import WalkPools

CPU = torch.device("cpu")
ALL = dict.fromkeys(range(6), (1, 2, 3, 4))


def threads():
    return [thread for thread in threading.enumerate() if " ahead" in thread.name]


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    gc.collect()
    assert not threads()


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert condition()


def walks_of(epoch, verified=None):
    """The epoch stands in the last pixel of its images."""
    walks = spelling_walks(verified or ALL)
    walks.points[:, 1:-1, 3] = epoch / 100
    return walks


class Planner:
    """Notes its epochs, its threads and which of its walks are alive; may fail, or wait to be let go."""

    def __init__(self, error_at=None, error=None, verified=None, is_held=False):
        self.error_at, self.error, self.verified = error_at, error, verified
        self.epochs, self.threads, self.alive, self.most_alive = [], [], weakref.WeakSet(), 0
        self.may_go = threading.Event()
        if not is_held:
            self.may_go.set()

    def __call__(self, epoch):
        assert self.may_go.wait(20)
        self.epochs.append(epoch)
        self.threads.append(threading.current_thread().name)
        if epoch == self.error_at:
            self.plan_that_fails()
        walks = walks_of(epoch, self.verified)
        self.alive.add(walks.points.untyped_storage())
        self.most_alive = max(self.most_alive, len(self.alive))
        return walks

    def plan_that_fails(self):
        raise self.error


def make(planner=None, images=12, gate="open", prefetch=0, verified=None, sampler=None, **options):
    dataset = PrivacyWalkDataset(walks_of(0, verified), images, planner=planner)
    gate = RuleGate(low=2.0) if gate == "open" else gate
    sampler = sampler and sampler(dataset)
    options = {"batch_size": 4, "shuffle": sampler is None, "sampler": sampler, "prefetch": prefetch, **options}
    return PrivacyWalkSampler(dataset, SpellingGenerator(), gate, **options)


def epoch_of(loader, epoch):
    loader.set_epoch(epoch)
    return list(loader)


def epochs_shown(batches):
    return {round(100 * float(value)) for batch in batches for value in batch["image"][:, 0, 1, 1]}


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_kept_by_default(prefetch):
    loader = make(prefetch=prefetch)
    assert loader.dataset.planner is None
    for epoch in range(3):
        assert epochs_shown(epoch_of(loader, epoch)) == {0}
        assert not threads()


@pytest.mark.parametrize("gate", ["open", None])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_planned_for_each_epoch(prefetch, gate):
    planner = Planner()
    loader = make(planner, gate=gate, prefetch=prefetch)
    assert planner.epochs == []  # nothing before the first pass
    labels = {}
    for epoch in range(4):
        batches = epoch_of(loader, epoch)
        assert epochs_shown(batches) == {epoch}
        for batch in batches:
            assert torch.equal(batch["image"][:, 0, 1, 0].long(), batch["label"])
            for index, label in zip(batch["index"].tolist(), batch["label"].tolist(), strict=True):
                assert labels.setdefault(index, label) == label
    wait_for(lambda: planner.epochs == list(range(1, 4 + (prefetch > 0))))
    assert set(planner.threads) == {"monai_plan: walks ahead"}


@pytest.mark.parametrize("gate", ["open", None])
def test_same_stream_whenever_it_was_planned(gate):
    streams = []
    for prefetch in (0, 1, 2):
        loader = make(Planner(), images=40, gate=gate, prefetch=prefetch)
        streams.append([batch for epoch in (0, 1, 2, 5) for batch in epoch_of(loader, epoch)])
        streams[-1].append({"counts": torch.tensor(list(loader.counts.values()))})
    assert_same(streams[0], streams[1])
    assert_same(streams[0], streams[2])
    emitted, rejected = streams[0][-1]["counts"].tolist()
    assert emitted == 160 and (rejected > 0) == (gate is not None)


def test_next_walks_are_planned_while_an_epoch_is_shown():
    planner = Planner(is_held=True)
    loader = make(planner, prefetch=2)
    assert epochs_shown(epoch_of(loader, 0)) == {0}  # does not wait for the plan
    assert len(threads()) == 1 and planner.epochs == []
    again = list(loader)  # a further pass of the epoch begins no other plan
    assert epochs_shown(again) == {0} and len(threads()) == 1
    planner.may_go.set()
    wait_for(lambda: not threads())  # the thread does not wait for its walks to be taken
    assert planner.epochs == [1] and epochs_shown(epoch_of(loader, 1)) == {1}


@pytest.mark.parametrize("prefetch", [0, 2])
def test_passes_of_one_epoch_share_its_walks(prefetch):
    planner = Planner()
    loader = make(planner, prefetch=prefetch)
    loader.set_epoch(3)
    first, second = list(loader), list(loader)
    assert epochs_shown(first) == epochs_shown(second) == {3}
    assert not set(torch.cat([b["position"] for b in first]).tolist()) & set(
        torch.cat([b["position"] for b in second]).tolist()
    )
    assert planner.epochs.count(3) == 1


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("taken", [1, 3, 4, 5, 6, 8])
def test_resume_gives_the_same_images(taken, prefetch):
    """Three batches an epoch; stopped in mid-epoch and at the end of epochs 0, 1 and 2."""
    whole_loader = make(Planner(), prefetch=prefetch)
    whole = [batch for epoch in range(4) for batch in epoch_of(whole_loader, epoch)]
    loader, state, seen = make(Planner(), prefetch=prefetch), None, 0
    for epoch in range(4):
        loader.set_epoch(epoch)
        for _ in loader:
            seen += 1
            if seen == taken:
                state = copy.deepcopy(loader.state_dict())
                break
        if seen == taken:
            break
    planner = Planner()
    resumed = make(planner, prefetch=prefetch)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    epoch = (taken - 1) // 3
    rest = list(resumed) if taken % 3 else []
    for later in range(epoch + 1, 4):
        rest += epoch_of(resumed, later)
    assert_same(rest, whole[taken:])
    assert resumed.counts == whole_loader.counts
    assert planner.epochs[0] == max(1, epoch if taken % 3 else epoch + 1)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_set_epoch_replays(prefetch):
    planner = Planner()
    loader = make(planner, prefetch=prefetch)
    first = {epoch: epoch_of(loader, epoch) for epoch in (0, 1, 2)}
    for epoch in (1, 0, 0, 2, 1):
        assert_same(epoch_of(loader, epoch), first[epoch])


@pytest.mark.parametrize("error", [KeyError("a"), RuntimeError("b"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_error_comes_in_place_of_the_first_batch(error, prefetch):
    planner = Planner(error_at=2, error=error)
    loader = make(planner, prefetch=prefetch)
    assert len(epoch_of(loader, 0)) == 3 and len(epoch_of(loader, 1)) == 3  # whole, though the next plan has failed
    loader.set_epoch(2)
    batches = iter(loader)
    with pytest.raises(type(error)) as caught:
        next(batches)
    assert caught.value is error and not threads()
    assert "plan_that_fails" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert list(batches) == [] and loader.counts["emitted"] == 24
    planner.error_at = None  # asking again plans again, and has lost nothing
    assert_same(list(loader), epoch_of(make(Planner()), 2))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_planner_that_stops_iteration_does_not_shorten_the_run(prefetch):
    loader = make(Planner(error_at=1, error=StopIteration()), prefetch=prefetch)
    with pytest.raises(RuntimeError, match="StopIteration"):
        epoch_of(loader, 1)


def changed(**changes):
    return lambda epoch: replace(walks_of(epoch), **changes)


@pytest.mark.parametrize(
    "planner, gate, error, message",
    [
        (lambda epoch: torch.zeros(6, 6, 4), "open", TypeError, "must give a WalkSet, got Tensor for epoch 1"),
        (lambda epoch: None, "open", TypeError, "got NoneType"),
        (
            lambda epoch: spelling_walks(labels=(0, 0, 1, 1)),
            "open",
            ValueError,
            "gave 4 paths for epoch 1 and the first walks have 6",
        ),
        (changed(points=torch.zeros(6, 6, 5)), "open", ValueError, "gave 5 latent dimensions.*have 4"),
        (
            lambda epoch: spelling_walks(labels=(0, 0, 1, 1, 1, 0)),
            "open",
            ValueError,
            "path 2 the label 1 instead of 0.*keep the classes and their order",
        ),
        (changed(meta={"generator": "another"}), None, ValueError, "verified with another generator"),
        (lambda epoch: walks_of(epoch, {0: (1, 2)}), None, ValueError, r"class\(es\) \[1\] of this walk set"),
    ],
)
@pytest.mark.parametrize("prefetch", [0, 2])
def test_refuses_walks_that_do_not_fit(planner, gate, error, message, prefetch):
    loader = make(planner, gate=gate, prefetch=prefetch)
    assert len(list(loader)) == 3
    with pytest.raises(error, match=message):
        epoch_of(loader, 1)


def test_other_lengths_and_verdicts_are_welcome_with_a_gate():
    def planner(epoch):
        walks = walks_of(epoch)
        return replace(walks, points=walks.points[:, :5], verified=walks.verified[:, :5] & False, meta={})

    batches = epoch_of(make(planner, images=60), 1)
    assert max(float(batch["position"].max()) for batch in batches) <= 3


def test_refuses_a_planner_that_is_none():
    with pytest.raises(TypeError, match="planner must be a function of the epoch.*got WalkSet"):
        PrivacyWalkDataset(walks_of(0), 4, planner=walks_of(1))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_only_two_planned_pools_are_alive(prefetch):
    planner = Planner()
    loader = make(planner, prefetch=prefetch)
    for epoch in (0, 1, 2, 3, 7, 8, 2, 3, 0, 1):
        epoch_of(loader, epoch)
    wait_for(lambda: not threads())
    gc.collect()
    assert planner.most_alive <= 2 and len(planner.alive) == 1 + (prefetch > 0)
    del loader
    gc.collect()
    assert len(planner.alive) == 0


@pytest.mark.parametrize("prefetch", [0, 2])
def test_what_the_training_thread_switches_on_does_not_reach_the_planner(prefetch):
    seen = []

    def planner(epoch):
        seen.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()))
        walks = walks_of(epoch)
        moved = walks.points.clone().requires_grad_()  # as a walk's optimisation does
        (moved**2).sum().backward()
        walks.points[:, 1:-1, 0] += 0 * moved.grad[:, 1:-1, 0]
        return replace(walks, points=walks.points * moved.detach().ne(-9).float())

    plain = epoch_of(make(planner), 1)
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with torch.autocast("cpu", dtype=torch.bfloat16), mode():
            assert_same(epoch_of(make(planner, prefetch=prefetch), 1), plain)
    assert set(seen) == {(True, False, False)}


@pytest.mark.parametrize("prefetch", [0, 2])
def test_global_random_state_is_untouched(prefetch):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    loader = make(Planner(), prefetch=prefetch)
    for epoch in range(3):
        epoch_of(loader, epoch)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("prefetch", [0, 2])
def test_ranks_plan_the_same_walks_by_themselves(prefetch):
    whole = epoch_of(make(Planner(), prefetch=prefetch), 2)
    images = {int(i): image for batch in whole for i, image in zip(batch["index"], batch["image"], strict=True)}
    seen = 0
    for rank in range(2):
        planner = Planner()
        shard = make(planner, sampler=lambda dataset: DistributedSampler(dataset, num_replicas=2, rank=rank))  # noqa: B023
        for batch in epoch_of(shard, 2):
            for index, image in zip(batch["index"].tolist(), batch["image"], strict=True):
                assert torch.equal(image, images[index])
                seen += 1
        assert planner.epochs == [2]
    assert seen == 12


def test_another_plan_in_work_is_waited_for():
    """A planner never runs twice at once, whatever epoch is asked for next."""
    running = []

    def planner(epoch):
        running.append(epoch)
        assert len(running) == 1
        time.sleep(0.05)
        running.remove(epoch)
        return walks_of(epoch)

    loader = make(planner, prefetch=2)
    for epoch in (0, 5, 2, 3, 0, 9):
        assert epochs_shown(epoch_of(loader, epoch)) == {epoch}


def test_thread_ends_with_its_loader():
    planner = Planner(is_held=True)
    loader = make(planner, prefetch=2, images=400)
    for _ in loader:
        break
    assert [thread.name for thread in threads()] == ["monai_plan: walks ahead"]  # the pass is over, the loader is not
    threading.Timer(0.1, planner.may_go.set).start()
    del loader, _
    gc.collect()
    assert not threads() and planner.epochs == [1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("prefetch", [0, 2])
def test_walks_are_whole_on_a_real_device(prefetch):
    """The plan's work is long, its memory is wanted again at once, and images are made meanwhile."""

    def planner(epoch):
        slow = torch.full((2048, 2048), 1 / 2048, device="cuda")
        for _ in range(50):
            slow = slow @ slow
        walks = walks_of(epoch)
        return replace(walks, points=walks.points.cuda() + 0 * slow[0, 0])

    loader = make(planner, prefetch=prefetch, device="cuda", images=40)
    for epoch in range(5):
        expected = epoch_of(make(Planner(), images=40), epoch)
        batches = [{key: value.cpu() for key, value in batch.items()} for batch in epoch_of(loader, epoch)]
        assert_same(batches, expected)


def test_pools_by_themselves():
    planner = Planner()
    dataset = PrivacyWalkDataset(walks_of(0), 4, planner=planner)
    pools = WalkPools(dataset, CPU)
    assert pools.of(0) is dataset.pool
    first = pools.of(1)
    pools.begin(1)
    pools.begin(0)
    assert pools.of(1) is first and planner.epochs == [1]
    pools.begin(2), pools.begin(2)
    assert pools.of(1) is first  # while the next one is in work
    assert pools.of(2) is pools.of(2) and planner.epochs == [1, 2]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_monai_trainer_has_new_walks_each_epoch(prefetch):
    """Its first epoch is number 1."""
    planner, seen = Planner(), []
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    loader = make(planner, prefetch=prefetch)
    trainer = SupervisedTrainer(CPU, 3, loader, network, optimizer, nn.CrossEntropyLoss())
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda e: seen.append(epochs_shown([e.state.batch])))
    trainer.run()
    assert seen == [{1}] * 3 + [{2}] * 3 + [{3}] * 3
    wait_for(lambda: planner.epochs == [1, 2, 3, 4][: 3 + (prefetch > 0)])


def test_classes_without_verified_points_are_named_once(caplog):
    verdicts = {0: {0: (1, 3), **dict.fromkeys((3, 4), (2, 3))}, 1: {4: (2, 3)}, 2: {0: (2, 3)}, 3: {1: (2,)}}
    loader = make(lambda epoch: walks_of(epoch, verdicts[epoch]), verified=verdicts[0])
    for epoch in range(4):
        epoch_of(loader, epoch)
        epoch_of(loader, epoch)
    named = [record.getMessage()[:12] for record in caplog.records if "class is doubtful" in record.msg]
    assert named == ["class(es) [0", "class(es) [1"]


def test_without_a_gate_nobody_needs_neighbours(caplog):
    epoch_of(make(gate=None, verified={0: (1,), 3: (2,)}), 0)
    assert caplog.text == ""


def test_gate_sees_only_places_between_verified_neighbours():
    verified = {0: (1, 2), 1: (1, 3), 3: (2, 3), 5: (3, 4)}
    gate = RuleGate()
    batches = [batch for epoch in range(4) for batch in epoch_of(make(gate=gate, verified=verified, images=40), epoch)]
    shown = {
        (path, int(position))
        for batch in batches
        for path, position in zip(batch["path_id"].tolist(), batch["position"].tolist(), strict=True)
    }
    assert shown == {(0, 1), (3, 2), (5, 3)} and gate.rejected == 0
