"""Altered copies: each alteration by hand, replayed from its seed, in range; the table's order; random copies."""

import importlib.util
import sys

import pytest
import torch
from monai.utils import OptionalImportError

from monai_plan.transforms import (
    COPY_ALTERATIONS,
    CopyAlteration,
    RandomCopies,
    alterations_of,
    copy_alterations,
    planted_copies,
)

KINDS = [
    (channels, name, strength)
    for channels in (1, 3)
    for name, of in alterations_of(channels).items()
    for strength in of.strengths
]


def noise_images(count=3, channels=1, size=16):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def smooth_images(count=3, size=32, channels=1):
    ramp = torch.linspace(-0.8, 0.8, size)
    return (ramp[:, None] * 0.7 + (ramp[None] * 3).sin() * 0.3).expand(count, channels, size, size).clone()


@pytest.mark.parametrize("channels, name, strength", KINDS)
def test_replays_from_the_seed_keeps_shape_and_range(channels, name, strength):
    images = noise_images(channels=channels)
    before, state = images.clone(), torch.get_rng_state()
    copies = planted_copies(images, name, strength, seed=1)
    assert copies.shape == images.shape and copies.abs().max() <= 1 and torch.isfinite(copies).all()
    assert torch.equal(copies, planted_copies(images, name, strength, seed=1))
    assert torch.equal(images, before) and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(copies, images) == (name == "exact")
    pieces = [planted_copies(images, name, strength, 1, rows=rows) for rows in (range(2, 3), [1, 0])]
    assert torch.equal(torch.cat(pieces), copies[[2, 1, 0]])  # not one bit depends on the rest of a batch
    if name not in ("exact", "flip", "blur", "jpeg"):  # the others draw something
        assert any(not torch.equal(copies, planted_copies(images, name, strength, seed)) for seed in range(2, 8))


def test_a_shift_moves_whole_pixels_and_repeats_the_border():
    image = noise_images(1)
    expected = [torch.cat([image[:, :, 2:], image[:, :, -1:].expand(-1, -1, 2, -1)], 2)]
    expected += [torch.cat([image[:, :, :1].expand(-1, -1, 2, -1), image[:, :, :-2]], 2)]
    expected += [torch.cat([image[..., 2:], image[..., -1:].expand(-1, -1, -1, 2)], 3)]
    expected += [torch.cat([image[..., :1].expand(-1, -1, -1, 2), image[..., :-2]], 3)]
    seen = set()
    for seed in range(40):
        copy = planted_copies(image, "shift", 2.0, seed)
        seen.add(next(i for i, wanted in enumerate(expected) if torch.allclose(copy, wanted, atol=1e-5)))
    assert seen == {0, 1, 2, 3}


def test_flip_mirrors_left_and_right():
    assert torch.equal(planted_copies(noise_images(), "flip", "light", 0), noise_images().flip(3))


@pytest.mark.parametrize(
    "name, amount, image, expected",
    [
        ("contrast", 0.5, [-0.4, 0.4], [[-0.6, 0.6], [-0.2, 0.2]]),
        ("brightness", 0.5, [-0.5, 0.0], [[0.5, 1.0], [-1.0, -1.0]]),  # half of the range of 2; clipped
        ("gamma", 1.0, [-0.5, 0.28], [[-0.875, -0.1808], [0.0, 0.6]]),  # 1/4 and 0.64, squared or their roots
    ],
)
def test_tones_by_hand(name, amount, image, expected):
    images = torch.tensor(image).view(1, 1, 1, 2)
    found = torch.stack([planted_copies(images, name, amount, seed).flatten() for seed in range(20)])
    distances = (found[:, None] - torch.tensor(expected)).abs().amax(dim=2)  # [seeds, 2]
    assert (distances.amin(dim=1) < 1e-5).all() and (distances.amin(dim=0) < 1e-5).all()


def test_crop_keeps_the_middle_half():
    """A straight ramp stays one, with half its slope; it begins between -1 and 0 where the crop was placed."""
    ramp = torch.linspace(-0.9, 0.9, 32).expand(1, 1, 32, 32)
    copy = planted_copies(ramp, "crop", 0.5, seed=3)
    inner = copy[0, 0, 16, 2:-2].diff()
    torch.testing.assert_close(inner, torch.full_like(inner, 0.9 / 31), atol=1e-5, rtol=0)


def test_a_quarter_turn_is_exact():
    image = noise_images(1)
    copies = [planted_copies(image, "rotate", 90.0, seed) for seed in range(8)]
    turns = [image.rot90(turn, (2, 3)) for turn in (1, 3)]
    assert all(any(torch.allclose(copy, turn, atol=1e-4) for turn in turns) for copy in copies)


def test_blur_of_a_point_is_the_gaussian():
    image = torch.full((2, 1, 15, 15), -1.0)
    image[:, :, 7, 7] = 1.0
    copy = (planted_copies(image, "blur", 1.0, 0) + 1) / 2
    weights = torch.exp(-0.5 * torch.arange(-3.0, 4.0) ** 2)
    weights /= weights.sum()
    torch.testing.assert_close(copy[0, 0, 4:11, 4:11], weights[:, None] * weights, atol=1e-6, rtol=0)


def test_noise_has_the_given_deviation():
    copy = planted_copies(torch.zeros(4, 1, 64, 64), "noise", 0.05, 0)
    assert float(copy.std()) == pytest.approx(0.1, rel=0.03) and not torch.equal(copy[0], copy[1])


def test_no_pixel_moves_farther_than_the_elastic_amount():
    """In an image whose value is the column, the change is the displacement across."""
    columns = torch.arange(33.0).expand(6, 1, 33, 33) / 16 - 1
    moved = (planted_copies(columns, "elastic", 2.0, 0) - columns) * 16
    assert 0.5 < moved[..., 3:-3].abs().max() <= 2 + 1e-3
    assert moved[:, 0, :, 3:-3].diff(dim=1).abs().max() < 0.5  # smooth


@pytest.mark.parametrize("area, side", [(0.25, 8), (0.5, 11), (0.75, 14)])
@pytest.mark.parametrize("hosts", [None, torch.full((2, 1, 16, 16), -0.5)])
def test_paste_puts_a_part_in_the_host(area, side, hosts):
    images = torch.stack([torch.full((1, 16, 16), value) for value in (0.1, 0.2, 0.3)])
    copies = planted_copies(images, "paste", area, 0, hosts)
    for row, (value, host) in enumerate(zip((0.1, 0.2, 0.3), (0.3, 0.1, 0.2), strict=True)):
        host = host if hosts is None else -0.5
        inside = (copies[row, 0] - value).abs() < 1e-6
        assert inside.sum() == side**2 and ((copies[row, 0] - host).abs()[~inside] < 1e-6).all()
        assert inside.any(dim=0).sum() == inside.any(dim=1).sum() == side  # one square


def test_jpeg_is_worse_at_lower_quality():
    images = noise_images(2)
    errors = [(planted_copies(images, "jpeg", quality, 0) - images).abs().mean() for quality in (95, 75, 40, 10)]
    assert errors == sorted(errors) and 0 < errors[0] < 0.1
    assert (planted_copies(smooth_images(), "jpeg", "light", 0) - smooth_images()).abs().max() < 0.06


@pytest.mark.parametrize("name", [name for name, of in COPY_ALTERATIONS.items() if len(of.strengths) > 1])
def test_strengths_grow(name):
    images, hosts = smooth_images(8, channels=3), -smooth_images(8, channels=3)
    change = [(planted_copies(images, name, s, 0, hosts) - images).abs().mean() for s in ("light", "medium", "strong")]
    assert 0 < change[0] < change[1] < change[2]


def test_a_cast_scales_the_channels_apart_and_keeps_black_and_their_mean():
    grey = torch.full((40, 3, 4, 4), 0.2)
    grey[..., 0] = -1.0  # black
    scale = (planted_copies(grey, "colour", 0.1, 0) + 1)[..., 1:] / 1.2
    torch.testing.assert_close(scale.mean(dim=1), torch.ones(40, 4, 3))
    torch.testing.assert_close((scale - 1).abs().amax(dim=1), torch.full((40, 4, 3), 0.1))
    assert (planted_copies(grey, "colour", 0.1, 0)[..., 0] == -1).all()
    assert {tuple(row) for row in (scale[:, :, 0, 0] > 1).tolist()} == {
        tuple(bool(code >> bit & 1) for bit in range(3)) for code in range(1, 7)
    }  # every way to raise one or two of three


def test_grey_images_have_no_colour_to_alter(monkeypatch):
    assert set(alterations_of(3)) - set(alterations_of(1)) == {"colour"} and alterations_of(3) == COPY_ALTERATIONS
    monkeypatch.setattr(copy_alterations, "COPY_ALTERATIONS", {"colour": COPY_ALTERATIONS["colour"]})
    for channels in (1, 3):
        images = smooth_images(20, channels=channels)
        copies = RandomCopies(p=0.5)(images, torch.Generator().manual_seed(0))
        changed = (copies != images).flatten(1).any(dim=1).sum()
        assert 4 < changed < 16 if channels == 3 else changed == 0


def test_only_the_light_flip_and_exact_copy_exist():
    assert [name for name, of in COPY_ALTERATIONS.items() if len(of.strengths) == 1] == ["exact", "flip"]


@pytest.mark.parametrize(
    "images, name, strength, words",
    [
        (noise_images(), "sepia", "light", r'no alteration "sepia" of 1 channel\(s\); known are exact, shift'),
        (noise_images(), "colour", "light", r'no alteration "colour" of 1 channel\(s\)'),
        (noise_images(), "flip", "strong", 'no strength "strong" here; known are light'),
        (noise_images(1), "paste", "light", "give hosts"),
    ],
)
def test_errors_say_what_to_do(images, name, strength, words):
    with pytest.raises(ValueError, match=words):
        planted_copies(images, name, strength, 0)


def test_random_copies_replay_differ_and_stay_in_range():
    images, before = noise_images(40), noise_images(40)
    copies = RandomCopies()(images, torch.Generator().manual_seed(0))
    assert torch.equal(copies, RandomCopies()(images, torch.Generator().manual_seed(0)))
    assert not torch.equal(copies, RandomCopies()(images, torch.Generator().manual_seed(1)))
    assert copies.abs().max() <= 1 and torch.isfinite(copies).all() and torch.equal(images, before)


def test_random_copies_without_chance_mirror_half():
    images = noise_images(200)
    copies = RandomCopies(p=0, paste=0)(images, torch.Generator().manual_seed(0))
    mirrored = (copies == images.flip(3)).flatten(1).all(dim=1)
    assert ((copies == images).flatten(1).all(dim=1) | mirrored).all() and 75 < mirrored.sum() < 125


def test_random_copies_draw_amounts_up_to_the_strength(monkeypatch):
    seen = []

    def record(images, amounts, hosts, rng):
        seen.append(amounts)
        return images

    alteration = CopyAlteration("pixels", (2.0, 4.0, 8.0), record)
    paste = CopyAlteration("share", (0.75, 0.5, 0.25), record)
    monkeypatch.setattr(copy_alterations, "COPY_ALTERATIONS", {"shift": alteration, "paste": paste})
    RandomCopies(p=0.4, strength="medium", paste=0.2)(noise_images(1000), torch.Generator().manual_seed(0))
    shifts, pastes = seen
    assert 350 < len(shifts) < 450 and 0 <= shifts.min() < 0.1 and 3.9 < shifts.max() <= 4
    assert 160 < len(pastes) < 240 and 0.5 <= pastes.min() < 0.55 and 0.95 < pastes.max() <= 1


def test_only_a_paste_reads_its_hosts():
    """Row 2 of 3 takes the first of two hosts, whichever rows are asked for; nothing else looks at them."""
    images, hosts = noise_images(), torch.stack([torch.full((1, 16, 16), 0.5), torch.full((1, 16, 16), torch.nan)])
    copy = planted_copies(images, "paste", 0.25, 0, hosts, rows=[2])
    assert (copy == 0.5).sum() == 16 * 16 - 8 * 8
    for name in alterations_of(1):
        assert torch.isfinite(planted_copies(images, name, "light", 0, hosts)).all() == (name != "paste")


def test_jpeg_without_pillow_says_what_to_install(monkeypatch):
    """The module, loaded a second time where Pillow cannot be imported."""
    spec = importlib.util.spec_from_file_location("without_pillow", copy_alterations.__file__)
    module = importlib.util.module_from_spec(spec)
    for name, found in {"PIL": None, "PIL.Image": None, "without_pillow": module}.items():
        monkeypatch.setitem(sys.modules, name, found)
    spec.loader.exec_module(module)
    with pytest.raises(OptionalImportError, match=r"JPEG copies need Pillow: pip install \"monai_plan\[images\]\""):
        module.planted_copies(noise_images(), "jpeg", "light", 0)
    assert torch.isfinite(module.planted_copies(noise_images(), "blur", "light", 0)).all()
