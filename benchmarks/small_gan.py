"""A GAN small enough to be trained many times, to see attacks on generators that remember."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import DataLoader

from monai_plan.data import ImageStream
from monai_plan.engines import StyleGanTrainer
from monai_plan.handlers import EpochBar, GeneratorEMA
from monai_plan.losses import StyleGanObjective
from monai_plan.networks.layers import AugmentPipe
from monai_plan.networks.nets import StyleDiscriminator, StyleGenerator
from monai_plan.transforms import RenderPhantomd

BATCH = 16


def train_small_gan(
    images: torch.Tensor,
    labels: torch.Tensor,
    shown: int,
    seed: int = 0,
    channel_base: int = 512,
    file: Path | None = None,
) -> tuple[StyleGenerator, StyleDiscriminator]:
    """The bundle's training with few channels, no augmentation and a tenth of its penalties: it learns by heart.

    Args:
        images: float [N, 1, S, S] in [-1, 1], N >= 16.
        labels: classes, int64 [N].
        shown: real images shown to the discriminator.
        seed: of networks and training.
        channel_base: as of the networks.
        file: the two networks are taken from there if it exists, and else saved there.

    Returns:
        The averaged generator and the discriminator.
    """
    size = {"image_size": images.shape[-1], "num_classes": 2, "channel_base": channel_base, "channel_max": 64}
    kept = [file.with_suffix(f".{network}.safetensors") for network in ("generator", "discriminator")] if file else []
    if kept and all(path.is_file() for path in kept):
        return StyleGenerator.load(kept[0]).eval(), StyleDiscriminator.load(kept[1]).eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = StyleGenerator(**size)
        discriminator = StyleDiscriminator(**size, mapping_layers=2)
    average = copy.deepcopy(generator)
    items = [{"image": image, "label": int(label)} for image, label in zip(images, labels, strict=True)]
    stream = ImageStream(labels.tolist(), seed=seed)
    gamma = 0.00008 * images.shape[-1] ** 2 / BATCH
    StyleGanTrainer(
        "cpu",
        max_epochs=1,
        epoch_length=shown // BATCH,
        train_data_loader=DataLoader(items, batch_size=BATCH, sampler=stream, drop_last=True, num_workers=0),
        generator=generator,
        discriminator=discriminator,
        g_optimizer=torch.optim.Adam(generator.parameters(), 0.002, betas=(0.0, 0.99)),
        d_optimizer=torch.optim.Adam(discriminator.parameters(), 0.002, betas=(0.0, 0.99)),
        augment=AugmentPipe(p=0.0),
        objective=StyleGanObjective(loss="relativistic", r1_gamma=gamma, r2_gamma=gamma, penalty_interval=8),
        seed=seed,
        train_handlers=[GeneratorEMA(generator, average, half_life=2000), EpochBar("small GAN")],
    ).run()
    for path, network in zip(kept, (average, discriminator), strict=False):
        network.save(path)
    return average.eval(), discriminator.eval()


@torch.no_grad()
def samples(generator: StyleGenerator, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [count, 1, S, S] with constant noise and their classes, equally many of each."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % generator.num_classes
    w = generator.map_latents(torch.randn(count, generator.z_dim, generator=rng), labels)
    images = [generator.synthesize(part, noise="const").clamp(-1, 1) for part in w.split(64)]
    return torch.cat(images), labels


def phantom_images(items: Sequence[Mapping[str, Any]], image_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Phantoms of a data list, rendered: images [N, 1, S, S] and labels [N]; below 32 pixels they are averaged down."""
    drawn_at = max(32, image_size)
    render = RenderPhantomd("image", image_size=drawn_at)
    drawn = [render(dict(item)) for item in items]
    images = torch.stack([torch.as_tensor(item["image"]).as_subclass(torch.Tensor).float() for item in drawn])
    return F.avg_pool2d(images, drawn_at // image_size), torch.tensor([item["label"] for item in drawn])
