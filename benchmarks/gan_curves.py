"""Learning curves of the generator by recipe and seed: KID, FID and class signal against images and seconds.

Every recipe is a set of overrides of the bundle's ``train_gan.json``, trained on the training split alone. Snapshots of
the averaged generator are scored afterwards, each against the validation split (``kid``, ``fid``) with the same latents
for all recipes; the test split is opened for ``--test`` only. ``floor_*`` is the training split scored in the samples'
place. A killed run goes on where it was; what is complete is not done again, so recipes may be spread over several
processes.

    python benchmarks/gan_curves.py --dataset_dir SHENZHEN --datalist JSON --work DIR --json FILE --picture PNG
    python benchmarks/gan_curves.py --quick --json FILE
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

import torch
from common import about
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from monai.bundle import ConfigParser

from monai_plan.engines import class_signal
from monai_plan.handlers import EpochBar
from monai_plan.handlers.generator_quality import class_counts
from monai_plan.metrics import GenerationQuality
from monai_plan.networks.nets import StyleGenerator
from monai_plan.utils import generator_for, load_tensors, weights_digest, write_json

CONFIGS = Path(__file__).resolve().parent.parent / "bundles" / "plan_tb" / "configs"
BASE: dict[str, Any] = {
    "gan#objective#loss": "logistic",
    "gan#r1_gamma": 0.0512,
    "gan#objective#r2_gamma": 0.0,
    "gan#objective#penalty_interval": 16,
    "gan#objective#path_length_weight": 0.0,
    "gan#objective#mixing": 0.0,
    "gan#augment_limit": 0.8,
}
"""StyleGAN2-ADA's loss and adaptive augmentation at 64 px and batch 16; each recipe changes one thing of it."""
RECIPES: dict[str, dict[str, Any]] = {
    "base": BASE,
    "no_adaptive_augmentation": {**BASE, "gan#augment_limit": 0.0},
    "mixing": {**BASE, "gan#objective#mixing": 0.9},
    "path_length": {**BASE, "gan#objective#path_length_weight": 2.0},
    "relativistic_r1_r2": {
        **BASE,
        "gan#objective#loss": "relativistic",
        "gan#r1_gamma": 0.2,
        "gan#objective#r2_gamma": 0.2,
        "gan#objective#penalty_interval": 8,
    },
}


class Snapshots:
    """Writes the averaged generator after every epoch, with the processor seconds spent on training so far."""

    def __init__(self, average: StyleGenerator, folder: Path) -> None:
        self.average = average
        self.folder = folder
        self.seconds = 0.0
        self.digest = weights_digest(average)

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.seconds = state["seconds"]

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _start(self) -> None:
        self.begun = time.process_time()

    def _save(self, engine: Engine) -> None:
        self.seconds += time.process_time() - self.begun
        output: Any = engine.state.output
        images = engine.state.iteration * output["images"]
        digest = weights_digest(self.average)
        if digest == self.digest:
            raise RuntimeError(
                f"the averaged generator did not change up to image {images}: it is not the one in training"
            )
        self.digest = digest
        self.average.save(self.folder / f"{images:08d}.safetensors", images=images, seconds=self.seconds, p=output["p"])


def configured(options: argparse.Namespace, folder: Path, **overrides: Any) -> ConfigParser:
    """The bundle's GAN stage with the run's settings."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / "train.json"), str(CONFIGS / "train_gan.json")])
    common = {
        "bundle_root": str(CONFIGS.parent),
        "device": "$torch.device('cpu')",
        "dataset_dir": options.dataset_dir,
        "datalist": options.datalist,
        "output_dir": str(folder),
        "models_dir": str(folder),
        "gan#images": options.images,
        "gan#images_per_epoch": options.every,
        "gan#extractor": "squeezenet" if options.extractor_weights else "auto",
        "gan#extractor_weights": options.extractor_weights,
        "gan#extractor_size": options.extractor_size,
        "gan#quality_images": options.samples,
    }
    if options.quick:
        common |= {"image_size": 32, "phantoms#patients_per_class": 20}
    parser.update({**common, **overrides})
    return parser


def train(recipe: str, seed: int, options: argparse.Namespace) -> Path:
    """Train one generator, or go on with it; returns the folder of its snapshots."""
    folder = Path(options.work) / recipe / str(seed)
    if (folder / f"{options.images // options.every * options.every:08d}.safetensors").is_file():
        return folder
    handlers = {"gan#handlers": ["@gan#adaptive", "@gan#ema"]}  # measuring is left to later: see score
    parser = configured(options, folder, seed=seed, **handlers, **RECIPES[recipe])
    parser.get_parsed_content("initialize")
    trainer, average, checkpoint = (
        parser.get_parsed_content(f"gan#{name}") for name in ("trainer", "average", "resumable")
    )
    snapshots = Snapshots(average, folder)
    for name in ("quality", "watch", "class_signal"):
        del checkpoint.objects[name]
    checkpoint.objects["snapshots"] = snapshots
    for handler in (snapshots, checkpoint, EpochBar(f"{recipe} {seed}")):
        handler.attach(trainer)
    trainer.run()
    return folder


@torch.no_grad()
def draw(generator: StyleGenerator, labels: torch.Tensor) -> torch.Tensor:
    """Samples as users get them, from the same latents for every generator."""
    z = torch.randn(len(labels), generator.z_dim, generator=generator_for(0, "latents of the curves"))
    noise = generator_for(0, "noise of the curves")
    parts = zip(z.split(64), labels.split(64), strict=True)
    return torch.cat([generator.eval()(*part, noise="random", rng=noise).clamp(-1, 1) for part in parts])


def score(folder: Path, options: argparse.Namespace, parser: ConfigParser) -> dict[str, Any]:
    """Score every snapshot of a run, and the class signal of the last; what was scored before is not scored again."""
    measure: GenerationQuality = parser.get_parsed_content("gan#measure")
    shares = parser.get_parsed_content("gan#class_shares")
    record = folder / "scores.json"
    held: dict[str, Any] = json.loads(record.read_text()) if record.is_file() else {"points": [], "class_signal": {}}
    known = {point["images"] for point in held["points"]}
    files = sorted(folder.glob("0*.safetensors"))
    for file in files:
        if int(file.stem) in known:
            continue
        _, meta = load_tensors(file, StyleGenerator.schema)
        counts = torch.tensor(class_counts(shares, options.samples))
        labels = torch.arange(len(counts)).repeat_interleave(counts)
        figures = measure(draw(StyleGenerator.load(file), labels), labels)
        held["points"].append({**{name: meta[name] for name in ("images", "seconds", "p")}, **figures})
        write_json(record, held)
    name = f"{files[-1].stem}_test" if options.test else files[-1].stem
    if name not in held["class_signal"]:
        held["class_signal"][name] = [
            class_signal(
                StyleGenerator.load(files[-1]),
                parser.get_parsed_content("network_factory"),
                parser.get_parsed_content("validate#dataloader"),
                "cpu",
                test_loader=parser.get_parsed_content("test_dataloader") if options.test else None,
                epochs=options.classifier_epochs,
                prepare_batch=parser.get_parsed_content("prepare_batch"),
                class_shares=shares,
                seed=number,
            )
            for number in range(options.classifiers)
        ]
        write_json(record, held)
    return held


def summary(scores: dict[str, dict[str, Any]], parser: ConfigParser, options: argparse.Namespace) -> dict[str, Any]:
    """The JSON: by recipe and seed the curves ``kid, fid, kimg, seconds, …``, the floors, and how all was measured."""
    measure: GenerationQuality = parser.get_parsed_content("gan#measure")
    recipes: dict[str, Any] = {}
    for run, held in sorted(scores.items()):
        recipe, seed = run.split("/")
        names = [name for name in held["points"][-1] if name != "images"]
        curves = {name: [point.get(name) for point in held["points"]] for name in names}
        curves["kimg"] = [point["images"] / 1000 for point in held["points"]]
        recipes.setdefault(recipe, {"settings": RECIPES[recipe], "seeds": {}})["seeds"][seed] = {
            **curves,
            "class_signal": held["class_signal"],
        }
    given = ("images", "every", "samples", "classifiers", "classifier_epochs", "quick")
    settings = {name: getattr(options, name) for name in given}
    return {
        "recipes": recipes,
        **measure.floors,
        **measure.description,
        **settings,
        "data": Path(options.dataset_dir).name or "embedded phantoms",
        "seconds_are": "processor seconds of training alone, measurements left out",
        **about(torch.device("cpu")),
    }


def show(record: dict[str, Any], figures: Sequence[str]) -> None:
    """Print the last point of every run beside the floor."""
    counts = f"{record['n_compared']} against {record['n_held_out']} held-out images"
    print(f"{record['data']}; {record['extractor']}; {counts}")
    print(f"{'recipe':<26} {'seed':>4} {'kimg':>6} {'seconds':>8} " + " ".join(f"{name:>12.12}" for name in figures))
    print(f"{'real against real':<47} " + " ".join(f"{record.get(f'floor_{name}', nan):>12.3f}" for name in figures))
    for recipe, held in record["recipes"].items():
        for seed, run in held["seeds"].items():
            signals = next(reversed(run["class_signal"].values()), [])
            last = {name: values[-1] for name, values in run.items() if isinstance(values, list)}
            for name in ("class_auroc", "class_validation_auroc"):
                last[name] = sum(signal[name] for signal in signals) / max(len(signals), 1)
            place = f"{recipe:<26} {seed:>4} {last['kimg']:>6.1f} {last['seconds']:>8.0f} "
            print(place + " ".join(f"{last.get(name, nan):>12.3f}" for name in figures))


def picture(record: dict[str, Any], path: Path) -> None:
    """KID and FID against seconds: a colour for each recipe, a line for each seed, the floor dashed."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, name in zip(panels, ("kid", "fid"), strict=True):
        for number, (recipe, held) in enumerate(record["recipes"].items()):
            for order, run in enumerate(held["seeds"].values()):
                label = None if order else recipe.replace("_", " ")
                panel.plot(run["seconds"], run[name], marker=".", color=f"C{number}", label=label)
        panel.axhline(record[f"floor_{name}"], color="black", linestyle="--", label="real against real")
        panel.set(
            xlabel="processor seconds", ylabel=f"{name.upper()} to {record['n_held_out']} held-out images", ylim=0
        )
    panels[1].legend(fontsize="small")
    figure.savefig(path, dpi=100)


def main() -> None:
    """Train what is missing, score it, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few phantoms, 32 px, two recipes: a check")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--picture", type=Path, help="draw the curves here")
    parser.add_argument("--dataset_dir", default="", help="real images (default: the embedded phantoms)")
    parser.add_argument("--datalist", default="", help="their split, by `python -m monai_plan datalist`")
    parser.add_argument("--work", type=Path, default=Path("gan_curves"), help="folder of checkpoints and snapshots")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--images", type=int, default=40960, help="real images shown to the discriminator")
    parser.add_argument("--every", type=int, default=4096, help="images between snapshots")
    parser.add_argument("--samples", type=int, default=1024, help="samples scored")
    parser.add_argument("--classifiers", type=int, default=3, help="classifiers (seeds) behind a class signal")
    parser.add_argument("--classifier_epochs", type=int, default=10, help="epochs of 24 batches of 32 samples")
    parser.add_argument("--test", action="store_true", help="the class signal on test images, too: once, at the end")
    parser.add_argument("--extractor_weights", default="", help="SqueezeNet's file; default: what is in the cache")
    parser.add_argument("--extractor_size", type=int, default=128, help="pixels a side that it sees")
    parser.add_argument("--train_only", action="store_true", help="leave the scoring to another call")
    options = parser.parse_args()
    if options.quick:
        quick = {"images": 128, "every": 64, "samples": 64, "classifiers": 1, "classifier_epochs": 1}
        vars(options).update(quick, recipes=["base", "mixing"], work=Path(tempfile.mkdtemp()))
    runs = [(recipe, seed) for seed in options.seeds for recipe in options.recipes or RECIPES]
    folders = {f"{recipe}/{seed}": train(recipe, seed, options) for recipe, seed in runs}
    if options.train_only:
        return
    config = configured(options, options.work)
    record = summary({run: score(folder, options, config) for run, folder in folders.items()}, config, options)
    show(
        record,
        ("kid", "fid", "precision", "coverage", "intensity_mean_drift_0", "class_validation_auroc", "class_auroc"),
    )
    if options.json:
        write_json(options.json, record)
    if options.picture:
        picture(record, options.picture)


if __name__ == "__main__":
    main()
