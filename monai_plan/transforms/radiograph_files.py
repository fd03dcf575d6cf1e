"""File formats in, one kind of array out: PNG, JPEG, DICOM and NIfTI as float32 ``[H, W, C]`` in [0, 1], upright.

This file knows formats, grey values and orientation; it knows nothing of the size and the channels that a network asks
for. Only pixels leave it: no header value of any format is returned.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from monai.utils import OptionalImportError, optional_import

__all__ = ["RADIOGRAPH_SUFFIXES", "is_radiograph", "read_dicom_value", "read_radiograph"]

PILImage, _has_pil = optional_import("PIL.Image")
PILImageOps, _ = optional_import("PIL.ImageOps")
nibabel, _has_nibabel = optional_import("nibabel")
pydicom, _has_pydicom = optional_import("pydicom")
dicom_pixels, _has_dicom_pixels = optional_import("pydicom.pixels")

_PICTURES = (".png", ".jpg", ".jpeg")
_DICOMS = (".dcm", ".dicom")
_NIFTIS = (".nii", ".nii.gz")
RADIOGRAPH_SUFFIXES = _PICTURES + _DICOMS + _NIFTIS

MAX_PIXELS = 100_000_000  # of one image; a detector has 10 to 30 million, a small hostile file can claim far more
MAX_VOLUME_BYTES = 2_200_000_000  # of one volume; 512 x 512 x 1000 in float64 are 2097 million
MAX_FILE_BYTES = 2_200_000_000  # of one DICOM file
MAX_UNPACKED_BYTES = 250_000_000  # of a deflated one
_AT_ONCE = 2**20  # bytes unpacked at once
_GZIP_RATIO = 1032  # deflate packs no more into a byte (RFC 1951: 258 bytes in two bits)
_DETECTOR_BITS = (12, 14)  # depths that are stored in 16 bits


def is_radiograph(path: Path) -> bool:
    """Whether the name, or for other names the DICOM mark at byte 128, says that it can be read here."""
    return _format_of(path) is not None


def read_radiograph(path: Path, slice_rule: str | int | None) -> np.ndarray:
    """Read one image.

    Args:
        path: an existing file.
        slice_rule: ``"middle"``, ``"max_projection"``, the index of a slice, or None to refuse volumes.

    Returns:
        float32 ``[H, W, C]`` in [0, 1], C as in the file (1, 3, or another count), upright as on a viewing screen.

    Raises:
        ValueError: the file cannot be read as an image; the message names it and says what to do.
        OptionalImportError: the package that reads its format is not installed.
    """
    kind = _format_of(path)
    if kind is None:
        raise ValueError(
            f"'{path}': the suffix '{''.join(path.suffixes[-2:])}' is unknown and the file is not DICOM. Readable are "
            f"{', '.join(RADIOGRAPH_SUFFIXES)} and DICOM files of any name; convert the file, or leave it out"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"'{path}' is empty (0 bytes); a copy may have been interrupted. Copy it once more")
    try:
        pixels = {"picture": _read_picture, "dicom": _read_dicom, "nifti": _read_nifti}[kind](path, slice_rule)
    except (_Unusable, OptionalImportError):
        raise
    except Exception as error:  # decoders raise many kinds on damaged files
        raise ValueError(
            f"'{path}' ({os.path.getsize(path)} bytes) cannot be decoded ({type(error).__name__}: {error}); it is "
            "corrupt, truncated, or of another format than its name says. Copy it once more, or leave it out of the "
            "data set"
        ) from error
    if not np.isfinite(pixels).all():
        raise ValueError(
            f"'{path}' has grey values that are NaN or infinite once rescaled; its rescale slope, window or table is "
            "damaged. Export it again from the archive, or leave it out"
        )
    return pixels


def read_dicom_value(path: Path, keyword: str) -> str:
    """One header value of a DICOM file, by its DICOM keyword (e.g. ``PatientID``); pixels are not read.

    Raises:
        ValueError: the file is not DICOM, the keyword is unknown, or the value is absent or empty.
    """
    _need(_has_dicom_pixels, "pydicom 3 or later")
    if pydicom.datadict.tag_for_keyword(keyword) is None:
        raise ValueError(f"'{keyword}' is no DICOM keyword. Keywords are written as PatientID or StudyInstanceUID")
    if _format_of(path) != "dicom":
        raise ValueError(f"'{path}' is not a DICOM file, so it has no {keyword}. Name the patient by a CSV column")
    try:
        header = _open_dicom(path, stop_before_pixels=True)
        with (
            pydicom.config.disable_value_validation()
        ):  # it warns of an invalid value, and names it: a patient's, logged
            value = str(header.get(keyword, "") or "").strip()
    except _Unusable:
        raise
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise ValueError(
            f"the {keyword} of '{path}' cannot be read ({type(error).__name__}: {error}); the file is corrupt or "
            "truncated. Copy it once more, or leave it out"
        ) from error
    if not value:
        raise ValueError(f"'{path}' has no {keyword}, or an empty one. Name another tag, or list the patients in a CSV")
    return value


def _format_of(path: Path) -> str | None:
    name = path.name.lower()
    for kind, suffixes in (("picture", _PICTURES), ("dicom", _DICOMS), ("nifti", _NIFTIS)):
        if name.endswith(suffixes):
            return kind
    with path.open("rb") as stream:
        return "dicom" if stream.read(132)[128:] == b"DICM" else None


def _need(present: bool, package: str) -> None:
    if not present:
        raise OptionalImportError(f'{package} is needed to read this image: pip install "monai_plan[images]"')


class _Unusable(ValueError):
    """A refusal with a message of its own, as against what a decoder raises."""


def _refuse_huge(path: Path, count: float, limit: int, what: str) -> None:
    if count > limit:
        raise _Unusable(
            f"'{path}' claims {what}, more than the {limit // 1_000_000} million that are read here; it may be a "
            "decompression bomb or a damaged header, and was not decoded. Shrink it with a program you trust"
        )


def _one_slice(path: Path, depth: int, slice_rule: str | int | None, what: str) -> list[int]:
    """The indices to read of ``depth`` slices."""
    if depth == 1:
        return [0]
    if slice_rule is None:
        raise _Unusable(
            f"'{path}' holds {depth} {what} and slice_rule is None, which accepts single images only. Give "
            'slice_rule="middle", "max_projection" or an index'
        )
    if slice_rule == "max_projection":
        return list(range(depth))
    index = depth // 2 if slice_rule == "middle" else int(slice_rule)
    if not -depth <= index < depth:
        raise _Unusable(f"'{path}' holds {depth} {what}, and slice_rule={index} is outside 0 to {depth - 1}")
    return [index % depth]


def _detector_range(pixels: np.ndarray, bits: int) -> int:
    """The native top of unsigned integers: the smallest detector depth within ``bits`` that holds every value."""
    depth = next((d for d in _DETECTOR_BITS if d < bits and pixels.max() < 2**d), bits)
    return 2**depth - 1


def _scaled(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    if high == low:
        return np.zeros(pixels.shape, np.float32)
    exact = np.result_type(pixels.dtype, np.float32)  # float32 up to 16 bits, float64 above
    values = pixels.astype(exact)
    values -= low  # in place: an image may have a hundred million of them
    values /= high - low
    return np.clip(values, 0, 1, out=values).astype(np.float32, copy=False)


def _robust(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Scale by the 0.5th and 99.5th percentiles, for values whose unit and range are not written anywhere."""
    bad = int(np.count_nonzero(~np.isfinite(pixels)))
    if bad:
        raise _Unusable(
            f"'{path}' has {bad} values that are NaN or infinite of {pixels.size}; a processing step may have divided "
            "by zero. Replace them (e.g. numpy.nan_to_num) and save the image again"
        )
    low, high = np.percentile(pixels, (0.5, 99.5))
    if low == high:
        low, high = pixels.min(), pixels.max()
    return _scaled(pixels, float(low), float(high))


# PNG and JPEG


def _read_picture(path: Path, slice_rule: str | int | None) -> np.ndarray:
    _need(_has_pil, "pillow")
    try:
        picture = PILImage.open(path, formats=("PNG", "JPEG"))
    except PILImage.DecompressionBombError:
        _refuse_huge(path, math.inf, MAX_PIXELS, "more than 178 million pixels")
    with picture:
        width, height = picture.size
        _refuse_huge(path, width * height, MAX_PIXELS, f"{width} x {height} pixels")
        picture.load()
        picture = PILImageOps.exif_transpose(picture)
        if picture.mode.startswith("I"):
            pixels = np.asarray(picture).astype(np.int32)[..., None]
            return _scaled(pixels, 0, _detector_range(pixels, 16))
        if picture.mode == "1":
            picture = picture.convert("L")
        elif picture.mode == "LA" or "transparency" in picture.info:
            picture = picture.convert("RGBA")
        elif picture.mode not in ("L", "RGB", "RGBA"):
            picture = picture.convert("RGB")
        pixels = np.asarray(picture)
    return _scaled(pixels if pixels.ndim == 3 else pixels[..., None], 0, 255)


# DICOM


def _open_dicom(path: Path, stop_before_pixels: bool = False) -> Any:
    _refuse_huge(path, path.stat().st_size, MAX_FILE_BYTES, f"{path.stat().st_size} bytes")
    with path.open("rb") as stream:
        pydicom.filereader.read_preamble(stream, force=False)
        meta = pydicom.filereader.read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
        if meta.get("TransferSyntaxUID") == pydicom.uid.DeflatedExplicitVRLittleEndian:
            _refuse_huge(path, _unpacked(stream), MAX_UNPACKED_BYTES, "more bytes once unpacked")
    return pydicom.dcmread(path, stop_before_pixels=stop_before_pixels)


def _unpacked(stream: BinaryIO) -> int:
    """How many bytes the rest of a raw deflate stream unpacks to, counted to just above :data:`MAX_UNPACKED_BYTES`."""
    unpacker, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while count <= MAX_UNPACKED_BYTES and not unpacker.eof:
        packed = unpacker.unconsumed_tail or stream.read(_AT_ONCE)
        if not packed:
            break
        count += len(unpacker.decompress(packed, _AT_ONCE))
    return count


def _read_dicom(path: Path, slice_rule: str | int | None) -> np.ndarray:
    _need(_has_dicom_pixels, "pydicom 3 or later")
    header = _open_dicom(path)
    rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    frames = int(header.get("NumberOfFrames") or 1)
    if not rows or not columns:
        raise _Unusable(f"'{path}' is DICOM without an image ({header.get('SOPClassUID', 'no class')}). Leave it out")
    _refuse_huge(path, rows * columns, MAX_PIXELS, f"{columns} x {rows} pixels")
    image: np.ndarray | None = None
    for index in _one_slice(path, frames, slice_rule, "frames"):
        frame = _dicom_frame(path, header, index)
        image = frame if image is None else np.maximum(image, frame)
    assert image is not None
    return image


def _dicom_frame(path: Path, header: Any, index: int) -> np.ndarray:
    """One frame as a viewer shows it: modality rescale, then the VOI table or window, then polarity (PS3.3 C.11)."""
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax and not _decodable(syntax):
        raise _Unusable(
            f"'{path}' is compressed as {syntax.name} and no installed decoder reads that. Install one: pip install "
            "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or decompress the file (e.g. gdcmconv --raw)"
        )
    pixels = dicom_pixels.pixel_array(header, index=index)
    colours = header.PhotometricInterpretation
    if colours == "PALETTE COLOR":
        pixels = dicom_pixels.apply_color_lut(pixels, header)[..., :3]
        return _scaled(pixels, 0, np.iinfo(pixels.dtype).max)
    if not colours.startswith("MONOCHROME"):
        return _scaled(pixels if pixels.ndim == 3 else pixels[..., None], 0, 2**header.BitsStored - 1)
    if np.issubdtype(pixels.dtype, np.floating):
        return _robust(path, pixels)[..., None]
    try:
        image = _grey_values(header, pixels)
    except Exception as error:  # pydicom raises many kinds on strange entries
        raise _Unusable(
            f"'{path}' has a grey-value description (rescale, window or lookup table) that cannot be applied: {error}. "
            "Export it again from the archive, or convert it to 16-bit PNG"
        ) from error
    return (1 - image if colours == "MONOCHROME1" else image)[..., None]


def _decodable(syntax: Any) -> bool:
    try:
        return bool(dicom_pixels.get_decoder(syntax).is_available)
    except NotImplementedError:  # pydicom knows no decoder at all, e.g. for video
        return False


def _grey_values(header: Any, pixels: np.ndarray) -> np.ndarray:
    values = dicom_pixels.apply_modality_lut(pixels, header)
    tables = header.get("VOILUTSequence")
    if tables and tables[0].get("LUTData") is not None:
        table, first = _voi_table(header, tables[0])
        chosen = table[np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)]
        return _scaled(chosen, float(table.min()), float(table.max()))
    if header.get("WindowCenter") is not None and header.get("WindowWidth") is not None:
        with np.errstate(over="ignore"):  # the far ends of a sigmoid
            low, high = dicom_pixels.apply_windowing(np.array([-1e12, 1e12]), header)
            return _scaled(dicom_pixels.apply_windowing(values, header), low, high)
    if header.get("ModalityLUTSequence"):
        return _scaled(values, 0, 2 ** header.ModalityLUTSequence[0].LUTDescriptor[2] - 1)
    bits = header.BitsStored
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if header.PixelRepresentation == 0:
        ends = (0, _detector_range(pixels, bits))
    low, high = sorted(dicom_pixels.apply_modality_lut(np.array(ends), header))
    return _scaled(values, float(low), float(high))


def _voi_table(header: Any, item: Any) -> tuple[np.ndarray, int]:
    """The VOI table and the value that its first entry stands for (PS3.3 C.11.2.1.1)."""
    entries, first, _ = item.LUTDescriptor
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if header.file_meta.TransferSyntaxUID.is_little_endian else ">"
        data = np.frombuffer(data, f"{order}u2")
    return np.asarray(data, np.int64)[: entries or 2**16], int(first)


# NIfTI


def _check_gzip(path: Path) -> None:
    """Read to the end, where the checksum stands; nibabel stops before it.

    Raises:
        OSError: the checksum is that of other voxels.
    """
    count = 0
    with gzip.open(path) as stream:
        while block := stream.read(_AT_ONCE):
            count += len(block)
            _refuse_huge(path, count, MAX_VOLUME_BYTES, "more bytes once unpacked")


def _read_nifti(path: Path, slice_rule: str | int | None) -> np.ndarray:
    _need(_has_nibabel, "nibabel")
    scan = nibabel.load(path)
    shape = scan.shape
    claimed = f"{' x '.join(map(str, shape))} voxels of {scan.get_data_dtype()}"
    size = math.prod(shape) * scan.get_data_dtype().itemsize
    _refuse_huge(path, size, MAX_VOLUME_BYTES, f"{claimed}, {size} bytes")
    if size > path.stat().st_size * (_GZIP_RATIO if path.name.lower().endswith(".gz") else 1):
        raise ValueError(f"no file of this size holds {claimed}")  # before memory is taken for them
    if len(shape) < 2 or scan.get_data_dtype().kind not in "iuf":
        raise _Unusable(
            f"'{path}' has shape {shape} of type {scan.get_data_dtype()}; one image or one volume of plain numbers is "
            "needed. Save it as such, or as PNG"
        )
    if path.name.lower().endswith(".gz"):
        _check_gzip(path)
    voxels = scan.dataobj.get_unscaled()  # as few bytes as in the file
    voxels = voxels.reshape(shape[:2] + (shape[2] if len(shape) > 2 else 1, math.prod(shape[3:])))
    # canonical axes: index 0 grows to the patient's right, 1 to the front, 2 to the head
    voxels = nibabel.orientations.apply_orientation(voxels, nibabel.orientations.io_orientation(scan.affine))
    if 1 not in voxels.shape[:3]:
        if voxels.shape[3] > 1:
            raise _Unusable(
                f"'{path}' has shape {shape}, a series of volumes; one image or one volume is needed. Save one of them"
            )
        chosen = voxels[:, :, _one_slice(path, voxels.shape[2], slice_rule, "slices")]
        voxels = (chosen.min if scan.dataobj.slope < 0 else chosen.max)(axis=2, keepdims=True)
    flat = 2 if voxels.shape[2] == 1 else voxels.shape.index(1)
    plane = np.take(voxels, 0, axis=flat)
    _refuse_huge(path, plane.shape[0] * plane.shape[1], MAX_PIXELS, f"{plane.shape[0]} x {plane.shape[1]} pixels")
    plane = nibabel.volumeutils.apply_read_scaling(plane, scan.dataobj.slope, scan.dataobj.inter)
    # as a radiologist looks at it: the patient's right (or front) on the viewer's left, front (or head) on top
    return _robust(path, plane[::-1, ::-1].transpose(1, 0, 2))
