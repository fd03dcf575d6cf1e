"""A bundle's folder as the zip that MONAI downloads: an allow-list of files, the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from monai_plan.data.datalist import SPLITS
from monai_plan.utils import atomic_path, require_writable

__all__ = ["pack_bundle"]

logger = logging.getLogger(__name__)

METADATA, HASHES = "configs/metadata.json", "weights.sha256"
_PAPERS = ("LICENSE", HASHES, "configs/*.json", "configs/logging.conf", "docs/*.md", "docs/*.txt")
_NEEDED = ("LICENSE", HASHES, METADATA, "configs/inference.json", "docs/README.md", "models/model.pt")
_PRIVATE = "private"
_STAY_BEHIND = ("output", "release", "eval")  # of runs
_ROOMS = {"models": "models", "ckpt": "models", _PRIVATE: _PRIVATE}  # a config's folders of weights -> the bundle's
_NAMED = re.compile(rf"@({'|'.join(_ROOMS)})_dir \+ '/([\w-]+\.(?:pt|safetensors))'")
_HASH = re.compile(r"([0-9a-f]{64}) [ *]((?:models|private)/[\w-]+\.(?:pt|safetensors))")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can hold
_MOST_FAULTS = 10


def pack_bundle(bundle: str | os.PathLike, folder: str | os.PathLike, private: bool = False) -> Path:
    """Pack a bundle into ``NAME_vVERSION.zip``, from which ``monai.bundle.download`` and ``load`` take it.

    NAME is that of the bundle's folder, and of the one folder in the zip; VERSION stands in ``configs/metadata.json``.
    What is packed is LICENSE, configs, docs and those weights in ``models/`` that a config names and ``weights.sha256``
    lists, each of which must be the very file that is listed there. ``output/`` and other results of runs stay behind;
    anything else, as a link, a picture or a data list, is refused rather than left out or packed.

    The same files give the same bytes on any machine. The zip is whole or absent; an earlier one is replaced.

    Args:
        bundle: the bundle's folder.
        folder: where the zip is written; made if needed.
        private: pack ``private/``, too, by the same rules. It holds what was made of single training images (gate,
            latents, networks that know them), so it may leave where these are phantoms and nowhere else. Without it,
            nobody can train from the archive, and its ``weights.sha256`` lists ``models/`` alone.

    Returns:
        The zip.

    Raises:
        ValueError: something is missing, is not on the allow-list, or is another file than the one listed.
        OSError: the folder cannot be written, or its disk is too small.
    """
    root = Path(bundle).expanduser().resolve()
    version = _version_of(root)
    if not re.fullmatch(r"[\w-]+", root.name):
        raise ValueError(
            f"the bundle's folder is named '{root.name}', and MONAI's download needs a name of letters, digits, '_' "
            "and '-'. Rename it"
        )
    present = list(_files_of(root, _STAY_BEHIND if private else (*_STAY_BEHIND, _PRIVATE)))
    hashes = _listed_weights(root, private)
    _require_allowed(root, present, hashes)
    contents = {name: (root / name).read_bytes() for name in present}
    _require_listed(root, contents, hashes)
    contents[HASHES] = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items())).encode()
    if private:
        logger.warning(
            "the archive holds %s/ (%d files), made of single training images. Give it away only if these are phantoms",
            _PRIVATE,
            sum(name.startswith(f"{_PRIVATE}/") for name in contents),
        )
    final = require_writable(folder, sum(map(len, contents.values()))) / f"{root.name}_v{version}.zip"
    # stored, not deflated: compressors differ from machine to machine, and weights hardly shrink
    with atomic_path(final) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(f"{root.name}/{name}", _EPOCH)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # Unix, a plain file, on any system
            archive.writestr(entry, content)
    return final


def _version_of(root: Path) -> str:
    try:
        metadata = json.loads((root / METADATA).read_text(encoding="utf-8"))
        version = str(metadata["version"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"'{root}' is no bundle: its {METADATA} cannot be read, or has no version ({error}). Give a bundle's "
            "folder, e.g. bundles/plan_tb"
        ) from error
    if not re.fullmatch(r"\d+\.\d+\.\d+", version) or version not in metadata.get("changelog", {}):
        raise ValueError(
            f"'{root / METADATA}' has version '{version}'; three numbers as 0.6.0 are needed, and a line in its "
            "changelog that says what is new in it"
        )
    return version


def _files_of(root: Path, stay_behind: Iterable[str]) -> Iterator[str]:
    """What is in the folder, links to folders included, but for top folders that stay behind."""
    for parent, folders, names in os.walk(root):
        if Path(parent) == root:
            folders[:] = sorted(set(folders) - set(stay_behind))
        links = [name for name in folders if Path(parent, name).is_symlink()]
        yield from (Path(parent, name).relative_to(root).as_posix() for name in (*links, *names))


def _listed_weights(root: Path, private: bool) -> dict[str, str]:
    """Each file of weights that is to be packed and its SHA-256."""
    path = root / HASHES
    hint = f"Write it in the bundle's folder: sha256sum models/* private/* > {HASHES}"
    if not path.is_file():
        raise ValueError(f"no '{path}', which lists the weights that may leave. {hint}")
    lines = path.read_text(encoding="utf-8").splitlines()
    hashes = {}
    for number, line in enumerate(lines, start=1):
        match = _HASH.fullmatch(line)
        if match is None:
            raise ValueError(
                f"'{path}', line {number}: '{line}' is no SHA-256 with the name of a .pt or .safetensors file in "
                f"models/ or private/. {hint}"
            )
        hashes[match[2]] = match[1]
    packed = {name: digest for name, digest in hashes.items() if private or not name.startswith(f"{_PRIVATE}/")}
    if private and not any(name.startswith(f"{_PRIVATE}/") for name in packed):
        raise ValueError(f"private/ was asked for, and '{path}' lists no file in it. Leave it out (private=False)")
    return packed


def _require_allowed(root: Path, present: Iterable[str], hashes: Mapping[str, str]) -> None:
    configs = [root / name for name in present if _matches(name, "configs/*.json") and (root / name).is_file()]
    named = _NAMED.findall("\n".join(path.read_text(encoding="utf-8") for path in configs))
    allowed = {f"{_ROOMS[room]}/{name}" for room, name in named} & set(hashes)
    faults = []
    for name in present:
        path = root / name
        if path.is_symlink() or not path.is_file():
            faults.append(f"{name}: a link, or no plain file")
        elif name not in allowed and not any(_matches(name, pattern) for pattern in _PAPERS):
            faults.append(f"{name}: not on the list of what may leave")
        elif name.endswith(".json") and _is_datalist(path):
            faults.append(f"{name}: a data list, which names patients")
    if faults:
        more = f"\n  and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
        raise ValueError(
            f"'{root}' has files that do not belong into an archive; nothing was written:\n  "
            + "\n  ".join(faults[:_MOST_FAULTS])
            + f"{more}\nMove them away. Weights may leave if a config names them and {HASHES} lists them"
        )
    if missing := sorted({*_NEEDED, *hashes} - set(present)):
        raise ValueError(f"'{root}' lacks {', '.join(missing)}; put them back, or take them out of {HASHES}")


def _matches(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and PurePosixPath(name).match(pattern)


def _is_datalist(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"'{path}' is not JSON ({error}); correct it, or move it away") from error
    return isinstance(content, dict) and any(isinstance(content.get(split), list) for split in SPLITS)


def _require_listed(root: Path, contents: Mapping[str, bytes], hashes: Mapping[str, str]) -> None:
    changed = [name for name, digest in sorted(hashes.items()) if hashlib.sha256(contents[name]).hexdigest() != digest]
    if changed:
        raise ValueError(
            f"{', '.join(changed)} in '{root}' {'are' if len(changed) > 1 else 'is'} not what {HASHES} lists: trained "
            "anew, or damaged. Put back what ships. Weights made of patients' images are not for an archive before an "
            "audit passed; if these may leave, give the bundle a new version and list them anew: sha256sum models/* "
            f"private/* > {HASHES}"
        )
