"""What is fuzzed: each parser of ours, fed with bytes that anybody may have made, and what it may answer.

A parser may take what it is given, or refuse it by an error of a documented kind which our own code raised, since only
that has a message that was written for people. All else is a fault: another exception, an error that slipped through
from a library, an empty message, more than :data:`MOST_SECONDS`.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import struct
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.utils import OptionalImportError

import monai_plan
from monai_plan.commands.parts import Misuse, settings_of
from monai_plan.commands.program import build_program
from monai_plan.data import load_datalist
from monai_plan.data.bundle_archive import pack_bundle
from monai_plan.data.class_names import names_from_training, names_of_classes
from monai_plan.data.export import shards_of
from monai_plan.data.radiograph_table import read_source
from monai_plan.data.release import write_release
from monai_plan.engines import load_teachers
from monai_plan.latent import AnchorSet, InvertedImages, LatentPrior, Ledger, PrivacyGate, WalkSet
from monai_plan.networks.nets import IdentityEmbedder, LatentEncoder, StyleDiscriminator, StyleGenerator
from monai_plan.pipeline import run_later
from monai_plan.report.audit import print_verdict
from monai_plan.report.signature import load_signing_key, verify_signature
from monai_plan.transforms import LoadRadiograph
from monai_plan.transforms.radiograph_files import read_dicom_value
from monai_plan.utils import RunError, knows_id, read_or_make_key, read_weights

MOST_SECONDS = 5.0
DOCUMENTED = (ValueError, OSError, RunError, OptionalImportError)
OURS = str(Path(monai_plan.__file__).parent)
SPLITS = ("training", "validation", "testing")


class Fault(Exception):
    """A parser answered in a way that it must not."""


@dataclass(frozen=True)
class Target:
    """One parser.

    Attributes:
        parse: takes bytes and an empty folder of its own.
        seeds: inputs to begin with, one valid at least.
    """

    parse: Callable[[bytes, Path], object]
    seeds: Callable[[], list[bytes]]


def check(target: Target, data: bytes, folder: Path) -> str:
    """Let a target parse ``data`` in an emptied folder; how it ended: "taken", or "refused: …".

    Raises:
        Fault: the parser broke a promise.
    """
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    begun = time.monotonic()
    try:
        target.parse(data, folder)
        answer = "taken"
    except DOCUMENTED as error:
        answer = f"refused: {error}"
        if not str(error).strip():
            raise Fault(f"{_where(error)}: {type(error).__name__} without a message") from error
        if not is_ours(error):
            raise Fault(f"{_where(error)}: not our message, {type(error).__name__}: {error}") from error
    except Exception as error:
        raise Fault(f"{_where(error)}: {type(error).__name__}: {error}") from error
    if (took := time.monotonic() - begun) > MOST_SECONDS:
        raise Fault(f"it took {took:.1f} s")
    return answer


def _frames(error: BaseException) -> list[tuple[str, int]]:
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    return frames


def is_ours(error: BaseException) -> bool:
    """Whether our own code raised it."""
    return _frames(error)[-1][0].startswith(OURS)


def _where(error: BaseException) -> str:
    """The last line of ours that the error passed."""
    inner = [frame for frame in _frames(error) if frame[0].startswith(OURS)] or _frames(error)
    return f"{os.path.relpath(inner[-1][0], os.path.dirname(OURS))}:{inner[-1][1]}"


# images


def _image(name: str) -> Callable[[bytes, Path], object]:
    def parse(data: bytes, folder: Path) -> object:
        path = folder / name
        path.write_bytes(data)
        image = LoadRadiograph(16, slice_rule="middle")(path)
        if not bool(((image >= -1) & (image <= 1)).all()):
            raise AssertionError("an image outside [-1, 1] was taken")
        return image

    return parse


RAMP = np.arange(400, dtype=np.uint8).reshape(20, 20)


def _pictures(kind: str) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        from PIL import Image

        found = []
        for picture in (RAMP, np.stack([RAMP] * 3, -1), *([RAMP.astype(np.uint16) * 9] if kind == "PNG" else [])):
            stream = io.BytesIO()
            Image.fromarray(picture).save(stream, kind)
            found.append(stream.getvalue())
        return found

    return seeds


def dicom_bytes(deflated: bool = False, **entries: object) -> bytes:
    """A small DICOM image with further or other entries."""
    import pydicom

    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    uids = pydicom.uid
    data.file_meta.TransferSyntaxUID = uids.DeflatedExplicitVRLittleEndian if deflated else uids.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = uids.DigitalXRayImageStorageForPresentation
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.PatientID = "P1"
    data.Rows, data.Columns, data.SamplesPerPixel = 20, 20, 1
    data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelData = RAMP.tobytes()
    for name, value in entries.items():
        setattr(data, name, value)
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _dicoms() -> list[bytes]:
    window = {"WindowCenter": 100, "WindowWidth": 50, "RescaleSlope": 2, "RescaleIntercept": -5, "NumberOfFrames": 1}
    return [dicom_bytes(), dicom_bytes(**window), dicom_bytes(deflated=True)]


def _dicom_value(data: bytes, folder: Path) -> object:
    (folder / "a.dcm").write_bytes(data)
    return read_dicom_value(folder / "a.dcm", "PatientID")


def nifti_bytes(shape: tuple[int, ...] = (20, 20, 3), kind: type = np.int16) -> bytes:
    """A small volume."""
    import nibabel

    voxels = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    return nibabel.Nifti1Image(voxels, np.eye(4)).to_bytes()


def _gzipped(data: bytes, folder: Path) -> object:
    return _image("a.nii.gz")(gzip.compress(data, 1), folder)


# tables and lists


def _table(data: bytes, folder: Path) -> object:
    for name in ("1.png", "2.png"):
        (folder / name).write_bytes(b"x")
    (folder / "metadata.csv").write_bytes(data)
    return read_source(folder)


TABLES = [
    b"file,label,patient_id\n1.png,0,a\n2.png,1,b\n",
    b'\xef\xbb\xbfimage;class;group\r\n1;x;\r\n"2.png";y;"g""h"\r\n',
    b"file\tlabel\n./1.png\t0\n../2.png\t1\n\n",
]


def datalist_of(names: tuple[str, ...] = ("1.png", "2.png", "3.png")) -> dict:
    """A datalist with two images in each split."""
    content: dict = {"labels": {"0": "well", "1": "ill"}, "num_classes": 2}
    for number, split in enumerate(SPLITS):
        content[split] = [
            {"image": f"{label}{names[number]}", "label": label, "patient_id": "", "group_id": f"{number}{label}"}
            for label in (0, 1)
        ]
    return content


def _datalist(data: bytes, folder: Path) -> object:
    for name in ("1.png", "2.png", "3.png"):
        (folder / f"0{name}").write_bytes(b"x")
        (folder / f"1{name}").write_bytes(b"x")
    (folder / "datalist.json").write_bytes(data)
    return load_datalist(folder)


def _labels(data: bytes, folder: Path) -> object:
    (folder / "labels.json").write_bytes(data)
    return names_of_classes(names_from_training(folder / "labels.json", None), 2)


# tensors


_SMALL = {"image_size": 8, "channels": 1, "num_classes": 2, "z_dim": 4, "w_dim": 4, "channel_base": 16}
_SMALL |= {"channel_max": 4}


def small_generator() -> StyleGenerator:
    """The smallest generator, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return StyleGenerator(**_SMALL)


def _small_embedder() -> IdentityEmbedder:
    return IdentityEmbedder(1, 4, [1, 1, 1, 1], [2, 2, 2, 2])


def _small_discriminator() -> StyleDiscriminator:
    return StyleDiscriminator(8, 1, 2, channel_base=16, channel_max=4)


def _small_latents() -> InvertedImages:
    errors = torch.ones(2)
    names = {"patients": ("a", "b"), "images": ("1", "2"), "splits": ("training", "training")}
    return InvertedImages(torch.ones(2, 4), torch.tensor([0, 1]), errors, errors, **names)


def small_walks() -> WalkSet:
    """Two walks of three points each, verified with :func:`small_generator`."""
    verified = torch.tensor([[False, True, False]] * 2)
    meta = {"generator": monai_plan.utils.weights_digest(small_generator()), "k": 2}
    return WalkSet(torch.ones(2, 3, 4), torch.tensor([0, 1]), verified, "private", meta)


def _save_teachers(path: Path) -> None:
    monai_plan.engines.save_teachers(path, [torch.nn.Linear(2, 2)])


LOADERS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {  # writes a file, reads it
    "walks": (lambda path: small_walks().save(path), WalkSet.load),
    "anchors": (lambda path: AnchorSet(torch.ones(2, 4), torch.tensor([0, 1]), "random").save(path), AnchorSet.load),
    "gate": (lambda path: PrivacyGate(_small_embedder(), torch.ones(2, 4), 0.5).save(path), PrivacyGate.load),
    "embedder": (lambda path: _small_embedder().save(path), IdentityEmbedder.load),
    "generator": (lambda path: small_generator().save(path), StyleGenerator.load),
    "discriminator": (
        lambda path: StyleDiscriminator(8, 1, 2, channel_base=16, channel_max=4).save(path),
        StyleDiscriminator.load,
    ),
    "encoder": (lambda path: LatentEncoder(4, 1, [1, 1, 1, 1], [2, 2, 2, 2]).save(path), LatentEncoder.load),
    "latents": (lambda path: _small_latents().save(path), InvertedImages.load),
    "prior": (lambda path: LatentPrior.fit(small_generator(), samples=64).save(path), LatentPrior.load),
    "teachers": (_save_teachers, lambda path: load_teachers(path, torch.nn.Linear(2, 2))),
}


_WRITTEN: dict[str, bytes] = {}


def file_of(kind: str) -> bytes:
    """A valid file of one of :data:`LOADERS`."""
    if kind not in _WRITTEN:
        import tempfile

        with tempfile.TemporaryDirectory() as room:
            LOADERS[kind][0](Path(room) / "file.safetensors")
            _WRITTEN[kind] = (Path(room) / "file.safetensors").read_bytes()
    return _WRITTEN[kind]


def split_file(content: bytes) -> tuple[dict, bytes]:
    """The header and the data of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined_file(header: bytes, data: bytes) -> bytes:
    """A safetensors file of the two."""
    return struct.pack("<Q", len(header)) + header + data


def _tensor_file(data: bytes, folder: Path) -> object:
    """The first byte names the kind, the rest is the file's header, or with bit 7 set the record of ours in it."""
    kind = list(LOADERS)[(data[0] if data else 0) % len(LOADERS)]
    header, tensors = split_file(file_of(kind))
    if data[:1] >= b"\x80":
        header["__metadata__"] = {"monai_plan": data[1:].decode("utf-8", "replace")}
        content = joined_file(json.dumps(header).encode(), tensors)
    else:
        content = joined_file(data[1:], tensors)
    path = folder / "file.safetensors"
    path.write_bytes(content)
    return LOADERS[kind][1](path)


def _tensor_files() -> list[bytes]:
    found = []
    for number, kind in enumerate(LOADERS):
        header, _ = split_file(file_of(kind))
        found.append(bytes([number]) + json.dumps(header).encode())
        record = next(start for start in range(128, 256) if start % len(LOADERS) == number)
        found.append(bytes([record]) + header["__metadata__"]["monai_plan"].encode())
    return found


def pickled_weights(pickled: bytes, storage: bytes = bytes(64)) -> bytes:
    """A file as ``torch.save`` writes it, around a pickle of one's own."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", storage)
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


def _weights(data: bytes, folder: Path) -> object:
    (folder / "model.pt").write_bytes(pickled_weights(data))
    return read_weights(folder / "model.pt")


def _pickles() -> list[bytes]:
    found = []
    nested = {"a": torch.zeros(16), "n": {"b": [1, "x", (2.5, None)]}}
    for state in ({"a": torch.zeros(4, 4)}, nested, {"a": torch.nn.Parameter(torch.zeros(16))}):
        stream = io.BytesIO()
        torch.save(state, stream)
        with zipfile.ZipFile(stream) as archive:
            found.append(archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl"))))
    return found


# records, keys, bundles


def _ledger(data: bytes, folder: Path) -> object:
    path = folder / "ledger.json"
    path.write_bytes(data)
    path.chmod(0o600)
    ledger = Ledger.load(path)
    for group in ledger.grouping.groups:
        ledger.touched(group.patients[0]).as_text()
    return ledger.save(path)


def ledger_content() -> dict:
    """A ledger of two groups of two, one file of walks and one release."""
    groups = [{"anchor": n, "label": n, "patients": [f"p{n}a", f"p{n}b"]} for n in (0, 1)]
    walk = {"file": "w", "sha256": "0" * 64, "kind": "private", "pairs": [[0, 0], [1, 1]], "shown": [[1], []]}
    release = {
        "folder": "release",
        "mode": "walks",
        "walks_sha256": "0" * 64,
        "date": "2026-01-01",
        "files": {"a": "0"},
    }
    return {
        "schema": "k_same_ledger",
        "version": 1,
        "grouping": {"k": 2, "groups": groups, "left_over": ["z"]},
        "keyed": False,
        "withdrawn": [],
        "walks": [{**walk, "groups": groups, "spread": False}],
        "releases": [{**release, "files": {"a": "0"}}],
        "key_check": "",
    }


def _key(data: bytes, folder: Path) -> object:
    path = folder / "patients.key"
    path.write_bytes(data)
    path.chmod(0o600)
    return read_or_make_key(path)


def _pem(data: bytes, folder: Path) -> object:
    (folder / "certificate.json").write_bytes(b"{}")
    (folder / "certificate.json.sig").write_bytes(data[-64:])
    path = folder / "key.pem"
    path.write_bytes(data)
    path.chmod(0o600)
    if b"PRIVATE" in data:
        return load_signing_key(path)
    return verify_signature(folder / "certificate.json", path)


def _pems() -> list[bytes]:
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    pem = forms.Encoding.PEM
    private = key.private_bytes(pem, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    return [private, key.public_key().public_bytes(pem, forms.PublicFormat.SubjectPublicKeyInfo)]


_BUNDLE_FILES = ("weights.sha256", "configs/metadata.json", "configs/inference.json", "configs/logging.conf")


def _bundle(data: bytes, folder: Path) -> object:
    """The first byte names the file of a small bundle that the rest replaces."""
    root = folder / "bundle"
    for name in ("configs", "models", "docs"):
        (root / name).mkdir(parents=True)
    for name in ("LICENSE", "docs/README.md", "models/model.pt"):
        (root / name).write_bytes(b"x")
    contents = dict(zip(_BUNDLE_FILES, _bundle_files(), strict=True))
    contents[_BUNDLE_FILES[(data[0] if data else 0) % len(_BUNDLE_FILES)]] = data
    for name, content in contents.items():
        (root / name).write_bytes(content[1:])
    return pack_bundle(root, folder / "dist")


def _bundle_files() -> list[bytes]:
    digest = b"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    return [
        b"\x00" + digest + b"  models/model.pt\n",
        b"\x01" + json.dumps({"version": "0.1.0", "changelog": {"0.1.0": "x"}}).encode(),
        b"\x02" + json.dumps({"a": "$@models_dir + '/model.pt'", "b": [{"c": 1}]}).encode(),
        b"\x03[loggers]\nkeys=root\n[logger_root]\nlevel=INFO\n",
    ]


_EXPORT = {"format": "png", "classes": {"0": "a"}, "per_class": 2, "shard_size": 2}


def _export(data: bytes, folder: Path) -> object:
    """The first byte chooses: the index of a shard, the settings, or the manifest of an export."""
    from monai_plan.data.export_folder import ExportFolder
    from monai_plan.data.ray_data import finished_shards

    shards = shards_of(folder, "png", 1, 2, 2)
    shard = shards.folder(0)
    shard.mkdir(parents=True)
    for name in ("000000000.png", "000000001.png"):
        (shard / name).write_bytes(b"x")
    which, content = (data[0] if data else 0) % 3, data[1:]
    if which == 0:
        (shard / "index.csv").write_bytes(content)
        return list(shards.rows(0)), shards.tidy()
    if which == 1:
        (folder / "export.json").write_bytes(content)
        with ExportFolder(folder, _EXPORT, shards).begun(1, None):
            return None
    (folder / "manifest.json").write_bytes(content)
    return finished_shards(folder)


def _exports() -> list[bytes]:
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    rows = [f"00000000{n}.png,0,{n},1.0000,1,{digest}" for n in (0, 1)]
    index = "\n".join(["file,label,path,position,bytes,sha256", *rows]) + "\n"
    record = {"schema": "export", "version": 1, "settings": _EXPORT}
    return [
        b"\x00" + index.encode(),
        b"\x01" + json.dumps(record).encode(),
        b"\x02" + json.dumps({**record, "files": {}}).encode(),
    ]


def _release(data: bytes, folder: Path) -> object:
    (folder / "release").mkdir()
    (folder / "release" / "manifest.json").write_bytes(data)
    return write_release(small_walks(), small_generator(), folder / "release", progress=False)


def _run_record(data: bytes, folder: Path) -> object:
    (folder / "run.json").write_bytes(data)
    return run_later(folder, ("touched",))


def _certificate(data: bytes, folder: Path) -> object:
    (folder / "certificate.json").write_bytes(data)
    return print_verdict(folder / "certificate.json")


def _certificates() -> list[bytes]:
    result = {"measure": "AUROC", "value": 0.5, "interval": [0.4, None], "control": 0.5}
    tests = [{"verdict": "passed", "id": "a", "result": result}, {"verdict": "x", "id": "b", "result": None}]
    tests[1]["not_run"] = "no"
    return [json.dumps({"tests": tests, "verdict": {"overall": "passed"}}).encode()]


# the command line


def _settings(data: bytes, folder: Path) -> object:
    found = settings_of(data.decode("utf-8", "surrogateescape").split("\n"))
    return [knows_id({"a": {"b": [1, {"c": 2}]}}, name) for name in found]


def _words(data: bytes, folder: Path) -> object:
    try:
        return build_program("monai-plan").parse_args(data.decode("utf-8", "surrogateescape").split("\n"))
    except (Misuse, SystemExit):
        return None


def _json(content: object) -> Callable[[], list[bytes]]:
    return lambda: [json.dumps(content).encode()]


TARGETS = {
    "png": Target(_image("a.png"), _pictures("PNG")),
    "jpeg": Target(_image("a.jpg"), _pictures("JPEG")),
    "dicom": Target(_image("a.dcm"), _dicoms),
    "dicom_value": Target(_dicom_value, _dicoms),
    "nifti": Target(_image("a.nii"), lambda: [nifti_bytes(), nifti_bytes((20, 20), np.float32)]),
    "nifti_gz": Target(_gzipped, lambda: [nifti_bytes(), nifti_bytes((20, 20, 1), np.uint8)]),
    "table": Target(_table, lambda: TABLES),
    "datalist": Target(_datalist, _json(datalist_of())),
    "labels": Target(_labels, _json({"0": "well", "1": "ill"})),
    "tensor_files": Target(_tensor_file, _tensor_files),
    "weights": Target(_weights, _pickles),
    "ledger": Target(_ledger, lambda: [json.dumps(ledger_content()).encode()]),
    "key": Target(_key, lambda: [b"0123456789abcdef" * 4 + b"\n"]),
    "pem": Target(_pem, _pems),
    "bundle": Target(_bundle, _bundle_files),
    "export": Target(_export, _exports),
    "release": Target(_release, _json({"schema": "release", "files": {"walks.safetensors": "0"}})),
    "run_record": Target(_run_record, _json({"bundle": "nowhere", "settings": {"a": 1}})),
    "certificate": Target(_certificate, _certificates),
    "settings": Target(_settings, lambda: [b"a=1\na#b=[1,2]", b"a#b#1#c={\"x\": null}\nseeds='[0]'"]),
    "words": Target(_words, lambda: [b"datalist\nDIR\n--output\na.json\n--fractions\n0.7\n0.1\n0.2", b"--json\npack"]),
}
