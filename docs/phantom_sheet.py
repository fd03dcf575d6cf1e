"""Write the contact sheets of the phantoms.

Chest: two rows of normal patients, two with tuberculosis, and eight visits of one. Fundus: a row for every grade of
retinopathy, left and right eyes of different patients by turns, the last two pictures of a row one patient's eyes.

python docs/phantom_sheet.py --kind chest --out docs/img/phantoms.png
python docs/phantom_sheet.py --kind fundus --out docs/img/fundus_phantoms.png
"""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image

from monai_plan.transforms import render_chest_phantom, render_fundus_phantom
from monai_plan.utils import atomic_path

COLUMNS = 8
EYES = ("left", "right")
OUT = {"chest": "docs/img/phantoms.png", "fundus": "docs/img/fundus_phantoms.png"}


def chest_sheet(seed: int, image_size: int) -> np.ndarray:
    """The sheet in [-1, 1], [5 * image_size, 8 * image_size]; the last row shows the first patient of the third."""
    rows = [[(2 * (COLUMNS * row + i), 0, 0) for i in range(COLUMNS)] for row in range(2)]
    rows += [[(2 * (COLUMNS * row + i) + 1, 0, 1) for i in range(COLUMNS)] for row in range(2)]
    rows += [[(1, visit, 1) for visit in range(COLUMNS)]]
    return np.block([[render_chest_phantom(seed, *numbers, image_size=image_size) for numbers in row] for row in rows])


def fundus_sheet(seed: int, image_size: int) -> np.ndarray:
    """The sheet in [-1, 1], [5 * image_size, 8 * image_size, 3]; grades 0 to 4 from above."""
    patients = [*range(COLUMNS - 1), COLUMNS - 2]
    rows = [[(5 * patients[i] + grade, EYES[i % 2], grade) for i in range(COLUMNS)] for grade in range(5)]
    sheet = np.block([[render_fundus_phantom(seed, *eye, image_size=image_size) for eye in row] for row in rows])
    return sheet.transpose(1, 2, 0)


def main() -> None:
    """Read the command line and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=OUT, default="chest", help="which phantoms")
    parser.add_argument("--out", help="the PNG to write; by default that of the kind in docs/img")
    parser.add_argument("--seed", type=int, default=0, help="the population")
    parser.add_argument("--image_size", type=int, default=128, help="side of each picture, 32 to 256")
    args = parser.parse_args()
    sheet = {"chest": chest_sheet, "fundus": fundus_sheet}[args.kind](args.seed, args.image_size)
    out = args.out or OUT[args.kind]
    with atomic_path(out) as partial:
        Image.fromarray(np.round((sheet + 1) * 127.5).astype(np.uint8)).save(partial)
    print(out)


if __name__ == "__main__":
    main()
