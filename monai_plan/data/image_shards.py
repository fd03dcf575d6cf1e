"""Folders of numbered image files: each is whole under its name or absent, and has an index of what is in it."""

from __future__ import annotations

import csv
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from monai_plan.utils import explained_shortage, require_small, sha256_of

__all__ = ["INDEX", "EncodedImage", "ImageShards"]

INDEX = "index.csv"
COLUMNS = ("file", "label", "path", "position", "bytes", "sha256")


class EncodedImage(NamedTuple):
    """One image on its way to the disk.

    Attributes:
        label: its class.
        path: the walk that it is of.
        position: where on that walk, in points from its start.
        content: the whole file.
    """

    label: int
    path: int
    position: float
    content: bytes


@dataclass(frozen=True)
class ImageShards:
    """Equally many images of each class in every shard; the last one may have fewer.

    Shard 12 of 1000 images is ``root/00012`` with ``000012000.png`` to ``000012999.png`` and :data:`INDEX`: the
    columns file, label, path, position, bytes and sha256. Each writer has a folder ``.00012.part-…`` of its own, which
    is renamed when it is whole and on the disk.

    Args:
        root: their folder.
        suffix: of the images, e.g. ``".png"``.
        classes: how many, >= 1.
        per_class: images of each class in all, >= 1.
        shard_per_class: of these in one shard, >= 1.
    """

    root: Path
    suffix: str
    classes: int
    per_class: int
    shard_per_class: int

    def __len__(self) -> int:
        return -(-self.per_class // self.shard_per_class)

    def images_per_class(self, number: int) -> int:
        """How many images of each class shard ``number`` has."""
        return min(self.shard_per_class, self.per_class - number * self.shard_per_class)

    def images(self, number: int) -> int:
        """How many images shard ``number`` has."""
        return self.images_per_class(number) * self.classes

    def first(self, number: int) -> int:
        """The index of the first image of shard ``number``."""
        return number * self.shard_per_class * self.classes

    def folder(self, number: int) -> Path:
        """The folder of shard ``number``."""
        return self.root / f"{number:05d}"

    def is_written(self, number: int) -> bool:
        """Whether shard ``number`` stands under its name."""
        return (self.folder(number) / INDEX).is_file()

    def missing_images(self) -> int:
        """How many images are still to be written, however many are asked for."""
        names = os.listdir(self.root) if self.root.is_dir() else ()
        numbers = {int(name) for name in names if re.fullmatch(r"\d{5,12}", name)}
        written = (number for number in numbers if number < len(self) and self.is_written(number))
        return self.per_class * self.classes - sum(map(self.images, written))

    def write(self, number: int, images: Iterable[EncodedImage]) -> None:
        """Write shard ``number``, whole or not at all; where another writer was first, its files stay.

        Args:
            number: of a shard that is not there.
            images: as many as :meth:`images` says; they are never in memory together.

        Raises:
            ValueError: there are more or fewer of them.
            OSError: they cannot be written, or were changed meanwhile.
        """
        part = self.root / f".{number:05d}.part-{secrets.token_hex(8)}"
        part.mkdir(parents=True)
        try:
            with explained_shortage(self.root), (part / INDEX).open("w", encoding="utf-8", newline="") as stream:
                index = csv.writer(stream, lineterminator="\n")
                index.writerow(COLUMNS)
                for name, (label, path, position, content) in zip(self._names(number), images, strict=True):
                    (part / name).write_bytes(content)
                    digest = sha256(content).hexdigest()
                    index.writerow((name, label, path, f"{position:.4f}", len(content), digest))
            if not self._is_whole(number, part):
                raise OSError(f"files in '{part}' were changed by another program. Type the same command again")
            _sync(*part.iterdir(), part)
            try:
                part.rename(self.folder(number))
            except OSError:
                if not self.is_written(number):  # else by another writer, with the same bytes
                    raise
            _sync(self.root)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def rows(self, number: int) -> Iterator[dict[str, str]]:
        """The lines of a shard's index, by :data:`COLUMNS`: names as this shard has them, numbers that are some.

        Raises:
            OSError: the index cannot be read.
            ValueError: a line is not of this shard, or there are more or fewer than the shard has images.
        """
        names = self._names(number)
        for row in self._rows(number, self.folder(number)):
            if row.get("file") != next(names, None) or not _is_plausible(row):
                raise ValueError(
                    f"'{self.folder(number) / INDEX}' has the line {row}, which is none of this export; it was changed "
                    "since it was written. Type the command of this export again in a new folder"
                )
            yield row

    def image(self, number: int, row: Mapping[str, str]) -> Path:
        """The file of a line of :meth:`rows`, after a look that it is the very one that was written.

        Raises:
            OSError: it cannot be read.
            ValueError: it is another one, or a link.
        """
        path = self.folder(number) / row["file"]
        if path.is_symlink() or not path.is_file() or sha256_of(path) != row["sha256"]:
            raise ValueError(
                f"'{path}' is not the image that the index of its folder lists; it was changed or damaged since it was "
                "written. Export it again in a new folder"
            )
        return path

    def tidy(self) -> None:
        """Delete shards that a kill, a crash or a hand has left incomplete; they are then made again.

        Raises:
            ValueError: there are files that no shard of this kind has; nothing was deleted then.
        """
        if self.root.is_symlink() or (self.root.exists() and not self.root.is_dir()):
            raise self._strange(self.root)
        broken = []
        for path in sorted(self.root.iterdir()) if self.root.exists() else ():
            found = re.fullmatch(r"(?:(\d{5,})|\.(\d{5,})\.part-.*)", path.name)
            number = int(found[1] or found[2]) if found else len(self)
            if number >= len(self) or path.is_symlink() or not path.is_dir():
                raise self._strange(path)
            if strange := sorted(set(os.listdir(path)) - {INDEX, *self._names(number)}):
                raise self._strange(path / strange[0])
            if path != self.folder(number) or not self._is_whole(number, path):
                broken.append(path)
        for path in broken:
            shutil.rmtree(path)

    def drop_parts(self) -> None:
        """Delete what writers that were lost have left; only where all shards are written."""
        for part in self.root.glob(".*.part-*"):
            shutil.rmtree(part, ignore_errors=True)

    def _rows(self, number: int, folder: Path) -> Iterator[dict[str, str]]:
        count = 0
        require_small(folder / INDEX)
        try:
            with (folder / INDEX).open(encoding="utf-8", newline="") as stream:
                for row in csv.DictReader(stream, strict=True):
                    count += 1
                    yield row
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(
                f"'{folder / INDEX}' is no table in UTF-8 ({error}); it was changed or damaged since it was written. "
                "Export these images again in a new folder"
            ) from error
        if count != self.images(number):
            raise ValueError(
                f"'{folder / INDEX}' lists {count} images instead of {self.images(number)}; it was changed since it "
                "was written. Type the command of this export again, which makes this shard again"
            )

    def _is_whole(self, number: int, folder: Path) -> bool:
        """Whether all images are listed and as long as they should be, and nothing else is there."""
        try:
            listed = {row["file"]: int(row["bytes"]) for row in self._rows(number, folder)}
            with os.scandir(folder) as entries:
                sizes = {entry.name: entry.stat().st_size for entry in entries if entry.name != INDEX}
        except (OSError, ValueError, LookupError, TypeError, csv.Error):
            return False
        return len(listed) == self.images(number) and listed == sizes

    def _names(self, number: int) -> Iterator[str]:
        first = self.first(number)
        return (f"{index:09d}{self.suffix}" for index in range(first, first + self.images(number)))

    def _strange(self, path: Path) -> ValueError:
        return ValueError(
            f"'{path}' is not of this export and would be in its way. Nothing was touched; move it away, or give "
            "another folder"
        )


def _is_plausible(row: Mapping[str, str]) -> bool:
    try:
        numbers = [int(row[name]) for name in ("label", "path", "bytes")]
        return (
            set(row) == set(COLUMNS)
            and min(numbers) >= 0
            and math.isfinite(float(row["position"]))
            and re.fullmatch("[0-9a-f]{64}", row["sha256"]) is not None
        )
    except (ValueError, LookupError, TypeError):
        return False


def _sync(*paths: Path) -> None:
    """See that files or folders outlive a power cut; as ``monai_plan.utils.atomic_path`` does for one file."""
    for path in paths if os.name == "posix" else ():
        handle = os.open(path, os.O_RDONLY)
        try:
            with suppress(OSError) if path.is_dir() else nullcontext():  # some network disks sync no folders
                os.fsync(handle)
        finally:
            os.close(handle)
