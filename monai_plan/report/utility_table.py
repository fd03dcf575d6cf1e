"""The table at the end of a run: what classifiers trained on each kind of images are worth on real test images."""

from __future__ import annotations

import datetime
import os
import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import monai
import torch
from monai.engines import default_prepare_batch
from torch import nn
from torch.utils.data import DataLoader

from monai_plan._version import __version__
from monai_plan.engines.classification import initial_network, predict, train_classifier
from monai_plan.metrics.classification_figures import classification_figures
from monai_plan.metrics.intervals import accuracy_interval
from monai_plan.metrics.nearest_lpips import nearest_distances
from monai_plan.utils import PlanKeys, atomic_path, generator_for, require_writable, write_json

__all__ = ["UtilityTable", "utility_table_text"]

ABOUT = "about"
REAL = "real"
NOTE = (
    "Accuracy, AUROC and recall are on the real test images, of classifiers whose epoch was chosen on real validation "
    "images. mml_train is the mean distance to the nearest real training image; in the row 'real' it is that of the "
    "held-out real test images, the reference that synthetic images should not fall below; with the metric 'embedding' "
    "it is measured with the gate's own network, which is no independent audit. Kappa is Cohen's, with quadratic "
    "weights, which take more than two classes for ordered by their numbers. Intervals of 95 % reflect the size of "
    "the test set, as if its images were independent: they are too narrow where patients have several. The sd is the "
    "spread over seeds on this one test set. Neither holds the chance in training the image generator."
)
TAUGHT_NOTE = (
    " Synthetic rows have the answers of networks trained on real images as labels, which a release does not carry; "
    "the row 'real' has its own."
)


@dataclass(frozen=True, kw_only=True)
class UtilityTable:
    """One row for each kind of training images, one classifier for each row and seed.

    With the same seed all rows start from the same initial weights. The global random state is left as it was. Loaders
    with random states of their own go on from where they are.

    Args:
        rows: row's name to training loader, e.g. ``real``, ``linear``, ``plan``; dicts with ``image`` and ``label``.
            Only the row named ``real`` is taken as real images. A loader with ``counts`` (``emitted``,
            ``rejected``), such as the privacy walk sampler, has its gate's counts in the table; one with ``real_share``
            (:class:`~monai_plan.data.MixedBatches`) has that, and a warning.
        network_factory: makes an untrained classifier, images -> logits [B, K]; a new one at each call.
        validation_loader: real images that choose the epoch.
        test_loader: real images of other patients, in a fixed order, every class with two images or more.
        epochs: passes over each row's loader.
        learning_rate: see :func:`~monai_plan.engines.train_classifier`.
        device: where to compute.
        gallery_images: all real training images, not augmented, range [-1, 1]: [M, C, H, W], or a loader of them.
        features: what distances are measured on, see :func:`~monai_plan.metrics.load_perceptual_features`.
        metric_name: the distance's name, e.g. ``"lpips_squeeze"``.
        output_dir: where ``table.json`` and ``table.txt`` are written.
        prepare_batch: MONAI's, for training batches.
        synthetic_prepare_batch: the same for all rows but ``real``, e.g. with teachers' labels; ``None``: as ``real``.
        seeds: one classifier each; the first also names the trained networks'.
        trained: row's name to a network already trained with the same settings from
            :func:`~monai_plan.engines.initial_network` of the first seed; not trained again.
        subgroups: e.g. ``"sex"`` to the value of each test image, in the order of ``test_loader``.
        mml_images: synthetic images of a row whose distance is measured; at most one epoch of them.
        amp: bfloat16 autocast.
        weight_decay: AdamW's.

    Raises:
        ValueError: no rows or seeds, a seed twice, a row named ``about``, a trained network without a row, or
            ``mml_images`` < 1.
    """

    rows: Mapping[str, DataLoader]
    network_factory: Callable[[], nn.Module]
    validation_loader: DataLoader
    test_loader: DataLoader
    epochs: int
    learning_rate: float
    device: str | torch.device
    gallery_images: torch.Tensor | Iterable[Mapping[str, Any]]
    features: Callable[[torch.Tensor], torch.Tensor]
    metric_name: str
    output_dir: str | os.PathLike
    prepare_batch: Callable = default_prepare_batch
    synthetic_prepare_batch: Callable | None = None
    seeds: Sequence[int] = (0,)
    trained: Mapping[str, nn.Module] = field(default_factory=dict)
    subgroups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    mml_images: int = 256
    amp: bool = False
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        if not self.rows or ABOUT in self.rows:
            raise ValueError(f"rows need names other than '{ABOUT}', got {list(self.rows)}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be different integers, at least one, got {list(self.seeds)}")
        if unknown := set(self.trained) - set(self.rows):
            raise ValueError(f"trained networks without a row: {sorted(unknown)}; the rows are {list(self.rows)}")
        if self.mml_images < 1:
            raise ValueError(f"mml_images must be >= 1, got {self.mml_images}")

    def run(self) -> dict[str, Any]:
        """Train, evaluate, measure; write ``table.json`` and ``table.txt``, print the latter.

        Nothing is written before every row is finished. Shares and AUROC lie in 0 .. 1.

        Returns:
            The content of ``table.json``: for each row ``accuracy``, ``auroc``, ``kappa``, ``calibration_error``,
            ``brier`` and ``recall`` (by class), each the mean over the seeds, the first three with ``…_sd`` (``None``
            for one seed), ``mml_train``, ``images`` (of the row's data set), ``draws_per_epoch`` (with repetitions),
            ``gate_emitted`` and ``gate_rejected`` (``None`` without a gate; all that left the loader so far),
            ``real_share`` (only where real images were mixed in),
            ``per_seed`` (:func:`~monai_plan.metrics.classification_figures` of each); and ``about``.

        Raises:
            OSError: ``output_dir`` cannot be written.
            ValueError: from training, prediction or distances, with its cause.
        """
        output_dir = require_writable(self.output_dir)
        table, _ = self.measure()
        text = utility_table_text(table)
        with atomic_path(output_dir / "table.txt") as partial:
            partial.write_text(text + "\n", encoding="utf-8")
        write_json(output_dir / "table.json", table)
        print(text)
        return table

    def measure(self) -> tuple[dict[str, Any], dict[str, nn.Module]]:
        """Train, evaluate and measure without writing anything.

        Returns:
            The table, see :meth:`run`, and the first seed's network of each row.

        Raises:
            ValueError: from training, prediction or distances, with its cause.
        """
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            networks: dict[str, nn.Module] = {}
            return self._measured(networks), networks

    def _measured(self, networks: dict[str, nn.Module]) -> dict[str, Any]:
        table: dict[str, Any] = {}
        queries = []
        for row, loader in self.rows.items():
            per_seed = []
            for seed in self.seeds:
                figures, network = self._run_seed(row, loader, seed)
                per_seed.append(figures)
                networks.setdefault(row, network)
            queries.append(_images(self.test_loader) if row == REAL else _images(loader, self.mml_images))
            counts, share = getattr(loader, "counts", None) or {}, getattr(loader, "real_share", None)
            table[row] = {
                **_summary(per_seed),
                "images": len(loader.dataset),  # type: ignore[arg-type]
                "draws_per_epoch": len(loader) * (loader.batch_size or 1),
                "gate_emitted": counts.get("emitted"),
                "gate_rejected": counts.get("rejected"),
                **({"real_share": share} if share else {}),
                "per_seed": per_seed,
            }
        gallery = self.gallery_images if isinstance(self.gallery_images, torch.Tensor) else _images(self.gallery_images)
        nearest = nearest_distances(torch.cat(queries), gallery, self.features)
        for row, distances in zip(self.rows, nearest.split(list(map(len, queries))), strict=True):
            table[row]["mml_train"] = float(distances.mean())
        table[ABOUT] = {
            "mml_metric": self.metric_name,
            "seeds": list(self.seeds),
            "n_test": per_seed[0]["n_test"],
            "n_train": len(gallery),
            "epochs": self.epochs,
            "versions": {"monai_plan": __version__, "monai": monai.__version__, "torch": str(torch.__version__)},
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "note": NOTE + (TAUGHT_NOTE if self.synthetic_prepare_batch else ""),
        }
        return table

    def _run_seed(self, row: str, loader: DataLoader, seed: int) -> tuple[dict[str, Any], nn.Module]:
        torch.manual_seed(generator_for(seed, "utility table").initial_seed())
        network = self.trained.get(row) if seed == self.seeds[0] else None
        best = None
        if network is None:
            network = initial_network(self.network_factory, seed)
            prepare = self.prepare_batch if row == REAL else self.synthetic_prepare_batch or self.prepare_batch
            best = train_classifier(
                network,
                loader,
                self.validation_loader,
                self.epochs,
                self.learning_rate,
                self.device,
                prepare,
                self.amp,
                self.weight_decay,
                description=f"classifier '{row}', seed {seed}",
            )
        probabilities, labels = predict(network, self.test_loader, self.device, self.amp)
        correct = int((probabilities.argmax(dim=1) == labels).sum())
        figures = {
            "seed": seed,
            "best_epoch": best and best.epoch,
            "validation_auroc": best and best.auroc,
            "n_test": len(labels),
            "accuracy_interval_95": list(accuracy_interval(correct, len(labels))),
            **classification_figures(probabilities, labels, self.subgroups),
        }
        return figures, network


def utility_table_text(table: Mapping[str, Any]) -> str:
    """The table of :meth:`UtilityTable.run` as text: mean ± sd over the seeds, and the first seed's interval."""
    about = table[ABOUT]
    # of two classes kappa says little that accuracy does not
    graded = any(len(row["recall"]) > 2 for name, row in table.items() if name != ABOUT)
    figures = {"accuracy": "accuracy", "AUROC": "auroc"} | ({"kappa": "kappa"} if graded else {})
    rows = [["trained on", "images/draws", *figures, "recall by class", "mml_train", "gate rejected/made"]]
    for name, row in table.items():
        if name == ABOUT:
            continue
        made = None if row["gate_rejected"] is None else row["gate_rejected"] + row["gate_emitted"]
        rows.append(
            [
                name,
                f"{row['images']}/{row['draws_per_epoch']}",
                *(_with_spread(row, figure) for figure in figures.values()),
                " ".join(f"{share:.2f}" for share in row["recall"]),
                f"{row['mml_train']:.4f}",
                "-" if made is None else f"{row['gate_rejected']}/{made}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append(
        f"{about['n_test']} test and {about['n_train']} training images, seeds {about['seeds']}, "
        f"{about['epochs']} epochs, distance: {about['mml_metric']}"
    )
    lines += textwrap.wrap(about["note"], 120)
    lines += [
        f"WARNING: {100 * row['real_share']:g} % of the training images of {name} are REAL images of patients."
        for name, row in table.items()
        if row.get("real_share")
    ]
    near = [
        name for name, row in table.items() if name != ABOUT and row["mml_train"] < table.get(REAL, row)["mml_train"]
    ]
    if near:
        lines.append(
            f"WARNING: the images of {' and '.join(near)} lie nearer to the training images than unseen patients' do."
        )
    return "\n".join(lines)


def _with_spread(row: Mapping[str, Any], name: str) -> str:
    spread = f" ± {row[name + '_sd']:.3f}" if len(row["per_seed"]) > 1 else ""
    interval = row["per_seed"][0][name + "_interval_95"]
    return f"{row[name]:.3f}{spread}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _summary(per_seed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for name in ("accuracy", "auroc", "kappa", "calibration_error", "brier"):
        summary[name] = statistics.fmean(result[name] for result in per_seed)
    for name in ("accuracy", "auroc", "kappa"):
        values = [result[name] for result in per_seed]
        summary[name + "_sd"] = statistics.stdev(values) if len(values) > 1 else None
    summary["recall"] = [statistics.fmean(shares) for shares in zip(*(r["recall"] for r in per_seed), strict=True)]
    return summary


def _images(loader: Iterable[Mapping[str, Any]], limit: int | None = None) -> torch.Tensor:
    """The images of a loader, at most ``limit`` and at most one epoch, on the CPU: [N, C, H, W]."""
    found: list[torch.Tensor] = []
    for batch in loader:
        found.append(torch.as_tensor(batch[PlanKeys.IMAGE]).as_subclass(torch.Tensor).float().cpu())
        if limit is not None and sum(map(len, found)) >= limit:
            break
    if not found:
        raise ValueError("a loader gave no images; check its data list")
    return torch.cat(found)[:limit]
