"""Bad and hostile inputs, one row a case: where it comes in, what is wrong, how it is made, what the message must say.

Simpler faults of sources, datalists, settings and files of earlier stages have tables of their own, in
``tests/test_bad_input.py``, ``tests/data/test_datalist.py`` and ``tests/transforms/test_load_radiograph.py``.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fuzz_targets import (
    RAMP,
    datalist_of,
    dicom_bytes,
    file_of,
    joined_file,
    ledger_content,
    nifti_bytes,
    pickled_weights,
    small_generator,
    small_walks,
    split_file,
)
from PIL import Image

from monai_plan.__main__ import main
from monai_plan.data import load_datalist
from monai_plan.data.bundle_archive import pack_bundle
from monai_plan.data.class_names import names_from_training
from monai_plan.data.export import shards_of
from monai_plan.data.image_folder import images_to_classify
from monai_plan.data.ray_data import finished_shards
from monai_plan.data.release import write_release
from monai_plan.engines import load_teachers
from monai_plan.latent import AnchorSet, InvertedImages, Ledger, PrivacyGate, WalkSet
from monai_plan.networks.nets import IdentityEmbedder, StyleGenerator
from monai_plan.pipeline import run_later
from monai_plan.report.audit import print_verdict
from monai_plan.report.signature import load_signing_key, verify_signature
from monai_plan.transforms import LoadRadiograph
from monai_plan.transforms.radiograph_files import read_dicom_value
from monai_plan.utils import read_or_make_key, read_weights

BUNDLE = Path(__file__).resolve().parent.parent / "bundles" / "plan_tb"
OUT = "out"
"""Where cases let the product write; nothing may be left there."""


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        entry: where it comes in.
        fault: what is wrong.
        call: makes the input in an empty folder and gives it to the product, which must raise.
        says: the essential words of the message: the value seen, the cause, what to do.
        hostile: nobody makes it by mistake.
    """

    entry: str
    fault: str
    call: Callable[[Path], object]
    says: tuple[str, ...]
    hostile: bool = False


class ProgramFault(Exception):
    """The command line took what happened for a fault of the program."""


def command(*words: str | Path) -> None:
    """Run a command in this process; what it refuses is raised with its message.

    Raises:
        ValueError: exit code 2, with one message and no traceback.
        ProgramFault: any other but 0.
    """
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(io.StringIO()):
        code = main([str(word) for word in words])
    message = shown.getvalue().rpartition("error: ")[2].strip()
    if code == 2 and "Traceback" not in shown.getvalue():
        raise ValueError(message)
    if code:
        raise ProgramFault(f"exit code {code}: {message}")


def _written(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _edited(content: object, *keys: str | int, value: object) -> dict:
    """A copy of a JSON value with one entry replaced."""
    copied = json.loads(json.dumps(content))
    inner = copied
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return copied


def _deep(levels: int = 100_000) -> str:
    return "[" * levels + "]" * levels


def _sparse(path: Path, size: int) -> Path:
    """A file of a size, of zeros that take no disk."""
    with _written(path, b"").open("rb+") as stream:
        stream.truncate(size)
    return path


# images


def _read(name: str, content: bytes, **options) -> Callable[[Path], object]:
    return lambda folder: LoadRadiograph(16, **options)(_written(folder / name, content))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 0) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _chunk(b"IEND", b"")


def _bomb(width: int, height: int) -> bytes:
    """A whole PNG of a single grey value, a thousandth of what it unpacks to."""
    packer, rows = zlib.compressobj(9), []
    for _ in range(height):
        rows.append(packer.compress(bytes(1 + width)))
    return _png(width, height, _chunk(b"IDAT", b"".join(rows) + packer.flush()))


def _picture(kind: str, pixels: np.ndarray = RAMP) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def _changed(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new, 1)


def _fifo(name: str, call: Callable[[Path], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> object:
        os.mkfifo(folder / name, 0o600)
        return call(folder / name)

    return make


def _device(folder: Path) -> object:
    (folder / "a.png").symlink_to("/dev/zero")
    return LoadRadiograph(16)(folder / "a.png")


IMAGES = [
    Case("image", "PNG bomb of 900 million pixels", _read("a.png", _bomb(60_000, 15_000)), ("a.png", "bomb"), True),
    Case("image", "PNG that claims 50000 x 50000", _read("a.png", _png(50_000, 50_000)), ("a.png", "bomb"), True),
    Case(
        "image",
        "PNG with a damaged checksum",
        _read("a.png", _changed(_picture("PNG"), b"IDAT", b"IDAU")),
        ("cannot be decoded", "Copy it once more"),
    ),
    Case(
        "image",
        "PNG with text of 100 MB",
        _read("a.png", _png(20, 20, _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8))))),
        ("cannot be decoded",),
        True,
    ),
    Case("image", "PNG without pixels", _read("a.png", _png(20, 20)), ("cannot be decoded",)),
    Case(
        "image",
        "PNG of 100000 x 1 pixels",
        _read("a.png", _picture("PNG", np.arange(100_000, dtype=np.uint8)[None])),
        ("100000 x 1 pixels", "16 is the least"),
    ),
    Case(
        "image",
        "JPEG that claims 65500 x 65500",
        _read("a.jpg", _changed(_picture("JPEG"), b"\x00\x14\x00\x14", b"\xff\xdc\xff\xdc")),
        ("a.jpg", "bomb"),
        True,
    ),
    Case(
        "image", "JPEG cut after its header", _read("a.jpg", _picture("JPEG")[:300]), ("cannot be decoded", "truncated")
    ),
    Case("image", "DICOM named PNG", _read("a.png", dicom_bytes()), ("cannot be decoded", "another format")),
    Case("image", "a pipe", _fifo("a.png", LoadRadiograph(16)), ("no file at",), True),
    Case("image", "a link to a device", _device, ("no file at",), True),
    Case(
        "image",
        "a name of 300 letters",
        lambda folder: LoadRadiograph(16)(folder / f"{'a' * 300}.png"),
        ("no file at",),
    ),
    Case("image", "a name with NUL", lambda folder: LoadRadiograph(16)(f"{folder}/a\0.png"), ("no file at",), True),
    Case(
        "image",
        "a folder of no images",
        lambda folder: images_to_classify(str(folder)),
        ("no image in", "Readable are"),
    ),
]


# DICOM


def _dicom(**entries) -> Callable[[Path], object]:
    return lambda folder: LoadRadiograph(16)(_written(folder / "a.dcm", dicom_bytes(**entries)))


def _without(name: str) -> Callable[[Path], object]:
    def make(folder: Path) -> object:
        import pydicom

        data = pydicom.dcmread(io.BytesIO(dicom_bytes()))
        delattr(data, name)
        data.save_as(folder / "a.dcm", enforce_file_format=True)
        return LoadRadiograph(16)(folder / "a.dcm")

    return make


def _raw_dicom(old: bytes, new: bytes) -> Callable[[Path], object]:
    return lambda folder: LoadRadiograph(16)(_written(folder / "a.dcm", _changed(dicom_bytes(), old, new)))


def _deflated_bomb(folder: Path) -> object:
    content = dicom_bytes(deflated=True)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = [packer.compress(bytes(2**20)) for _ in range(300)]
    meta_end = 132 + 12 + struct.unpack("<I", content[140:144])[0]
    return LoadRadiograph(16)(_written(folder / "a.dcm", content[:meta_end] + b"".join(packed) + packer.flush()))


def _nested_dicom(folder: Path) -> object:
    item, end = b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\0\0\0\0"
    sequence = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff"
    sequence_end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    content = dicom_bytes()
    meta_end = 132 + 12 + struct.unpack("<I", content[140:144])[0]
    nested = (sequence + item) * 5000 + (end + sequence_end) * 5000
    return LoadRadiograph(16)(_written(folder / "a.dcm", content[:meta_end] + nested + content[meta_end:]))


ROWS = b"\x28\x00\x10\x00US\x02\x00\x14\x00"
DICOM = [
    Case("DICOM", "rescale slope NaN", _dicom(RescaleSlope="nan", RescaleIntercept="0"), ("a.dcm", "Export it again")),
    Case(
        "DICOM",
        "rescale intercept beyond all numbers",
        _dicom(RescaleSlope="1e308", RescaleIntercept="1e308"),
        ("a.dcm", "Export it again"),
    ),
    Case("DICOM", "window width NaN", _dicom(WindowCenter="5", WindowWidth="nan"), ("a.dcm", "Export it again")),
    Case(
        "DICOM",
        "a window as text",
        _raw_dicom(ROWS, b"\x28\x00\x50\x10DS\x02\x00x " + b"\x28\x00\x51\x10DS\x02\x00y " + ROWS),
        ("a.dcm", "cannot be"),
    ),
    Case(
        "DICOM",
        "rows of an odd length",
        _raw_dicom(ROWS, b"\x28\x00\x10\x00US\x03\x00\x14\x00\x00"),
        ("cannot be decoded",),
    ),
    Case(
        "DICOM",
        "two numbers of rows",
        _raw_dicom(ROWS, b"\x28\x00\x10\x00US\x04\x00\x14\x00\x14\x00"),
        ("cannot be decoded",),
    ),
    Case("DICOM", "an unknown kind of value", _raw_dicom(ROWS, b"\x28\x00\x10\x00ZZ\x02\x00\x14\x00"), ("a.dcm",)),
    Case("DICOM", "no photometric interpretation", _without("PhotometricInterpretation"), ("cannot be decoded",)),
    Case("DICOM", "no bits stored", _without("BitsStored"), ("a.dcm", "cannot be")),
    Case("DICOM", "no pixels", _without("PixelData"), ("cannot be decoded",)),
    Case("DICOM", "no transfer syntax", _raw_dicom(b"1.2.840.10008.1.2.1", b"9.9.999.99999.9.9.9"), ("a.dcm",)),
    Case(
        "DICOM", "a palette without colours", _dicom(PhotometricInterpretation="PALETTE COLOR"), ("cannot be decoded",)
    ),
    Case("DICOM", "65535 bits stored", _dicom(BitsStored=65535), ("a.dcm", "cannot be")),
    Case("DICOM", "a billion frames", _dicom(NumberOfFrames=10**9), ("cannot be decoded",), True),
    Case("DICOM", "fewer pixels than rows say", _dicom(Rows=200), ("cannot be decoded",)),
    Case(
        "DICOM",
        "60000 x 60000 pixels",
        _dicom(Rows=60_000, Columns=60_000),
        ("60000 x 60000 pixels", "was not decoded"),
        True,
    ),
    Case("DICOM", "a deflated file that unpacks to 300 MB", _deflated_bomb, ("once unpacked", "was not decoded"), True),
    Case("DICOM", "5000 sequences within each other", _nested_dicom, ("a.dcm",), True),
    Case(
        "DICOM",
        "patient of a file without one",
        lambda folder: read_dicom_value(_written(folder / "a.dcm", dicom_bytes(PatientID="")), "PatientID"),
        ("no PatientID", "Name another tag"),
    ),
    Case(
        "DICOM",
        "patient of a truncated file",
        lambda folder: read_dicom_value(_written(folder / "a.dcm", dicom_bytes()[:150]), "PatientID"),
        ("a.dcm",),
    ),
]


# NIfTI


def _nifti(name: str = "a.nii", at: int = 0, form: str = "", value: object = 0, **options) -> Callable[[Path], object]:
    """A small volume with one field of its header replaced."""
    content = bytearray(nifti_bytes())
    if form:
        struct.pack_into(form, content, at, *(value if isinstance(value, tuple) else (value,)))
    content = gzip.compress(bytes(content)) if name.endswith(".gz") else bytes(content)
    return _read(name, content, **options)


def _gzip_bomb(folder: Path) -> object:
    header = bytearray(nifti_bytes())[:352]
    struct.pack_into("<8h", header, 40, 3, 1200, 1200, 1200, 1, 1, 1, 1)
    with gzip.open(folder / "a.nii.gz", "wb", 9) as stream:
        stream.write(bytes(header))
        for _ in range(100):
            stream.write(bytes(2**20))
    return LoadRadiograph(16)(folder / "a.nii.gz")


HUGE = (3, 32767, 32767, 32767, 1, 1, 1, 1)
NIFTI = [
    Case(
        "NIfTI",
        "32767 x 32767 x 32767 voxels in 3 kB",
        _nifti(at=40, form="<8h", value=HUGE),
        ("32767 x 32767 x 32767", "was not decoded"),
        True,
    ),
    Case(
        "NIfTI",
        "the same, gzipped",
        _nifti("a.nii.gz", 40, "<8h", HUGE),
        ("32767 x 32767 x 32767", "was not decoded"),
        True,
    ),
    Case(
        "NIfTI",
        "800 x 800 x 800 voxels in 3 kB, gzipped",
        _nifti("a.nii.gz", 40, "<8h", (3, 800, 800, 800, 1, 1, 1, 1)),
        ("cannot be decoded", "no file of this size"),
        True,
    ),
    Case("NIfTI", "a gzip bomb that claims 3.5 GB", _gzip_bomb, ("1200 x 1200 x 1200", "was not decoded"), True),
    Case("NIfTI", "sizes below 0", _nifti(at=40, form="<8h", value=(3, -20, 20, 3, 1, 1, 1, 1)), ("a.nii",)),
    Case("NIfTI", "no dimensions", _nifti(at=40, form="<8h", value=(0, 0, 0, 0, 0, 0, 0, 0)), ("a.nii",)),
    Case("NIfTI", "an affine of NaN", _nifti(at=280, form="<12f", value=(float("nan"),) * 12), ("a.nii",)),
    Case("NIfTI", "voxels beyond the end", _nifti(at=108, form="<f", value=1e9), ("cannot be decoded",)),
    Case("NIfTI", "an offset that is no number", _nifti(at=108, form="<f", value=float("nan")), ("cannot be decoded",)),
    Case("NIfTI", "an unknown type of voxels", _nifti(at=70, form="<h", value=999), ("a.nii",)),
    Case("NIfTI", "voxels of red, green, blue", _nifti(at=70, form="<hh", value=(128, 24)), ("a.nii",)),
    Case(
        "NIfTI",
        "damaged gzip",
        _read("a.nii.gz", gzip.compress(nifti_bytes())[:-9] + b"123456789"),
        ("cannot be decoded",),
    ),
    Case("NIfTI", "a slice that it has not", _nifti(slice_rule=9), ("holds 3 slices", "outside 0 to 2")),
]


# tables


def _sources(folder: Path) -> Path:
    """Eight small images of eight patients."""
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20)).astype(np.uint8)
        _written(folder / "data" / f"{number}.png", _picture("PNG", pixels))
    return folder / "data"


LINES = [f"{number}.png,{number % 2},p{number}" for number in range(8)]


def _table(*lines: str, content: bytes | None = None, options: tuple[str, ...] = ()) -> Callable[[Path], object]:
    """``datalist`` of a table whose first lines are replaced."""

    def make(folder: Path) -> object:
        data = _sources(folder)
        text = "\n".join(["file,label,patient_id", *lines, *LINES[len(lines) :]])
        _written(data / "metadata.csv", text if content is None else content)
        return command("datalist", data, "--output", folder / OUT / "datalist.json", *options)

    return make


def _huge_table(folder: Path) -> object:
    data = _sources(folder)
    _sparse(data / "metadata.csv", 500 * 10**6)
    return command("datalist", data, "--output", folder / OUT / "datalist.json")


def _linked_table(folder: Path) -> object:
    data = _sources(folder)
    secret = _written(folder / "secret" / "0.png", (data / "0.png").read_bytes())
    (data / "0.png").unlink()
    (data / "0.png").symlink_to(secret)
    _written(data / "metadata.csv", "\n".join(["file,label,patient_id", *LINES]))
    return command("datalist", data, "--output", folder / OUT / "datalist.json")


MANY = "file,label,patient_id\n" + "x\n" * 200_000
TABLES = [
    Case("table", "a path with NUL", _table("0\0.png,0,p0"), ("line 2", "NUL byte"), True),
    Case("table", "a path of 5000 letters", _table("a" * 5000 + ".png,0,p0"), ("line 2", "cannot be followed")),
    Case(
        "table", "a path upwards", _table("../../etc/passwd,0,p0"), ("line 2", "contains '..'", "relative to it"), True
    ),
    Case("table", "an absolute path", _table("/etc/passwd,0,p0"), ("line 2", "absolute"), True),
    Case("table", "a path with a drive", _table("C:\\x\\0.png,0,p0"), ("C:\\x\\0.png", "no file at")),
    Case(
        "table", "a link that leads outside", _linked_table, ("0.png", "outside the data folder", "Copy the file"), True
    ),
    Case("table", "a path below a file", _table("0.png/x.png,0,p0"), ("0.png/x.png",)),
    Case(
        "table",
        "one line of 20 MB",
        _table(content=b"file,label\n" + b"x" * 20 * 10**6),
        ("UTF-8", "characters or more"),
        True,
    ),
    Case("table", "500 MB", _huge_table, ("500000000 bytes", "Give the right path"), True),
    Case("table", "200000 faulty lines", _table(content=MANY.encode()), ("200000 faulty lines", "line 2"), True),
    Case("table", "a quote that never ends", _table('"0.png,0,p0'), ("not readable as CSV", "Save it as")),
    Case("table", "UTF-16", _table(content="file,label\n0.png,1\n".encode("utf-16")), ("UTF-8", "Save it as")),
    Case("table", "nothing at all", _table(content=b""), ("no column", "--image_column")),
    Case("table", "only NUL", _table(content=bytes(1000)), ("metadata.csv", "--image_column")),
    Case("table", "labels of 5000 digits", _table("0.png," + "9" * 5000 + ",p0"), ("class", "patients")),
    Case(
        "table",
        "fractions of NaN",
        _table(options=("--fractions", "nan", "nan", "nan")),
        ("nan, nan, nan", "--fractions 0.7 0.1 0.2"),
    ),
    Case(
        "table",
        "fractions that are infinite",
        _table(options=("--fractions", "inf", "0.1", "0.2")),
        ("inf", "--fractions 0.7 0.1 0.2"),
    ),
    Case(
        "table", "a table above the folder", _table(options=("--table", "../../etc/passwd")), ("contains '..'",), True
    ),
    Case(
        "table",
        "a pipe as the source",
        _fifo("s", lambda path: command("datalist", path, "--output", path.parent / "a.json")),
        ("no plain file", "pipe"),
        True,
    ),
    Case(
        "table",
        "a file twice, for two patients",
        _table("0.png,0,p0", "0.png,1,p9"),
        ("line 3", "same file as in line 2"),
    ),
]


# datalists


def _datalist(content: object = None, text: bytes | None = None) -> Callable[[Path], object]:
    def make(folder: Path) -> object:
        for name in ("1.png", "2.png", "3.png"):
            _written(folder / f"0{name}", b"x")
            _written(folder / f"1{name}", b"x")
        _written(folder / "datalist.json", json.dumps(content) if text is None else text)
        return load_datalist(folder)

    return make


def _first(**entries) -> dict:
    content = datalist_of()
    content["training"][0].update(entries)
    return content


def _huge_datalist(folder: Path) -> object:
    _sparse(folder / "datalist.json", 500 * 10**6)
    return load_datalist(folder)


def _linked_datalist(folder: Path) -> object:
    _written(folder / "secret.png", b"x")
    (folder / "data").mkdir()
    (folder / "data" / "01.png").symlink_to(folder / "secret.png")
    _written(folder / "data" / "datalist.json", json.dumps(datalist_of()))
    return load_datalist(folder / "data")


def _same_by_link(folder: Path) -> object:
    (folder / "link.png").symlink_to(folder / "02.png")
    return _datalist(_first(image="link.png"))(folder)


AGAIN = "python -m monai_plan datalist"
DATALISTS = [
    Case("datalist", "100000 lists within each other", _datalist(text=_deep().encode()), ("nested", AGAIN), True),
    Case(
        "datalist",
        "1000 objects within each other",
        _datalist(text=(b'{"a":' * 900 + b"1" + b"}" * 900)),
        ("nested", AGAIN),
        True,
    ),
    Case("datalist", "500 MB", _huge_datalist, ("500000000 bytes", AGAIN), True),
    Case("datalist", "not UTF-8", _datalist(text=b'{"labels": "\xff"}'), ("datalist.json", AGAIN)),
    Case("datalist", "UTF-8 with a mark", _datalist(text=b"\xef\xbb\xbf{}"), ("datalist.json", AGAIN)),
    Case(
        "datalist",
        "a number of 5000 digits",
        _datalist(text=b'{"num_classes": ' + b"9" * 5000 + b"}"),
        ("datalist.json", AGAIN),
    ),
    Case(
        "datalist",
        "one file in two splits under two spellings",
        _datalist(_first(image="./02.png")),
        ("under another spelling or link", AGAIN),
    ),
    Case("datalist", "one file in two splits by a link", _same_by_link, ("under another spelling or link", AGAIN)),
    Case("datalist", "an image with NUL", _datalist(_first(image="0\0.png")), ("NUL byte",), True),
    Case("datalist", "an image above the folder", _datalist(_first(image="../x.png")), ("contains '..'",), True),
    Case("datalist", "an absolute image", _datalist(_first(image="/etc/passwd")), ("absolute",), True),
    Case("datalist", "an image of 5000 letters", _datalist(_first(image="a" * 5000)), ("cannot be followed",)),
    Case("datalist", "a link that leads outside", _linked_datalist, ("outside the data folder", "Copy the file"), True),
    Case("datalist", "half a character in a name", _datalist(_first(image="\ud800.png")), ("cannot be followed",)),
    Case(
        "datalist",
        "a folder of images with NUL",
        _datalist({**datalist_of(), "dataset_dir": "\0"}),
        ("cannot be followed", "--dataset_dir DIR"),
        True,
    ),
    Case(
        "datalist",
        "a label that is infinite",
        _datalist(text=json.dumps(_first(label=7)).replace("7", "1e999", 1).encode()),
        ("label", AGAIN),
    ),
    Case("datalist", "a label that is true", _datalist(_first(label=True)), ("label True", AGAIN)),
    Case(
        "datalist",
        "names of classes that are no text",
        _datalist({**datalist_of(), "labels": {"0": 1, "1": []}}),
        ("labels", AGAIN),
    ),
    Case(
        "datalist",
        "num_classes that is no whole number",
        _datalist({**datalist_of(), "num_classes": 2.0}),
        ("num_classes 2.0", AGAIN),
    ),
]


# weights and networks


def _changed_file(kind: str, *keys: str, value: object, load: Callable[[Path], object]) -> Callable[[Path], object]:
    """A file of ours with an entry of its record replaced."""

    def make(folder: Path) -> object:
        header, tensors = split_file(file_of(kind))
        record = json.loads(header["__metadata__"]["monai_plan"])
        header["__metadata__"]["monai_plan"] = json.dumps(_edited(record, *keys, value=value))
        return load(_written(folder / "file.safetensors", joined_file(json.dumps(header).encode(), tensors)))

    return make


def _changed_header(
    kind: str, load: Callable[[Path], object], edit: Callable[[dict], object]
) -> Callable[[Path], object]:
    """A file of ours with the header changed."""

    def make(folder: Path) -> object:
        header, tensors = split_file(file_of(kind))
        edit(header)
        return load(_written(folder / "file.safetensors", joined_file(json.dumps(header).encode(), tensors)))

    return make


def _saved(state: object) -> Callable[[Path], object]:
    def make(folder: Path) -> object:
        torch.save(state, folder / "model.pt")
        return read_weights(folder / "model.pt")

    return make


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, target: str = "executed") -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def _pickle(wrap: Callable[[bytes], bytes], name: str = "model.pt") -> Callable[[Path], object]:
    def make(folder: Path) -> object:
        target = folder / OUT / "executed"
        target.parent.mkdir()
        return read_weights(_written(folder / name, wrap(pickle.dumps({"a": Malicious(str(target))}, protocol=2))))

    return make


def _compressed(pickled: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", bytes(3 * 10**8))
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


def _numpy_objects(pickled: bytes) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([pickle.loads(pickle.dumps(["x"]))], dtype=object), allow_pickle=True)
    return stream.getvalue()


def _bytes(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: read_weights(_written(folder / name, content))


GENERATOR = {"load": StyleGenerator.load}
STAGE = "Run its stage again"
WEIGHTS = [
    Case("weights", "a pickle", _pickle(lambda content: content), ("model.pt", "more than tensors"), True),
    Case("weights", "a pickle in an archive", _pickle(pickled_weights), ("model.pt", "more than tensors"), True),
    Case(
        "weights",
        "a pickle in an archive in an archive",
        _pickle(lambda content: pickled_weights(pickled_weights(content))),
        ("model.pt", "more than tensors"),
        True,
    ),
    Case(
        "weights",
        "a pickle named safetensors",
        _pickle(lambda content: content, "model.safetensors"),
        ("model.safetensors", "more than tensors"),
        True,
    ),
    Case(
        "weights",
        "an array of objects",
        _bytes("model.pt", _numpy_objects(b"")),
        ("model.pt", "more than tensors"),
        True,
    ),
    Case("weights", "an archive that unpacks to 300 MB", _pickle(_compressed), ("model.pt", "unpacks to 300"), True),
    Case(
        "weights",
        "a tensor of 10^12 numbers in 4 bytes",
        _saved({"a": torch.zeros(1).expand(10**12)}),
        ("model.pt", "more than tensors"),
        True,
    ),
    Case("weights", "names that are numbers", _saved({1: torch.zeros(1)}), ("model.pt", "more than tensors")),
    Case("weights", "a sparse tensor", _saved({"a": torch.eye(3).to_sparse()}), ("model.pt", "more than tensors")),
    Case("weights", "a list", _saved([torch.zeros(1)]), ("model.pt", "more than tensors")),
    Case("weights", "a folder", lambda folder: read_weights(folder), ("no weights at",)),
    Case("weights", "a pipe", _fifo("model.pt", read_weights), ("no weights at",), True),
    Case(
        "weights",
        "a safetensors header of 2^60 bytes",
        _bytes("a.safetensors", struct.pack("<Q", 2**60) + b"{}"),
        ("a.safetensors", "truncated"),
        True,
    ),
    Case(
        "weights",
        "a safetensors header of nested lists",
        _bytes("a.safetensors", joined_file(_deep().encode(), b"")),
        ("a.safetensors",),
        True,
    ),
    Case(
        "weights",
        "tensors that overlap",
        _changed_header(
            "generator",
            StyleGenerator.load,
            lambda header: header.update(x={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}),
        ),
        ("file.safetensors", "truncated"),
        True,
    ),
    Case(
        "weights",
        "a tensor of 10^12 numbers in a header",
        _changed_header("generator", StyleGenerator.load, lambda header: header["w_avg"].update(shape=[10**12])),
        ("file.safetensors", "truncated"),
        True,
    ),
    Case(
        "weights",
        "an unknown type of numbers",
        _changed_header("generator", StyleGenerator.load, lambda header: header["w_avg"].update(dtype="F99")),
        ("file.safetensors", "truncated"),
    ),
    Case(
        "weights",
        "a generator of latents of 10^9 numbers",
        _changed_file("generator", "meta", "config", "z_dim", value=10**9, **GENERATOR),
        ("do not fit", STAGE),
        True,
    ),
    Case(
        "weights",
        "a generator of 10^9 layers",
        _changed_file("generator", "meta", "config", "mapping_layers", value=10**9, **GENERATOR),
        ("cannot be used", STAGE),
        True,
    ),
    Case(
        "weights",
        "a generator of 2^40 pixels",
        _changed_file("generator", "meta", "config", "image_size", value=2**40, **GENERATOR),
        ("cannot be used", STAGE),
        True,
    ),
    Case(
        "weights",
        "a generator with an argument too many",
        _changed_file("generator", "meta", "config", "evil", value=1, **GENERATOR),
        ("evil", STAGE),
    ),
    Case(
        "weights",
        "a generator with text as an argument",
        _changed_file("generator", "meta", "config", "clamp", value="x", **GENERATOR),
        ("clamp is 'x'", STAGE),
    ),
    Case(
        "weights",
        "a generator without arguments",
        _changed_file("generator", "meta", value={}, **GENERATOR),
        ("lacks config", STAGE),
    ),
    Case(
        "weights",
        "an embedder of 10^9 blocks",
        _changed_file("embedder", "meta", "layers", value=[10**9, 1, 1, 1], load=IdentityEmbedder.load),
        ("cannot be used", STAGE),
        True,
    ),
    Case(
        "weights",
        "a version that is text",
        _changed_file("generator", "version", value="1", **GENERATOR),
        ("damaged", "run its stage again"),
    ),
    Case(
        "weights",
        "a record of nested lists",
        _changed_header("walks", WalkSet.load, lambda header: header["__metadata__"].update(monai_plan=_deep())),
        ("damaged", "run its stage again"),
        True,
    ),
    Case(
        "weights",
        "10^9 teachers",
        _changed_file(
            "teachers", "meta", "count", value=10**9, load=lambda path: load_teachers(path, torch.nn.Linear(2, 2))
        ),
        ("1000000000 teachers", "train_label"),
        True,
    ),
    Case(
        "weights",
        "convert: no weights of a generator",
        lambda folder: command(
            "convert",
            _written(folder / "a.pt", pickled_weights(pickle.dumps({}, protocol=2))),
            "--output",
            folder / OUT / "g.safetensors",
        ),
        ("G_ema",),
    ),
]


# anchors, walks, gate, latents


def _lost(*names: str) -> Callable[[dict], object]:
    def edit(header: dict) -> None:
        for name in names:
            header[f"no_{name}"] = header.pop(name)

    return edit


def _walks_of(**entries: torch.Tensor) -> Callable[[Path], object]:
    """A file of walks with other tensors, as no program of ours writes it."""

    def make(folder: Path) -> object:
        from safetensors.torch import save_file

        header, _ = split_file(file_of("walks"))
        walks = small_walks()
        tensors = {"points": walks.points, "labels": walks.labels, "verified": walks.verified, **entries}
        save_file(tensors, folder / "walks.safetensors", metadata=header["__metadata__"])
        return WalkSet.load(folder / "walks.safetensors")

    return make


def _billion_points(header: dict) -> None:
    header["points"]["shape"] = [10**9, 3, 4]


LATENT = [
    Case(
        "anchors",
        "latents of single patients",
        _changed_file("anchors", "meta", "origin", value="inverted", load=AnchorSet.load),
        ("'inverted'", "group them with k-same first"),
        True,
    ),
    Case("anchors", "no labels", _changed_header("anchors", AnchorSet.load, _lost("labels")), ("lacks labels", STAGE)),
    Case(
        "anchors",
        "no origin",
        _changed_file("anchors", "meta", "origin", value=None, load=AnchorSet.load),
        ("lacks origin", STAGE),
    ),
    Case(
        "anchors",
        "labels as floating point",
        _changed_header("anchors", AnchorSet.load, lambda header: header["labels"].update(dtype="F64")),
        ("int64 labels", ".long()"),
    ),
    Case(
        "walks",
        "10^9 paths",
        _changed_header("walks", WalkSet.load, _billion_points),
        ("file.safetensors", "truncated"),
        True,
    ),
    Case("walks", "no verdicts", _changed_header("walks", WalkSet.load, _lost("verified")), ("lacks verified", STAGE)),
    Case(
        "walks",
        "ends that are verified",
        _walks_of(verified=torch.ones(2, 3, dtype=torch.bool)),
        ("ends of a walk", "cannot be verified"),
        True,
    ),
    Case(
        "walks",
        "verdicts of other walks",
        _walks_of(verified=torch.zeros(9, 3, dtype=torch.bool)),
        ("verified must be bool (2, 3)",),
    ),
    Case(
        "walks",
        "a kind that is a list",
        _changed_file("walks", "meta", "kind", value=[1], load=WalkSet.load),
        ("lacks kind", STAGE),
    ),
    Case(
        "walks",
        "k of one patient in a release",
        lambda folder: _release_of(k=1)(folder),
        ("k is 1", "plan the walks again"),
        True,
    ),
    Case(
        "walks",
        "verified with another generator",
        lambda folder: _release_of(generator="0" * 64)(folder),
        ("another generator", "Verify them"),
        True,
    ),
    Case(
        "gate",
        "no gallery",
        _changed_header("gate", PrivacyGate.load, _lost("gallery")),
        ("lacks gallery", STAGE),
        True,
    ),
    Case(
        "gate",
        "a threshold that is no number",
        _changed_file("gate", "meta", "threshold", value=float("nan"), load=PrivacyGate.load),
        ("threshold nan", "0 .. 2"),
        True,
    ),
    Case(
        "gate",
        "a threshold below 0",
        _changed_file("gate", "meta", "threshold", value=-1, load=PrivacyGate.load),
        ("threshold -1", "0 .. 2"),
        True,
    ),
    Case(
        "gate",
        "a threshold that is text",
        _changed_file("gate", "meta", "threshold", value="0.5", load=PrivacyGate.load),
        ("lacks threshold", STAGE),
    ),
    Case(
        "gate",
        "a gallery of another width",
        _changed_header("gate", PrivacyGate.load, lambda header: header["gallery"].update(shape=[4, 2])),
        ("[N, 4] is needed", "train_gate"),
    ),
    Case(
        "gate",
        "a gallery of whole numbers",
        _changed_header("gate", PrivacyGate.load, lambda header: header["gallery"].update(dtype="I32")),
        ("float32", "train_gate"),
    ),
    Case(
        "latents",
        "patients that are numbers",
        _changed_file("latents", "meta", "patients", value=[1, 2], load=InvertedImages.load),
        ("no text", "invert"),
    ),
    Case(
        "latents",
        "fewer patients than latents",
        _changed_file("latents", "meta", "patients", value=["a"], load=InvertedImages.load),
        ("one entry an image",),
    ),
]


def _release_of(**meta: object) -> Callable[[Path], object]:
    def make(folder: Path) -> object:
        walks = small_walks()
        walks.meta.update(meta)
        return write_release(walks, small_generator(), folder / OUT, progress=False)

    return make


# ledger, keys, records


def _ledger(content: object = None, text: str | None = None, mode: int = 0o600) -> Callable[[Path], object]:
    def make(folder: Path) -> object:
        path = _written(folder / "ledger.json", json.dumps(content) if text is None else text)
        path.chmod(mode)
        return Ledger.load(path)

    return make


def _key(content: bytes, mode: int = 0o600) -> Callable[[Path], object]:
    def make(folder: Path) -> object:
        path = _written(folder / "patients.key", content)
        path.chmod(mode)
        return read_or_make_key(path)

    return make


def _huge_key(folder: Path) -> object:
    path = _sparse(folder / "patients.key", 10**9)
    path.chmod(0o600)
    return read_or_make_key(path)


def _signing_key(content: bytes) -> Callable[[Path], object]:
    def make(folder: Path) -> object:
        path = _written(folder / "key.pem", content)
        path.chmod(0o600)
        return load_signing_key(path)

    return make


def _signature(folder: Path) -> object:
    _written(folder / "certificate.json", "{}")
    _sparse(folder / "certificate.json.sig", 10**9)
    return verify_signature(folder / "certificate.json", _written(folder / "public.pem", b"x"))


LEDGER = ledger_content()
COPY = "estore it from your copy"
RECORDS = [
    Case("ledger", "100000 lists within each other", _ledger(text=_deep()), ("nested", COPY), True),
    Case(
        "ledger",
        "a group below k",
        _ledger(_edited(LEDGER, "grouping", "k", value=3)),
        ("3 to 5 patients", "do not edit"),
        True,
    ),
    Case("ledger", "k of 1", _ledger(_edited(LEDGER, "grouping", "k", value=1)), ("got 1",), True),
    Case(
        "ledger", "pairs that are text", _ledger(_edited(LEDGER, "walks", 0, "pairs", value=["ab"])), ("ledger.json",)
    ),
    Case(
        "ledger",
        "a release of unknown walks",
        _ledger(_edited(LEDGER, "releases", 0, "walks_sha256", value="1" * 64)),
        ("not in the ledger", "Keep the record"),
    ),
    Case(
        "ledger",
        "patients that are numbers",
        _ledger(_edited(LEDGER, "grouping", "left_over", value=[1])),
        ("damaged", COPY),
    ),
    Case("ledger", "an entry too many", _ledger(_edited(LEDGER, "walks", 0, "evil", value=1)), ("damaged", COPY)),
    Case("ledger", "readable by others", _ledger(LEDGER, mode=0o644), ("0644", "chmod 600")),
    Case(
        "ledger",
        "a patient that nobody knows",
        lambda folder: _ledger(LEDGER)(folder).touched("p9"),
        ("no patient 'p9'", "letter for letter"),
    ),
    Case("key", "half a key", _key(b"0123456789abcdef" * 3), ("48 other characters", "restore it")),
    Case("key", "a key that others read", _key(b"0" * 64, 0o644), ("0644", "chmod 600")),
    Case("key", "a key of 1 GB", _huge_key, ("1000000000 bytes",), True),
    Case("key", "a pipe as the key", _fifo("patients.key", read_or_make_key), ("no plain file",), True),
    Case("key", "a pipe as the signing key", _fifo("key.pem", load_signing_key), ("no plain file",), True),
    Case(
        "key",
        "a public key to sign with",
        _signing_key(b"-----BEGIN PUBLIC KEY-----\n"),
        ("a public key", "openssl genpkey"),
    ),
    Case("key", "a signature of 1 GB", _signature, ("1000000000 bytes",), True),
    Case(
        "certificate",
        "100000 lists within each other",
        lambda folder: print_verdict(_written(folder / "certificate.json", _deep())),
        ("no certificate", "Audit again"),
        True,
    ),
    Case(
        "certificate",
        "no verdict",
        lambda folder: print_verdict(_written(folder / "certificate.json", '{"tests": []}')),
        ("no certificate", "Audit again"),
    ),
    Case(
        "certificate",
        "a verdict of its own",
        lambda folder: print_verdict(
            _written(folder / "certificate.json", '{"tests": [], "verdict": {"overall": "fine"}}')
        ),
        ("'fine'", "Audit again"),
        True,
    ),
    Case(
        "certificate",
        "names of classes that are a list",
        lambda folder: names_from_training(_written(folder / "labels.json", "[1]"), None),
        ("labels.json", "--labels"),
    ),
    Case("run", "no run", lambda folder: command("release", "--output_dir", folder), ("holds no run", "pipeline")),
    Case(
        "run",
        "a run's record that is a list",
        lambda folder: run_later(_written(folder / "run.json", "[]").parent, ("release",)),
        ("holds no run", "pipeline"),
    ),
    Case(
        "run",
        "a run without settings",
        lambda folder: run_later(_written(folder / "run.json", '{"bundle": 1, "settings": []}').parent, ("release",)),
        ("holds no run", "pipeline"),
    ),
    Case(
        "run",
        "a run's record of nested lists",
        lambda folder: run_later(_written(folder / "run.json", _deep()).parent, ("release",)),
        ("holds no run", "pipeline"),
        True,
    ),
]


# bundles, releases, exports


def _bundle(folder: Path) -> Path:
    root = folder / "bundle"
    _written(root / "LICENSE", "x")
    _written(root / "docs" / "README.md", "x")
    _written(root / "models" / "model.pt", "x")
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    _written(root / "weights.sha256", f"{digest}  models/model.pt\n")
    _written(root / "configs" / "metadata.json", json.dumps({"version": "0.1.0", "changelog": {"0.1.0": "x"}}))
    _written(root / "configs" / "inference.json", json.dumps({"a": "$@models_dir + '/model.pt'"}))
    return root


def _packed(name: str, content: str | bytes) -> Callable[[Path], object]:
    """``pack`` of a small bundle with one file replaced or added."""

    def make(folder: Path) -> object:
        _written(_bundle(folder) / name, content)
        return command("pack", "--bundle", folder / "bundle", "--to", folder / OUT)

    return make


def _packed_link(folder: Path) -> object:
    secret = _written(folder / "secret.pt", "x")
    weights = _bundle(folder) / "models" / "model.pt"
    weights.unlink()
    weights.symlink_to(secret)
    return command("pack", "--bundle", folder / "bundle", "--to", folder / OUT)


def _packed_pipe(folder: Path) -> object:
    os.mkfifo(_bundle(folder) / "docs" / "more.md")
    return command("pack", "--bundle", folder / "bundle", "--to", folder / OUT)


def _flipped(folder: Path, content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def _flipped_in_bundle(folder: Path) -> object:
    """A bundle's weights with one bit flipped, loaded as every stage does."""
    import hashlib

    good = file_of("generator")
    _written(folder / "weights.sha256", f"{hashlib.sha256(good).hexdigest()}  models/generator.safetensors\n")
    return StyleGenerator.load(_written(folder / "models" / "generator.safetensors", _flipped(folder, good)))


def _flipped_in_release(folder: Path) -> object:
    write_release(small_walks(), small_generator(), folder / "release", progress=False)
    walks = folder / "release" / "walks.safetensors"
    return WalkSet.load(_written(walks, _flipped(folder, walks.read_bytes())))


def _over(name: str, content: str | None) -> Callable[[Path], object]:
    """A release into a folder that holds something."""

    def make(folder: Path) -> object:
        _written(folder / "release" / name, content or "")
        return write_release(small_walks(), small_generator(), folder / "release", progress=False)

    return make


def _linked_release(folder: Path) -> object:
    write_release(small_walks(), small_generator(), folder / "release", progress=False)
    (folder / "release" / "more").symlink_to("/etc")
    return write_release(small_walks(), small_generator(), folder / "release", progress=False)


DIGEST = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


def _export(lines: list[str] | None = None, image: bytes = b"x", link: bool = False) -> Callable[[Path], object]:
    """Read the images of a finished export with a changed index or image."""

    def make(folder: Path) -> object:
        shards = shards_of(folder, "png", 1, 1, 1)
        row = f"000000000.png,0,0,1.0000,1,{DIGEST}"
        text = "\n".join(["file,label,path,position,bytes,sha256", *([row] if lines is None else lines)]) + "\n"
        _written(shards.folder(0) / "index.csv", text)
        target = _written((folder if link else shards.folder(0)) / "000000000.png", image)
        if link:
            (shards.folder(0) / "000000000.png").symlink_to(target)
        return [shards.image(0, row) for row in shards.rows(0)]

    return make


def _manifest(**settings: object) -> Callable[[Path], object]:
    known = {"format": "png", "classes": {"0": "a"}, "per_class": 1, "shard_size": 1}

    def make(folder: Path) -> object:
        content = {"schema": "export", "settings": {**known, **settings}, "files": {}}
        _written(folder / "manifest.json", json.dumps(content))
        return finished_shards(folder)

    return make


NEW = "in a new folder"
ARCHIVES = [
    Case(
        "bundle",
        "weights listed above the folder",
        _packed("weights.sha256", f"{DIGEST}  models/../../x.pt\n"),
        ("line 1", "no SHA-256 with the name"),
        True,
    ),
    Case("bundle", "weights that are a link", _packed_link, ("models/model.pt: a link",), True),
    Case("bundle", "a pipe", _packed_pipe, ("docs/more.md: a link, or no plain file",), True),
    Case(
        "bundle",
        "changed weights",
        _packed("models/model.pt", "y"),
        ("models/model.pt", "not what weights.sha256 lists"),
    ),
    Case(
        "bundle",
        "a datalist among the configs",
        _packed("configs/inference.json", json.dumps({"x": [{"image": 1}]})),
        ("data list", "names patients"),
    ),
    Case(
        "bundle",
        "a config of nested lists",
        _packed("configs/more.json", _deep()),
        ("configs/more.json", "nested"),
        True,
    ),
    Case(
        "bundle",
        "a version with a path",
        _packed("configs/metadata.json", '{"version": "../1.0.0", "changelog": {}}'),
        ("version '../1.0.0'", "three numbers"),
        True,
    ),
    Case(
        "bundle",
        "no changelog",
        _packed("configs/metadata.json", '{"version": "1.0.0", "changelog": null}'),
        ("changelog", "bundles/plan_tb"),
    ),
    Case(
        "bundle",
        "a ledger among the documents",
        _packed("docs/ledger.json", "{}"),
        ("docs/ledger.json: not on the list",),
    ),
    Case("bundle", "a hidden file", _packed("models/.secret", "x"), ("models/.secret: not on the list",)),
    Case(
        "bundle",
        "the archive within the bundle",
        lambda folder: pack_bundle(_bundle(folder), folder / "bundle" / "dist"),
        ("is in the bundle", "outside it"),
    ),
    Case(
        "bundle",
        "a bit of the weights flipped",
        _flipped_in_bundle,
        ("has the SHA-256", "weights.sha256", "Copy what belongs there"),
        True,
    ),
    Case(
        "bundle",
        "no bundle",
        lambda folder: command("pipeline", "--bundle", folder, "--output_dir", folder / OUT),
        ("no config at", "bundles/plan_tb"),
    ),
    Case(
        "release",
        "a bit of the walks flipped",
        _flipped_in_release,
        ("has the SHA-256", "manifest.json", "Copy what belongs there"),
        True,
    ),
    Case("release", "a folder of something else", _over("thesis.docx", "x"), ("no release", "Nothing was touched")),
    Case(
        "release",
        "a manifest of nested lists",
        _over("manifest.json", _deep()),
        ("no release", "Nothing was touched"),
        True,
    ),
    Case(
        "release",
        "a manifest of another program",
        _over("manifest.json", '{"schema": "web", "files": []}'),
        ("no release", "Nothing was touched"),
    ),
    Case("release", "a link among its files", _linked_release, ("1 files in it are not of it", "'more'"), True),
    Case(
        "export",
        "an index with a path upwards",
        _export([f"../../../etc/passwd,0,0,1.0,1,{DIGEST}"]),
        ("passwd", "none of this export", NEW),
        True,
    ),
    Case("export", "an index without hashes", _export(["000000000.png,0,0,1.0,1,"]), ("none of this export", NEW)),
    Case("export", "an index with NUL", _export(["0\0"]), ("none of this export", NEW)),
    Case(
        "export",
        "an index with a line too many",
        _export([f"000000000.png,0,0,1.0,1,{DIGEST}"] * 2),
        ("none of this export", NEW),
    ),
    Case("export", "another image than is listed", _export(image=b"y"), ("not the image", NEW), True),
    Case("export", "an image that is a link", _export(link=True), ("not the image", NEW), True),
    Case("export", "10^12 images in a manifest", _manifest(per_class=10**12), ("manifest.json", NEW), True),
    Case("export", "a size of shards that is text", _manifest(shard_size="1"), ("manifest.json", NEW)),
    Case("export", "a format that is a list", _manifest(format=[]), ("manifest.json", NEW)),
    Case("export", "no classes", _manifest(classes={}), ("manifest.json", NEW)),
]


# the command line


def _words(*words: str) -> Callable[[Path], object]:
    return lambda folder: command(*(word.format(folder=folder, bundle=BUNDLE) for word in words))


def _pipeline(*pairs: str) -> Callable[[Path], object]:
    return _words("pipeline", "--bundle", "{bundle}", "--output_dir", f"{{folder}}/{OUT}", "--set", *pairs)


def _generate(*words: str) -> Callable[[Path], object]:
    return _words("generate", "--bundle", "{bundle}", "--to", f"{{folder}}/{OUT}", *words)


COMMANDS = [
    Case("command line", "an unknown command", _words("datalists"), ("'datalists'", "--help")),
    Case("command line", "an unknown option", _words("pack", "--bundel", "x"), ("--bundle", "--help")),
    Case(
        "command line",
        "an empty folder name",
        _words("datalist", "", "--output", "{folder}/out/a.json"),
        ("is empty", "variable of your shell"),
    ),
    Case(
        "command line",
        "an empty data folder",
        _words("pipeline", "--bundle", "{bundle}", "--dataset_dir", "", "--output_dir", "{folder}/out"),
        ("is empty", "variable of your shell"),
    ),
    Case("command line", "a setting without a value", _pipeline("image_size"), ("'image_size'", "ID=VALUE")),
    Case("command line", "a setting twice", _pipeline("epochs=1", "epochs=2"), ("'epochs' twice", "leave one")),
    Case(
        "command line",
        "a setting that nobody knows",
        _pipeline("imagesize=64"),
        ("'imagesize'", "did you mean image_size"),
    ),
    Case("command line", "a setting without a name", _pipeline("=64"), ("''", "Correct --set")),
    Case(
        "command line",
        "a setting that is no number",
        _pipeline("walk#identity_weight=NaN"),
        ("NaN", "no finite number"),
    ),
    Case(
        "command line", "a setting beyond all numbers", _pipeline("learning_rate=1e999"), ("1e999", "no finite number")
    ),
    Case(
        "command line",
        "a setting of nested lists",
        _pipeline(f"seeds={_deep(5000)}"),
        ("'seeds' is", "must be a list"),
        True,
    ),
    Case(
        "command line",
        "a number of 5000 digits",
        _pipeline("seeds=" + "9" * 5000),
        ("'seeds' is", "must be a list"),
        True,
    ),
    Case(
        "command line",
        "a seed that is text",
        _words("datalist", "x", "--output", "y", "--seed", "one"),
        ("--seed", "'one'"),
    ),
    Case("command line", "no images of a class", _generate("--per_class", "0"), ("per_class", "0")),
    Case("command line", "fewer images than none", _generate("--per_class", "-5"), ("per_class", "-5")),
    Case("command line", "shards of no image", _generate("--per_class", "2", "--shard_size", "0"), ("shard_size", "0")),
    Case(
        "command line",
        "a spacing that is no number",
        _generate("--per_class", "2", "--format", "nifti", "--spacing", "nan"),
        ("spacing", "nan"),
    ),
    Case("command line", "more images than any disk holds", _generate("--per_class", "1000000000000"), ("MiB left",)),
    Case(
        "command line",
        "a certificate signed with nothing",
        _words("audit", "--bundle", "{bundle}", "--output_dir", "{folder}/out", "--sign", "{folder}/none.pem"),
        ("none.pem",),
    ),
    Case("command line", "an audit of nothing", _words("audit"), ("--bundle DIR", "--output_dir DIR")),
    Case(
        "command line",
        "convert: a clamp that is no number",
        _words("convert", "{folder}/none.pt", "--output", "{folder}/out/g.safetensors", "--clamp", "nan"),
        ("no weights at",),
    ),
    Case(
        "command line",
        "ledger of a patient, of no run",
        _words("ledger", "--output_dir", "{folder}", "--patient", "P1"),
        ("holds no run", "pipeline"),
    ),
]

CASES = [*IMAGES, *DICOM, *NIFTI, *TABLES, *DATALISTS, *WEIGHTS, *LATENT, *RECORDS, *ARCHIVES, *COMMANDS]
