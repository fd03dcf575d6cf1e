"""A hospital's folder in which every name, number and header carries a marker of its own, which names its source."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import torch
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

import monai_plan as plan

FILE, FOLDER, PATIENT, HEADER, COLUMN, DATA_SET = "file", "folder", "patient", "header", "column", "data set"
"""What a marker stands for: names of image files and their folders, the patient's number, values within an image file,
columns of the table that nobody asked for, and the folder of the whole data set."""
FORMATS = ("png", "jpg", "dcm", "nii.gz")
SIZE = 32


@dataclass(frozen=True)
class Marker:
    """A planted value.

    Attributes:
        kind: one of the six above.
        where: the field that carries it.
        token: the part of it that occurs nowhere else.
        hashed: what a hash of would give it away: whoever guesses the value can check the guess.
    """

    kind: str
    where: str
    token: str
    hashed: tuple[bytes, ...]


@dataclass
class MarkedFolder:
    """The folder, and what was planted in it.

    Attributes:
        path: with ``metadata.csv``.
        markers: all of them.
        patients: their numbers, in the table's order.
        images: of each row of the table, relative to ``path``.
    """

    path: Path
    markers: list[Marker] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)


def write_marked_folder(parent: Path, patients_per_class: int = 10, seed: int = 0) -> MarkedFolder:
    """Phantoms of two visits a patient as PNG, JPEG, DICOM and NIfTI files, with a table.

    Args:
        parent: where the folder is made.
        patients_per_class: of two classes.
        seed: of the markers; pixels are always the same.
    """
    rng = random.Random(f"markers {seed}")
    markers: list[Marker] = []

    def mark(kind: str, where: str, form: str = "{}", digits: bool = False) -> str:
        token = "".join(rng.choices("0123456789", k=24)) if digits else f"qz{rng.getrandbits(48):012x}"
        value = form.format(token)
        markers.append(Marker(kind, where, token, (token.encode(), value.encode())))
        return value

    folder = MarkedFolder(parent / mark(DATA_SET, "name of the folder", "clinic_{}"), markers)
    folder.path.mkdir()
    draw = plan.transforms.RenderPhantom(image_size=SIZE)
    splits = plan.data.phantom_datalist(patients_per_class=patients_per_class, visits=2)
    lines, numbers = ["file,label,patient_id,name,remark"], {}
    for index, item in enumerate(sum((splits[split] for split in plan.data.datalist.SPLITS), [])):
        phantom = item["patient_id"]
        if phantom not in numbers:
            numbers[phantom] = (
                mark(PATIENT, "patient_id of the table", "P-{}"),
                mark(FOLDER, "folder of a patient", "Roe_{}"),
                mark(COLUMN, "name of the table", "Roe {}"),
            )
            (folder.path / numbers[phantom][1]).mkdir()
        patient, subfolder, name = numbers[phantom]
        pixels = ((torch.as_tensor(draw(item["image"]))[0] + 1) * 127.5).round().to(torch.uint8).numpy()
        suffix = FORMATS[(index + index // len(FORMATS)) % len(FORMATS)]  # a patient's images have two formats
        file = f"{subfolder}/{mark(FILE, 'name of an image', 'scan_{}')}.{suffix}"
        named = markers[-1]
        WRITERS[suffix](folder.path / file, pixels, mark)
        path = folder.path / file
        of_file = (path.name.encode(), file.encode(), str(path).encode(), path.read_bytes(), pixels.tobytes())
        markers[markers.index(named)] = replace(named, hashed=named.hashed + of_file)
        lines.append(f"{file},{'ill' if item['label'] else 'well'},{patient},{name},{mark(COLUMN, 'remark')}")
        folder.patients.append(patient)
        folder.images.append(file)
    (folder.path / "metadata.csv").write_text("\n".join(lines))
    return folder


def _write_png(path: Path, pixels: np.ndarray, mark: Callable[..., str]) -> None:
    texts, exif = PngInfo(), Image.Exif()
    texts.add_text("Patient", mark(HEADER, "PNG tEXt"))
    texts.add_text("Comment", mark(HEADER, "PNG zTXt"), zip=True)
    texts.add_itxt("Title", mark(HEADER, "PNG iTXt"))
    exif[ExifTags.Base.ImageDescription] = mark(HEADER, "PNG EXIF ImageDescription")
    Image.fromarray(pixels).save(path, pnginfo=texts, exif=exif)


def _write_jpeg(path: Path, pixels: np.ndarray, mark: Callable[..., str]) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = mark(HEADER, "JPEG EXIF ImageDescription")
    exif[ExifTags.Base.Artist] = mark(HEADER, "JPEG EXIF Artist")
    Image.fromarray(pixels).save(path, quality=95, exif=exif, comment=mark(HEADER, "JPEG comment"))


@pydicom.config.disable_value_validation()
def _write_dicom(path: Path, pixels: np.ndarray, mark: Callable[..., str]) -> None:
    header = pydicom.Dataset()
    header.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    header.SOPInstanceUID = mark(HEADER, "DICOM SOPInstanceUID", "1.2.826.{}", digits=True)
    # with a leading zero no valid UID: readers warn of such a one, and name it
    header.StudyInstanceUID = mark(HEADER, "DICOM StudyInstanceUID", "1.2.826.0{}", digits=True)
    for name in ("PatientName", "PatientID", "InstitutionName", "ReferringPhysicianName", "PatientComments"):
        setattr(header, name, mark(HEADER, f"DICOM {name}", "Roe^{}"))
    for name in ("AccessionNumber", "StudyID"):
        setattr(header, name, mark(HEADER, f"DICOM {name}"))
    private = header.private_block(0x0011, "MARKED", create=True)
    private.add_new(1, "LO", mark(HEADER, "DICOM private element"))
    item = pydicom.Dataset()
    item.RequestedProcedureID = mark(HEADER, "DICOM element of a sequence")
    header.RequestAttributesSequence = [item]
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.set_pixel_data(pixels, "MONOCHROME2", 8, generate_instance_uid=False)
    header.save_as(path, enforce_file_format=True)


def _write_nifti(path: Path, pixels: np.ndarray, mark: Callable[..., str]) -> None:
    scan: Any = nibabel.Nifti1Image(pixels.T[::-1, ::-1].astype(np.int16), np.eye(4))
    for name in ("descrip", "aux_file", "intent_name", "db_name"):
        scan.header[name] = mark(HEADER, f"NIfTI {name}")
    comment = nibabel.nifti1.Nifti1Extension("comment", mark(HEADER, "NIfTI extension").encode())
    scan.header.extensions.append(comment)
    nibabel.save(scan, path)


WRITERS = {"png": _write_png, "jpg": _write_jpeg, "dcm": _write_dicom, "nii.gz": _write_nifti}
