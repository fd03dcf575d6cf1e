"""The scans find what is planted, in every form and container, and nothing in what is clean."""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import io
import json
import lzma
import zipfile
from urllib.parse import quote

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from marked_images import FILE, SIZE, Marker, write_marked_folder
from marker_scan import MarkerScan
from picture_scan import PictureScan
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save as save_safetensors

from monai_plan.data import phantom_datalist
from monai_plan.transforms import RenderPhantom
from monai_plan.utils import image_grid

TOKEN = "qz0123456789ab"
NAME = f"scan_{TOKEN}.png"
MARKER = Marker(FILE, "name of an image", TOKEN, (TOKEN.encode(), NAME.encode()))


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format=kind, **options)
    return stream.getvalue()


def zipped(name: str, content: bytes, comment: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
        archive.comment = comment
    return stream.getvalue()


def torch_saved(content) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def numpy_saved(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def png_text(word: str, packed: bool = False, international: bool = False) -> bytes:
    texts = PngInfo()
    add = texts.add_itxt if international else texts.add_text
    add("Comment", word, zip=packed)
    return saved(Image.new("L", (4, 4)), "PNG", pnginfo=texts)


def exif(word: str) -> Image.Exif:
    found = Image.Exif()
    found[0x010E] = word
    return found


def dicom(word: str) -> bytes:
    header = pydicom.Dataset()
    header.SOPClassUID, header.SOPInstanceUID = pydicom.uid.SecondaryCaptureImageStorage, "1.2.3"
    header.PatientName = word
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def nifti(word: str) -> bytes:
    scan = nibabel.Nifti1Image(np.zeros((4, 4), np.float32), np.eye(4))
    scan.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", word.encode()))
    return scan.to_bytes()


def page(picture: bytes) -> bytes:
    return b'<img src="data:image/png;base64,' + base64.b64encode(picture) + b'">'


FORMS = {
    "as it is": NAME.encode(),
    "in capitals": NAME.upper().encode(),
    "UTF-16": NAME.encode("utf-16"),
    "UTF-16, big end first": NAME.encode("utf-16-be"),
    "UTF-32": NAME.encode("utf-32"),
    "backwards": NAME[::-1].encode(),
    "hexadecimal": NAME.encode().hex().encode(),
    "hexadecimal, in capitals": NAME.encode().hex().upper().encode(),
    **{f"base64 after {n} letters": base64.b64encode(b"x" * n + NAME.encode()) for n in range(3)},
    "base64 within a long text": base64.b64encode(b"lorem ipsum " * 9 + NAME.encode() + b" dolor" * 9),
    "base64 for addresses": base64.urlsafe_b64encode(b"\xff\xfe" * 30 + NAME.encode()),
    "percent signs": "".join(f"%{byte:02x}" for byte in NAME.encode()).encode(),
    "quoted": quote(f"a folder/{NAME}").encode(),
    "escapes of JSON": "".join(f"\\u{ord(letter):04x}" for letter in NAME).encode(),
    "escapes of Python": repr(NAME.encode("utf-16")).encode(),
    "escapes of HTML": "".join(f"&#x{ord(letter):x};" for letter in NAME).encode(),
    **{name: hashlib.new(name, NAME.encode()).hexdigest().encode() for name in ("md5", "sha1", "sha256", "sha512")},
    "hash of the token": hashlib.sha256(TOKEN.encode()).hexdigest().encode(),
    "hash of the name in capitals": hashlib.sha256(NAME.upper().encode()).hexdigest().encode(),
    "shortened hash": hashlib.sha256(NAME.encode()).hexdigest()[:16].encode(),
    "bytes of a hash": hashlib.sha256(NAME.encode()).digest(),
    "base64 of a hash": base64.b64encode(hashlib.md5(NAME.encode()).digest()),
}
CONTAINERS = {
    "gzip": gzip.compress(NAME.encode()),
    "gzip within other bytes": b"before" + gzip.compress(NAME.encode()) + b"after",
    "bzip2": bz2.compress(NAME.encode()),
    "xz": lzma.compress(NAME.encode()),
    "file of a zip": zipped("a.txt", NAME.encode()),
    "name in a zip": zipped(NAME, b"nothing"),
    "comment of a zip": zipped("a.txt", b"nothing", NAME.encode()),
    "zip in a zip in gzip": gzip.compress(zipped("b.zip", zipped("a.txt", NAME.encode()))),
    "NumPy": numpy_saved(names=np.array([NAME])),
    "key of a checkpoint": torch_saved({NAME: torch.zeros(1)}),
    "value in a checkpoint": torch_saved({"meta": [{"a": (1, NAME)}], "w": torch.zeros(1)}),
    "numbers in a checkpoint": torch_saved({"w": torch.tensor(list(NAME.encode()), dtype=torch.uint8)}),
    "header of safetensors": save_safetensors({"w": torch.zeros(1)}, {"meta": json.dumps({"a": NAME})}),
    "PNG text": png_text(NAME),
    "PNG text, packed": png_text(NAME, packed=True),
    "PNG text, international": png_text(NAME, international=True),
    "PNG text, international and packed": png_text(NAME, packed=True, international=True),
    "EXIF of a PNG": saved(Image.new("L", (4, 4)), "PNG", exif=exif(NAME)),
    "EXIF of a JPEG": saved(Image.new("L", (16, 16)), "JPEG", exif=exif(NAME)),
    "comment of a JPEG": saved(Image.new("L", (16, 16)), "JPEG", comment=NAME.encode()),
    "picture in a page": page(png_text(NAME, packed=True)),
    "DICOM": dicom(NAME),
    "NIfTI": nifti(NAME),
    "NIfTI, packed": gzip.compress(nifti(NAME)),
}


@pytest.mark.parametrize("form", [*FORMS, *CONTAINERS])
def test_a_marker_is_found_in_every_form_and_container(form):
    content = {**FORMS, **CONTAINERS}[form]
    scan = MarkerScan([MARKER])
    assert {hit.marker for hit in scan.of(content, "file")} == {MARKER}
    assert scan.of(b"some bytes before it " + content, "file"), "wherever it begins"


def test_another_marker_is_not_found_and_clean_files_are_clean():
    others = [Marker(FILE, "x", token, (token.encode(),)) for token in ("qz0123956789ab", "qzba9876543210")]
    for name, content in {**FORMS, **CONTAINERS}.items():
        assert not MarkerScan(others).of(content, name), name
    assert not MarkerScan([MARKER]).of(bytes(range(256)) * 400, "file")


def test_every_marker_of_the_folder_is_found_in_it_under_its_own_name(tmp_path):
    """Names of files and folders, every header field and every column; each marker is of one field alone."""
    folder = write_marked_folder(tmp_path, patients_per_class=8)
    scan = MarkerScan(folder.markers)
    found = {hit.marker for hits in scan.files_of(tmp_path).values() for hit in hits}
    assert found == set(folder.markers)
    assert len({marker.token for marker in folder.markers}) == len(folder.markers) > 250
    assert scan.files == len(folder.images) + 1


# pictures


@pytest.fixture(scope="module")
def phantoms() -> torch.Tensor:
    """Twelve images [12, 1, 32, 32]; the last two are nobody's that is looked for."""
    draw = RenderPhantom(image_size=SIZE)
    items = phantom_datalist(patients_per_class=6, visits=1)
    return torch.stack([torch.as_tensor(draw(item["image"])) for split in SPLITS for item in items[split]])[:12]


SPLITS = ("training", "validation", "testing")


@pytest.fixture(scope="module")
def scan(phantoms) -> PictureScan:
    return PictureScan(phantoms[:-2])


def as_picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image_grid(image[None], columns=1).numpy()[..., 0])


def in_grid(image: torch.Tensor) -> Image.Image:
    canvas = Image.new("L", (150, 90), 255)
    canvas.paste(as_picture(image), (71, 37))
    return canvas


def dicom_picture(image: torch.Tensor) -> bytes:
    header = pydicom.dcmread(io.BytesIO(dicom("nobody")))
    header.set_pixel_data(np.asarray(as_picture(image)), "MONOCHROME2", 8, generate_instance_uid=False)
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


SHOWN = {
    "PNG": lambda image: saved(as_picture(image), "PNG"),
    "JPEG": lambda image: saved(as_picture(image), "JPEG", quality=95),
    "mirrored": lambda image: saved(as_picture(image.flip(2)), "PNG"),
    "upside down": lambda image: saved(as_picture(image.flip(1)), "PNG"),
    "turned": lambda image: saved(as_picture(image.rot90(1, (1, 2))), "PNG"),
    "darker": lambda image: saved(as_picture(image * 0.5 - 0.3), "PNG"),
    "negative": lambda image: saved(as_picture(-image), "PNG"),
    "in colour": lambda image: saved(as_picture(image).convert("RGB"), "PNG"),
    "cell of a grid": lambda image: saved(in_grid(image), "PNG"),
    "in a page": lambda image: page(saved(in_grid(image), "PNG")),
    "in an archive": lambda image: zipped("a.png", saved(as_picture(image), "PNG")),
    "within other bytes": lambda image: b"before" + saved(as_picture(image), "PNG") + b"after",
    "DICOM": dicom_picture,
    "NIfTI": lambda image: gzip.compress(nibabel.Nifti1Image(image[0].numpy(), np.eye(4)).to_bytes()),
    "tensor of a checkpoint": lambda image: torch_saved({"a": [{"images": torch.stack([image] * 3)}]}),
    "rows of safetensors": lambda image: save_safetensors({"gallery": image.reshape(1, -1).repeat(4, 1)}),
    "half precision": lambda image: save_safetensors({"gallery": image.half()}),
    "bytes in NumPy": lambda image: numpy_saved(a=((image.numpy() + 1) * 127.5).astype(np.uint8)),
}


@pytest.mark.parametrize("form", SHOWN)
def test_a_real_image_is_found_however_it_is_shown(scan, phantoms, form):
    assert {found.row for found in scan.of(SHOWN[form](phantoms[3]), "file")} == {3}
    assert not scan.of(SHOWN[form](phantoms[-1]), "file"), "an image like the real ones, and none of them"


@pytest.mark.parametrize("place", [(71, 37), (72, 38), (73, 39), (0, 0), (118, 58)])
def test_a_real_image_is_found_at_every_place_although_not_all_are_looked_at_first(phantoms, place):
    large = torch.nn.functional.interpolate(phantoms, scale_factor=4, mode="bilinear")
    canvas = Image.new("L", (246, 186), 255)
    canvas.paste(as_picture(large[3]), place)
    (found,) = PictureScan(large[:-2], cells=8, step=2).in_picture(np.asarray(canvas), "canvas")
    assert (found.row, found.place) == (3, f"canvas at {place[0]}, {place[1]}")
