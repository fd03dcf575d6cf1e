"""Local style alignment: Gram matrices and matches by hand, what tiny networks gain by it, and what must not change."""

import pytest
import torch
from torch import nn

from monai_plan.latent.style_alignment import NetworkMaps, StyleOptions, align_style, cut, gram, source_grams
from monai_plan.networks.nets import IdentityEmbedder, StyleGenerator

LAYERS = ["layer1", "layer2"]


class PixelGenerator(nn.Module):
    """w is the image: every pixel of 4x4 can be moved by itself."""

    channels, image_size = 1, 4

    def __init__(self, first=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((16,), 1.0))
        self.scale.data[0] = first

    def synthesize(self, w, noise="const", rng=None):
        assert noise == "const"
        return (w * self.scale).view(-1, 1, 4, 4)


def pixels(images):
    """One level, the image itself; a 4x4 grid has one pixel in each crop, and its Gram matrix is the pixel's square."""
    return [images]


def tiny(seed=0):
    """A generator, its embedder's maps, and groups of 2, 3 and 5 rendered sources with their centroids."""
    torch.manual_seed(seed)
    generator = StyleGenerator(32, 1, 2, channel_base=128, channel_max=16)
    maps = NetworkMaps(IdentityEmbedder(1, 8, block_inplanes=(4, 4, 8, 8)).network, LAYERS)
    with torch.no_grad():
        latents = [generator.map_latents(torch.randn(k, 128), torch.zeros(k)) for k in (2, 3, 5)]
        sources = [generator.synthesize(w, noise="const").clamp(-1, 1) for w in latents]
    return torch.stack([w.mean(dim=0) for w in latents]), sources, generator, maps


def nearest_style(images, sources, maps):
    """For comparison: the squared Gram distance of each crop to the nearest one of any source at its place, meant."""
    found = []
    with torch.no_grad():
        for own, theirs in zip(maps(images), maps(sources), strict=True):
            side = own.shape[2] // 4
            for y in range(0, own.shape[2], side):
                for x in range(0, own.shape[3], side):
                    a = own[0, :, y : y + side, x : x + side].reshape(own.shape[1], -1)
                    distances = []
                    for source in theirs:
                        b = source[:, y : y + side, x : x + side].reshape(own.shape[1], -1)
                        distances.append(float(((a @ a.T - b @ b.T) / side**2).square().sum()))
                    found.append(min(distances) / len(a) ** 2)
    return sum(found) / len(found)


def test_gram_of_crops_by_hand():
    maps = torch.arange(1.0, 10.0).view(1, 1, 3, 3)  # crops of 2x2, 2x1, 1x2 and 1x1 pixels
    assert [crop.flatten().tolist() for crop in cut(maps, 2)] == [[1, 2, 4, 5], [3, 6], [7, 8], [9]]
    assert [gram(crop).item() for crop in cut(maps, 2)] == [46 / 4, 45 / 2, 113 / 2, 81]
    two_channels = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]], [[[0.0, 0.0]], [[2.0, 0.0]]]])
    expected = [[[5 / 2, 1 / 2], [1 / 2, 10 / 2]], [[0, 0], [0, 2]]]
    torch.testing.assert_close(gram(two_channels), torch.tensor(expected))


def test_each_crop_has_the_gram_matrix_of_the_source_nearest_at_its_place():
    start = torch.tensor([[[[1.0, 5.0], [1.0, 5.0]]]])
    sources = torch.tensor([[[[5.0, 4.5], [0.0, 1.0]]], [[[3.0, 1.0], [0.9, 6.0]]], [[[-2.0, 5.4], [4.0, 9.0]]]])
    # the 5.0 of the first source at the top left would be the nearest to the top right, but lies elsewhere
    (found,) = source_grams([start], [sources], grid=2)
    assert found.flatten().tolist() == pytest.approx([9.0, 5.4**2, 0.81, 36.0])


def test_the_match_compares_means_and_is_one_for_all_levels():
    flat, rough = torch.tensor([[[[1.0, 1.0]]]]), torch.tensor([[[[3.0, -1.0]]], [[[1.2, 1.2]]]])
    (found,) = source_grams([flat.expand(1, 1, 1, 2)], [rough], grid=1)
    assert found.item() == 5.0  # mean 1 is nearer to 1 than 1.2, whatever its texture
    # source 0 is off by a fifth on a level of large values, source 1 by half on one of small values: 0.04 against 0.25
    start = [torch.full((1, 1, 1, 1), 100.0), torch.full((1, 1, 1, 1), 0.1)]
    sources = [torch.tensor([120.0, 100.0]).view(2, 1, 1, 1), torch.tensor([0.1, 0.15]).view(2, 1, 1, 1)]
    assert [level.item() for level in source_grams(start, sources, grid=1)] == pytest.approx([120.0**2, 0.01])


def test_every_pixel_goes_to_its_nearest_source_without_content():
    rng = torch.Generator().manual_seed(0)
    sources = torch.rand(5, 1, 4, 4, generator=rng) * 0.8 + 0.1
    centroid = sources.mean(dim=0).view(1, 16)
    options = StyleOptions(iterations=250, learning_rate=0.01, content_weight=0.0)
    found = align_style(centroid, [sources], PixelGenerator(), pixels, options, progress=False)
    nearest = (sources.view(5, 16) - centroid).abs().argmin(dim=0)
    torch.testing.assert_close(found[0], sources.view(5, 16)[nearest, torch.arange(16)], atol=2e-3, rtol=0)


def test_the_weights_hold_the_balance():
    """One pixel value everywhere: 0.5 at the start, 0.6 wanted; content and style are shares of 0.5^2 and 0.6^4."""
    centroid, sources = torch.full((1, 16), 0.5), torch.tensor([0.6, 0.9]).view(2, 1, 1, 1).expand(2, 1, 4, 4)

    def balanced(content, style):
        at = torch.linspace(0.5, 0.6, 10001)
        loss = content * (at - 0.5) ** 2 / 0.5**2 + style * (at**2 - 0.6**2) ** 2 / 0.6**4
        return float(at[loss.argmin()])

    for content, style in [(1.0, 0.0), (1.0, 1.0), (10.0, 1.0), (1.0, 10.0)]:
        options = StyleOptions(iterations=120, learning_rate=0.01, content_weight=content, style_weight=style)
        found = align_style(centroid, [sources], PixelGenerator(), pixels, options, progress=False)
        torch.testing.assert_close(found, torch.full((1, 16), balanced(content, style)), atol=1e-3, rtol=0)


def test_the_local_style_comes_nearer_to_the_sources():
    centroids, sources, generator, maps = tiny()
    options = StyleOptions(learning_rate=0.01, style_weight=10.0)
    aligned = align_style(centroids, sources, generator, maps, options, progress=False)
    assert aligned.shape == centroids.shape and aligned.dtype == torch.float32
    with torch.no_grad():
        before, after = (generator.synthesize(w, noise="const").clamp(-1, 1) for w in (centroids, aligned))
    for number, group in enumerate(sources):
        row = slice(number, number + 1)
        assert nearest_style(after[row], group, maps) < 0.8 * nearest_style(before[row], group, maps)


def test_the_loss_falls(caplog):
    centroids, sources, generator, maps = tiny()
    losses = []
    with caplog.at_level("INFO"):
        for iterations in (1, 10, 60):
            align_style(centroids, sources, generator, maps, StyleOptions(iterations=iterations), progress=False)
            losses.append(caplog.records[-1].args[1])
    assert losses[1] < losses[0] and losses[2] < 0.9 * losses[0]


def test_anchors_do_not_depend_on_their_batch():
    centroids, sources, generator, maps = tiny()
    generator.train()
    options = StyleOptions(iterations=10, learning_rate=0.01)
    alone = align_style(centroids, sources, generator, maps, options, batch=1, progress=False)
    together = align_style(centroids, sources, generator, maps, options, batch=3, progress=False)
    turned = align_style(centroids.flip(0), sources[::-1], generator, maps, options, batch=2, progress=False)
    assert float((alone - centroids).abs().mean()) > 0.02
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=0)
    torch.testing.assert_close(turned.flip(0), alone, atol=2e-5, rtol=0)


def test_nothing_else_changes_and_no_chance_is_involved():
    centroids, sources, generator, _ = tiny()
    embedder = IdentityEmbedder(1, 8, block_inplanes=(4, 4, 8, 8))  # in training mode: its batch norm would learn

    class LiveMaps(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = embedder.network

        def forward(self, images):
            network = self.network
            return [network.layer1(network.maxpool(network.act(network.bn1(network.conv1(images)))))]

    maps = LiveMaps()
    before = [value.clone() for network in (generator, maps) for value in network.state_dict().values()]
    inputs, chance = [centroids.clone(), *(group.clone() for group in sources)], torch.get_rng_state()
    options = StyleOptions(iterations=5)
    runs = [align_style(centroids, sources, generator, maps, options, progress=False) for _ in range(2)]
    assert torch.equal(*runs)
    assert torch.equal(torch.get_rng_state(), chance)
    assert all(map(torch.equal, inputs, [centroids, *sources]))
    after = [value for network in (generator, maps) for value in network.state_dict().values()]
    assert all(map(torch.equal, before, after))
    for network in (generator, maps):
        assert all(module.training for module in network.modules())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_network_maps_are_the_named_layers_outputs_of_a_copy():
    torch.manual_seed(0)
    network = IdentityEmbedder(1, 8, block_inplanes=(4, 4, 8, 8)).network
    maps, images = NetworkMaps(network, ["layer2", "layer1"]), torch.rand(2, 1, 32, 32)
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    assert not maps.train().network.training
    assert not any(parameter.requires_grad for parameter in maps.parameters())
    network.eval()
    with torch.no_grad():
        stem = network.maxpool(network.act(network.bn1(network.conv1(images))))
        first = network.layer1(stem)
        second = network.layer2(first)
        found = maps(images)
        network.conv1.weight.zero_()
        again = maps(images)
    assert [tuple(level.shape) for level in found] == [(2, 8 // 2, 4, 4), (2, 4, 8, 8)]
    for level, expected, later in zip(found, (second, first), again, strict=True):
        torch.testing.assert_close(level, expected)
        torch.testing.assert_close(level, later)
    assert not any(module._forward_hooks for module in maps.modules())


@pytest.mark.parametrize("layers", [[], ["layer1", "layer9"], "layer1"])
def test_unknown_layers_are_refused_with_the_known_ones(layers):
    with pytest.raises(ValueError, match="among .*'layer1'.* got"):
        NetworkMaps(IdentityEmbedder(1, 8, block_inplanes=(4, 4, 8, 8)).network, layers)


def test_a_layer_that_is_not_used_is_refused():
    network = nn.Sequential(nn.Conv2d(1, 2, 1))
    network.forward = lambda images: images
    with pytest.raises(ValueError, match="leave out the others"):
        NetworkMaps(network, ["0"])(torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": 0},
        {"grid": 0},
        {"grid": 2.5},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"content_weight": -1.0},
        {"style_weight": float("inf")},
    ],
)
def test_options_out_of_range_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name.split("_")[-1]):
        StyleOptions(**wrong)


CENTROID, GROUP = torch.zeros(1, 16), torch.zeros(2, 1, 4, 4)


@pytest.mark.parametrize(
    "centroids, sources, message",
    [
        (torch.zeros(0, 16), [], "centroids .A, D., A >= 1"),
        (torch.zeros(1, 2, 16), [GROUP], r"got \(1, 2, 16\)"),
        (CENTROID, [GROUP, GROUP], "2 groups"),
        (CENTROID * torch.nan, [GROUP], "centroids hold NaN"),
        (CENTROID, [GROUP[:1]], "that patient's"),
        (CENTROID, [GROUP[:0]], "that patient's"),
        (torch.zeros(2, 16), [GROUP, GROUP[..., :3]], r"group 1 .*\(2, 1, 4, 3\)"),
        (CENTROID, [GROUP.expand(2, 3, 4, 4)], r"got \(2, 3, 4, 4\)"),
        (CENTROID, [GROUP + 255], "lie in 255 .. 255"),
        (CENTROID, [GROUP * torch.nan], "group 0 lie in nan"),
    ],
)
def test_input_that_does_not_fit_is_refused(centroids, sources, message):
    with pytest.raises(ValueError, match=message):
        align_style(centroids, sources, PixelGenerator(), pixels, progress=False)


def test_maps_smaller_than_the_grid_are_refused():
    centroids, sources, generator, maps = tiny()
    maps.layers.append("layer3")  # 2x2 pixels
    with pytest.raises(ValueError, match=r"h, w >= 4 .*\(3, 8, 2, 2\)\]; take earlier layers"):
        align_style(centroids, sources, generator, maps, progress=False)
    assert align_style(centroids, sources, generator, maps, StyleOptions(1, grid=2), progress=False).isfinite().all()


@pytest.mark.parametrize("maps", [lambda images: [], lambda images: [images.flatten(1)]])
def test_what_is_no_map_is_refused(maps):
    with pytest.raises(ValueError, match="feature maps .B, c, h, w."):
        align_style(CENTROID, [GROUP], PixelGenerator(), maps, progress=False)


def test_a_broken_network_is_named_and_a_dark_level_is_not_broken():
    with pytest.raises(RuntimeError, match="not finite at iteration 0"):
        align_style(CENTROID, [GROUP], PixelGenerator(float("nan")), pixels, progress=False)
    options = StyleOptions(iterations=2)
    assert torch.equal(align_style(CENTROID, [GROUP], PixelGenerator(), pixels, options, progress=False), CENTROID)


def test_images_are_clamped_before_they_are_compared():
    centroid, sources = torch.full((1, 16), 1.5), torch.ones(2, 1, 4, 4)
    found = align_style(centroid, [sources], PixelGenerator(), pixels, StyleOptions(iterations=2), progress=False)
    assert torch.equal(found, centroid)  # its image is already that of the sources
