"""Several processes at once: trainers that share one release folder, and processes of one run of which one dies.

The trainers are plain torch training loops on a PrivacyWalkSampler without a gate, each in a process of its own, all
started together on the bundle's release; two of them have the same seed. For the dying processes a run of two
processes is started by hand, as a cluster's scheduler does it (torchrun would end the other one by itself), and one of
them is killed at a random moment.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import CONFIGS
from monai.networks.nets import ResNet
from stage_trials import SETTINGS

from monai_plan.data import PrivacyWalkDataset, PrivacyWalkSampler, write_release
from monai_plan.latent import WalkSet
from monai_plan.networks.nets import StyleGenerator
from monai_plan.utils import sha256_of, weights_digest

BUNDLE = CONFIGS.parent
SEEDS = (0, 0, 1, 2)
TIMEOUT = 30
"""Seconds that a process waits for one that never came; torch's own is 30 minutes."""
PATIENCE, START_AT_MOST = 120.0, 60.0
"""Seconds within which the other process must have ended, and within which both train."""
TINY = {
    **{name: value for name, value in SETTINGS.items() if "#" not in name or name.startswith("gan#")},
    "phantoms": {"patients_per_class": 12, "visits": 4, "fractions": [0.5, 0.25, 0.25]},
    "gan#batch_size": 4,
    "gan#images": 100_000,
    "gan#images_per_epoch": 64,
    "processes_timeout": TIMEOUT,
}
"""A training of the generator that nobody waits for to end."""


def measure(quick: bool, folder: Path) -> dict[str, Any]:
    """The figures of both."""
    return {
        "load": {
            "trainers": trainers(folder, SEEDS[:2] if quick else SEEDS, 1 if quick else 20),
            "ranks": dying_ranks(folder, 1 if quick else 20),
        }
    }


def show(figures: dict[str, Any]) -> str:
    """Lines of text."""
    one, other = figures["load"]["trainers"], figures["load"]["ranks"]
    return "\n".join(
        (
            f"{one['ended_well']} of {one['processes']} trainers on one release folder ended well in {one['epochs']} "
            f"epochs; equal seeds, equal weights: {one['equal_seeds_equal']}; other seeds differ: "
            f"{one['other_seeds_differ']}; the folder is unchanged: {one['folder_unchanged']}",
            f"{other['ended_with_error']} of {other['trials']} times the other of two processes ended with an error, "
            f"after {other['seconds_median']:.1f} s (median), {other['seconds_longest']:.1f} s at most; "
            f"{other['says_why']} times its last lines say why",
        )
    )


def trainers(folder: Path, seeds: Sequence[int], epochs: int) -> dict[str, Any]:
    """Train in as many processes as ``seeds``, of which the first two are equal, on one release."""
    release = folder / "release"
    walks = WalkSet.load(BUNDLE / "models" / "walks_private.safetensors")
    write_release(walks, StyleGenerator.load(BUNDLE / "models" / "generator.safetensors"), release, progress=False)
    before = hashes(release)
    running = [
        subprocess.Popen(
            [sys.executable, __file__, "train", str(release), str(seed), str(epochs)], stdout=subprocess.PIPE, text=True
        )
        for seed in seeds
    ]
    said = [process.communicate()[0] for process in running]
    results = [json.loads(text) if process.returncode == 0 else {} for process, text in zip(running, said, strict=True)]
    digests = [found.get("weights") for found in results]
    return {
        "processes": len(seeds),
        "epochs": epochs,
        "ended_well": sum(process.returncode == 0 for process in running),
        "equal_seeds_equal": digests[0] is not None and digests[0] == digests[1],
        "other_seeds_differ": len(set(digests)) == len(set(seeds)),
        "folder_unchanged": hashes(release) == before,
    }


def train(release: Path, seed: int, epochs: int) -> None:
    """One trainer; prints the hash of its weights."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    sampler = PrivacyWalkSampler(
        PrivacyWalkDataset(WalkSet.load(release / "walks.safetensors"), 256, seed=seed),
        StyleGenerator.load(release / "generator.safetensors"),
        batch_size=32,
        shuffle=True,
        prefetch=2,
    )
    classes = int(sampler.dataset.walks.labels.max()) + 1
    network = ResNet("basic", [1, 1, 1, 1], [8, 16, 32, 64], 2, n_input_channels=1, num_classes=classes)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for batch in sampler:
            loss = torch.nn.functional.cross_entropy(network(batch["image"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print(json.dumps({"weights": weights_digest(network), "loss": loss.item()}))


def dying_ranks(folder: Path, trials: int, seed: int = 0) -> dict[str, Any]:
    """Kill one of two processes that train a generator together, and wait for the other.

    By turns the first and the second; of each four, two between their start and the first checkpoint, two in training.
    """
    rng = random.Random(seed)
    start = START_AT_MOST
    seconds, codes, explained = [], [], 0
    for trial in range(trials):
        victim, in_training = trial % 2, trial % 4 < 2
        place = folder / f"ranks-{trial}"
        begun = time.monotonic()
        ranks = started_ranks(place)
        if in_training:
            wait_for_checkpoint(place, ranks)
            start = min(start, time.monotonic() - begun)
            time.sleep(rng.uniform(0, 3))
        else:
            time.sleep(rng.uniform(0, start))
        ranks[victim].send_signal(signal.SIGKILL)
        begun = time.monotonic()
        other = ranks[1 - victim]
        try:
            codes.append(other.wait(PATIENCE))
        except subprocess.TimeoutExpired:
            other.kill()
            codes.append(None)
        seconds.append(time.monotonic() - begun)
        ranks[victim].wait()
        lines = (place / f"rank-{1 - victim}.log").read_text().splitlines()
        explained += any("error: this process lost the others" in line for line in lines[-4:])  # a progress bar may end
    ordered = sorted(seconds)
    return {
        "trials": trials,
        "ended_with_error": sum(code not in (None, 0) for code in codes),
        "says_why": explained,
        "timeout": TIMEOUT,
        "seconds_median": round(ordered[len(ordered) // 2], 1),
        "seconds_longest": round(ordered[-1], 1),
        "exit_codes": codes,
    }


def started_ranks(place: Path) -> list[subprocess.Popen]:
    """Two processes that train a generator together."""
    place.mkdir(parents=True)
    files = [str(CONFIGS / f"{name}.json") for name in ("train", "train_gan", "multi_gpu_train")]
    places = {"output_dir": place, "models_dir": place, "private_dir": place, "gan_dir": place / "gan"}
    words = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files)]
    for name, value in {**TINY, **places}.items():
        words += [f"--{name}", str(value)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    found = []
    for rank in range(2):
        with open(place / f"rank-{rank}.log", "w") as log:
            own = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            found.append(subprocess.Popen(words, env=own, stdout=log, stderr=subprocess.STDOUT))
    return found


def wait_for_checkpoint(place: Path, ranks: list[subprocess.Popen]) -> None:
    """Until the first checkpoint is there."""
    begun = time.monotonic()
    while not (place / "gan" / "checkpoint.pt").is_file():
        if any(rank.poll() is not None for rank in ranks) or time.monotonic() - begun > 300:
            for rank in ranks:
                rank.kill()
            raise RuntimeError(
                f"the two processes did not start training: {(place / 'rank-0.log').read_text()[-2000:]}"
            )
        time.sleep(0.1)


def hashes(folder: Path) -> dict[str, str]:
    """File to hash."""
    return {path.name: sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


if __name__ == "__main__":
    train(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
