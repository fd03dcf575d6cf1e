"""The GAN trainer as a MONAI trainer, at 16 pixels."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.engines.utils import IterationEvents

from monai_plan.data import ImageStream
from monai_plan.engines import StyleGanTrainer
from monai_plan.handlers import AdaptiveAugment, GeneratorEMA, ResumableCheckpoint
from monai_plan.losses import PathLengthPenalty, StyleGanObjective
from monai_plan.networks.layers import AugmentPipe
from monai_plan.networks.nets import StyleDiscriminator, StyleGenerator

SIZES = {"image_size": 16, "channels": 1, "num_classes": 2, "channel_base": 128, "channel_max": 16}
KEYS = {"g_loss", "d_loss", "r1", "r2", "path_length_penalty", "real_sign", "p", "images"}


def items(count: int = 8) -> list[dict]:
    rng = torch.Generator().manual_seed(0)
    return [
        {"image": MetaTensor(torch.rand(1, 16, 16, generator=rng) * 2 - 1), "label": torch.tensor(i % 2)}
        for i in range(count)
    ]


def make(data=None, epochs: int = 1, p: float = 0.5, **arguments) -> StyleGanTrainer:
    torch.manual_seed(0)
    generator = StyleGenerator(z_dim=8, w_dim=8, **SIZES)
    discriminator = StyleDiscriminator(mapping_layers=2, **SIZES)
    loader = data if data is not None else DataLoader(items(), batch_size=4)
    return StyleGanTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=loader,
        generator=generator,
        discriminator=discriminator,
        g_optimizer=torch.optim.Adam(generator.parameters(), 0.002, betas=(0.0, 0.99)),
        d_optimizer=torch.optim.Adam(discriminator.parameters(), 0.002, betas=(0.0, 0.99)),
        augment=AugmentPipe(p),
        **arguments,
    )


def weights(trainer: StyleGanTrainer) -> dict[str, torch.Tensor]:
    networks = {"g": trainer.generator, "d": trainer.discriminator}
    return {f"{k}.{n}": v.clone() for k, network in networks.items() for n, v in network.state_dict().items()}


@pytest.mark.parametrize("amp", [False, True])
def test_an_epoch_trains_both_networks(amp):
    trainer = make(amp=amp)
    before = weights(trainer)
    trainer.run()
    after = weights(trainer)
    assert trainer.state.iteration == 2 and trainer.state.epoch == 1
    assert trainer.state.output.keys() == KEYS and trainer.state.output["images"] == 4
    fixed = {name for name in before if name.endswith("noise_const")}
    # noise strengths start at zero with a gradient that may vanish; everything else moves
    unmoved = {n for n in before if torch.equal(before[n], after[n])} - fixed
    assert not unmoved
    assert all(torch.equal(before[name], after[name]) for name in fixed)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert after["g.w_avg"].dtype == torch.float32 and after["g.w_avg"].abs().max() > 0


def test_amp_computes_in_bfloat16_and_without_it_in_float32():
    seen = {}
    for amp in (False, True):
        trainer = make(amp=amp)
        trainer.discriminator.blocks[0].conv0.register_forward_hook(
            lambda module, args, output, amp=amp: seen.setdefault(amp, []).append(output.dtype)
        )
        trainer.run()
    assert set(seen[False]) == {torch.float32}
    # first iteration: real, fake, R1 (which stays in float32), generator
    assert seen[True][:4] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.bfloat16]


def test_every_iteration_event_fires_once_an_iteration_in_order():
    trainer = make()
    fired: list[str] = []
    events = (
        IterationEvents.FORWARD_COMPLETED,
        IterationEvents.LOSS_COMPLETED,
        IterationEvents.BACKWARD_COMPLETED,
        IterationEvents.MODEL_COMPLETED,
    )
    for event in events:
        trainer.add_event_handler(event, lambda engine, name=event.name: fired.append(name))
    trainer.run()
    assert fired == [event.name for event in events] * 2


def test_postprocessing_sees_the_figures_and_its_result_is_kept():
    seen = []

    def double(data: dict) -> dict:
        seen.append(data["image"].shape)
        return {**data, "g_loss": data["g_loss"] * 2, "both": data["g_loss"] + data["d_loss"]}

    plain, trainer = make(), make(postprocessing=double)
    plain.run()
    trainer.run()
    assert seen == [(4, 1, 16, 16)] * 2
    assert trainer.state.output["g_loss"] == pytest.approx(2 * plain.state.output["g_loss"])
    assert trainer.state.output.keys() == KEYS | {"both"}


@pytest.mark.parametrize("remainder", [1, 3])
def test_a_short_last_batch_works(remainder):
    trainer = make(DataLoader(items(4 + remainder), batch_size=4))
    trainer.run()
    assert trainer.state.iteration == 2 and trainer.state.output["images"] == remainder


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (None, "empty batch"),
        ({"image": torch.zeros(2, 1, 16, 16)}, "no labels.*'label' beside 'image'"),
    ],
)
def test_unusable_batches_are_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        make([batch]).run()


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_labels_of_other_dtypes_and_shapes(dtype, shape):
    labels = torch.tensor([0, 1, 1, 0])
    batch = {"image": torch.zeros(4, 1, 16, 16), "label": labels}
    other = {"image": torch.zeros(4, 1, 16, 16), "label": labels.to(dtype).reshape(shape)}
    outputs = []
    for data in (batch, other):
        trainer = make([data])
        trainer.run()
        outputs.append(trainer.state.output)
    assert outputs[0] == outputs[1]


def test_same_seed_same_weights_and_the_global_state_is_untouched():
    def run(seed: int) -> dict[str, torch.Tensor]:
        trainer = make([{"image": torch.zeros(4, 1, 16, 16), "label": torch.tensor([0, 1, 0, 1])}] * 2, seed=seed)
        torch.manual_seed(123 + seed)  # the global state must not matter
        before = torch.get_rng_state()
        trainer.run()
        assert torch.equal(before, torch.get_rng_state())
        return weights(trainer)

    first, again, other = run(7), run(7), run(8)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["g.w_avg"], other["g.w_avg"])


def test_the_generator_step_leaves_the_discriminators_gradients_alone():
    trainer = make()
    gradients = {}

    def remember(engine):
        gradients["before"] = [parameter.grad.clone() for parameter in engine.discriminator.parameters()]

    trainer.add_event_handler(IterationEvents.FORWARD_COMPLETED, remember)  # after D's step, before G's backward
    trainer.run()
    after = [parameter.grad for parameter in trainer.discriminator.parameters()]
    assert all(torch.equal(x, y) for x, y in zip(gradients["before"], after, strict=True))
    assert all(parameter.grad is not None for parameter in trainer.generator.parameters())


@pytest.mark.parametrize(
    ("figure", "on", "off"),
    [
        ("r1", {"r1_gamma": 1.0, "penalty_interval": 3}, {"r1_gamma": 0.0}),
        ("r2", {"r2_gamma": 1.0, "penalty_interval": 3}, {"r2_gamma": 0.0}),
        ("path_length_penalty", {"path_length_weight": 2.0, "path_length_interval": 3}, {"path_length_weight": 0.0}),
    ],
)
def test_lazy_regularisers_every_interval_only(figure, on, off):
    penalties = []
    trainer = make(epochs=2, objective=StyleGanObjective(**on))
    trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, lambda e: penalties.append(e.state.output[figure]))
    trainer.run()
    assert penalties[0] == penalties[1] == penalties[2] != penalties[3] and penalties[0] * penalties[3] > 0
    without = make(objective=StyleGanObjective(**off))
    without.run()
    assert without.state.output[figure] == 0.0
    other = make(epochs=2, objective=StyleGanObjective(**off))
    other.run()
    assert any(not torch.equal(value, weights(other)[name]) for name, value in weights(trainer).items())


def test_the_relativistic_loss_compares_pairs():
    trainer = make(objective=StyleGanObjective(loss="relativistic", r2_gamma=0.1))
    with torch.no_grad():  # a blind discriminator: every logit is 0, the relativistic loss log 2 for both sides
        trainer.discriminator.out.weight.zero_()
    outputs = []
    trainer.d_optimizer = torch.optim.SGD(trainer.discriminator.parameters(), lr=0.0)
    trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, lambda e: outputs.append(e.state.output))
    trainer.run()
    assert outputs[0]["d_loss"] == outputs[0]["g_loss"] == pytest.approx(0.6931, abs=1e-4)


def test_mixing_gives_the_later_layers_to_a_second_latent():
    trainer = make(objective=StyleGanObjective(mixing=0.5))
    seen = []
    trainer.generator.synthesize = lambda ws, noise, rng: (
        seen.append(ws) or ws.mean(dim=(1, 2))[:, None, None, None].expand(-1, 1, 16, 16)
    )
    trainer.run()
    ws = torch.cat([w.detach() for w in seen])
    assert ws.shape == (16, trainer.generator.num_ws, 8)
    for layers in ws:
        changes = (layers.diff(dim=0).abs().sum(dim=1) > 0).sum()
        assert changes <= 1
    mixed = [(layers[0] != layers[-1]).any().item() for layers in ws]
    assert 0 < sum(mixed) < len(mixed)


class Plain(torch.nn.Module):
    """A generator and a discriminator in one, without chance and without statistics of the batch."""

    z_dim, num_ws = 4, 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.5, -0.2]))
        self.register_buffer("w_avg", torch.zeros(4))

    def map_latents(self, z, labels):
        return torch.ones_like(z) * self.weight[labels][:, None]

    def synthesize(self, w, noise, rng):
        return w[:, :1, None, None].expand(-1, 1, 16, 16)

    def forward(self, images, labels):
        return images.mean(dim=(1, 2, 3)) * self.weight[labels]


@pytest.mark.parametrize("loss", ["logistic", "relativistic"])
def test_accumulated_gradients_are_those_of_the_whole_batch(loss):
    outputs, trained = [], []
    for accumulate in (1, 2, 4):
        trainer = make(accumulate=accumulate, p=0.0, objective=StyleGanObjective(loss, r1_gamma=1.0, r2_gamma=0.5))
        trainer.generator, trainer.discriminator = Plain(), Plain()
        trainer.g_optimizer = torch.optim.SGD(trainer.generator.parameters(), 0.1)
        trainer.d_optimizer = torch.optim.SGD(trainer.discriminator.parameters(), 0.1)
        trainer.run()
        outputs.append(trainer.state.output)
        trained.append(torch.cat([trainer.generator.weight, trainer.discriminator.weight]).detach())
    assert outputs[1] == pytest.approx(outputs[0]) and outputs[2] == pytest.approx(outputs[0])
    torch.testing.assert_close(trained[1], trained[0])
    torch.testing.assert_close(trained[2], trained[0])
    assert (trained[0] - torch.tensor([0.5, -0.2] * 2)).abs().min() > 1e-4


def test_a_batch_that_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match="4 images cannot be cut into 3 equal parts"):
        make(accumulate=3).run()


def test_float16_scales_its_gradients():
    objective = StyleGanObjective(r2_gamma=0.1, path_length_weight=2.0)
    trainer = make(amp=True, amp_dtype=torch.float16, objective=objective)
    before = weights(trainer)
    trainer.run()
    assert trainer.g_scaler.is_enabled() and trainer.d_scaler.is_enabled()
    after = weights(trainer)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert not torch.equal(before["g.mapping.layers.0.weight"], after["g.mapping.layers.0.weight"])
    assert not make(amp=True, amp_dtype=torch.bfloat16).g_scaler.is_enabled()


class Killed(RuntimeError):
    pass


@pytest.mark.parametrize("kill_at", [1, 3, 4, 6])
def test_a_killed_run_resumes_to_the_same_batches_latents_and_weights(tmp_path, kill_at):
    def run(folder, kill: int = 0):
        data = items(10)
        for number, item in enumerate(data):
            item["number"] = number
        path_length = PathLengthPenalty()
        trainer = make(
            DataLoader(data, batch_size=4, sampler=ImageStream([0, 1] * 5, seed=3), drop_last=True),
            epochs=4,
            p=0.3,
            epoch_length=2,
            objective=StyleGanObjective(r2_gamma=0.05, penalty_interval=3, path_length_weight=2.0, mixing=0.5),
            path_length=path_length,
        )
        average = copy.deepcopy(trainer.generator)
        adaptive = AdaptiveAugment(trainer.augment, images_to_full=100, interval=3)
        adaptive.attach(trainer)
        GeneratorEMA(trainer.generator, average).attach(trainer)
        objects = {
            "generator": trainer.generator,
            "average": average,
            "discriminator": trainer.discriminator,
            "augment": trainer.augment,
            "adaptive": adaptive,
            "path_length": path_length,
            "g_optimizer": trainer.g_optimizer,
            "d_optimizer": trainer.d_optimizer,
        }
        ResumableCheckpoint(folder / "checkpoint.pt", objects).attach(trainer)
        seen = {}

        def look(engine):
            if engine.state.iteration == kill:
                raise Killed
            seen[engine.state.iteration] = (engine.state.batch["number"].tolist(), engine.state.output)

        trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, look)
        try:
            trainer.run()
        except Killed:
            return None
        return seen, {f"average.{k}": v for k, v in average.state_dict().items()} | weights(trainer)

    torch.manual_seed(kill_at)  # the global state must not matter
    seen, expected = run(tmp_path / "whole")
    run(tmp_path / "cut", kill=kill_at)
    torch.manual_seed(99)
    resumed, found = run(tmp_path / "cut")
    assert min(resumed) == (kill_at - 1) // 2 * 2 + 1 and max(resumed) == 8
    for iteration, (numbers, output) in resumed.items():
        assert numbers == seen[iteration][0]
        expected_output = {**seen[iteration][1]}
        for lazy in ("r1", "r2", "path_length_penalty"):  # 0 from the start of the resumed run until due again
            if not output[lazy]:
                expected_output[lazy] = 0.0
        assert output == pytest.approx(expected_output, rel=1e-4, abs=1e-6)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_w_avg_by_hand():
    trainer = make([{"image": torch.zeros(4, 1, 16, 16), "label": torch.tensor([0, 1, 0, 1])}], w_avg_decay=0.75)
    trainer.generator.map_latents = lambda z, labels: trainer.generator.mapping.layers[0].bias + torch.ones(len(z), 8)
    trainer.run()
    # w is one; two batches of latents an iteration: 1 - 0.75 ** 2
    torch.testing.assert_close(trainer.generator.w_avg, torch.full((8,), 1 - 0.75**2))


def test_an_epoch_length_beyond_the_loader_repeats_it():
    trainer = make(epochs=2, epoch_length=3)
    trainer.run()
    assert trainer.state.iteration == 6


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_losses_that_are_not_finite_stop_the_run(network):
    trainer = make()
    with torch.no_grad():
        next(getattr(trainer, network).parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="at iteration 1: training has diverged.*learning rates"):
        trainer.run()


def test_the_networks_can_be_copied_after_training():
    trainer = make()
    trainer.run()
    assert copy.deepcopy(trainer.generator).state_dict().keys() == trainer.generator.state_dict().keys()


class Linear(torch.nn.Module):
    """Generator and discriminator whose steps can be told by hand."""

    z_dim, num_ws = 4, 3

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.5, -0.2]))
        self.register_buffer("w_avg", torch.zeros(4))

    def map_latents(self, z, labels):
        return z * self.weight[labels][:, None]

    def synthesize(self, w, noise, rng):
        w = w if w.ndim == 2 else w.mean(dim=1)
        return (w[:, :1, None, None] * self.weight[0]).expand(-1, 1, 2, 2)

    def forward(self, images, labels):
        return images.sum(dim=(1, 2, 3)) * self.weight[labels]


def one_step(rate: float = 0.1, **objective) -> tuple[torch.Tensor, torch.Tensor]:
    """Both weights after one plain gradient step on four images, two of each class."""
    generator, discriminator = Linear(), Linear()
    trainer = StyleGanTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[{"image": torch.ones(4, 1, 2, 2), "label": torch.tensor([0, 1, 0, 1])}],
        generator=generator,
        discriminator=discriminator,
        g_optimizer=torch.optim.SGD(generator.parameters(), rate),
        d_optimizer=torch.optim.SGD(discriminator.parameters(), rate),
        augment=AugmentPipe(0.0),
        objective=StyleGanObjective(**{"r1_gamma": 0.0, **objective}),
    )
    trainer.run()
    return generator.weight.detach(), discriminator.weight.detach()


@pytest.mark.parametrize("loss", ["logistic", "relativistic"])
@pytest.mark.parametrize("which", [("r1_gamma",), ("r2_gamma",), ("r1_gamma", "r2_gamma")])
def test_lazy_penalties_have_their_weight_and_sign(loss, which):
    """|dD/dx|^2 is 4 w^2 of the image's class; its mean's gradient is 4 w; the step is gamma / 2 times the interval."""
    _, without = one_step(loss=loss)
    _, penalised = one_step(loss=loss, penalty_interval=5, **dict.fromkeys(which, 0.3))
    expected = -0.1 * len(which) * (0.3 / 2 * 5) * 4 * torch.tensor([0.5, -0.2])
    torch.testing.assert_close(penalised - without, expected)


def test_the_discriminator_learns_to_tell_and_the_generator_to_fool():
    """Real images are brighter than generated ones, so D's weights grow; G then makes brighter images for class 0."""
    for loss in ("logistic", "relativistic"):
        generator, discriminator = one_step(loss=loss)
        assert (discriminator > torch.tensor([0.5, -0.2])).all(), loss
        assert generator.isfinite().all()


def test_path_length_has_its_weight_and_interval():
    plain, _ = one_step()
    change = {
        (weight, interval): one_step(path_length_weight=weight, path_length_interval=interval)[0] - plain
        for weight, interval in ((1.0, 1), (2.0, 1), (1.0, 4))
    }
    assert change[1.0, 1].abs().max() > 1e-4
    torch.testing.assert_close(change[2.0, 1], 2 * change[1.0, 1], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(change[1.0, 4], 4 * change[1.0, 1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("accumulate", [0, -1])
def test_accumulate_is_checked_at_once(accumulate):
    with pytest.raises(ValueError, match=f"accumulate is {accumulate}"):
        make(accumulate=accumulate)
