"""Every stage from images to table, each run once: what is complete and made from the same inputs is skipped.

A stage is one overlay of the bundle's ``train.json``. After it, ``stages/<name>.json`` records the hash of everything
it was made from and of everything it wrote; a killed run continues with the first stage whose record does not hold,
and the generator's training within that stage from its last checkpoint.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ReferenceResolver
from monai.utils import OptionalImportError

from monai_plan._version import __version__
from monai_plan.data import build_datalist, load_datalist
from monai_plan.data.datalist import SPLITS
from monai_plan.data.image_folder import require_readable
from monai_plan.transforms import LoadRadiograph
from monai_plan.utils import (
    atomic_folder,
    delete_left_parts,
    fingerprint,
    knows_id,
    require_writable,
    root_cause,
    sha256_of,
    similar_ids,
    write_json,
)
from monai_plan.utils.stage_records import is_complete, read_record, require_kept

__all__ = ["RUN", "STAGES", "Pipeline", "Stage", "run_bundle", "run_later"]

logger = logging.getLogger(__name__)

PLACES = ("output_dir", "models_dir", "private_dir", "release_dir", "gan_dir", "dataset_dir", "datalist", "bundle_root")
"""Config ids of folders: a moved run is the same run; what the files hold is hashed."""
RUN = "run.json"
"""What a pipeline was run with, for what is done with its results later."""
FREE_BYTES = 512 * 2**20
"""What a run may write: checkpoints, weights, pictures."""


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    Attributes:
        name: the overlay's name; ``train`` is the base config itself.
        needs: config ids of the files that it reads.
        writes: config ids of the files that it writes.
        resumes: config ids of files from which a killed run of it continues.
        keeps: config ids of files that it writes and later commands add to; lost, they cannot be made again.
    """

    name: str
    needs: tuple[str, ...]
    writes: tuple[str, ...]
    resumes: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()


STAGES = (
    Stage("train_gan", (), ("generator_file", "discriminator_file"), ("gan#checkpoint",)),
    Stage("train_identity", (), ("identity_file",)),
    Stage("train_label", (), ("label_file", "teachers_file")),
    Stage("train_gate", (), ("gate_file",)),
    Stage("invert", ("generator_file", "label_file"), ("latents_file",), ("inversion#part_file",)),
    Stage(
        "walk",
        ("generator_file", "identity_file", "label_file", "gate_file", "latents_file"),
        ("line_file", "walk_file"),
        keeps=("ledger_file", "key_file"),
    ),
    Stage(
        "train",
        ("generator_file", "gate_file", "teachers_file", "line_file", "walk_file"),
        ("model_file", "classes_file", "table_file"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Runs the stages of a bundle on one data set.

    Args:
        bundle: the bundle's folder (with ``configs/train.json``).
        output_dir: where records (``stages/``), table, pictures and the two rooms go: ``private/`` with all networks,
            latents, walks and the ledger, and ``release/`` with what may leave, once the stage ``release`` is run.
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

    def run(self) -> ConfigParser:
        """Run what is not complete.

        Returns:
            The config of the last stage: ``get_parsed_content("output_dir")`` is where the table is.

        Raises:
            ValueError, OSError: the bundle, the data, an override or the output folder cannot be used; nothing has been
                written under a final name then.
        """
        _refuse_unknown(self.overrides, [self._config_files(stage) for stage in STAGES], self.bundle)
        output = require_writable(self.output_dir, FREE_BYTES).resolve()
        require_writable(output / "private", mode=0o700)
        common = {**_rooms(output), **self._data(output)}
        delete_left_parts(output, output / "stages", output / "private", output / "private" / "train_gan")
        require_kept(output / "stages")
        plan = [(stage, self._config_files(stage), self._overrides_of(stage, common)) for stage in STAGES]
        for _, files, overrides in plan:
            _check_settings(files, overrides)
        _require_one_table(_parser(files, overrides))
        self._check_images(common)
        begun = time.monotonic()
        for number, (stage, files, overrides) in enumerate(plan, 1):
            record = output / "stages" / f"{stage.name}.json"
            parser = _parser(files, overrides)
            inputs = self._inputs(parser, stage, overrides)
            title = f"stage {number} of {len(plan)}, {stage.name}"
            found = read_record(record)
            if stage.name == "train":  # now everything is of these settings that is worked with later
                self._keep_settings(output, common)
            if is_complete(found, inputs):
                print(f"{title}: complete, skipped", flush=True)
                continue
            if found and found.get("inputs") != inputs:  # what is left is of other inputs and must not be continued
                for path in _paths(parser, stage.resumes):
                    path.unlink(missing_ok=True)
            write_json(record, {"inputs": inputs, "kept": found.get("kept", [])})
            print(f"{title}: started{_estimate(stage, parser)}", flush=True)
            started = time.monotonic()
            _run_config(files, overrides)
            outputs = {str(path): sha256_of(path) for path in _paths(parser, stage.writes)}
            seconds = round(time.monotonic() - started, 1)
            kept = [os.path.relpath(path, output) for path in _paths(parser, stage.keeps) if path.is_file()]
            write_json(record, {"inputs": inputs, "outputs": outputs, "kept": kept, "seconds": seconds})
            print(f"{title}: done in {seconds:.0f} s", flush=True)
        print(f"all {len(plan)} stages complete after {time.monotonic() - begun:.0f} s; results in {output}")
        return parser

    def _keep_settings(self, output: Path, common: Mapping[str, Any]) -> None:
        data = {name: value for name, value in common.items() if name not in _rooms(output)}
        run = {"bundle": str(Path(self.bundle).resolve()), "settings": {**data, **self.overrides}}
        if read_record(output / RUN) != run:
            write_json(output / RUN, run)

    def _data(self, output: Path) -> dict[str, Any]:
        """Config values of the data set."""
        if not self.dataset_dir and not self.datalist:
            return {}
        folder = Path(self.dataset_dir).expanduser().resolve() if self.dataset_dir else None
        if folder is not None and not folder.is_dir():
            raise ValueError(f"no folder at '{folder}'. Give the folder of the images with --dataset_dir DIR")
        datalist = Path(self.datalist).expanduser() if self.datalist else None
        if datalist is None and folder is not None and (folder / "datalist.json").is_file():
            datalist = folder / "datalist.json"
        given = [f"--{name}" for name, value in self.columns.items() if value]
        if datalist is not None and given:
            raise ValueError(
                f"the split '{datalist}' is used as it is, and {', '.join(given)} would have no effect. Remove or "
                "rename it to have a new one made, or leave the option out"
            )
        if datalist is None and folder is not None:
            datalist = self._made_datalist(folder, output)
        assert datalist is not None
        content = load_datalist(datalist, folder)
        return {
            "dataset_dir": str(folder or ""),
            "datalist": str(datalist.resolve()),
            "num_classes": content["num_classes"],
        }

    def _made_datalist(self, folder: Path, output: Path) -> Path:
        """The split of the folder's table, made each time: the table may have changed; equal ones give equal splits."""
        final = output / "datalist.json"
        with atomic_folder(final) as temporary:
            made = temporary / final.name
            build_datalist(folder, made, **self.columns, check_images=False)
            if not final.is_file() or final.read_bytes() != made.read_bytes():
                os.replace(made, final)
        return final

    def _check_images(self, common: Mapping[str, Any]) -> None:
        """Read every image once, before hours of work."""
        if "datalist" not in common:
            return
        stage = STAGES[-1]
        base = _parser(self._config_files(stage), self._overrides_of(stage, common))
        read = LoadRadiograph(base["image_size"], base["channels"])
        content = load_datalist(common["datalist"], common["dataset_dir"] or None)
        require_readable([item for split in SPLITS for item in content[split]], read)

    def _config_files(self, stage: Stage) -> list[str]:
        return _config_files(self.bundle, () if stage.name == "train" else (stage.name,))

    def _overrides_of(self, stage: Stage, common: Mapping[str, Any]) -> dict[str, Any]:
        return {**common, **_known(self.overrides, self._config_files(stage))}

    def _inputs(self, parser: ConfigParser, stage: Stage, overrides: Mapping[str, Any]) -> dict[str, str]:
        """What the stage is made from: version, the config nodes it uses, and hashes of the files it reads."""
        used = _used(parser, ("seed", "run", "finalize"))
        settings = {name: value for name, value in used.items() if name not in PLACES}
        inputs = {"version": __version__, "config": fingerprint(settings)}
        if overrides.get("datalist"):
            inputs["datalist"] = sha256_of(overrides["datalist"])
            inputs["images"] = _image_states(load_datalist(overrides["datalist"], overrides["dataset_dir"] or None))
        for path in _paths(parser, stage.needs):
            inputs[path.name] = sha256_of(path) if path.is_file() else "missing"
        return inputs


def run_later(output_dir: str | os.PathLike, overlays: Sequence[str], **overrides: Any) -> ConfigParser:
    """Run a config of the bundle on what a pipeline has left, with the settings that it was run with.

    Args:
        output_dir: of the pipeline.
        overlays: names of configs on top of ``train``, e.g. ``("walk", "withdraw")``.
        overrides: config id to value, on top of the pipeline's.

    Returns:
        The config that was run: ``get_parsed_content`` gives its places and results.

    Raises:
        ValueError, OSError: the folder holds no run, or the config cannot be run.
    """
    output = Path(output_dir).expanduser().resolve()
    run = read_record(output / RUN)
    if not isinstance(run.get("bundle"), str) or not isinstance(run.get("settings"), dict):
        raise ValueError(
            f"'{output}' holds no run ('{RUN}' is missing or damaged); give the --output_dir of `python -m monai_plan "
            "pipeline`, or run that command once more: what is complete is skipped"
        )
    files = _config_files(run["bundle"], overlays)
    _refuse_unknown(overrides, [files], run["bundle"])
    return _run_config(files, _known({**_rooms(output), **run["settings"], **overrides}, files))


def run_bundle(bundle: str | os.PathLike, overlays: Sequence[str], **overrides: Any) -> ConfigParser:
    """Run a config of a bundle on the weights that lie in it.

    Args:
        bundle: its folder.
        overlays: names of configs on top of ``train``, e.g. ``("evaluate",)``.
        overrides: config id to value.

    Returns:
        As :func:`run_later`.

    Raises:
        ValueError, OSError: there is no such bundle, or the config cannot be run.
    """
    files = _config_files(bundle, overlays)
    _refuse_unknown(overrides, [files], bundle)
    return _run_config(files, overrides)


def _rooms(output: Path) -> dict[str, str]:
    """The folders of a run: one room for all that must stay, one for what may leave."""
    private = str(output / "private")
    return {
        "output_dir": str(output),
        "models_dir": private,
        "private_dir": private,
        "gan_dir": str(output / "private" / "train_gan"),
        "release_dir": str(output / "release"),
    }


def _config_files(bundle: str | os.PathLike, overlays: Sequence[str]) -> list[str]:
    files = [Path(bundle) / "configs" / f"{name}.json" for name in ("train", *overlays)]
    for file in files:
        if not file.is_file():
            raise ValueError(
                f"no config at '{file}'. --bundle takes the folder of a bundle of ours, e.g. bundles/plan_tb"
            )
    return [str(file) for file in files]


def _refuse_unknown(settings: Iterable[str], files: Sequence[Sequence[str]], bundle: str | os.PathLike) -> None:
    """Refuse settings that no config knows: nothing would read them."""
    configs = [_parser(of_one, {}).get() for of_one in files]
    for key in settings:
        if not any(knows_id(config, key) for config in configs):
            hint = similar_ids(key, configs)
            raise ValueError(f"no stage of '{bundle}' has the config id '{key}'{hint}. Correct --set {key}=…")


def _known(settings: Mapping[str, Any], files: Sequence[str]) -> dict[str, Any]:
    """Those settings that the configs have."""
    config = _parser(files, {}).get()
    return {key: value for key, value in settings.items() if knows_id(config, key)}


def _parser(files: Sequence[str], overrides: Mapping[str, Any]) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(list(files))
    parser.update(dict(overrides))
    return parser


def _used(parser: ConfigParser, ids: Sequence[str]) -> dict[str, Any]:
    """The config nodes that ``ids`` refer to, directly or through others; the rest cannot change the outcome."""
    used: dict[str, Any] = {}
    waiting = list(ids)
    while waiting:
        name = waiting.pop().replace("::", "#")
        if name not in used and name in parser:
            used[name] = parser[name]
            waiting += _references(parser[name])
    return used


def _references(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield from ReferenceResolver.match_refs_pattern(config)
    for item in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from _references(item)


def _paths(parser: ConfigParser, ids: Sequence[str]) -> list[Path]:
    return [Path(parser.get_parsed_content(name)) for name in ids]


def _image_states(content: Mapping[str, Any]) -> str:
    """A hash over names, sizes and times of change of the images: it sees a replaced file without reading all again."""
    images = [item["image"] for split in SPLITS for item in content[split]]
    states = [os.stat(image) for image in images]
    return fingerprint(images, [[state.st_size, state.st_mtime_ns] for state in states])


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
    minutes = 4 * seconds * images / len(labels) / 60
    return f"; about {minutes:.0f} minutes, the longest stage of all" if minutes >= 1 else "; less than a minute"


def _require_one_table(parser: ConfigParser) -> None:
    output, table = (os.path.abspath(parser.get_parsed_content(name)) for name in ("output_dir", "table_file"))
    if table != os.path.join(output, "table.json"):
        raise ValueError(
            f"table_file is '{table}', and the table is written to '{output}'. Leave --set table_file=… out, and "
            "choose the folder with --output_dir"
        )


def _check_settings(files: Sequence[str], overrides: Mapping[str, Any]) -> None:
    """What a stage lists under ``check``; it needs no file of another stage."""
    try:
        _parser(files, overrides).get_parsed_content("check")
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, (ValueError, OSError, OptionalImportError)):
            raise cause from None
        raise ValueError(
            f"the settings of '{Path(files[-1]).stem}' cannot be used ({type(cause).__name__}: {cause}). Check the "
            "values after --set"
        ) from error


def _run_config(files: Sequence[str], overrides: Mapping[str, Any]) -> ConfigParser:
    """Initialize, run and finalize one config; an error is raised as what caused it, without MONAI's wrapping."""
    workflow = ConfigWorkflow(config_file=list(files), workflow_type="train", logging_file=False, **overrides)
    try:
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except RuntimeError as error:
        raise root_cause(error) from None
    return workflow.parser
