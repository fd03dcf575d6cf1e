"""Synthetic images as files: as many as are wanted of each class, in shards, resumable, on several processes."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from monai.utils import optional_import

from monai_plan._version import __version__
from monai_plan.data.class_names import names_of_classes
from monai_plan.data.export_folder import DATALIST, IMAGES, ExportFolder
from monai_plan.data.image_export import SUFFIXES, encoder_of
from monai_plan.data.image_shards import EncodedImage, ImageShards
from monai_plan.data.privacy_walk import PrivacyWalkSampler
from monai_plan.data.walk_dataset import PrivacyWalkDataset
from monai_plan.latent.frozen import device_of
from monai_plan.latent.gate import PrivacyGate
from monai_plan.latent.walk_set import WalkSet
from monai_plan.networks.nets import StyleGenerator
from monai_plan.utils import (
    PlanKeys,
    fingerprint,
    generator_for,
    require_counts,
    weights_digest,
    with_the_others,
)

__all__ = ["ImageExport", "export_images", "shards_of"]

logger = logging.getLogger(__name__)
tqdm, has_tqdm = optional_import("tqdm", name="tqdm")

_BLOCK = 4096  # what a disk rounds a file up to


def export_images(
    walks: WalkSet,
    generator: StyleGenerator,
    gate: PrivacyGate | None,
    folder: str | os.PathLike,
    per_class: int,
    image_format: str = "png",
    seed: int = 0,
    shard_size: int = 1000,
    spacing: float | None = None,
    labels: Mapping[str, str] | Sequence[str] | None = None,
    batch_size: int = 64,
    progress: bool = True,
    record: Callable[[dict[str, str]], None] | None = None,
) -> Path:
    """Write exactly ``per_class`` images of each class that has walks, each of which passed the gate.

    Images are those of a :class:`~monai_plan.data.PrivacyWalkSampler`: a shard is one of its epochs, in which all
    paths of a class take turns. Which image has which number depends on the settings alone, so that a killed export,
    called again with the same settings, goes on with the first shard that is missing and ends with the same files: to
    the byte on the same kind of device, elsewhere up to rounding. In a distributed run (``ignite.distributed``) process
    r of n takes the shards r, r + n, …; whichever ends last writes datalist and manifest, and none waits for another.
    Memory does not grow with the number of images. A folder has one run at a time: a second one is refused until all
    processes of the first have ended, where the disk keeps locks.

    The folder gets ``images/00012/000012345.png`` in shards (see :class:`~monai_plan.data.image_shards.ImageShards`);
    ``datalist.json``, which :func:`monai.data.load_decathlon_datalist` reads, with image, label and group (the path)
    under ``training``; ``manifest.json``, which says what this is, with the SHA-256 of the shards' indices; and
    ``export.json``, the settings.

    Args:
        walks: finished walks.
        generator: makes the images; put into evaluation mode and frozen for good.
        gate: judges every image, and moves to the generator's device; ``None`` where the gallery is not at hand: only
            the verified points are written then.
        folder: a new or empty one, or one in which this export was begun.
        per_class: images of each class, >= 1.
        image_format: "png" (8 bits, grey or RGB), "nifti" (float32 in [-1, 1]) or "dicom" (8 bits, Secondary
            Capture); see ``monai_plan.data.image_export``.
        seed: of all draws, >= 0.
        shard_size: files of a folder at most, at least one a class.
        spacing: mm from pixel to pixel, > 0, for NIfTI (``None``: 1) and DICOM (``None``: not given).
        labels: the classes' names, a list or ``{"0": name, …}`` as in a datalist; ``None`` for their numbers.
        batch_size: images rendered at once, >= 1.
        progress: show a progress bar where tqdm is installed.
        record: called once with the name and SHA-256 of ``export.json``, before anything stands in the folder: what a
            ledger's release record keeps.

    Returns:
        The path of ``datalist.json``; it is there once all processes are through.

    Raises:
        OptionalImportError: a format's package is not installed (extra ``images``).
        ValueError: an argument is out of range, or does not fit the others; the folder holds an export with other
            settings, or other files, or another run is at work in it; without a gate, there are fewer verified points
            than images asked for.
        RunError: the gate rejected every attempt for an image, or an image is not finite.
        OSError: the folder cannot be written, or its disk is too small.
    """
    _require_one_world()
    export = ImageExport(
        walks, generator, gate, folder, per_class, image_format, seed, shard_size, spacing, labels, batch_size
    )
    shards = export.shards
    with _held(export, record):
        own = range(idist.get_rank(), len(shards), idist.get_world_size())
        missing = [number for number in own if not shards.is_written(number)]
        with _progress_bar(sum(map(shards.images, own)), sum(map(shards.images, missing)), progress) as advance:
            for number in missing:
                export.write(number, advance)
        if all(map(shards.is_written, range(len(shards)))):
            export.folder.finish()
            logger.info("%d synthetic images of each class stand in '%s'", per_class, export.folder.path)
        else:
            logger.info("this process is through with its images; the one that ends last writes %s", DATALIST)
    return export.folder.path / DATALIST


class ImageExport:
    """One export with all its settings: any process that has made it can write any of its shards.

    Nothing is written before :meth:`begun`.

    Args:
        walks: see :func:`export_images`, also for all others.

    Raises:
        OptionalImportError, ValueError: as for :func:`export_images`, of the arguments alone.

    Attributes:
        folder: what stands in the export's folder, and the settings.
        shards: where the images go.
    """

    def __init__(
        self,
        walks: WalkSet,
        generator: StyleGenerator,
        gate: PrivacyGate | None,
        folder: str | os.PathLike,
        per_class: int,
        image_format: str = "png",
        seed: int = 0,
        shard_size: int = 1000,
        spacing: float | None = None,
        labels: Mapping[str, str] | Sequence[str] | None = None,
        batch_size: int = 64,
    ) -> None:
        require_counts(per_class=per_class, shard_size=shard_size, batch_size=batch_size)
        require_counts(0, seed=seed)
        names = names_of_classes(labels, generator.num_classes)
        classes = _require_classes(walks, names, shard_size)
        if gate is None:
            _require_points(walks, names, per_class)
        k = walks.meta.get("k")
        settings: dict[str, Any] = {
            "per_class": per_class,
            "format": image_format,
            "spacing": spacing,
            "seed": seed,
            "shard_size": shard_size,
            "batch_size": batch_size,
            "image_size": generator.image_size,
            "channels": generator.channels,
            "classes": {str(label): names[label] for label in classes},
            "k": k if isinstance(k, int) else None,
            "generator": weights_digest(generator),
            "walks": _digest(walks),
            "gate": None if gate is None else fingerprint(weights_digest(gate), gate.threshold),
            "monai_plan": __version__,
        }
        self._encode = encoder_of(image_format, generator.channels, fingerprint(settings), spacing)
        path = Path(folder).expanduser().resolve()
        self.shards = shards_of(path, image_format, len(classes), per_class, shard_size)
        self.folder = ExportFolder(path, settings, self.shards)
        self._generator = generator
        self._stream = _ShardStream(walks, generator, gate, self.shards, seed, batch_size)

    def begun(self, record: Callable[[dict[str, str]], None] | None = None) -> AbstractContextManager:
        """See that the folder is this export's, clear away what a kill has left, write the settings, and hold it.

        One process does so; others take part by ``folder.joined()``. See
        :meth:`~monai_plan.data.export_folder.ExportFolder.begun`, also for what is raised.
        """
        return self.folder.begun(_bytes_of_one(self._encode, self._generator), record)

    def images(self, number: int) -> Iterator[tuple[torch.Tensor, int, int, float]]:
        """Image [C, S, S] on the CPU, label, path and position of each image of shard ``number``, all accepted.

        They depend on the settings and the number alone, whatever else this process has made.

        Raises:
            RunError: the gate rejected every attempt for an image, or an image is not finite.
        """
        return self._stream.images(number)

    def write(self, number: int, advance: Callable[[], object] = lambda: None) -> None:
        """Make and write shard ``number``, which is not there; ``advance`` is called after each image.

        Raises:
            RuntimeError: as :meth:`images` raises it.
            OSError: the shard cannot be written.
        """
        images = _encoded(self.images(number), self._encode, self.shards.first(number), advance)
        self.shards.write(number, images)


def shards_of(path: Path, image_format: str, classes: int, per_class: int, shard_size: int) -> ImageShards:
    """The shards of an export in the folder ``path``; the other arguments are those of :func:`export_images`."""
    return ImageShards(path / IMAGES, SUFFIXES[image_format], classes, per_class, min(shard_size // classes, per_class))


class _ShardStream:
    """The accepted images of each shard.

    A shard is an epoch of a data set as large as a full one, so that nothing here is of the size of the export; a short
    last one takes its classes' first images.
    """

    def __init__(
        self,
        walks: WalkSet,
        generator: StyleGenerator,
        gate: PrivacyGate | None,
        shards: ImageShards,
        seed: int,
        batch_size: int,
    ) -> None:
        dataset = PrivacyWalkDataset(walks, shards.images(0), seed)
        labels = walks.labels.cpu()[dataset.pool.places(range(len(dataset)), 0, verified_only=gate is None)[0]]
        rank_in_class = torch.zeros_like(labels)
        for label in labels.unique():
            rank_in_class[labels == label] = torch.arange(int((labels == label).sum()))
        device = device_of(generator)
        self.shards = shards
        self.loaders = {  # by their images of a class
            count: PrivacyWalkSampler(
                dataset,
                generator,
                gate,
                batch_size,
                sampler=(rank_in_class < count).nonzero()[:, 0].tolist(),
                device=device,
                prefetch=0 if device.type == "cpu" else 2,  # rendered while the processor encodes
            )
            for count in {shards.images_per_class(0), shards.images_per_class(len(shards) - 1)}
        }

    def images(self, number: int) -> Iterator[tuple[torch.Tensor, int, int, float]]:
        """See :meth:`ImageExport.images`."""
        loader = self.loaders[self.shards.images_per_class(number)]
        loader.set_epoch(number)
        for batch in loader:
            columns = (batch[key].tolist() for key in (PlanKeys.LABEL, PlanKeys.PATH_ID, PlanKeys.POSITION))
            yield from zip(batch[PlanKeys.IMAGE].cpu(), *columns, strict=True)


@contextmanager
def _held(export: ImageExport, record: Callable[[dict[str, str]], None] | None) -> Iterator[None]:
    """The folder, begun by process 0 and held by all."""
    with ExitStack() as stack:
        if idist.get_rank() == 0:
            stack.enter_context(export.begun(record))
        with with_the_others():
            idist.barrier()
        if idist.get_rank() != 0:
            stack.enter_context(export.folder.joined())
        with with_the_others():
            idist.barrier()  # none leaves before all have joined
        yield


@contextmanager
def _progress_bar(total: int, missing: int, progress: bool) -> Iterator[Callable[[], object]]:
    """A function to be called after each image; only process 0 shows a bar."""
    if not (progress and has_tqdm) or idist.get_rank() != 0:
        yield lambda: None
        return
    with tqdm(total=total, initial=total - missing, desc="generate", unit="image", mininterval=1.0) as bar:
        yield bar.update


def _encoded(
    images: Iterator[tuple[torch.Tensor, int, int, float]],
    encode: Callable[[torch.Tensor, int, int], bytes],
    first: int,
    advance: Callable[[], object],
) -> Iterator[EncodedImage]:
    for index, (image, label, path, position) in enumerate(images, start=first):
        yield EncodedImage(label, path, position, encode(image, index, path))
        advance()


def _require_one_world() -> None:
    """Processes that do not know of each other would write the same files."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and idist.get_world_size() == 1:
        raise ValueError(
            f"{launched} processes were launched, and they do not know of each other yet; call "
            "ignite.distributed.initialize('gloo') first"
        )


def _require_classes(walks: WalkSet, names: Sequence[str], shard_size: int) -> list[int]:
    """The classes that have walks."""
    classes = walks.labels.unique().tolist()
    if not classes:
        raise ValueError("the walk set is empty; its stage made no path, run it with more anchors or pairs")
    if classes[-1] >= len(names):
        raise ValueError(
            f"a walk has label {classes[-1]} and the generator {len(names)} classes; they do not belong together"
        )
    if shard_size < len(classes):
        raise ValueError(
            f"a shard has images of all {len(classes)} classes, and shard_size is {shard_size}; set it to 1000 or so"
        )
    if without := [name for label, name in enumerate(names) if label not in classes]:
        logger.warning(
            "no image is written of class(es) %s: they have no walk, because they had too few patients for k",
            ", ".join(map(repr, without)),
        )
    return classes


def _require_points(walks: WalkSet, names: Sequence[str], per_class: int) -> None:
    """Without a gate the verified points are all images that there are."""
    for label in walks.labels.unique().tolist():
        points = int(walks.verified[walks.labels == label].sum())
        if points < per_class:
            raise ValueError(
                f"without a gate only verified points are written, and class '{names[label]}' has {points} of them for "
                f"per_class={per_class}. Ask for fewer images, or give the gate, which judges places between them too"
            )


def _digest(walks: WalkSet) -> str:
    digest = hashlib.sha256()
    for tensor in (walks.points, walks.labels, walks.verified):
        digest.update(f"{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _bytes_of_one(encode: Callable[[torch.Tensor, int, int], bytes], generator: StyleGenerator) -> int:
    """What one image takes at most; also sees at once whether the format's package is there."""
    size = (generator.channels, generator.image_size, generator.image_size)
    noise = torch.rand(size, generator=generator_for(0, "what cannot be compressed")) * 2 - 1
    return -(-len(encode(noise, 0, 0)) // _BLOCK) * _BLOCK
