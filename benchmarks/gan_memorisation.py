"""The memorisation watch fires: a generator over-trained on purpose, on few images and without augmentation.

The bundle's GAN stage with everything as it ships, except that the training split keeps ``--keep`` images (equally many
of each class), augmentation is off, and the size is 32 px to be quick. Prints one line a measurement and writes the
figures and the alarms. The control is the same run with the whole training split and augmentation on (``--control``).

    python benchmarks/gan_memorisation.py --dataset_dir SHENZHEN --datalist JSON --json FILE
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from common import about
from monai.bundle import ConfigParser

from monai_plan.data import read_splits
from monai_plan.utils import write_json

CONFIGS = Path(__file__).resolve().parent.parent / "bundles" / "plan_tb" / "configs"
SHOWN = ("kid", "recall", "memorisation_score", "memorisation_p", "discriminator_gap", "discriminator_r_v")


def main() -> None:
    """Train until the watch stops the run, or to the end; print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some hundred images: a check of the program, no result")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--dataset_dir", default="", help="real images (default: the embedded phantoms)")
    parser.add_argument("--datalist", default="", help="their split, by `python -m monai_plan datalist`")
    parser.add_argument("--work", default="", help="folder of the run (default: a temporary one)")
    parser.add_argument("--keep", type=int, default=60, help="training images")
    parser.add_argument("--control", action="store_true", help="all training images, augmentation on")
    parser.add_argument("--images", type=int, default=65536, help="real images shown to the discriminator at most")
    parser.add_argument("--every", type=int, default=4096, help="images between measurements")
    parser.add_argument("--extractor_weights", default="", help="SqueezeNet's file; default: what is in the cache")
    options = parser.parse_args()
    if options.quick:
        options.images, options.every = 256, 128
    folder = Path(options.work or tempfile.mkdtemp())
    config = ConfigParser()
    config.read_config([str(CONFIGS / "train.json"), str(CONFIGS / "train_gan.json")])
    splits = read_splits(options.dataset_dir, options.datalist, **config["phantoms"])
    if not options.control:
        classes = sorted({item["label"] for item in splits["training"]})
        each = options.keep // len(classes)
        splits["training"] = [
            item for label in classes for item in [i for i in splits["training"] if i["label"] == label][:each]
        ]
        config["gan#augment_limit"] = 0.0
    config.update(
        {
            "splits": splits,
            "bundle_root": str(CONFIGS.parent),
            "device": "$torch.device('cpu')",
            "dataset_dir": options.dataset_dir,
            "datalist": options.datalist,
            "output_dir": str(folder),
            "models_dir": str(folder),
            "image_size": 32,
            "gan#images": options.images,
            "gan#images_per_epoch": options.every,
            "gan#class_signal_every": 0,
            "gan#extractor": "squeezenet" if options.extractor_weights else "auto",
            "gan#extractor_weights": options.extractor_weights,
            "gan#extractor_size": 128,
        }
    )
    config.get_parsed_content("initialize")
    config.get_parsed_content("gan#trainer").run()
    records = json.loads((folder / "train_gan" / "quality.json").read_text())
    watch = json.loads((folder / "train_gan" / "memorisation.json").read_text())
    print(f"{'images':>8} " + " ".join(f"{name:>20}" for name in SHOWN))
    for record in records:
        cells = ["–" if record[name] is None else f"{record[name]:.4f}" for name in SHOWN]
        print(f"{record['images']:>8} " + " ".join(f"{cell:>20}" for cell in cells))
    print(f"alarms at iterations {[alarm['iteration'] for alarm in watch['alarms']]}; stopped at {watch['iteration']}")
    if options.json:
        settings = {name: getattr(options, name) for name in ("keep", "control", "images", "every", "quick")}
        data = Path(options.dataset_dir).name or "embedded phantoms"
        write_json(
            options.json, {"records": records, "watch": watch, "data": data, **settings, **about(torch.device("cpu"))}
        )


if __name__ == "__main__":
    main()
