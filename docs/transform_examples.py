"""Draw what the transforms do to phantoms, with the shipped weights of a bundle, as docs/transforms.md shows it.

Rows: phantoms; each replaced by a synthetic image of its class; encoded, and the latent rendered; the anchor nearest to
that latent rendered. Frames: green where the gate accepts the picture, red where it refuses it. The encoder is trained
first where its file is missing (the stage `invert` writes it, too), which takes minutes.

python docs/transform_examples.py --out docs/img/transforms.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from monai.transforms import Compose, CopyItemsd
from monai.utils import set_determinism
from PIL import Image, ImageDraw, ImageFont

from monai_plan.data import phantom_datalist
from monai_plan.data.synthetic_source import SyntheticSource
from monai_plan.latent import (
    AnchorSet,
    InvertedImages,
    PrivacyGate,
    group_centroids,
    group_patients,
    latents_by_patient,
    saved_encoder,
)
from monai_plan.networks.nets import StyleGenerator
from monai_plan.transforms import EncodeLatentd, NearestAnchord, PassGate, RandSyntheticImaged, RenderPhantomd
from monai_plan.utils import atomic_path

ROWS = {"image": "phantom", "replaced": "replaced", "latent": "encoded", "anchor": "nearest anchor"}
GROUPS = {"training": "patients whom the gate knows", "testing": "patients whom it does not know"}
COLUMNS = 4  # of each group
SIDE, FRAME, LEFT, TOP = 128, 4, 130, 28  # pixels
ACCEPTED, REFUSED = (40, 150, 80), (200, 50, 40)


def chosen_items() -> list[dict]:
    """One phantom each of patients of both splits, normal and ill by turns."""
    splits, items = phantom_datalist(), []
    for split in GROUPS:
        by_class = [[item for item in splits[split] if item["visit"] == 0 and item["label"] == c] for c in (0, 1)]
        items += [by_class[column % 2][column // 2] for column in range(COLUMNS)]
    return items


def pipeline(source: SyntheticSource, encoder: torch.nn.Module, anchors: AnchorSet) -> Compose:
    """From a phantom's item to all that a column of the sheet needs."""
    return Compose(
        [
            RenderPhantomd("image", image_size=64),
            CopyItemsd("image", times=3, names=["replaced", "latent", "anchor"]),
            RandSyntheticImaged("replaced", "label", source, prob=1.0),
            EncodeLatentd(["latent", "anchor"], encoder),
            NearestAnchord("anchor", anchors, label_key="label"),
        ]
    ).set_random_state(0)


def sheet(columns: list[dict[str, torch.Tensor]], gate: PrivacyGate) -> Image.Image:
    """The pictures [1, 64, 64] of each column, one row a key of ``ROWS``, in frames of the gate's verdict."""
    step = SIDE + 3 * FRAME
    picture = Image.new("RGB", (LEFT + len(columns) * step + FRAME, TOP + len(ROWS) * step), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    for number, title in enumerate(GROUPS.values()):
        draw.text((LEFT + number * COLUMNS * step, TOP - 8), title, "black", font, anchor="ls")
    check = PassGate(gate)
    for row, (key, title) in enumerate(ROWS.items()):
        draw.text((LEFT - 8, TOP + row * step + step // 2), title, "black", font, anchor="rm")
        for number, column in enumerate(columns):
            left, top = LEFT + number * step, TOP + row * step
            colour = ACCEPTED if check.accepts(column[key]) else REFUSED
            draw.rectangle((left, top, left + SIDE + 2 * FRAME - 1, top + SIDE + 2 * FRAME - 1), colour)
            pixels = ((column[key][0] + 1) * 127.5).round().to(torch.uint8).numpy()
            shown = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            picture.paste(shown, (left + FRAME, top + FRAME))
    return picture


def main() -> None:
    """Read the command line, run the pipeline and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default="bundles/plan_tb", help="whose weights to take")
    parser.add_argument("--encoder", type=Path, help="read, or written; by default private/encoder.safetensors there")
    parser.add_argument("--iterations", type=int, default=1000, help="steps of the encoder's training")
    parser.add_argument("--out", default="docs/img/transforms.png", help="the PNG to write")
    args = parser.parse_args()
    set_determinism(seed=0)
    private = args.bundle / "private"
    generator = StyleGenerator.load(args.bundle / "models" / "generator.safetensors").eval()
    gate = PrivacyGate.load(private / "gate.safetensors")
    source = SyntheticSource(args.bundle / "models" / "walks_private.safetensors", generator, gate)
    patients = latents_by_patient(InvertedImages.load(private / "latents.safetensors"), generator)
    anchors = group_centroids(group_patients(patients, k=12), patients)
    shape = {"layers": [1, 1, 1, 1], "block_inplanes": [24, 48, 96, 192]}  # as the bundle's stage invert has it
    path = args.encoder or private / "encoder.safetensors"
    encoder = saved_encoder(path, generator, iterations=args.iterations, seed=0, **shape)
    transform = pipeline(source, encoder, anchors)
    columns = [transform(item) for item in chosen_items()]
    row_of = {number: row for row, number in enumerate(anchors.meta["ids"])}
    for column in columns:
        column["anchor"] = anchors.latents[row_of[column["anchor"]]]
        for key in ("latent", "anchor"):
            with torch.no_grad():
                column[key] = generator.synthesize(column[key][None])[0].clamp(-1, 1)
    with atomic_path(args.out) as partial:
        sheet(columns, gate).save(partial, optimize=True)
    print(args.out)


if __name__ == "__main__":
    main()
