"""What comes from elsewhere and goes there: ``convert`` and ``pack``."""

from __future__ import annotations

import argparse
import os

from monai_plan.commands.parts import REPEATS, Outcome, add_command
from monai_plan.data.bundle_archive import pack_bundle
from monai_plan.networks.nets import (
    StyleDiscriminator,
    StyleGenerator,
    discriminator_from_published,
    generator_from_published,
    published_networks,
)
from monai_plan.utils import read_weights

__all__ = ["add_convert", "add_pack"]


def add_convert(subparsers: argparse._SubParsersAction) -> None:
    """Add ``convert``: bring a published network along."""
    parser = add_command(
        subparsers,
        "convert",
        run_convert,
        summary="turn the weights of a published StyleGAN2-ADA generator or discriminator into ours",
        description="Turn the state dict of a published class-conditional StyleGAN2-ADA generator or\n"
        "discriminator into ours. Which of them it is, and all sizes, are read off the\n"
        "weights. Pickled networks are refused. Export a state dict first, in the\n"
        "network's own environment:\n"
        "  network = pickle.load(open('network.pkl', 'rb'))['G_ema']\n"
        "  torch.save(network.state_dict(), 'weights.pt')\n"
        "docs/convert.md says more.",
        examples="python -m monai_plan convert weights.pt --output generator.safetensors\n"
        "python -m monai_plan convert weights.pt --output discriminator.safetensors --network discriminator",
        interrupted=REPEATS,
    )
    parser.add_argument("weights", metavar="FILE", help="the state dict, .safetensors or .pt (tensors only)")
    files = parser.add_argument_group("files")
    files.add_argument("--output", required=True, metavar="FILE", help="the network to write (*.safetensors)")
    what = parser.add_argument_group("what the weights do not tell")
    what.add_argument(
        "--network",
        choices=("generator", "discriminator"),
        help="which to take from a file with both (default: the generator)",
    )
    what.add_argument(
        "--clamp",
        type=float,
        metavar="X",
        help="the network's conv_clamp: 256 if it was trained in half precision (default: none)",
    )
    what.add_argument(
        "--group_size",
        type=int,
        default=4,
        metavar="N",
        help="the discriminator's mbstd_group_size (default: 4; 8 in the configurations paper256 and paper512)",
    )


def run_convert(arguments: argparse.Namespace) -> Outcome:
    """Run ``convert``."""
    state = read_weights(arguments.weights)
    kind = arguments.network or next(iter(published_networks(state)), "generator")
    network: StyleGenerator | StyleDiscriminator
    if kind == "generator":
        network = generator_from_published(state, arguments.clamp)
    else:
        network = discriminator_from_published(state, arguments.clamp, arguments.group_size)
    network.save(arguments.output)
    written = os.path.abspath(arguments.output)
    sizes = ", ".join(f"{name}={value}" for name, value in network.config.items())
    values = {"written": [written], "network": kind, "config": dict(network.config)}
    return Outcome(values, f"wrote {written}: {kind}, {sizes}")


def add_pack(subparsers: argparse._SubParsersAction) -> None:
    """Add ``pack``: a bundle as one file."""
    parser = add_command(
        subparsers,
        "pack",
        run_pack,
        summary="zip a bundle for MONAI's hub or a colleague",
        description="Write NAME_vVERSION.zip, a bundle as MONAI's hub serves it. The bundle's folder\n"
        "private/ stays out: it holds what was made of single training images. Only for\n"
        "a bundle of phantoms, in whose images there is no patient, it may be packed\n"
        "too, with --private.",
        examples="python -m monai_plan pack --bundle bundles/plan_tb --to dist\n"
        "python -m monai_plan pack --bundle bundles/plan_tb --to dist --private",
        interrupted=REPEATS,
    )
    files = parser.add_argument_group("files")
    files.add_argument("--bundle", required=True, metavar="DIR", help="the bundle, e.g. bundles/plan_tb")
    files.add_argument("--to", default=".", metavar="DIR", help="where the zip goes (default: the current folder)")
    files.add_argument(
        "--private",
        action="store_true",
        help="pack private/, too: FOR BUNDLES OF PHANTOMS ONLY. Without it private/ stays out",
    )


def run_pack(arguments: argparse.Namespace) -> Outcome:
    """Run ``pack``."""
    packed = pack_bundle(arguments.bundle, arguments.to, private=arguments.private)
    written, size = os.path.abspath(packed), os.path.getsize(packed)
    inside = "with private/: for bundles of phantoms only" if arguments.private else "without private/"
    values = {"written": [written], "bytes": size, "private": arguments.private}
    return Outcome(values, f"wrote {written}: {size / 2**20:.1f} MiB, {inside}")
