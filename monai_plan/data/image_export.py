"""One synthetic image to the bytes of one file: PNG, NIfTI or DICOM, marked as what it is.

The same arguments give the same bytes: no date, no random number and nothing of the machine is written. MONAI's
``LoadImage`` reads all three in the same orientation, but leaves the channels of colour DICOM last: tell
``EnsureChannelFirst(channel_dim=-1)``, or use :class:`~monai_plan.transforms.LoadRadiograph`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from monai.utils import OptionalImportError, optional_import

from monai_plan._version import __version__
from monai_plan.utils import image_grid

__all__ = ["SUFFIXES", "encode_dicom", "encode_nifti", "encode_png", "encoder_of"]

SUFFIXES = {"png": ".png", "nifti": ".nii", "dicom": ".dcm"}
"""The formats, and what their files' names end in."""

_INSTALL = 'is needed to write this format: pip install "monai_plan[images]"'
PIL_Image, _ = optional_import("PIL.Image", descriptor=f"Pillow {_INSTALL}")
nibabel, _ = optional_import("nibabel", descriptor=f"nibabel {_INSTALL}")
pydicom, _ = optional_import("pydicom")
_, has_pydicom = optional_import("pydicom.pixels")  # from version 3 on

SAYS = "Synthetic image, not of any patient"
_EMPTY = (  # DICOM asks for these elements, not for a value
    *("PatientBirthDate", "PatientSex", "PatientOrientation", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName"),
)


def encoder_of(
    image_format: str, channels: int, key: str, spacing: float | None = None
) -> Callable[[torch.Tensor, int, int], bytes]:
    """A function: image, index and path -> the bytes of its file.

    Args:
        image_format: one of :data:`SUFFIXES`.
        channels: of the images.
        key: see :func:`encode_dicom`.
        spacing: mm from pixel to pixel, > 0, for NIfTI (``None``: 1) and DICOM.

    Raises:
        ValueError: an argument is out of range, or ``spacing`` is given for PNG.
    """
    if image_format not in SUFFIXES:
        raise ValueError(f"the format must be one of {', '.join(SUFFIXES)}, got {image_format!r}")
    if channels not in (1, 3):
        raise ValueError(f"pictures are grey or RGB, and the generator makes {channels} channels")
    if spacing is not None and image_format == "png":
        raise ValueError(f"PNG keeps no spacing, got {spacing!r}; leave it out, or write nifti or dicom")
    if spacing is not None and not (isinstance(spacing, int | float) and math.isfinite(spacing) and spacing > 0):
        raise ValueError(f"spacing is in mm from pixel to pixel and must be > 0, e.g. 0.5; got {spacing!r}")
    if image_format == "png":
        return lambda image, index, path: encode_png(image)
    if image_format == "nifti":
        return lambda image, index, path: encode_nifti(image, 1.0 if spacing is None else spacing)
    return lambda image, index, path: encode_dicom(image, key, index, f"path-{path}", spacing)


def encode_png(image: torch.Tensor) -> bytes:
    """8 bits a channel, without metadata.

    Args:
        image: float, shape [C, H, W], C being 1 (grey) or 3 (RGB), range [-1, 1], mapped to 0 .. 255.

    Raises:
        OptionalImportError: Pillow is not installed (extra ``images``).
    """
    pixels = _pixels(image)
    stream = io.BytesIO()
    PIL_Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def encode_nifti(image: torch.Tensor, spacing: float = 1.0) -> bytes:
    """Float32, range [-1, 1] as given, uncompressed; the header's description says that it is synthetic.

    A grey image is a plane [W, H], which MONAI loads as [1, W, H]; a colour one has its channels along the fourth axis,
    [W, H, 1, 3], as NIfTI wants it, which MONAI loads as [3, W, H, 1].

    The affine is ``diag(-spacing, -spacing, spacing, 1)`` in NIfTI's RAS+ millimetres: columns run to the patient's
    left and rows to the back, so that viewers show the image upright, as ITK and MONAI have it for pictures. The place
    is nominal: there was no patient, and no scanner.

    Args:
        image: as for :func:`encode_png`.
        spacing: mm from pixel to pixel.

    Raises:
        OptionalImportError: nibabel is not installed (extra ``images``).
    """
    columns_first = image.detach().float().cpu().permute(2, 1, 0).numpy()
    voxels = columns_first[:, :, 0] if len(image) == 1 else columns_first[:, :, None]
    scan = nibabel.Nifti1Image(voxels, np.diag([-spacing, -spacing, spacing, 1.0]))
    scan.header.set_xyzt_units("mm")
    scan.header["descrip"] = SAYS
    return scan.to_bytes()


def encode_dicom(image: torch.Tensor, key: str, index: int, group: str, spacing: float | None = None) -> bytes:
    """8-bit Secondary Capture, marked as derived and as synthetic; there is no date and no person in it.

    Images of one ``group`` share patient id and study, so that whoever splits by patient keeps them together. All UIDs
    follow from ``key``, ``index`` and ``group`` alone.

    Args:
        image: as for :func:`encode_png`; grey becomes MONOCHROME2, colour RGB.
        key: of the run: equal ones only where equal indices mean equal images.
        index: of the image within the run, >= 0.
        group: e.g. ``"path-12"``, at most 54 characters.
        spacing: mm from pixel to pixel, as PixelSpacing; ``None`` leaves it out.

    Raises:
        OptionalImportError: pydicom 3 is not installed (extra ``images``).
    """
    if not has_pydicom:
        raise OptionalImportError(f"pydicom 3 or later {_INSTALL}")
    header = pydicom.Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.ImageType = ["DERIVED", "SECONDARY", "SYNTHETIC"]
    header.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    header.SOPInstanceUID = _uid(key, "image", index)
    header.SyntheticData = "YES"
    header.Modality = "OT"
    header.ConversionType = "SYN"
    header.Manufacturer = "monai_plan"
    header.SoftwareVersions = __version__
    header.SeriesDescription = "Synthetic images"
    header.DerivationDescription = (
        f"{SAYS}: rendered by a generative network on a privacy-preserving latent walk (monai_plan {__version__}) and "
        "accepted by a privacy gate. Not for diagnosis."
    )
    header.PatientName = "SYNTHETIC^NOT A PATIENT"
    header.PatientID = f"SYNTHETIC-{group}"
    header.PatientIdentityRemoved = "YES"
    header.DeidentificationMethod = SAYS
    header.StudyInstanceUID = _uid(key, "study", group)
    header.SeriesInstanceUID = _uid(key, "series", group)
    header.SeriesNumber = 1
    header.InstanceNumber = index + 1
    header.BurnedInAnnotation = "NO"
    header.LossyImageCompression = "00"
    for empty in _EMPTY:
        setattr(header, empty, "")
    if spacing is not None:
        header.PixelSpacing = [pydicom.valuerep.format_number_as_ds(float(spacing))] * 2
    header.file_meta = pydicom.dataset.FileMetaDataset()
    colours = "MONOCHROME2" if len(image) == 1 else "RGB"
    header.set_pixel_data(_pixels(image), colours, 8, generate_instance_uid=False)
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _pixels(image: torch.Tensor) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3]."""
    pixels = image_grid(image[None], columns=1).numpy()
    return pixels[..., 0] if len(image) == 1 else pixels


def _uid(key: str, kind: str, number: int | str) -> str:
    return pydicom.uid.generate_uid(entropy_srcs=[key, kind, str(number)])
