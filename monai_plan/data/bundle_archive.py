"""A bundle's folder as the zip that MONAI downloads: an allow-list of files, the same bytes every time."""

from __future__ import annotations

import configparser
import hashlib
import logging
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from monai_plan.data.release import verified_alone
from monai_plan.latent.walk_set import WalkSet
from monai_plan.utils import atomic_path, parse_json, read_given, read_json, require_writable

__all__ = ["pack_bundle"]

logger = logging.getLogger(__name__)

METADATA, LOGGING, HASHES = "configs/metadata.json", "configs/logging.conf", "weights.sha256"
_CONFIGS = "configs/*.json"
_PAPERS = ("LICENSE", HASHES, _CONFIGS, LOGGING, "docs/README.md", "docs/data_license.txt")
_NEEDED = ("LICENSE", HASHES, METADATA, "configs/inference.json", "docs/README.md", "models/model.pt")
_PRIVATE = "private"
_OUTPUT = "output"
_STAY_BEHIND = (_OUTPUT, "release", "eval")  # of runs
_ROOMS = {"models": "models", "ckpt": "models", _PRIVATE: _PRIVATE}  # a config's folders of weights -> the bundle's
_NAMED = re.compile(rf"@({'|'.join(_ROOMS)})_dir \+ '/([\w-]+\.(?:pt|safetensors))'")
_HASH = re.compile(r"([0-9a-f]{64}) [ *]((?:models|private)/[\w-]+\.(?:pt|safetensors))")
_LOGGING_SECTION = re.compile(r"loggers|handlers|formatters|(?:logger|handler|formatter)_\w+")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can hold
_MOST_FAULTS = 10


def pack_bundle(bundle: str | os.PathLike, folder: str | os.PathLike, private: bool = False) -> Path:
    """Pack a bundle into ``NAME_vVERSION.zip``, from which ``monai.bundle.download`` and ``load`` take it.

    NAME is that of the bundle's folder, and of the one folder in the zip; VERSION stands in ``configs/metadata.json``.
    What is packed is LICENSE, configs, ``docs/README.md``, ``docs/data_license.txt`` and those weights in ``models/``
    that a config names and ``weights.sha256`` lists, each of which must be the very file that is listed there.
    ``output/`` and other results of runs stay behind; anything else, as a link, a picture, a data list or a ledger, is
    refused rather than left out or packed. Of walks only the verified points are packed, as a release has them.

    The same files give the same bytes on any machine. The zip is whole or absent; an earlier one is replaced.

    Args:
        bundle: the bundle's folder.
        folder: where the zip is written; made if needed. Outside the bundle, or in its ``output/``.
        private: pack ``private/``, too, by the same rules. It holds what was made of single training images (gate,
            latents, networks that know them), so it may leave where these are phantoms and nowhere else. Without it,
            nobody can train from the archive, and its ``weights.sha256`` lists what it holds of ``models/`` alone.
            With it, walks are packed as they are, their unprotected ends included.

    Returns:
        The zip.

    Raises:
        ValueError: something is missing, is not on the allow-list, or is another file than the one listed; walks were
            never verified; the zip would lie in the bundle.
        OSError: the folder cannot be written, or its disk is too small.
    """
    root = Path(bundle).expanduser().resolve()
    version = _version_of(root)
    if not re.fullmatch(r"[\w-]+", root.name):
        raise ValueError(
            f"the bundle's folder is named '{root.name}', and MONAI's download needs a name of letters, digits, '_' "
            "and '-'. Rename it"
        )
    target = Path(folder).expanduser().resolve()
    if target.is_relative_to(root) and not target.is_relative_to(root / _OUTPUT):
        raise ValueError(
            f"'{target}' is in the bundle, where nothing but its own files may lie. Give a folder outside it, or "
            f"'{root / _OUTPUT}'"
        )
    present = list(_files_of(root, _STAY_BEHIND if private else (*_STAY_BEHIND, _PRIVATE)))
    hashes = _listed_weights(root, private)
    _require_allowed(root, present, hashes)
    contents = {name: (root / name).read_bytes() for name in present}
    _require_listed(root, contents, hashes)
    if not private:
        for name in sorted(hashes):
            contents[name] = _without_unverified(root / name, contents[name])
            hashes[name] = hashlib.sha256(contents[name]).hexdigest()
    contents[HASHES] = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items())).encode()
    if private:
        logger.warning(
            "the archive holds %s/ (%d files), made of single training images. Give it away only if these are phantoms",
            _PRIVATE,
            sum(name.startswith(f"{_PRIVATE}/") for name in contents),
        )
    final = require_writable(target, sum(map(len, contents.values()))) / f"{root.name}_v{version}.zip"
    # stored, not deflated: compressors differ from machine to machine, and weights hardly shrink
    with atomic_path(final) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(f"{root.name}/{name}", _EPOCH)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # Unix, a plain file, on any system
            archive.writestr(entry, content)
    return final


def _version_of(root: Path) -> str:
    try:
        metadata = read_json(root / METADATA)
        version, changes = str(metadata["version"]), dict(metadata["changelog"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"'{root}' is no bundle: its {METADATA} cannot be read, or has no version or changelog ({error}). Give "
            "a bundle's folder, e.g. bundles/plan_tb"
        ) from error
    if not re.fullmatch(r"\d+\.\d+\.\d+", version) or version not in changes:
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
    hint = (
        "List the weights of phantoms, or the files of a `python -m monai_plan release` that were put into models/: "
        f"sha256sum models/* > {HASHES} (models/* private/* for phantoms that are trained on)"
    )
    if not path.is_file():
        raise ValueError(f"no '{path}', which lists the weights that may leave. {hint}")
    hashes = {}
    for number, line in enumerate(_text_of(path).splitlines(), start=1):
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
    configs = {name: _text_of(root / name) for name in present if _is_config(name) and (root / name).is_file()}
    named = _NAMED.findall("\n".join(configs.values()))
    allowed = {f"{_ROOMS[room]}/{name}" for room, name in named} & set(hashes)
    faults = []
    for name in present:
        path = root / name
        if path.is_symlink() or not path.is_file():
            faults.append(f"{name}: a link, or no plain file")
        elif name not in allowed and not any(_matches(name, pattern) for pattern in _PAPERS):
            faults.append(f"{name}: not on the list of what may leave")
        elif name in configs and (fault := _fault_of_config(name, configs[name])):
            faults.append(f"{name}: {fault}")
        elif name == LOGGING and not _is_of_logging(_text_of(path)):
            faults.append(f"{name}: not a configuration of Python's logging")
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


def _is_config(name: str) -> bool:
    return _matches(name, _CONFIGS)


def _text_of(path: Path) -> str:
    try:
        return read_given(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is not text in UTF-8 ({error}); save it as that, or write it again") from error


def _fault_of_config(name: str, text: str) -> str:
    """Why a JSON file is no config that may leave, or nothing."""
    try:
        content = parse_json(text)
    except ValueError as error:
        return f"not JSON ({error})"
    if not isinstance(content, dict) or ("schema" in content and name != METADATA):
        return "no config: a record of monai_plan (it has a schema), or no JSON object"
    return "a data list, which names patients" if _names_patients(content) else ""


def _names_patients(content: Any) -> bool:
    """Whether somewhere in it there is a list of records with an image or a patient."""
    if isinstance(content, dict):
        return any(map(_names_patients, content.values()))
    if not isinstance(content, list):
        return False
    keys = {key.lower() for item in content if isinstance(item, dict) for key in item}
    return any(key == "image" or key.startswith("patient") for key in keys) or any(map(_names_patients, content))


def _is_of_logging(text: str) -> bool:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
    except configparser.Error:
        return False
    sections = parser.sections()
    return "loggers" in sections and not parser.defaults() and all(map(_LOGGING_SECTION.fullmatch, sections))


def _without_unverified(path: Path, content: bytes) -> bytes:
    """The file as it may leave without ``private/``: of walks the verified points alone, anything else as it is."""
    if path.suffix != ".safetensors" or not _holds_walks(path):
        return content
    walks = WalkSet.load(path)
    if not walks.meta.get("generator") or not walks.verified.any():
        raise ValueError(
            f"the walks '{path}' were never verified: nothing of them may leave. Put the walks of a `python -m "
            "monai_plan release` in their place"
        )
    with tempfile.TemporaryDirectory() as room:
        shown = verified_alone(walks).save(Path(room) / path.name).read_bytes()
    if shown != content:
        logger.info("%s: packed without its unverified points and ends, hence with a SHA-256 of its own", path.name)
    return shown


def _holds_walks(path: Path) -> bool:
    try:
        with safe_open(str(path), framework="pt") as stream:
            header = parse_json((stream.metadata() or {}).get("monai_plan", "{}"))
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"'{path}' is no readable safetensors file ({error}); put it back, or write it again"
        ) from error
    return isinstance(header, dict) and header.get("schema") == "walk_set"


def _require_listed(root: Path, contents: Mapping[str, bytes], hashes: Mapping[str, str]) -> None:
    changed = [name for name, digest in sorted(hashes.items()) if hashlib.sha256(contents[name]).hexdigest() != digest]
    if changed:
        raise ValueError(
            f"{', '.join(changed)} in '{root}' {'are' if len(changed) > 1 else 'is'} not what {HASHES} lists: trained "
            "anew, or damaged. Put back what ships. Of weights made of patients' images only a release may leave, "
            "once an audit passed: put the files of a `python -m monai_plan release` into models/, give the bundle "
            f"a new version, and list them: sha256sum models/* > {HASHES}"
        )
