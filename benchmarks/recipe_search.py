"""How to train on synthetic images: what wins, on phantoms that nothing else is measured on.

One generator and its gate, the shipped ones. Every row changes one thing of the bundle's recipe and trains classifiers
on the images of walks; each is judged on ``--others`` phantoms of the same population that trained nothing, and that no
table is made of: these may be used to choose. Rows:

- ``recipe``: 128 pairs of random anchors a class, prior weight 3, 2,048 draws in each of 10 epochs, soft labels of the
  bundle's teachers on blends; ``hard``: the same with hard labels; ``mixup``: hard labels blended.
- ``epochs x2``, ``epochs x4``: more images shown.
- ``weak augmentation``, ``strong augmentation``: half and twice the bundle's strengths.
- ``easy first``: confidence as a curriculum: the first epoch draws from the 30 % of images about which the teachers are
  most certain, the sixth and later from all; ``hard first``: the other way round.
- ``32 pairs``, ``512 pairs``: as many images of fewer or more walks (diversity).
- ``prior 0``, ``prior 10``: how much points must be as likely as the generator's own samples.

    python benchmarks/recipe_search.py --json recipe_search.json
    python benchmarks/recipe_search.py --quick --json recipe_search.json        two rows, one short classifier each
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from common import about, add_bundle_options, over_seeds
from image_sets import ImageSets
from paper_rows import Made, PaperRows
from torch.utils.data import Sampler

from monai_plan.engines import load_teachers
from monai_plan.latent import pair_anchors, random_anchors
from monai_plan.metrics import classification_figures
from monai_plan.networks.layers import AugmentPipe
from monai_plan.transforms import PhantomSpec, RenderPhantom
from monai_plan.utils import generator_for, machine_name, write_json

ROWS: Mapping[str, Mapping[str, Any]] = {
    "recipe": {},
    "hard": {"labels": "hard"},
    "mixup": {"labels": "mixup"},
    "epochs x2": {"epochs": 2},
    "epochs x4": {"epochs": 4},
    "weak augmentation": {"strength": 0.5},
    "strong augmentation": {"strength": 2.0},
    "easy first": {"curriculum": "easy"},
    "hard first": {"curriculum": "hard"},
    "32 pairs": {"pairs": 32},
    "512 pairs": {"pairs": 512},
    "prior 0": {"prior": 0.0},
    "prior 10": {"prior": 10.0},
}
FIRST_OTHER = 5_000
"""Patients from this number on are in no datalist of the benchmarks."""


class Curriculum(Sampler[int]):
    """Draws with replacement; the first epoch from the first images of an order, the sixth and later from all."""

    def __init__(self, order: torch.Tensor, draws: int, seed: int) -> None:
        self.order, self.draws, self.seed = order, draws, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[int]:
        share = min(1.0, 0.3 + 0.14 * self.epoch)
        among = self.order[: max(1, round(share * len(self.order)))]
        rng = generator_for(self.seed, "curriculum", self.epoch)
        self.epoch += 1
        yield from among[torch.randint(len(among), (self.draws,), generator=rng)].tolist()


class Search:
    """The images of walks, and classifiers trained on them by one recipe or another."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.sets = ImageSets(options)
        self.maker = PaperRows(self.sets, options)
        config = self.sets.config
        self.teachers = load_teachers(
            config.get_parsed_content("teachers_file"), config.get_parsed_content("network_def")
        )
        render = RenderPhantom(int(config.get_parsed_content("image_size")))
        numbers = range(FIRST_OTHER, FIRST_OTHER + options.others // 2)
        specs = [PhantomSpec(0, patient, 0, label) for patient in numbers for label in (0, 1)]
        self.others = torch.stack([render(str(spec)) for spec in specs])
        self.labels = torch.tensor([spec.label for spec in specs])
        self.walks = cache(self._walks)

    def _walks(self, pairs: int, prior: float | None) -> Made:
        anchors = random_anchors(self.maker.generator, 2 * pairs, self.options.seed)
        inner = (self.options.steps - 2) * max(1, self.options.pairs // pairs)  # fewer walks are longer
        walk = self.maker.guided(2 + inner)
        if prior is not None:
            walk = partial(walk, prior_weight=prior)
        return self.maker.walked(walk, pair_anchors(anchors, pairs, self.options.seed))

    def classified(self, row: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Figures on the other phantoms of a classifier trained by a recipe."""
        made = self.walks(row.get("pairs", self.options.pairs), row.get("prior"))
        network = self.sets.trained(made.images, made.labels, seed, **self._settings(row, made, seed))
        return classification_figures(self.sets.answers(network, self.others), self.labels)

    def _settings(self, row: Mapping[str, Any], made: Made, seed: int) -> dict[str, Any]:
        labels = row.get("labels", "soft")
        settings: dict[str, Any] = {
            "teachers": self.teachers if labels == "soft" else (),
            "mix": labels == "mixup",
            "epochs": self.options.epochs * row.get("epochs", 1),
        }
        if "strength" in row:
            own = {name: value for name, value in self.sets.config.get("augment").items() if name != "_target_"}
            p = own.pop("p")
            settings["augment"] = AugmentPipe(p=p, **{name: row["strength"] * value for name, value in own.items()})
        if "curriculum" in row:
            certain = torch.stack([self.sets.answers(teacher, made.images) for teacher in self.teachers]).mean(dim=0)
            order = certain.amax(dim=1).argsort(descending=row["curriculum"] == "easy")
            settings["sampler"] = Curriculum(order, self.options.draws, seed)
        return settings


def main() -> None:
    """Measure, print a table, write JSON after every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rows, few images, one short classifier each")
    parser.add_argument("--json", type=Path, help="write the figures here")
    add_bundle_options(parser)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[], help="only these")
    parser.add_argument("--images", type=int, default=2048, help="of the walks, at most")
    parser.add_argument("--pairs", type=int, default=128, help="of each class")
    parser.add_argument("--steps", type=int, default=14, help="points of a path, both ends included")
    parser.add_argument("--epochs", type=int, default=10, help="of a classifier")
    parser.add_argument("--draws", type=int, default=2048, help="images of an epoch")
    parser.add_argument("--others", type=int, default=1600, help="phantoms that the recipes are judged on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="classifiers of a row")
    options = parser.parse_args()
    if options.dataset_dir or options.datalist:
        parser.error("only the embedded phantoms have others to choose by; leave --dataset_dir and --datalist out")
    if options.quick:
        options.images, options.pairs, options.epochs, options.draws = 128, 12, 1, 128
        options.others, options.seeds, options.rows = 200, [0], options.rows or ["recipe", "easy first"]
    options.extractor_weights, options.ks = "", []
    options.published_pairs = options.published_steps = 2
    search = Search(options)
    print(
        f"{machine_name(search.sets.device)}; torch {torch.__version__}; judged on {len(search.labels)} other phantoms"
    )
    print(f"{'row':<20} {'accuracy':>16} {'AUROC':>16}", flush=True)
    record: dict[str, Any] = {}
    for name in options.rows or ROWS:
        found = [search.classified(ROWS[name], seed) for seed in options.seeds]
        record[name] = {}
        for measure in ("accuracy", "auroc"):
            record[name] |= over_seeds(measure, [figures[measure] for figures in found])
        spread = [
            f"{record[name][f'{m}_mean']:.3f} ± {record[name][f'{m}_sd'] or 0:.3f}" for m in ("accuracy", "auroc")
        ]
        print(f"{name:<20} {spread[0]:>16} {spread[1]:>16}", flush=True)
        if options.json:
            kept = ("images", "pairs", "steps", "epochs", "draws", "others", "seed", "seeds")
            settings = {name: getattr(options, name) for name in kept}
            write_json(options.json, {"rows": record, **settings, **about(search.sets.device)})


if __name__ == "__main__":
    main()
