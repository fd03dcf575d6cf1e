"""The GAN trainer as a MONAI trainer, at 16 pixels."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.engines.utils import IterationEvents

from monai_plan.engines import StyleGanTrainer
from monai_plan.networks.layers import AugmentPipe
from monai_plan.networks.nets import StyleDiscriminator, StyleGenerator

SIZES = {"image_size": 16, "channels": 1, "num_classes": 2, "channel_base": 128, "channel_max": 16}
KEYS = {"g_loss", "d_loss", "r1", "real_sign", "p", "images"}


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


def test_r1_every_interval_only():
    penalties = []
    trainer = make(epochs=2, r1_interval=3, r1_gamma=1.0)
    trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, lambda e: penalties.append(e.state.output["r1"]))
    trainer.run()
    assert [value > 0 for value in penalties] == [True, False, False, True]
    off = make(r1_gamma=0.0)
    off.run()
    assert off.state.output["r1"] == 0.0


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
