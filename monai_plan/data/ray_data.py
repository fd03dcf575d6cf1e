"""Synthetic images on a Ray cluster: exported, streamed into other programs, and read back."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.utils import optional_import

from monai_plan.data.export import ImageExport, shards_of
from monai_plan.data.export_folder import DATALIST, MANIFEST, SETTINGS
from monai_plan.data.image_shards import INDEX as SHARD_INDEX
from monai_plan.data.image_shards import ImageShards
from monai_plan.data.ray_cluster import RayActors, connected_ray
from monai_plan.latent.gate import PrivacyGate
from monai_plan.latent.walk_set import WalkSet
from monai_plan.networks.nets import StyleGenerator
from monai_plan.transforms.radiograph_files import read_radiograph
from monai_plan.utils import PlanKeys, read_json, sha256_of

__all__ = ["export_images_with_ray", "exported_dataset", "synthetic_dataset"]

nibabel, _ = optional_import("nibabel", descriptor='NIfTI needs nibabel: pip install "monai_plan[images]"')

INDEX, SHARD = "index", "shard"
_AT_ONCE = 64  # rows that are in an actor's memory together

FilePath = str | os.PathLike
Columns = dict[str, np.ndarray]


def export_images_with_ray(
    walks: FilePath,
    generator: FilePath,
    gate: FilePath | None,
    folder: FilePath,
    per_class: int,
    actors: int | None = None,
    num_gpus: float = 0,
    record: Callable[[dict[str, str]], None] | None = None,
    **options: Any,
) -> Path:
    """:func:`~monai_plan.data.export_images` with the shards distributed over a Ray cluster.

    The folder ends with the same files, whatever the number of actors: to the byte on the same kind of device, and on a
    CPU with as many threads (Ray gives each actor one). All nodes must share the files and the folder, under the same
    paths. Where a worker is lost, Ray starts another one, which makes its shard again; a killed export is continued by
    the same call. Errors of actors are raised here.

    Ray is used as it is connected; otherwise the cluster that ``RAY_ADDRESS`` names, or this machine alone, without
    Ray's usage statistics.

    Args:
        walks: the file of a :class:`~monai_plan.latent.WalkSet`.
        generator: that of a :class:`~monai_plan.networks.nets.StyleGenerator`.
        gate: that of a :class:`~monai_plan.latent.PrivacyGate`; ``None`` where the gallery is not at hand: only the
            verified points are written then.
        folder: a new or empty one, or one in which this export was begun.
        per_class: images of each class, >= 1.
        actors: processes that render, at most, each on one CPU; ``None``: as many as there is room for.
        num_gpus: GPUs of each, or a share of one; 0 renders on the CPU.
        record: as for :func:`~monai_plan.data.export_images`; called in this process.
        options: ``image_format``, ``seed``, ``shard_size``, ``spacing``, ``labels`` and ``batch_size`` of
            :func:`~monai_plan.data.export_images`.

    Returns:
        The path of ``datalist.json``.

    Raises:
        OptionalImportError: Ray is not installed (extra ``ray``), or a format's package.
        FileNotFoundError: there is no such file of walks, generator or gate.
        ValueError, RuntimeError, OSError: as :func:`~monai_plan.data.export_images` raises them; or a node has other
            files than this process, or another version of this package, or does not share the folder.
    """
    on_actors = RayActors(actors, num_gpus)
    source = _Source.of(walks, generator, gate, folder=_absolute(folder), per_class=per_class, **options)
    export = source.export("cpu")
    ray = connected_ray()
    with export.begun(record):
        missing = [number for number in range(len(export.shards)) if not export.shards.is_written(number)]
        if missing:
            written = on_actors.map(_numbers(missing), _ShardWriter, 1, source=source, settings=export.folder.settings)
            try:
                for _ in written.iter_rows():
                    pass
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
        export.folder.finish()
    return export.folder.path / DATALIST


def synthetic_dataset(
    walks: FilePath,
    generator: FilePath,
    gate: FilePath | None,
    per_class: int,
    actors: int | None = None,
    num_gpus: float = 0,
    **options: Any,
) -> Any:
    """The images of an export as a Ray dataset, made while it is consumed; nothing is written.

    A row has ``image`` (float32 [C, S, S] in [-1, 1]), ``label``, ``path_id``, ``position`` (in points from the path's
    start) and ``index``, the image's number in an export with the same settings. Every image passed the gate. The same
    settings give the same rows, whatever the number of actors; they come in the order in which shards are done, unless
    Ray's ``DataContext`` preserves it.

    The actors hold their CPUs until the dataset is consumed: what is mapped after them needs CPUs of its own.

    Args:
        walks: see :func:`export_images_with_ray`, also for ``generator``, ``gate``, ``actors`` and ``num_gpus``.
        per_class: images of each class, >= 1.
        options: ``seed``, ``shard_size`` and ``batch_size`` of :func:`~monai_plan.data.export_images`.

    Returns:
        A ``ray.data.Dataset`` with exactly ``per_class`` rows of each class that has walks.

    Raises:
        OptionalImportError, FileNotFoundError, ValueError: as for :func:`export_images_with_ray`. While it is
            consumed, Ray raises errors that are instances of those, too.
    """
    on_actors = RayActors(actors, num_gpus)
    source = _Source.of(walks, generator, gate, folder=os.curdir, per_class=per_class, **options)
    export = source.export("cpu")
    numbers = _numbers(range(len(export.shards)))
    return on_actors.map(numbers, _ShardRenderer, 1, source=source, settings=export.folder.settings)


def exported_dataset(folder: FilePath) -> Any:
    """The images of a finished export as a Ray dataset, with the columns of :func:`synthetic_dataset`.

    Args:
        folder: of :func:`~monai_plan.data.export_images`; all nodes must share it, under the same path.

    Returns:
        A ``ray.data.Dataset``. Images are as they stand in the files: those of PNG and DICOM have 8 bits.

    Raises:
        OptionalImportError: Ray is not installed (extra ``ray``).
        ValueError: there is no finished export.
    """
    shards = finished_shards(Path(_absolute(folder)))
    return _numbers(range(len(shards))).map_batches(_read_shards, batch_size=1, fn_kwargs={"shards": shards})


def finished_shards(path: Path) -> ImageShards:
    """The shards of a finished export, all of them there, with the indices that its manifest lists.

    Raises:
        ValueError: there is no finished export, or it was changed since.
    """
    try:
        manifest = read_json(path / MANIFEST)
        settings, files = manifest["settings"], manifest["files"]
        classes, each, size = len(settings["classes"]), settings["per_class"], settings["shard_size"]
        if not all(type(number) is int and number >= 1 for number in (each, size // max(classes, 1), classes)):
            raise ValueError(f"{each} images of each of {classes} classes, {size} in a shard")
        shards = shards_of(path, settings["format"], classes, each, size)
        for number in range(len(shards)):
            index = shards.folder(number) / SHARD_INDEX
            if sha256_of(index) != files[index.relative_to(path).as_posix()]:
                raise ValueError(f"'{index}' is another one than is listed")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"'{path}' has no readable {MANIFEST} of an export, or another export's ({error}); it is another folder, "
            "the export has not ended, or it was changed since. Export again in a new folder"
        ) from error
    return shards


class _Source(NamedTuple):
    """What an export is made from, as it can be sent to other nodes: paths and plain values."""

    walks: str
    generator: str
    gate: str | None
    arguments: dict[str, Any]

    @classmethod
    def of(cls, walks: FilePath, generator: FilePath, gate: FilePath | None, **arguments: Any) -> _Source:
        return cls(_absolute(walks), _absolute(generator), None if gate is None else _absolute(gate), arguments)

    def export(self, device: str) -> ImageExport:
        gate = None if self.gate is None else PrivacyGate.load(self.gate).to(device)
        generator = StyleGenerator.load(self.generator).to(device)
        return ImageExport(WalkSet.load(self.walks), generator, gate, **self.arguments)


class _ShardMaker:
    """An actor with an export of its own."""

    def __init__(self, source: _Source, settings: Mapping[str, Any], device: str) -> None:
        self.source, self.settings, self.device = source, settings, device

    @cached_property
    def export(self) -> ImageExport:
        export = self.source.export(self.device)
        if others := sorted(n for n, value in export.folder.settings.items() if value != self.settings[n]):
            raise ValueError(
                f"the node '{platform.node()}' has another {', '.join(others)} than the process that began this: "
                "its files or its monai_plan are others. Share one disk, and install the same version on all nodes"
            )
        return export


class _ShardWriter(_ShardMaker):
    """Shards' numbers in, the same numbers out, their images in the folder."""

    def __call__(self, batch: Columns) -> Columns:
        if not (self.export.folder.path / SETTINGS).is_file():
            raise ValueError(
                f"the node '{platform.node()}' does not see '{self.export.folder.path / SETTINGS}', which was just "
                "written. Give a folder that all nodes share"
            )
        with self.export.folder.joined():
            for number in batch[SHARD].tolist():
                if not self.export.shards.is_written(number):  # else by a worker that was lost before it could say so
                    self.export.write(number)
        return batch


class _ShardRenderer(_ShardMaker):
    """Shards' numbers in, rows out."""

    def __call__(self, batch: Columns) -> Iterator[Columns]:
        for number in batch[SHARD].tolist():
            yield from _in_parts(self.export.images(number), self.export.shards.first(number))


def _read_shards(batch: Columns, shards: ImageShards) -> Iterator[Columns]:
    for number in batch[SHARD].tolist():
        rows = (
            (_signed_image(shards.image(number, row)), int(row["label"]), int(row["path"]), float(row["position"]))
            for row in shards.rows(number)
        )
        yield from _in_parts(rows, shards.first(number))


def _signed_image(path: Path) -> torch.Tensor:
    """What ``monai_plan.data.image_export`` was given, float32 [C, S, S], but for the 8 bits of some formats."""
    if path.suffix == ".nii":
        voxels = torch.from_numpy(nibabel.load(path).get_fdata(dtype=np.float32))
        return voxels.flatten(2).permute(2, 1, 0) if voxels.ndim > 2 else voxels.T[None]
    return torch.from_numpy(read_radiograph(path, None)).permute(2, 0, 1) * 2 - 1


def _in_parts(rows: Iterable[tuple[torch.Tensor, int, int, float]], first: int) -> Iterator[Columns]:
    """Columns of the rows, a few at once; ``first`` is the index of the first row."""
    numbered = iter(enumerate(rows, start=first))
    while part := list(islice(numbered, _AT_ONCE)):
        indices, parts = zip(*part, strict=True)
        images, labels, paths, positions = zip(*parts, strict=True)
        yield {
            str(PlanKeys.IMAGE): torch.stack(images).numpy(),
            str(PlanKeys.LABEL): np.array(labels),
            str(PlanKeys.PATH_ID): np.array(paths),
            str(PlanKeys.POSITION): np.array(positions, dtype=np.float32),
            INDEX: np.array(indices),
        }


def _numbers(shards: Sequence[int]) -> Any:
    """Shards' numbers as a dataset of which each is a piece of work; ``ray.data.range`` would need a CPU to be read."""
    items = [{SHARD: number} for number in shards]
    return connected_ray().data.from_items(items, override_num_blocks=len(items))


def _absolute(path: FilePath) -> str:
    return str(Path(path).expanduser().resolve())
