"""The attacks on a generator that was over-trained on few phantoms on purpose, and on phantoms that it never saw."""

import pytest
import torch
import torch.nn.functional as F

from monai_plan.data import phantom_datalist
from monai_plan.engines import fit_verification, initial_network
from monai_plan.metrics import (
    RealPatients,
    membership_attack,
    nearest_synthetic_scores,
    pairwise_distances,
    reidentification,
    screening,
)
from monai_plan.networks.layers import AugmentPipe
from monai_plan.networks.nets import IdentityEmbedder, StyleGenerator
from monai_plan.transforms import RenderPhantomd

SIZE, MEMBERS, OTHERS = 16, 12, 40


def phantoms(seed, patients, visits):
    """Items in the order of their visits."""
    lists = phantom_datalist(seed, patients_per_class=patients // 2, visits=visits, fractions=(1.0, 0.0, 0.0))
    return sorted(lists["training"], key=lambda item: item["visit"])


def rendered(items):
    draw = RenderPhantomd("image", image_size=2 * SIZE)
    images = [torch.as_tensor(draw(dict(item))["image"]).as_subclass(torch.Tensor).float() for item in items]
    return F.avg_pool2d(torch.stack(images), 2)


def names_of(items):
    return tuple(item["patient_id"] for item in items)


def pixels(images):
    return images.flatten(1) / SIZE


@pytest.fixture(scope="module")
def memoriser():
    """Images of a generator that was taught twelve phantoms by heart: each has its latent, as in GLO."""
    items = phantoms(100, MEMBERS, 2)[:MEMBERS]
    images = rendered(items)
    network = initial_network(lambda: StyleGenerator(SIZE, 1, 2, channel_base=256, channel_max=32), 0)
    rng = torch.Generator().manual_seed(0)
    labels = torch.tensor([item["label"] for item in items])
    latents = network.map_latents(torch.randn(MEMBERS, network.z_dim, generator=rng), labels).detach()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(400):
        loss = F.mse_loss(network.synthesize(latents, noise="const"), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.01  # else it has learnt nothing by heart, and the tests below would be of nothing
    with torch.no_grad():
        near = latents.repeat(10, 1)
        near = near + 0.1 * near.std() * torch.randn(near.shape, generator=rng)
        return items, network.synthesize(near, noise="const").clamp(-1, 1)


def attacked(synthetic, members, others):
    items = [*members, *others]
    real = RealPatients(
        names_of(items), torch.arange(len(items)) < len(members), torch.tensor([item["label"] for item in items])
    )
    to_real = pairwise_distances(synthetic, rendered(items), pixels)
    among = pairwise_distances(rendered(items), rendered(items), pixels).fill_diagonal_(0)
    membership = membership_attack("membership_distance", nearest_synthetic_scores(to_real), real, 0)
    return membership, screening(to_real, among, real, 0, "pixels")


def test_members_are_told_from_others(memoriser):
    items, synthetic = memoriser
    membership, near = attacked(synthetic, items, phantoms(101, OTHERS, 1))
    assert (
        membership.interval[0] > 0.65 and membership.control < 0.9 * membership.value
    )  # twelve members: wide intervals
    assert near.interval[0] > 0.6 and near.details["mml_training"] < 0.5 * near.details["mml_held_out"]


def test_nothing_is_found_of_phantoms_that_nobody_was_trained_on(memoriser):
    _, synthetic = memoriser
    held = near_held = 0
    for seed in range(8):
        strangers = phantoms(110 + seed, 2 * OTHERS, 1)
        order = torch.randperm(2 * OTHERS, generator=torch.Generator().manual_seed(seed)).tolist()
        halves = [[strangers[i] for i in part] for part in (order[:OTHERS], order[OTHERS:])]
        membership, near = attacked(synthetic, *halves)
        near_held += near.interval[0] <= 0.5 <= near.interval[1]
        held += membership.interval[0] <= 0.5 <= membership.interval[1]
    assert held >= 6 and near_held >= 6  # of eight intervals of 95 %


def test_images_are_linked_to_another_visit_of_the_same_patients(memoriser):
    _, synthetic = memoriser
    known = phantoms(102, 100, 2)  # the auditor's own: neither members nor the patients attacked
    embedder = initial_network(lambda: IdentityEmbedder(block_inplanes=(16, 32, 64, 128)), 0)
    augment = AugmentPipe(p=0.5, flip=False, shift=0.03, log_scale=0.03, angle=0.05, brightness=0.1, log_contrast=0.1)
    half = torch.tensor([int(item["patient_id"][-5:]) % 4 < 2 for item in known])
    network = fit_verification(
        rendered(known), names_of(known), half, embedder, augment, 400, probe_share=0.1, progress=False
    )
    others = phantoms(101, OTHERS, 2)
    again = [item for item in phantoms(100, MEMBERS, 2) if item["visit"] == 1]  # never shown to the generator
    items = [*again, *(item for item in others if item["visit"] == 1)]
    real = RealPatients(names_of(items), torch.arange(len(items)) < MEMBERS, torch.zeros(len(items)).long())
    images = rendered(items)
    to_real, among = network.distances(synthetic, images), network.distances(images, images).fill_diagonal_(0)
    found = reidentification(to_real, among, real, 0, "network")
    assert found.interval[0] > 0 and found.value > 2 * found.control
    # the first images are of the patients in their order; by guessing one in twelve is right
    right = to_real[:MEMBERS, :MEMBERS].argmin(dim=1) == torch.arange(MEMBERS)
    assert right.double().mean() > 0.5
