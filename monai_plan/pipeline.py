"""Every stage from images to table, each run once: what is complete and made from the same inputs is skipped.

A stage is one overlay of the bundle's ``train.json``. After it, ``stages/<name>.json`` records the hash of everything
it was made from and of everything it wrote; a killed run continues with the first stage whose record does not hold,
and the generator's training within that stage from its last checkpoint.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.utils import optional_import

from monai_plan._version import __version__
from monai_plan.data import build_datalist, load_datalist
from monai_plan.transforms import LoadRadiograph
from monai_plan.utils import require_writable, sha256_of, write_json

__all__ = ["STAGES", "Pipeline", "Stage"]

tqdm, _ = optional_import("tqdm", name="tqdm")
logger = logging.getLogger(__name__)

FREE_BYTES = 512 * 2**20
"""What a run may write: checkpoints, weights, pictures."""


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    Attributes:
        name: the overlay's name; ``train`` is the base config itself.
        needs: config ids of the files that it reads.
        writes: config ids of the files that it writes.
    """

    name: str
    needs: tuple[str, ...]
    writes: tuple[str, ...]


STAGES = (
    Stage("train_gan", (), ("generator_file",)),
    Stage("train_identity", (), ("identity_file",)),
    Stage("train_label", (), ("label_file",)),
    Stage("train_gate", (), ("gate_file",)),
    Stage("walk", ("generator_file", "identity_file", "label_file", "gate_file"), ("line_file", "walk_file")),
    Stage("train", ("generator_file", "gate_file", "line_file", "walk_file"), ("model_file", "table_file")),
)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Runs the stages of a bundle on one data set.

    Args:
        bundle: the bundle's folder (with ``configs/train.json``).
        output_dir: where checkpoints, weights (``models/``), records (``stages/``), table and pictures go.
        dataset_dir: the user's images; ``""`` for the embedded phantoms.
        datalist: an existing datalist; by default ``datalist.json`` in ``dataset_dir``, or one made from its table.
        columns: arguments of :func:`monai_plan.data.build_datalist` for a datalist that is made.
        overrides: config id to value, as after ``python -m monai.bundle run``; applied to the stages that know the id.
    """

    bundle: str | os.PathLike
    output_dir: str | os.PathLike
    dataset_dir: str = ""
    datalist: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def run(self) -> Path:
        """Run what is not complete.

        Returns:
            The output folder.

        Raises:
            ValueError, OSError: the bundle, the data, an override or the output folder cannot be used; nothing has been
                written under a final name then.
        """
        output = require_writable(self.output_dir, FREE_BYTES).resolve()
        common = {"output_dir": str(output), "models_dir": str(output / "models"), **self._data(output)}
        plan = [(stage, self._config_files(stage), self._overrides_of(stage, common)) for stage in STAGES]
        self._refuse_unknown()
        begun = time.monotonic()
        for number, (stage, files, overrides) in enumerate(plan, 1):
            record = output / "stages" / f"{stage.name}.json"
            parser = _parser(files, overrides)
            inputs = self._inputs(parser, stage, overrides)
            title = f"stage {number} of {len(plan)}, {stage.name}"
            if _complete(record, inputs):
                print(f"{title}: complete, skipped", flush=True)
                continue
            record.unlink(missing_ok=True)
            print(f"{title}: started{_estimate(stage, parser)}", flush=True)
            started = time.monotonic()
            _run_config(files, overrides)
            outputs = {str(path): sha256_of(path) for path in _paths(parser, stage.writes)}
            seconds = round(time.monotonic() - started, 1)
            write_json(record, {"inputs": inputs, "outputs": outputs, "seconds": seconds})
            print(f"{title}: done in {seconds:.0f} s", flush=True)
        print(f"all {len(plan)} stages complete after {time.monotonic() - begun:.0f} s; results in {output}")
        return output

    def _data(self, output: Path) -> dict[str, Any]:
        """Config values of the data set, whose every image has been read once."""
        if not self.dataset_dir and not self.datalist:
            return {}
        folder = Path(self.dataset_dir).expanduser().resolve() if self.dataset_dir else None
        if folder is not None and not folder.is_dir():
            raise ValueError(f"no folder at '{folder}'. Give the folder of the images with --dataset_dir DIR")
        datalist = Path(self.datalist).expanduser() if self.datalist else None
        if datalist is None and folder is not None and (folder / "datalist.json").is_file():
            datalist = folder / "datalist.json"
        if datalist is None and folder is not None:
            datalist = output / "datalist.json"
            if not datalist.is_file():
                build_datalist(folder, datalist, **self.columns, check_images=False)
        assert datalist is not None
        content = load_datalist(datalist, folder)
        self._check_images(content)
        return {
            "dataset_dir": str(folder or ""),
            "datalist": str(datalist.resolve()),
            "num_classes": content["num_classes"],
        }

    def _check_images(self, content: Mapping[str, Any]) -> None:
        base = _parser(self._config_files(STAGES[-1]), self.overrides)
        read = LoadRadiograph(base["image_size"], base["channels"])
        items = [item for split in ("training", "validation", "testing") for item in content[split]]
        faults = []
        for item in tqdm(items, desc="checking images", unit="image", mininterval=1.0):
            try:
                read(item["image"])
            except (ValueError, OSError) as error:
                faults.append(str(error))
        if faults:
            shown = "\n  ".join(faults[:10])
            raise ValueError(f"{len(faults)} of {len(items)} images cannot be used:\n  {shown}")

    def _config_files(self, stage: Stage) -> list[str]:
        folder = Path(self.bundle) / "configs"
        names = ["train"] if stage.name == "train" else ["train", stage.name]
        files = [folder / f"{name}.json" for name in names]
        for file in files:
            if not file.is_file():
                raise ValueError(
                    f"no config at '{file}'. --bundle takes the folder of a bundle of ours, e.g. bundles/plan_tb"
                )
        return [str(file) for file in files]

    def _overrides_of(self, stage: Stage, common: Mapping[str, Any]) -> dict[str, Any]:
        config = _parser(self._config_files(stage), {})
        return {**common, **{key: value for key, value in self.overrides.items() if key in config}}

    def _refuse_unknown(self) -> None:
        configs = [_parser(self._config_files(stage), {}) for stage in STAGES]
        for key in self.overrides:
            if not any(key in config for config in configs):
                known = sorted({name for config in configs for name in _ids(config.get())})
                close = difflib.get_close_matches(key, known, n=3, cutoff=0.4)
                hint = f"; did you mean {' or '.join(close)}?" if close else ""
                raise ValueError(f"no stage of '{self.bundle}' has the config id '{key}'{hint}")

    def _inputs(self, parser: ConfigParser, stage: Stage, overrides: Mapping[str, Any]) -> dict[str, str]:
        """What the stage is made from: version, config, and the hashes of the files it reads."""
        places = ("output_dir", "models_dir", "dataset_dir", "datalist")
        settings = {key: value for key, value in overrides.items() if key not in places}
        config = [json.loads(Path(file).read_text()) for file in self._config_files(stage)]
        text = json.dumps([config, settings], sort_keys=True, default=str)
        inputs = {"version": __version__, "config": hashlib.sha256(text.encode()).hexdigest()}
        if overrides.get("datalist"):
            inputs["datalist"] = sha256_of(overrides["datalist"])
            inputs["images"] = _fingerprint(load_datalist(overrides["datalist"], overrides["dataset_dir"] or None))
        for path in _paths(parser, stage.needs):
            inputs[path.name] = sha256_of(path) if path.is_file() else "missing"
        return inputs


def _parser(files: Sequence[str], overrides: Mapping[str, Any]) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(list(files))
    parser.update(dict(overrides))
    return parser


def _paths(parser: ConfigParser, ids: Sequence[str]) -> list[Path]:
    return [Path(parser.get_parsed_content(name)) for name in ids]


def _ids(config: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(config, dict):
        for key, value in config.items():
            yield f"{prefix}{key}"
            yield from _ids(value, f"{prefix}{key}#")


def _fingerprint(content: Mapping[str, Any]) -> str:
    """A hash over names, sizes and times of change of the images: it sees a replaced file without reading all again."""
    digest = hashlib.sha256()
    for split in ("training", "validation", "testing"):
        for item in content[split]:
            state = os.stat(item["image"])
            digest.update(f"{item['image']} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _complete(record: Path, inputs: Mapping[str, str]) -> bool:
    try:
        found = json.loads(record.read_text())
        outputs = found["outputs"].items()
        return found["inputs"] == inputs and all(Path(p).is_file() and sha256_of(p) == h for p, h in outputs)
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _estimate(stage: Stage, parser: ConfigParser) -> str:
    """A time estimate of the longest stage, from two of its generator's batches on this machine."""
    if stage.name != "train_gan":
        return ""
    device, images = parser.get_parsed_content("device"), parser["gan#images"]
    generator = parser.get_parsed_content("gan#generator").to(device)
    labels = torch.zeros(parser["gan#batch_size"], dtype=torch.int64, device=device)
    seconds = float("inf")
    for _ in range(2):
        started = time.perf_counter()
        z = torch.zeros(len(labels), generator.z_dim, device=device)
        generator(z, labels).square().mean().backward()
        seconds = min(seconds, time.perf_counter() - started)
    # a training step is about four such passes: two through the generator, four through a discriminator of its size
    return f"; about {4 * seconds * images / len(labels) / 60:.0f} minutes, the longest stage of all"


def _run_config(files: Sequence[str], overrides: Mapping[str, Any]) -> None:
    """Initialize, run and finalize one config; an error is raised as what caused it, without MONAI's wrapping."""
    workflow = ConfigWorkflow(config_file=list(files), workflow_type="train", logging_file=False, **overrides)
    try:
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except RuntimeError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, (ValueError, OSError)):
            raise cause from error
        raise
