"""A verification network that learns whose image it sees, from patients it can be told apart by."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from monai_plan.engines import fit_verification
from monai_plan.networks.nets import IdentityEmbedder

VISITS = 3


class Linear(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layer = nn.Linear(16, 8, bias=False)

    def forward(self, images):
        return F.normalize(self.layer(images.flatten(1)), dim=1)


def world(patients=60, visits=VISITS):
    """Rows 0 .. 1 of an image are the patient's, rows 2 .. 3 are of the day and ten times as loud."""
    rng = torch.Generator().manual_seed(0)
    own = torch.randn(patients, 1, 1, 2, 4, generator=rng).expand(-1, visits, -1, -1, -1)
    day = 10 * torch.randn(patients, visits, 1, 2, 4, generator=rng)
    images = torch.cat([own, day], dim=3).flatten(0, 1) / 30
    names = [f"p{patient}" for patient in range(patients) for _ in range(visits)]
    return images, names, torch.arange(patients).repeat_interleave(visits) < patients // 2


def unchanged(images, rng):
    return images


def own_is_nearest(found, images, names):
    """The share of probed images whose nearest other probed image is of the same patient."""
    kept = found.probe.nonzero().flatten().tolist()
    far = found.distances(images[kept], images[kept]).fill_diagonal_(9)
    return sum(names[kept[i]] == names[kept[int(j)]] for i, j in enumerate(far.argmin(dim=1))) / len(kept)


def test_it_learns_what_two_visits_share():
    images, names, member = world()
    found = fit_verification(images, names, member, Linear(), unchanged, 400, learning_rate=0.02, progress=False)
    assert found.pairs == "visits"
    untrained = type(found)(Linear(), found.probe, "visits")
    assert own_is_nearest(untrained, images, names) < 0.3
    assert own_is_nearest(found, images, names) > 0.9


def test_probed_patients_are_of_both_sides_and_whole():
    images, names, member = world(patients=40)
    found = fit_verification(images, names, member, Linear(), unchanged, iterations=1, progress=False)
    probed = {name for name, kept in zip(names, found.probe.tolist(), strict=True) if kept}
    assert len(probed) == 20 and int(found.probe.sum()) == 20 * VISITS
    assert int((found.probe & member).sum()) == 10 * VISITS


def test_images_of_probed_patients_are_never_looked_at():
    images, names, member = world(patients=20)
    found = fit_verification(images, names, member, Linear(), unchanged, iterations=5, progress=False)
    spoilt = torch.where(found.probe[:, None, None, None], torch.nan, images)
    again = fit_verification(spoilt, names, member, Linear(), unchanged, iterations=5, progress=False)
    assert torch.equal(found.network.layer.weight, again.network.layer.weight)


def test_some_are_kept_out_by_name():
    images, names, member = world(patients=20)
    found = fit_verification(images, names, member, Linear(), unchanged, 1, unseen=("p0", "p1"), progress=False)
    kept = {name for name, probed in zip(names, found.probe.tolist(), strict=True) if probed}
    assert {"p0", "p1"} <= kept and len(kept) == 2 + 4 + 5  # and half of the 8 and 10 others


def test_one_image_a_patient_becomes_two_views():
    images, names, member = world(visits=1)
    seen = []

    def shifted(batch, rng):
        seen.append(batch.clone())
        return batch + 0.01 * torch.randn(batch.shape, generator=rng)

    found = fit_verification(images, names, member, Linear(), shifted, iterations=3, progress=False)
    assert found.pairs == "views" and all(torch.equal(seen[i], seen[i + 1]) for i in (0, 2, 4))


def test_a_seed_repeats_and_the_global_state_is_left_alone():
    images, names, member = world(patients=20)

    def fitted(seed):
        return fit_verification(
            images, names, member, Linear(), unchanged, iterations=3, seed=seed, progress=False
        ).network.layer.weight

    state = torch.get_rng_state()
    assert torch.equal(fitted(1), fitted(1)) and not torch.equal(fitted(1), fitted(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_bundle_s_embedder_and_its_distances():
    images, names, member = world(patients=16)
    images = F.interpolate(images, size=32).clamp(-1, 1)
    embedder = IdentityEmbedder(block_inplanes=(4, 4, 8, 8))
    found = fit_verification(images, names, member, embedder, unchanged, iterations=2, progress=False)
    matrix = found.distances(images[:3], images[:5])
    assert matrix.shape == (3, 5) and float(matrix.diagonal().max()) < 1e-6
    assert float(found.embed(images).norm(dim=1).sub(1).abs().max()) < 1e-5 and not found.network.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probe_share": 1.0}, "probe_share"),
        ({"iterations": 0}, "iterations"),
        ({"pairs": 1}, "pairs"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        fit_verification(*world(), Linear(), unchanged, progress=False, **options)


def test_too_few_held_out_patients():
    images, names, member = world(patients=20)
    kept = [row for row in range(len(names)) if member[row] or names[row] in ("p10", "p11")]
    with pytest.raises(ValueError, match="2 held-out patients are too few"):
        fit_verification(images[kept], [names[i] for i in kept], member[kept], Linear(), unchanged, progress=False)
