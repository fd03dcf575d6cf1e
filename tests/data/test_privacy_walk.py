import copy
import gc
import json
import logging
import random
import threading
import time
import traceback

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader, DistributedSampler, MetaTensor, decollate_batch
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointLoader, CheckpointSaver
from torch import nn
from torch.utils.data import SubsetRandomSampler
from walk_fakes import STEPS, RuleGate, SpellingGenerator, spelling_walks

from monai_plan.data import PrivacyWalkDataLoader, PrivacyWalkDataset, PrivacyWalkSampler
from monai_plan.handlers import SyntheticOnly
from monai_plan.utils.synthetic import is_synthetic

VERIFIED = {0: (1, 3), 1: (2,), 4: (2, 4)}  # paths 2, 3 and 5 have no verified point
ALL = dict.fromkeys(range(6), (1, 2, 3, 4))
DEFAULTS = {"batch_size": 4}


def threads():
    return [thread for thread in threading.enumerate() if "batches ahead" in thread.name]


@pytest.fixture(params=[0, 2], autouse=True)
def ahead(request, monkeypatch):
    """Every test of this file with batches made when they are asked for, and with batches prepared ahead."""
    monkeypatch.setitem(DEFAULTS, "prefetch", request.param)
    yield request.param
    gc.collect()
    assert not threads()


def make(images=12, gate="open", seed=0, walks=None, generator=None, **options):
    walks = walks or spelling_walks(VERIFIED if gate is None else ALL)
    gate = RuleGate() if gate == "open" else gate
    dataset = PrivacyWalkDataset(walks, images, seed)
    return PrivacyWalkSampler(dataset, generator or SpellingGenerator(), gate, **{**DEFAULTS, **options})


def stream(loader, epochs=1):
    return [batch for _ in range(epochs) for batch in loader]


def column(batches, key="index"):
    return torch.cat([batch[key].flatten() for batch in batches]).tolist()


def by_index(batches):
    return {int(i): image for batch in batches for i, image in zip(batch["index"], batch["image"], strict=True)}


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


def make_trainer(loader, network=None, epochs=1, loss=None, **options):
    network = network or nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    return SupervisedTrainer(
        torch.device("cpu"), epochs, loader, network, optimizer, loss or nn.CrossEntropyLoss(), **options
    )


def test_batch_spells_out_its_places():
    loader = make(images=10)
    batches = stream(loader)
    assert PrivacyWalkDataLoader is PrivacyWalkSampler and is_synthetic(loader)
    assert len(loader) == 3 and [len(batch["image"]) for batch in batches] == [4, 4, 2]
    assert column(batches) == list(range(10))
    for batch in batches:
        image = batch["image"]
        assert image.dtype == torch.float32 and image.shape[1:] == (1, 2, 2) and type(image) is torch.Tensor
        assert batch["label"].dtype == torch.int64 and batch["label"].shape == (len(image),)
        torch.testing.assert_close(image[:, 0, 0, 0] * 10, batch["path_id"].float())
        torch.testing.assert_close(image[:, 0, 0, 1] * 10, batch["position"])
        assert torch.equal(image[:, 0, 1, 0].long(), batch["label"])


@pytest.mark.parametrize("images, size, drop_last, expected", [(10, 4, False, 3), (10, 4, True, 2), (8, 4, False, 2)])
def test_length_is_the_iterations_of_an_epoch(images, size, drop_last, expected):
    loader = make(images, batch_size=size, drop_last=drop_last)
    assert len(loader) == len(stream(loader)) == len(stream(loader)) == expected


@pytest.mark.parametrize("shuffle", [False, True])
def test_each_epoch_has_fresh_images_of_all_indices(shuffle):
    loader = make(shuffle=shuffle)
    epochs = [stream(loader) for _ in range(3)]
    assert all(sorted(column(batches)) == list(range(12)) for batches in epochs)
    assert len({tuple(column(batches)) for batches in epochs}) == (3 if shuffle else 1)
    assert len({position for batches in epochs for position in column(batches, "position")}) == 36


@pytest.mark.parametrize("noise", ["const", "random"])
def test_seed_fixes_the_stream(noise):
    first = stream(make(seed=5, shuffle=True, noise=noise), epochs=2)
    assert_same(first, stream(make(seed=5, shuffle=True, noise=noise), epochs=2))
    assert column(first, "position") != column(stream(make(seed=6, shuffle=True, noise=noise), epochs=2), "position")


@pytest.mark.parametrize("noise", ["const", "random"])
def test_image_does_not_depend_on_its_batch(noise):
    gate = RuleGate(low=2.0)
    ones = by_index(stream(make(gate=gate, batch_size=1, noise=noise)))
    many = by_index(stream(make(gate=gate, batch_size=5, noise=noise, shuffle=True)))
    assert ones.keys() == many.keys()
    assert all(torch.allclose(ones[i], many[i], atol=1e-6) for i in ones)


def test_set_epoch_replays():
    loader = make(shuffle=True)
    loader.set_epoch(2)
    first = stream(loader)
    stream(loader)
    loader.set_epoch(2)
    assert_same(first, stream(loader))


def test_global_random_state_is_untouched():
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    stream(make(shuffle=True, noise="random", gate=RuleGate(low=2.0)), epochs=2)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all() and before[2] == random.getstate()


def test_gate_sees_every_image_and_rejected_ones_never_leave():
    gate = RuleGate(low=2.0, high=3.5, banned=(1,))
    loader = make(images=40, gate=gate)
    batches = stream(loader, epochs=2)
    positions, paths = column(batches, "position"), column(batches, "path_id")
    assert min(positions) >= 2.0 and max(positions) <= 3.5 and 1 not in paths
    assert len(positions) == 80 and gate.rejected > 0
    assert loader.counts == {"emitted": 80, "rejected": gate.rejected}
    assert gate.seen == 80 + gate.rejected
    assert sorted(column(batches[:10], "label")) == [0] * 20 + [1] * 20


def test_exhausted_gate_raises_with_counts_and_emits_nothing():
    loader = make(gate=RuleGate(banned=(0, 1, 2)), max_attempts=7)  # the whole class 0
    with pytest.raises(RuntimeError, match=r"all 7 attempts for 1 of the 4.*0 emitted, 7 rejected.*max_attempts"):
        list(loader)
    assert loader.counts == {"emitted": 0, "rejected": 0}


@pytest.mark.parametrize(
    "verdict", [torch.ones(1, dtype=torch.bool), torch.ones(4), torch.ones(4, 1, dtype=torch.bool)]
)
def test_malformed_verdict_is_no_pass(verdict):
    gate = RuleGate()
    gate.accepts = lambda images: verdict
    with pytest.raises(TypeError, match="gate.accepts must give bool"):
        next(iter(make(gate=gate)))


@pytest.mark.parametrize("gate", [RuleGate(), None])
def test_ends_are_never_shown(gate):
    batches = stream(make(images=60, gate=gate), epochs=4)
    assert all((batch["image"][:, 0, 1, 1] == 0).all() for batch in batches)
    assert min(column(batches, "position")) >= 1 and max(column(batches, "position")) <= STEPS - 2


def test_without_a_gate_exactly_the_verified_points_are_shown():
    walks = spelling_walks(VERIFIED)
    batches = stream(make(images=12, gate=None, walks=walks), epochs=2)
    shown = set(zip(column(batches, "path_id"), column(batches, "position"), strict=True))
    assert shown == {(path, float(point)) for path, points in VERIFIED.items() for point in points}
    for batch in batches:
        exact = walks.points[batch["path_id"], batch["position"].long()].view(-1, 1, 2, 2)
        assert torch.equal(batch["image"], exact)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"walks": spelling_walks({0: (1,)})}, r"class\(es\) \[1\]"),
        ({"noise": "random"}, "without a gate"),
        ({"amp": True}, "without a gate"),
    ],
)
def test_without_a_gate_nothing_unverified_is_possible(options, message):
    with pytest.raises(ValueError, match=message):
        make(gate=None, **options)


@pytest.mark.parametrize("dtype, shape", [("float32", (1, 1, 1)), ("int64", ()), (torch.float64, [1])])
def test_label_dtype_and_shape(dtype, shape):
    label = next(iter(make(label_dtype=dtype, label_shape=shape)))["label"]
    assert label.dtype == getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert label.shape == (4, *shape)


def test_value_range_channels_and_transform_come_after_the_gate():
    plain = next(iter(make()))
    gate = RuleGate()
    moved = next(
        iter(make(gate=gate, value_range=(0, 1), channels=3, image_transform=lambda x: MetaTensor(2 * x).double()))
    )
    assert moved["image"].shape == (4, 3, 2, 2) and moved["image"].dtype == torch.float32
    assert type(moved["image"]) is torch.Tensor
    torch.testing.assert_close(moved["image"], (plain["image"] + 1).expand(-1, 3, -1, -1))
    with pytest.raises(ValueError, match="must keep B"):
        next(iter(make(image_transform=lambda x: x[:1])))


def test_images_are_clamped_before_the_gate():
    walks = spelling_walks()
    far = type(walks)(walks.points * 100, walks.labels, walks.verified, "linear")
    gate = RuleGate()
    batch = next(iter(make(walks=far, gate=gate)))
    assert batch["image"].min() >= -1 and batch["image"].max() == 1


def test_images_that_are_not_finite_stop_the_run():
    generator = SpellingGenerator()
    generator.scale.data.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="NaN"):
        next(iter(make(generator=generator)))


@pytest.mark.parametrize("amp", [False, True])
def test_what_the_training_loop_switches_on_does_not_reach_the_images(amp):
    seen = {}

    class Watched(SpellingGenerator):
        def synthesize(self, *args, **options):
            watch("generator")
            return super().synthesize(*args, **options)

    class WatchedGate(RuleGate):
        def accepts(self, images):
            watch("gate")
            return super().accepts(images)

    def watch(name):
        seen[name] = torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def transform(images):
        watch("transform")
        return images

    plain = stream(make(amp=amp))
    for mode in (torch.enable_grad, torch.inference_mode):
        batches = iter(make(generator=Watched(), gate=WatchedGate(), image_transform=transform, amp=amp))
        with torch.autocast("cpu", dtype=torch.bfloat16), mode():
            made = list(batches)
            assert torch.is_autocast_enabled("cpu") and torch.is_inference_mode_enabled() == (mode != torch.enable_grad)
        assert seen == {"generator": (amp, False, False), **dict.fromkeys(("gate", "transform"), (False, False, False))}
        assert_same(made, plain)
        assert made[0]["image"].dtype == torch.float32
        assert not any(column.is_inference() or column.requires_grad for batch in made for column in batch.values())


@pytest.mark.parametrize("wrap", [torch.as_tensor, MetaTensor])
def test_plain_and_meta_tensors_decollate(wrap):
    batch = next(iter(make()))
    items = decollate_batch({**batch, "image": wrap(batch["image"])})
    assert len(items) == 4 and items[1]["image"].shape == (1, 2, 2)
    assert int(items[2]["label"]) == int(batch["label"][2])


def test_backward_through_a_classifier_leaves_the_generator_alone():
    generator = SpellingGenerator().train()
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    for batch in make(generator=generator):
        assert not batch["image"].requires_grad and not batch["image"].is_inference()
        nn.functional.cross_entropy(network(batch["image"]), batch["label"]).backward()
    assert network[1].weight.grad.abs().sum() > 0
    assert generator.scale.grad is None and not generator.scale.requires_grad and not generator.training


@pytest.mark.parametrize("replicas", [2, 3])
def test_ranks_share_out_the_whole_epoch(replicas):
    whole = by_index(stream(make()))
    dataset = PrivacyWalkDataset(spelling_walks(ALL), 12)
    shards = []
    for rank in range(replicas):
        sampler = DistributedSampler(dataset, num_replicas=replicas, rank=rank, shuffle=True)
        loader = PrivacyWalkSampler(dataset, SpellingGenerator(), RuleGate(), 4, sampler=sampler, shuffle=False)
        shards.append(by_index(stream(loader)))
        assert len(loader) == -(-12 // replicas // 4)
    assert sum(len(shard) for shard in shards) == 12 and set().union(*shards) == set(range(12))
    assert all(torch.equal(image, whole[i]) for shard in shards for i, image in shard.items())


def test_distributed_sampler_sets_epoch_and_order():
    dataset = PrivacyWalkDataset(spelling_walks(ALL), 12)
    sampler = DistributedSampler(dataset, num_replicas=2, rank=1, shuffle=True)
    loader = PrivacyWalkSampler(dataset, SpellingGenerator(), RuleGate(), 3, sampler=sampler)
    seen = []
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        seen.append(stream(loader))
        assert sampler.epoch == epoch
    assert column(seen[0]) != column(seen[1])
    unadvanced = stream(loader)  # a plain loop that forgets set_epoch still gets fresh images
    assert not set(column(unadvanced, "position")) & set(column(seen[1], "position"))


def test_sampler_without_epochs_is_honoured():
    loader = make(sampler=SubsetRandomSampler([1, 5, 7], generator=torch.Generator().manual_seed(0)))
    first, second = stream(loader), stream(loader)
    assert sorted(column(first)) == sorted(column(second)) == [1, 5, 7]
    assert not set(column(first, "position")) & set(column(second, "position"))
    with pytest.raises(ValueError, match="mutually exclusive"):
        make(sampler=SubsetRandomSampler([1]), shuffle=True)


@pytest.mark.parametrize("batches", [0, 1, 4, 6, 7, 9])
def test_resume_reproduces_the_stream(batches):
    """Three batches an epoch: before the start, in mid-epoch, at ends of epochs."""
    make_loader = lambda: make(shuffle=True, gate=RuleGate(low=2.0))  # noqa: E731
    whole = stream(make_loader(), epochs=4)
    loader, taken, state = make_loader(), 0, None
    state = loader.state_dict()
    while taken < batches:
        for _ in loader:
            taken += 1
            state = copy.deepcopy(loader.state_dict())
            if taken == batches:
                break
    resumed = make_loader()
    resumed.load_state_dict(json.loads(json.dumps(state)))
    rest = stream(resumed, epochs=5)[: len(whole) - batches]
    assert_same(rest, whole[batches:])
    assert resumed.counts["emitted"] >= len(whole) * 4


def test_resume_refuses_another_stream():
    with pytest.raises(ValueError, match="'seed': 0.*cannot be continued"):
        make(seed=1).load_state_dict(make(seed=0).state_dict())


class MixingGenerator(SpellingGenerator):
    """The last digits of an image depend on the images beside it in a forward, as real networks' may."""

    def synthesize(self, w, noise="const", rng=None):
        return super().synthesize(w, noise, rng) + 1e-4 * w.mean()


@pytest.mark.parametrize("batches", [1, 15, 16, 17, 30, 33, 39])
def test_resume_is_exact_where_forwards_mix_batches(batches):
    options = {"images": 160, "gate": RuleGate(low=2.0), "shuffle": True}
    whole = stream(make(generator=MixingGenerator(), **options))
    loader = make(generator=MixingGenerator(), **options)
    for _, _ in zip(range(batches), loader):  # noqa: B905
        pass
    resumed = make(generator=MixingGenerator(), **options)
    resumed.load_state_dict(loader.state_dict())
    assert_same(stream(resumed), whole[batches:])
    complete = make(**options)
    stream(complete)
    assert resumed.counts == complete.counts


@pytest.mark.parametrize("noise", ["const", "random"])
@pytest.mark.parametrize("depth", [1, 2, 7])
def test_depth_does_not_change_the_stream(noise, depth):
    options = {"images": 100, "gate": RuleGate(low=2.0), "shuffle": True, "noise": noise}
    loaders = [make(generator=MixingGenerator(), prefetch=prefetch, **options) for prefetch in (0, depth)]
    streams = [[], []]
    for batch, other in zip(*loaders, strict=True):
        streams[0].append(batch), streams[1].append(other)
        assert loaders[0].state_dict() == loaders[1].state_dict()
    assert_same(*streams)


def test_state_and_counts_are_of_what_was_handed_out(ahead):
    gate = RuleGate(low=3.0)
    loader = make(images=64, gate=gate)
    place = loader.dataset.pool.places
    needed = [next(a for a in range(50) if place([i], 0, 0, a)[1] >= 3.0) for i in range(12)]
    rejected = [sum(needed[first : first + 4]) for first in (0, 4, 8)]
    batches = iter(loader)
    for number in range(1, 4):
        next(batches)
        deadline = time.monotonic() + 20
        while ahead and gate.seen < 4 * (number + ahead) and time.monotonic() < deadline:
            time.sleep(0.001)  # let the thread get ahead
        assert loader.state_dict()["batches"] == number
        assert loader.counts == {"emitted": 4 * number, "rejected": sum(rejected[:number])}
    assert gate.seen >= 4 * (3 + ahead)


def broken_transform(at):
    calls = []

    def fail_in_here(images):
        calls.append(images)
        if len(calls) == at:
            raise KeyError("injected fault")
        return images

    return {"image_transform": fail_in_here}


def broken_generator(at):
    class Breaking(SpellingGenerator):
        def synthesize(self, w, noise="const", rng=None):
            images = super().synthesize(w, noise, rng)
            return images / 0 if self.calls == at else images

    return {"generator": Breaking()}


def broken_gate(at):
    class Breaking(RuleGate):
        def accepts(self, images):
            verdict = super().accepts(images)
            return verdict[:1] if self.seen == 4 * at else verdict

    return {"gate": Breaking()}


@pytest.mark.parametrize("at", [1, 3, 5])
@pytest.mark.parametrize(
    "fault, error, message, place",
    [
        (broken_transform, KeyError, "'injected fault'", "fail_in_here"),
        (broken_generator, RuntimeError, "the generator made an image with NaN", "_completed"),
        (broken_gate, TypeError, r"gate.accepts must give bool \[4\]", "render_and_judge"),
    ],
)
def test_error_comes_with_its_batch_and_its_traceback(fault, error, message, place, at):
    loader, handed_out = make(images=40, **fault(at)), 0
    with pytest.raises(error, match=message) as caught:
        for _ in loader:
            handed_out += 1
    assert handed_out == loader.state_dict()["batches"] == at - 1 and not threads()
    assert place in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


def test_no_thread_outlives_its_loop(ahead):
    loader = make(images=400)
    for _ in loader:
        assert len(threads()) == (ahead > 0)
        break
    assert not threads()
    with pytest.raises(ZeroDivisionError):
        for _ in loader:
            raise ZeroDivisionError
    assert not threads()
    kept = iter(loader)
    next(kept)
    assert len(threads()) == (ahead > 0)
    del kept
    assert not threads()
    cycle = {"batches": iter(loader)}
    cycle["self"] = cycle
    next(cycle["batches"])
    del cycle
    gc.collect()
    assert not threads()


def test_trainer_that_fails_leaves_no_thread(ahead):
    trainer = make_trainer(make(images=400), loss=lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.run()
    assert not threads()


class Recorder:
    """Keeps the indices and positions that reach a trainer."""

    def __init__(self):
        self.rows = []

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine):
        self.rows.append(column([engine.state.batch]) + column([engine.state.batch], "position"))


@pytest.mark.parametrize("every_iteration, stop_after", [(False, 3), (False, 6), (True, 4)])
def test_resume_in_a_monai_trainer(tmp_path, every_iteration, stop_after):
    """Checkpoints of MONAI's handlers at an epoch's end and in mid-epoch; three iterations an epoch."""
    recorder = Recorder()
    make_trainer(make(shuffle=True), epochs=3, train_handlers=[recorder]).run()
    whole = recorder.rows

    loader, recorder = make(shuffle=True), Recorder()
    trainer = make_trainer(loader, epochs=3, train_handlers=[recorder])
    saver = {"save_interval": 1, "epoch_level": not every_iteration, "n_saved": 1}
    CheckpointSaver(str(tmp_path), {"trainer": trainer, "loader": loader}, **saver).attach(trainer)
    stopping = Events.ITERATION_STARTED(once=stop_after + 1)

    @trainer.on(stopping)
    def kill(engine):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    (path,) = tmp_path.glob("*.pt")
    loader, recorder = make(shuffle=True), Recorder()
    trainer = make_trainer(loader, epochs=3, train_handlers=[recorder])
    CheckpointLoader(str(path), {"trainer": trainer, "loader": loader}).attach(trainer)
    trainer.run()
    assert recorder.rows == whole[stop_after:]


def test_supervised_trainer_gets_fresh_images_each_epoch():
    recorder, loader = Recorder(), make(images=10, shuffle=True)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    before = network[1].weight.detach().clone()
    trainer = make_trainer(loader, network, epochs=3, train_handlers=[SyntheticOnly(), recorder], decollate=True)
    trainer.run()
    assert trainer.state.iteration == 9 and len({str(row) for row in recorder.rows}) == 9
    assert not torch.equal(before, network[1].weight)


@pytest.mark.parametrize(
    "options, loss, shape",
    [
        ({}, nn.CrossEntropyLoss(), (2,)),
        ({"label_dtype": "float32", "label_shape": (1,)}, nn.BCEWithLogitsLoss(), (1,)),
        ({"label_dtype": "float32", "label_shape": (1, 1, 1)}, nn.BCEWithLogitsLoss(), (1, 1, 1)),
    ],
)
def test_losses_of_trainers(options, loss, shape):
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, shape[0]), nn.Unflatten(1, shape))
    trainer = make_trainer(make(**options), network, loss=loss)
    trainer.run()
    assert np.isfinite(float(trainer.state.output[0]["loss"]))


def test_fault_while_generating_stops_training():
    generator = SpellingGenerator()
    generator.fail_at_call = 3
    trainer = make_trainer(make(generator=generator), epochs=4)
    with pytest.raises(OSError, match="injected fault"):
        trainer.run()
    assert trainer.state.iteration == 2


def test_worker_options_of_a_stock_config_are_ignored_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        loader = make(num_workers=4, pin_memory=True, persistent_workers=False, collate_fn=None)
    assert "'num_workers': 4, 'pin_memory': True" in caplog.text and "persistent" not in caplog.text
    assert loader.num_workers == 0 and not loader.pin_memory
    with pytest.raises(TypeError, match="batchsize"):
        make(batchsize=3)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1, got 0"),
        ({"batch_size": None}, ValueError, "batch_size"),
        ({"batch_size": 13, "drop_last": True}, ValueError, "no batch of 13"),
        ({"max_attempts": 0}, ValueError, "max_attempts"),
        ({"prefetch": -1}, ValueError, "prefetch is a number of batches.*got -1"),
        ({"prefetch": True}, ValueError, "prefetch is a number of batches"),
        ({"label_shape": (2,)}, ValueError, "label_shape"),
        ({"value_range": (1, 0)}, ValueError, "value_range"),
        ({"noise": "some"}, ValueError, "'some'"),
        ({"generator": torch.Generator()}, TypeError, "StyleGenerator"),
        ({"gate": 0.5}, TypeError, "accepts"),
    ],
)
def test_refuses(options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


def test_refuses_real_data_another_generator_and_other_channels():
    real = CacheDataset([{"image": 0}], progress=False)
    with pytest.raises(TypeError, match="CacheDataset, which may hold real images"):
        PrivacyWalkSampler(real, SpellingGenerator())
    wide, coloured = SpellingGenerator(), SpellingGenerator()
    wide.w_dim, coloured.channels = 8, 3
    with pytest.raises(ValueError, match="8 dimensions and the walks' 4"):
        make(generator=wide)
    with pytest.raises(ValueError, match="only grey images can be repeated to 2 channels"):
        make(generator=coloured, channels=2)


def _one_rank(rank, folder):
    """One process of a stock multi_gpu run: the group is there, the sampler asks it for its rank."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    dataset = PrivacyWalkDataset(spelling_walks(ALL), 12)
    sampler = DistributedSampler(dataset, even_divisible=True, shuffle=True)
    loader = PrivacyWalkSampler(dataset, SpellingGenerator(), RuleGate(), 2, sampler=sampler, shuffle=False)
    network = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    recorder = Recorder()
    make_trainer(loader, network, epochs=2, train_handlers=[SyntheticOnly(), recorder]).run()
    torch.save(recorder.rows, f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("ahead", [0], indirect=True)
def test_two_processes_share_out_each_epoch(tmp_path):
    mp.spawn(_one_rank, (str(tmp_path),), nprocs=2)
    rows = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for epoch in range(2):
        shards = [[i for row in shard[3 * epoch : 3 * epoch + 3] for i in row[:2]] for shard in rows]
        assert sorted(shards[0] + shards[1]) == list(range(12))
    positions = [position for shard in rows for row in shard for position in row[2:]]
    assert len(set(positions)) == 24


def test_real_loader_of_the_same_shape_is_not_synthetic():
    assert not is_synthetic(DataLoader(CacheDataset([{"image": 0}], progress=False)))
    assert not is_synthetic(torch.utils.data.DataLoader(PrivacyWalkDataset(spelling_walks(), 4)))


def test_points_verified_with_other_weights_are_refused_without_a_gate():
    other = SpellingGenerator()
    other.scale.data.fill_(2.0)
    with pytest.raises(ValueError, match="verified with another generator"):
        make(gate=None, generator=other)
    assert len(make(generator=other)) == 3  # with a gate every image is judged anew


def test_infinite_images_are_refused_not_clamped():
    broken = SpellingGenerator()
    broken.scale.data.fill_(float("inf"))
    with pytest.raises(RuntimeError, match="NaN or infinite"):
        next(iter(make(generator=broken)))
