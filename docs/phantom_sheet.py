"""Write the contact sheet of the phantoms: two rows of normal patients, two with tuberculosis, and eight visits of one.

python docs/phantom_sheet.py --out docs/img/phantoms.png
"""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image

from monai_plan.transforms import render_chest_phantom
from monai_plan.utils import atomic_path

COLUMNS = 8


def contact_sheet(seed: int, image_size: int) -> np.ndarray:
    """The sheet as uint8 [5 * image_size, 8 * image_size]; the last row shows the first patient of the third."""
    rows = [[(2 * (COLUMNS * row + i), 0, 0) for i in range(COLUMNS)] for row in range(2)]
    rows += [[(2 * (COLUMNS * row + i) + 1, 0, 1) for i in range(COLUMNS)] for row in range(2)]
    rows += [[(1, visit, 1) for visit in range(COLUMNS)]]
    pictures = [
        np.concatenate([render_chest_phantom(seed, *numbers, image_size=image_size) for numbers in row], axis=1)
        for row in rows
    ]
    return np.round((np.concatenate(pictures) + 1) * 127.5).astype(np.uint8)


def main() -> None:
    """Read the command line and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="docs/img/phantoms.png", help="the PNG to write")
    parser.add_argument("--seed", type=int, default=0, help="the population")
    parser.add_argument("--image_size", type=int, default=128, help="side of each picture, 32 to 256")
    args = parser.parse_args()
    with atomic_path(args.out) as partial:
        Image.fromarray(contact_sheet(args.seed, args.image_size)).save(partial)
    print(args.out)


if __name__ == "__main__":
    main()
