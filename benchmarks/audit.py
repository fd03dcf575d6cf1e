"""What the audit's attacks cost, and whether they work: on a generator that remembers, and on patients never seen.

- speed: mmL of 500 images to 5,000 by one matrix product, beside the lpips package pair by pair (a part of the pairs is
  timed, and multiplied), and the largest difference of the two.
- memorising: a small GAN over-trained on few phantoms; membership by distance, density and discriminator, and whether a
  verification network, trained on other phantoms, links its images to *other visits* of these patients.
- clean: the same attacks on phantoms that no network has seen, called members or not by chance; several seeds.
- shadow: LiRA; many small GANs, each trained on a random half of few phantoms.
- verification: how well the audit's own network knows patients with several images, whom it has not seen, again.
- planted: the gate of a bundle against altered copies of its training images.

    python benchmarks/audit.py --quick
    python benchmarks/audit.py --dataset_dir SHENZHEN --datalist JSON --private_dir DIR --lpips_weights FILE --json FILE
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from common import about, add_bundle_options, bundle_config, seconds
from safetensors.torch import save_file
from small_gan import phantom_images, samples, train_small_gan

from monai_plan.data import phantom_datalist, stack_images
from monai_plan.engines import fit_verification, initial_network
from monai_plan.latent import gate_false_rejections, gate_planted_copies
from monai_plan.metrics import (
    AttackResult,
    LPIPSFeatures,
    RealPatients,
    density_ratio_scores,
    density_ratio_spread,
    mean_minimal_distance,
    membership_attack,
    nearest_synthetic_scores,
    pairwise_distances,
    reidentification,
    shadow_membership,
)
from monai_plan.networks.layers import AugmentPipe
from monai_plan.networks.nets import IdentityEmbedder, StyleDiscriminator, StyleGenerator
from monai_plan.utils import generator_for, import_torchvision, machine_name, patient_of, write_json

PARTS = ("speed", "memorising", "clean", "shadow", "verification", "planted")
CPU = torch.device("cpu")
AUGMENT = AugmentPipe(p=0.8, shift=0.08, log_scale=0.1, angle=0.15, brightness=0.2, log_contrast=0.3)
"""As in the bundle's evaluate.json."""
POPULATION = 1000
"""Seed of the phantoms here; those of the bundle have the seed 0."""

Items = Sequence[Mapping[str, Any]]


def squeezenet_file(options: argparse.Namespace) -> Path:
    """The weights given, or random ones, with which time and equality are the same."""
    if options.lpips_weights:
        return Path(options.lpips_weights)
    import_torchvision()
    from torchvision.models import squeezenet1_1

    path = Path(tempfile.mkdtemp()) / "squeezenet.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(squeezenet1_1(weights=None).features.state_dict(), path)
    return path


def pairwise_package(features: LPIPSFeatures) -> torch.nn.Module:
    """The lpips package with the same weights."""
    import lpips

    model = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    model.net.load_state_dict(features.backbone.state_dict())
    return model.eval()


@torch.no_grad()
def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Time of mmL against that of all pairs."""
    queries, gallery, pairs = (20, 100, 64) if options.quick else (500, 5000, 2048)
    generator = bundle_config(options).get_parsed_content("generator").to(CPU).eval()
    images, _ = samples(generator, queries + gallery)
    features = LPIPSFeatures(squeezenet_file(options))
    package = pairwise_package(features)
    shown: list[float] = []
    ours = seconds(
        lambda: shown.append(mean_minimal_distance(images[:queries], images[queries:], features)),
        CPU,
    )
    rng = generator_for(0, "pairs timed")
    left, right = torch.randint(queries, (pairs,), generator=rng), torch.randint(gallery, (pairs,), generator=rng)
    found: list[torch.Tensor] = []

    def one_by_one() -> None:
        for a, b in zip(left.split(64), (queries + right).split(64), strict=True):
            found.append(package(images[a].expand(-1, 3, -1, -1), images[b].expand(-1, 3, -1, -1)).flatten())

    theirs = seconds(one_by_one, CPU) / pairs * queries * gallery
    some = 500
    matrix = pairwise_distances(images[left[:some]], images[queries + right[:some]], features).diagonal()
    difference = (matrix - torch.cat(found)[:some]).abs().max()
    return {
        "queries": queries,
        "gallery": gallery,
        "mml": shown[0],
        "seconds_matrix": ours,
        "seconds_pairwise_extrapolated": theirs,
        "pairs_timed": pairs,
        "mml_speedup_vs_lpips": theirs / ours,
        "mml_max_abs_diff": float(difference),
    }


def _file(options: argparse.Namespace, name: str) -> Path | None:
    return Path(options.work) / name if options.work else None


def phantoms(seed: int, patients: int, visits: int) -> list[dict[str, Any]]:
    """Items of that many phantoms of each class, all in one list, by visit."""
    lists = phantom_datalist(seed, patients_per_class=patients, visits=visits, fractions=(1.0, 0.0, 0.0))
    return sorted(lists["training"], key=lambda item: item["visit"])


def figures(found: AttackResult) -> dict[str, Any]:
    """The part of a result that is reported."""
    low, high = found.interval
    record = {"value": found.value, "low": low, "high": high, "n": found.n, "n_control": found.n_control}
    return {**record, "control": found.control, "measure": found.measure}


class Memoriser:
    """A generator over-trained on few phantoms, and what attacks on it need."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.size, each, shown = (32, 10, 256) if options.quick else (32, 8, options.shown)
        members, others = phantoms(POPULATION, each, 2), phantoms(POPULATION + 1, 20 if options.quick else 100, 2)
        first = [item for item in members if item["visit"] == 0]
        images, labels = phantom_images(first, self.size)
        self.generator: StyleGenerator
        self.discriminator: StyleDiscriminator
        self.generator, self.discriminator = train_small_gan(images, labels, shown, file=_file(options, "memoriser"))
        self.synthetic, _ = samples(self.generator, 100 if options.quick else 1000)
        self.features = LPIPSFeatures(squeezenet_file(options))
        self.trained_on = first
        self.again = [item for item in members if item["visit"] == 1]
        self.others = {visit: [item for item in others if item["visit"] == visit] for visit in (0, 1)}

    def attack(self, members: Items, others: Items, seed: int, discriminator: bool = False) -> dict[str, AttackResult]:
        """Membership of single images."""
        items = [*members, *others]
        images, labels = phantom_images(items, self.size)
        names = tuple(f"{item['patient_id']}" for item in items)
        real = RealPatients(names, torch.arange(len(items)) < len(members), labels)
        to_real = pairwise_distances(self.synthetic, images, self.features)
        among = pairwise_distances(images, images, self.features).fill_diagonal_(0)
        made_from = (to_real, among, real, 3, seed)
        ratios, spread = density_ratio_scores(*made_from), density_ratio_spread(*made_from)
        found = {
            "distance": membership_attack("membership_distance", nearest_synthetic_scores(to_real), real, seed),
            "density": membership_attack("membership_density", ratios, real, seed, spread=spread),
        }
        if discriminator:
            with torch.no_grad():
                scores = [
                    self.discriminator(image[None], label[None]) for image, label in zip(images, labels, strict=True)
                ]
            found["discriminator"] = membership_attack("membership_discriminator", torch.cat(scores), real, seed)
        return found

    def relink(self, quick: bool) -> AttackResult:
        """Links of synthetic images to other visits of the training patients, by a network that saw none of them."""
        known = phantoms(POPULATION + 2, 20 if quick else 200, 3)
        images, labels = phantom_images(known, self.size)
        names = [item["patient_id"] for item in known]
        number = {name: place for place, name in enumerate(dict.fromkeys(names))}
        half = torch.tensor([number[name] % 2 == 0 for name in names])
        with torch.random.fork_rng():
            torch.manual_seed(0)
            embedder = IdentityEmbedder(block_inplanes=(24, 48, 96, 192))
        network = fit_verification(images, names, half, embedder, AUGMENT, 20 if quick else 1500, probe_share=0.1)
        items = [*self.again, *self.trained_on, *self.others[1], *self.others[0]]
        images, labels = phantom_images(items, self.size)
        real = RealPatients(
            tuple(item["patient_id"] for item in items),
            torch.arange(len(items)) < len(self.again) + len(self.trained_on),
            labels,
        )
        other_visit = torch.tensor([item["visit"] == 1 for item in items])
        to_real, among = network.distances(self.synthetic, images), network.distances(images, images).fill_diagonal_(0)
        to_real[:, ~other_visit] = 2.0  # the farthest: only the visit that the generator never saw can be linked
        return reidentification(to_real, among, real, 0, "verification network")


def clean(memoriser: Memoriser, seed: int, quick: bool) -> dict[str, AttackResult]:
    """The attacks on phantoms that nothing was trained on; a coin says who is called a member."""
    people = phantoms(POPULATION + 10 + seed, 20 if quick else 100, 1)
    order = torch.randperm(len(people), generator=generator_for(seed, "clean")).tolist()
    half = len(people) // 2
    members, others = ([people[place] for place in part] for part in (order[:half], order[half:]))
    return memoriser.attack(members, others, seed, discriminator=True)


def summary(found: Sequence[AttackResult]) -> dict[str, Any]:
    """One attack over several populations."""
    values = [result.value for result in found]
    held = sum(result.interval[0] <= 0.5 <= result.interval[1] for result in found)
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {
        "mean": statistics.fmean(values),
        "deviation": spread,
        "by_seed": values,
        "intervals_with_one_half": held,
    }


def shadow(options: argparse.Namespace) -> AttackResult:
    """LiRA against small GANs."""
    models, each, shown = (8, 16, 64) if options.quick else (options.models, 20, options.shadow_shown)
    images, labels = phantom_images(phantoms(POPULATION + 3, each, 1), 16)
    # independent coins, thrown again until each patient is at least twice in and twice out; in exactly half of the
    # models would tell the answer from the other models
    throws = (torch.rand(models, len(images), generator=generator_for(0, "coins", i)) < 0.5 for i in count())
    coins = next(c for c in throws if int(c.sum(dim=0).min()) >= 2 and int(c.sum(dim=0).max()) <= models - 2)
    scores = []
    for number, kept in enumerate(coins):
        file = _file(options, f"shadow{number}")
        generator, _ = train_small_gan(images[kept], labels[kept], shown, number, channel_base=256, file=file)
        made, _ = samples(generator, 100 if options.quick else 1000, seed=number)
        scores.append(nearest_synthetic_scores(torch.cdist(made.flatten(1), images.flatten(1))))
    return shadow_membership(torch.stack(scores), coins, 0, {"images_shown": shown})


def verification(options: argparse.Namespace) -> dict[str, Any]:
    """Same patient or not, and the nearest patient of an image, for half of the patients of a data set."""
    config = bundle_config(options)
    load, splits = config.get_parsed_content("load_image"), config.get_parsed_content("splits")
    names = ("training", "validation", "testing")
    items = [item for name in names for item in splits[name][: 60 if options.quick else None]]
    stacked = stack_images([load(item) for item in items])
    patients = tuple(map(patient_of, items))
    training = set(map(patient_of, splits["training"]))
    member = torch.tensor([patient in training for patient in patients])
    widths = config["resnet_widths"]
    network = initial_network(lambda: IdentityEmbedder(config["channels"], block_inplanes=widths), 7)
    iterations = 20 if options.quick else 800
    found = fit_verification(stacked.images, patients, member, network, AUGMENT, iterations, seed=7)
    probe, unseen = found.probe, stacked.images[found.probe]
    among = found.distances(unseen, unseen).fill_diagonal_(0)
    real = RealPatients(patients, member, stacked.labels).part(probe)
    details = reidentification(among, among, real, 0, "verification network").details
    return {name: details[name] for name in ("verification_auroc", "top_1", "gallery_patients")}


def planted(options: argparse.Namespace) -> dict[str, Any]:
    """The gate of the bundle, or of the folder given."""
    config = bundle_config(options)
    gate = config.get_parsed_content("gate")
    load, splits = config.get_parsed_content("load_image"), config.get_parsed_content("splits")
    if options.quick:
        splits = {name: splits[name][:60] for name in ("training", "testing")}
    sets = {name: stack_images([load(item) for item in splits[name]]) for name in ("training", "testing")}
    copies = gate_planted_copies(
        gate,
        sets["training"].images,
        sets["training"].groups,
        sets["testing"].images,
        sets["testing"].groups,
        seed=1,
    )
    false = gate_false_rejections(gate, sets["testing"].images, sets["testing"].groups)
    return {"planted_sensitivity": {**figures(copies), **copies.details}, "planted_false_rejection": figures(false)}


def main() -> None:
    """Run the parts asked for, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a check of the program within two minutes, no result")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    parser.add_argument("--shown", type=int, default=65536, help="images shown to the memorising GAN")
    parser.add_argument("--models", type=int, default=14, help="shadow models")
    parser.add_argument("--shadow_shown", type=int, default=12288, help="images shown to each of them")
    parser.add_argument("--seeds", type=int, default=20, help="populations of the part 'clean'")
    parser.add_argument("--work", default="", help="existing folder: keep the GANs there, and take what is there")
    add_bundle_options(parser)
    options = parser.parse_args()
    record: dict[str, Any] = {}
    print(f"{machine_name(CPU)}; torch {torch.__version__}")
    if "speed" in options.parts:
        record |= speed(options)
        print(
            f"mmL of {record['queries']} x {record['gallery']}: {record['seconds_matrix']:.1f} s; pair by pair "
            f"{record['seconds_pairwise_extrapolated']:.0f} s ({record['pairs_timed']} pairs timed): "
            f"{record['mml_speedup_vs_lpips']:.0f} times; largest difference {record['mml_max_abs_diff']:.1e}"
        )
    rows: list[tuple[str, AttackResult]] = []
    if {"memorising", "clean"} & set(options.parts):
        memoriser = Memoriser(options)
        if "memorising" in options.parts:
            found = memoriser.attack(memoriser.trained_on, memoriser.others[0], 0, discriminator=True)
            rows += [(f"memorising generator, {name}", result) for name, result in found.items()]
            rows.append(("memorising generator, other visits linked", memoriser.relink(options.quick)))
            record["memorising_mia_auc"] = figures(found["distance"])
        if "clean" in options.parts:
            seen = [clean(memoriser, seed, options.quick) for seed in range(options.seeds)]
            record["clean_mia_auc"] = figures(seen[0]["distance"])
            record["clean"] = {name: summary([found[name] for found in seen]) for name in seen[0]}
            for name, found in record["clean"].items():
                print(
                    f"never seen, {name}: AUROC {found['mean']:.3f} ± {found['deviation']:.3f} over {options.seeds} "
                    f"populations, {found['intervals_with_one_half']} of the intervals hold 0.5"
                )
    if "shadow" in options.parts:
        rows.append(("shadow models (LiRA)", shadow(options)))
    if "verification" in options.parts:
        record["verification"] = verification(options)
        print(f"verification network on unseen patients: {record['verification']}")
    if "planted" in options.parts:
        record |= planted(options)
        for name in ("planted_sensitivity", "planted_false_rejection"):
            found = record[name]
            print(f"{name}: {found['value']:.4f} [{found['low']:.4f}, {found['high']:.4f}], n = {found['n']}")
        print(f"breaks down: {record['planted_sensitivity']['breaks_down']}")
    for name, result in rows:
        low, high = result.interval
        control = "-" if result.control is None else f"{result.control:.3f}"
        print(
            f"{name:<46} {result.measure:>12} {result.value:6.3f} [{low:.3f}, {high:.3f}]  control {control}  "
            f"n {result.n}/{result.n_control}"
        )
    record["attacks"] = {name: {**figures(result), "details": result.as_dict()["details"]} for name, result in rows}
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name not in ("json",)}
        settings = {name: Path(v).name if isinstance(v, str) and v else v for name, v in settings.items()}
        write_json(options.json, {**record, "settings": settings, **about(CPU)})


if __name__ == "__main__":
    main()
