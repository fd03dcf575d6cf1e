"""The release room: what may leave the hospital, and nothing else."""

from __future__ import annotations

import csv
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.networks.utils import eval_mode
from monai.utils import optional_import

from monai_plan._version import __version__
from monai_plan.data.class_names import names_of_classes
from monai_plan.latent.frozen import device_of
from monai_plan.latent.walk_set import WalkSet
from monai_plan.networks.nets import StyleGenerator
from monai_plan.utils import (
    atomic_folder,
    atomic_path,
    image_grid,
    read_json,
    require_writable,
    save_png,
    sha256_of,
    weights_digest,
    write_json,
)

__all__ = ["verified_alone", "write_release"]

logger = logging.getLogger(__name__)
tqdm, has_tqdm = optional_import("tqdm", name="tqdm")

SCHEMA, VERSION = "release", 1
MODES = ("walks", "images")
MANIFEST = "manifest.json"
KINDS = ("private", "linear", "guided", "amortised")
_WHAT = {
    "walks": "A generator of synthetic images, and those points of its walks whose images may be shown: the "
    "PrivacyWalkSampler of monai_plan makes training batches of this folder alone, without a gate.",
    "images": "Synthetic images, one a verified point of a walk. A file's name gives path and point, labels.csv the "
    "class; images of one path (column group) are alike, so keep them in one split.",
}
_LIMIT = {
    "walks": "Whoever holds the generator, which was trained on patients' images, can render more than the verified "
    "points, and no gate has judged that. The ends of a path can be estimated from its points, those of a straight "
    "path computed.",
    "images": "The generator that made the images was trained on patients' images; what all images together tell of "
    "them was not examined.",
}
NOBODY_LOOKED = {
    "verdict": None,
    "certificate_sha256": None,
    "says": "Nobody looked for an audit's certificate when this was released.",
}
_FILE_BYTES = 4096  # beside the pixels of one picture: its header, and what its disk rounds up to


def write_release(
    walks: WalkSet,
    generator: StyleGenerator,
    folder: str | os.PathLike,
    mode: str = "walks",
    labels: Mapping[str, str] | Sequence[str] | None = None,
    batch_size: int = 64,
    progress: bool = True,
    record: Callable[[dict[str, str]], None] | None = None,
    audit: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Write a folder that may be given away: verified points alone, as latents with their generator, or as pictures.

    *Walks*: ``generator.safetensors`` and ``walks.safetensors``, from which a
    :class:`~monai_plan.data.PrivacyWalkSampler` without a gate makes the very batches it makes here. Every point that
    is not verified, the ends included, is zero in it; path numbers stay, so that ``"path:point"`` of the ledger means
    the same outside. Of ``walks.meta`` only ``k`` is taken over, and ``kind`` where it is a known one.

    *Images*: ``images/<path>-<point>.png`` with constant noise, 8 bits, without metadata, and ``labels.csv``, which
    ``python -m monai_plan datalist`` reads; its column ``group`` keeps the images of a path in one split. Names of
    classes that do not stand in the order of the alphabet need its ``--classes``.

    Both have a ``manifest.json`` that says what the folder is and what it does not prove. The folder is whole or
    absent; an earlier release of the same name is deleted once this one stands in its place.

    Args:
        walks: verified with ``generator``; what makes them need not be at hand.
        generator: also gives the classes; it is not changed.
        folder: a new or empty one, or an earlier release with no file of anybody else in it.
        mode: "walks" or "images".
        labels: the classes' names, a list or ``{"0": name, …}`` as in a datalist; ``None`` for their numbers.
        batch_size: images rendered at once, >= 1.
        progress: show a progress bar where tqdm is installed.
        record: called with what is returned, before the folder gets its name: if it raises, nothing was released.
        audit: what :func:`monai_plan.report.audit_of_release` found; kept in the manifest. ``None``: nobody looked.

    Returns:
        The name of each file, relative to the folder, and its SHA-256: what a ledger's release record keeps.

    Raises:
        ValueError: an argument is out of range, the points were verified with other weights, a class has no verified
            point, an image is not finite, or the folder holds files that are not a release's.
        OSError: the folder cannot be written, or its disk is too small.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    if mode == "images" and generator.channels not in (1, 3):
        raise ValueError(f"pictures are grey or RGB, and the generator makes {generator.channels} channels")
    names = names_of_classes(labels, generator.num_classes)
    _require_verified(walks, generator, names)
    shown = verified_alone(walks)
    folder = Path(folder).expanduser().resolve()
    backup = folder.with_name(f".{folder.name}.before")
    _recover(folder, backup)
    _require_replaceable(folder)
    require_writable(folder.parent, _bytes_needed(shown, generator, mode))

    with atomic_folder(folder) as room:
        part = room / folder.name  # as the umask has it; the room is its owner's alone
        part.mkdir()
        if mode == "walks":
            generator.save(part / "generator.safetensors")
            shown.save(part / "walks.safetensors")
        else:
            _write_images(shown, generator, part, names, batch_size, progress)
        written = [path for path in sorted(part.rglob("*")) if path.is_file()]
        files = {path.relative_to(part).as_posix(): sha256_of(path) for path in written}
        files[MANIFEST] = sha256_of(write_json(part / MANIFEST, _manifest(shown, mode, names, files, audit)))
        if record is not None:
            record(files)
        _put_in_place(part, folder, backup)
    return files


def verified_alone(walks: WalkSet) -> WalkSet:
    """The walks as they may leave: every point that is not verified, the ends included, is zero.

    ``meta`` is made anew, because the old one may say anything: ``k``, counts, and the generator's digest are left.

    Args:
        walks: verified, so that their ``meta`` has the digest of the generator that made their images.

    Raises:
        ValueError: ``k`` in their ``meta`` is no whole number from 2 on.
    """
    verified, k = walks.verified.cpu(), walks.meta.get("k")
    if k is not None and (type(k) is not int or k < 2):
        raise ValueError(f"the walks' k is {k!r}, and must be a whole number from 2 on; plan the walks again")
    points = torch.where(verified.unsqueeze(2), walks.points.detach().cpu(), 0.0)
    counts = {"inner": verified[:, 1:-1].numel(), "verified": int(verified.sum())}
    meta = {"k": k, "counts": counts, "generator": str(walks.meta["generator"])}
    return WalkSet(points, walks.labels.cpu(), verified, walks.kind if walks.kind in KINDS else "other", meta)


def _require_verified(walks: WalkSet, generator: StyleGenerator, names: Sequence[str]) -> None:
    advice = "Verify them where the gallery is (monai_plan.latent.verification.verify_walks)"
    if walks.meta.get("generator") != weights_digest(generator):
        raise ValueError(
            "the walks were verified with another generator (or never), and a verdict holds for the images of one "
            f"alone. Give the generator that they were verified with. {advice}"
        )
    if not walks.verified.any():
        raise ValueError(f"none of the {len(walks)} paths has a verified point: nothing may leave. {advice}")
    if int(walks.labels.max()) >= len(names):
        raise ValueError(
            f"a walk has label {int(walks.labels.max())} and the generator {len(names)} classes; they do not belong "
            "together"
        )
    bare = set(walks.labels.tolist()) - set(walks.labels[walks.verified.any(dim=1)].tolist())
    if bare:
        raise ValueError(
            f"no point of class {', '.join(repr(names[label]) for label in sorted(bare))} is verified, and nobody can "
            f"train on the rest. {advice}, or walk more pairs of this class"
        )


def _bytes_needed(walks: WalkSet, generator: StyleGenerator, mode: str) -> int:
    if mode == "images":
        return int(walks.verified.sum()) * (generator.channels * generator.image_size**2 + _FILE_BYTES)
    return sum(tensor.nbytes for tensor in (walks.points, *generator.state_dict().values())) + 2 * _FILE_BYTES


def _write_images(
    walks: WalkSet, generator: StyleGenerator, folder: Path, names: Sequence[str], batch_size: int, progress: bool
) -> None:
    device, rows = device_of(generator), []
    (folder / "images").mkdir()
    parts = walks.verified.nonzero().split(batch_size)
    for part in tqdm(parts, desc="release", unit="batch") if progress and has_tqdm else parts:
        latents = walks.points[part[:, 0], part[:, 1]].to(device)
        with torch.autocast(device.type, enabled=False), eval_mode(generator):
            images = generator.synthesize(latents, noise="const").float()
        if not torch.isfinite(images).all():
            raise ValueError("the generator made an image with NaN or infinite values; its weights may be damaged")
        for (path, point), image in zip(part.tolist(), images.split(1), strict=True):
            file = f"images/{path}-{point}.png"
            save_png(folder / file, image_grid(image, columns=1))
            rows.append((file, names[int(walks.labels[path])], path, point, f"path-{path}"))
    with atomic_path(folder / "labels.csv") as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("file", "label", "path", "point", "group"), *rows])


def _manifest(
    walks: WalkSet, mode: str, names: Sequence[str], files: Mapping[str, str], audit: Mapping[str, Any] | None
) -> dict[str, Any]:
    k, images = walks.meta["k"], walks.verified.sum(dim=1)
    classes = {
        str(label): {"name": name, "images": int(images[walks.labels == label].sum())}
        for label, name in enumerate(names)
    }
    holds = "It holds no patient's image, name or latent; every image, with constant noise, passed the privacy gate."
    if k is not None:
        holds += f" Each end of a path was made of at least {k} patients; the ends are not in here."
    about = [_WHAT[mode], holds, "Privacy is screened, not proven: one network compared the images.", _LIMIT[mode]]
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "monai_plan": __version__,
        "mode": mode,
        "k": k,
        "images": int(images.sum()),
        "paths": int((images > 0).sum()),
        "classes": classes,
        "about": about,
        "audit": dict(audit or NOBODY_LOOKED),
        "files": dict(files),
    }


def _require_replaceable(folder: Path) -> None:
    """Refuse to put a release where it could not be renamed to, or where anything else would be lost."""
    if folder.is_mount():
        raise ValueError(f"'{folder}' is where a disk is mounted and cannot be renamed; give a folder within it")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    advice = "Nothing was touched; give another folder, or move them away"
    try:
        manifest = read_json(folder / MANIFEST)
        known = {MANIFEST, *manifest["files"]} if manifest["schema"] == SCHEMA else set()
    except (OSError, ValueError, LookupError, TypeError):
        known = set()
    if not known:
        raise ValueError(f"'{folder}' holds files and is no release (no {MANIFEST} of one). {advice}")
    present = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    if strange := sorted(present - known):
        raise ValueError(
            f"'{folder}' is a release, but {len(strange)} files in it are not of it, e.g. '{strange[0]}', and would be "
            f"deleted with it. {advice}"
        )


def _recover(folder: Path, backup: Path) -> None:
    """Put right what a kill has left between the renaming of the earlier release and that of its successor."""
    if folder.exists():
        shutil.rmtree(backup, ignore_errors=True)
    elif backup.is_dir():
        backup.rename(folder)


def _put_in_place(part: Path, folder: Path, backup: Path) -> None:
    _require_replaceable(folder)  # once more: rendering takes a while
    try:
        if folder.exists():
            folder.rename(backup)
        part.rename(folder)
    except BaseException:
        if backup.exists() and not folder.exists():
            backup.rename(folder)
        raise
    shutil.rmtree(backup, ignore_errors=True)
    if backup.exists():
        logger.warning("the release stands at '%s'; the one before could not be deleted: '%s'", folder, backup)
