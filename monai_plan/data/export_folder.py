"""What stands in an export's folder beside its images: the settings first, datalist and manifest at the end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_plan.data.folder_lock import LOCK, held
from monai_plan.data.image_shards import INDEX, ImageShards
from monai_plan.utils import atomic_path, read_json, require_writable, sha256_of, write_json

__all__ = ["DATALIST", "IMAGES", "MANIFEST", "SETTINGS", "ExportFolder"]

SCHEMA, VERSION = "export", 1
SETTINGS, DATALIST, MANIFEST, IMAGES = "export.json", "datalist.json", "manifest.json", "images"
_PASSING = re.compile(rf"{re.escape(LOCK)}|\.(?:(?:export|datalist|manifest)\.part|writable)-.*")
_LISTED = 512  # bytes of one image in index and datalist, at most
_ABOUT = (
    "Synthetic images, made by a generative network on privacy-preserving latent walks; none of them shows a patient. "
    f"{DATALIST} gives MONAI their classes; images of one path (key group) are alike, so keep them in one split."
)
_GATED = "Every image passed the privacy gate before it was written."
_UNGATED = "The privacy gate was not at hand: only points that were verified when the walks were made became images."
_LIMITS = (
    "Privacy is screened, not proven: one network compared the images. The network that made them was trained on "
    "patients' images; what all images together tell of them was not examined."
)
_ADVICE = "Nothing was touched; give another folder"


@dataclass(frozen=True)
class ExportFolder:
    """The folder of one export.

    Args:
        path: absolute.
        settings: all that the images depend on, plain JSON values; ``classes`` maps each label to its name.
        shards: where the images go.
    """

    path: Path
    settings: Mapping[str, Any]
    shards: ImageShards

    @contextmanager
    def begun(self, bytes_of_one: int, record: Callable[[dict[str, str]], None] | None) -> Iterator[None]:
        """See that the folder is this export's, clear away what a kill has left, write the settings, and hold it.

        Until the block ends no other run can begin; processes of this one take part by :meth:`joined`.

        Args:
            bytes_of_one: what an image takes on the disk at most.
            record: see :func:`~monai_plan.data.export_images`.

        Raises:
            ValueError: the folder holds another export, or anything else, or another run is at work there; nothing
                was touched then.
            OSError: it cannot be written, or its disk is too small.
        """
        self._require_ours()
        require_writable(self.path)
        with held(self.path, alone=True) as share:
            self._prepare(self._require_ours(), bytes_of_one, record)  # a run may have ended just before this one
            share()
            yield

    def joined(self) -> AbstractContextManager:
        """Hold the folder as a process of the run that has begun; none can begin before all have left.

        Raises:
            ValueError: another run is just beginning.
        """
        return held(self.path, alone=False)

    def finish(self) -> None:
        """Write datalist and manifest of complete shards; several processes may do so at once.

        Raises:
            ValueError: a shard has more or fewer images than it should.
        """
        self.shards.drop_parts()
        self._write_datalist()
        indices = [self.shards.folder(number) / INDEX for number in range(len(self.shards))]
        each = self.shards.per_class
        manifest = {
            "schema": SCHEMA,
            "version": VERSION,
            "about": [_ABOUT, _UNGATED if self.settings["gate"] is None else _GATED, _LIMITS],
            "images": each * self.shards.classes,
            "classes": {label: {"name": name, "images": each} for label, name in self.settings["classes"].items()},
            "settings": self.settings,
            "files": {
                path.relative_to(self.path).as_posix(): sha256_of(path) for path in (self.path / DATALIST, *indices)
            },
        }
        write_json(self.path / MANIFEST, manifest)

    def _require_ours(self) -> set[str]:
        """The names of what stands in the folder, of which nothing is a stranger's; those in its shards aside."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"'{self.path}' is a file, and a folder is needed. {_ADVICE}")
        found = {path.name: path for path in self.path.iterdir()} if self.path.is_dir() else {}
        present = {name for name, path in found.items() if path.is_dir() or not _PASSING.fullmatch(name)}
        if SETTINGS in present:
            self._require_same_settings()
        elif present:
            raise ValueError(f"'{self.path}' holds files and is no export (no {SETTINGS} of one). {_ADVICE}")
        if strange := sorted(present - {SETTINGS, DATALIST, MANIFEST, IMAGES}):
            raise ValueError(f"'{self.path / strange[0]}' is not of this export. {_ADVICE}, or move it away")
        return set(found)

    def _prepare(self, present: set[str], bytes_of_one: int, record: Callable[[dict[str, str]], None] | None) -> None:
        self.shards.tidy()
        for name in present - {LOCK}:
            if _PASSING.fullmatch(name):
                (self.path / name).unlink(missing_ok=True)
        require_writable(self.path, self.shards.missing_images() * (bytes_of_one + _LISTED))
        if SETTINGS in present:
            return
        content = {"schema": SCHEMA, "version": VERSION, "settings": self.settings}
        with atomic_path(self.path / SETTINGS) as partial:
            partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            if record is not None:
                record({SETTINGS: sha256_of(partial)})

    def _write_datalist(self) -> None:
        """Line by line: there may be millions."""
        head = {
            "name": "synthetic images",
            "description": _ABOUT,
            "labels": self.settings["classes"],
            "numTraining": self.shards.per_class * self.shards.classes,
        }
        with atomic_path(self.path / DATALIST) as partial, partial.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(head, indent=2, ensure_ascii=False).removesuffix("\n}") + ',\n  "training": [')
            separator = "\n"
            for number in range(len(self.shards)):
                place = self.shards.folder(number).relative_to(self.path).as_posix()
                for row in self.shards.rows(number):
                    image, group = f"{place}/{row['file']}", f"path-{row['path']}"
                    item = {"image": image, "label": int(row["label"]), "group": group}
                    stream.write(f"{separator}    {json.dumps(item)}")
                    separator = ",\n"
            stream.write("\n  ]\n}\n")

    def _require_same_settings(self) -> None:
        try:
            found = read_json(self.path / SETTINGS)
            begun = found["settings"] if found["schema"] == SCHEMA else None
        except (OSError, ValueError, LookupError, TypeError):
            begun = None
        if not isinstance(begun, dict):
            raise ValueError(f"'{self.path / SETTINGS}' is damaged, or of another program. {_ADVICE}")
        others = [
            f"{name} was {begun.get(name)!r} and now is {self.settings.get(name)!r}"
            for name in sorted({*begun, *self.settings})
            if begun.get(name) != self.settings.get(name)
        ]
        if others:
            raise ValueError(
                f"the export in '{self.path}' was begun with other settings: {'; '.join(others)}. Type what it was "
                f"begun with to go on with it. {_ADVICE} for a new one"
            )
