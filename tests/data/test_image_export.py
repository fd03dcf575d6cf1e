"""Three formats hold the same picture, say that it is synthetic, and nothing else."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from monai.transforms import LoadImaged
from monai.utils import OptionalImportError

from monai_plan.data import image_export
from monai_plan.data.image_export import SUFFIXES, encode_dicom, encode_nifti, encode_png, encoder_of
from monai_plan.transforms import LoadRadiograph

Image = pytest.importorskip("PIL.Image")
nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")

SIZE = 16


def picture(channels=1):
    """Every value of 8 bits once, so no two orientations are alike; the same for each channel, turned."""
    grey = torch.arange(256).view(SIZE, SIZE)
    turned = torch.stack([grey, grey.T, grey.flip(0)])
    return turned[:channels] / 127.5 - 1


def written(tmp_path, image_format, image, spacing=None, key="key", index=7, path=12):
    file = tmp_path / f"image{SUFFIXES[image_format]}"
    file.write_bytes(encoder_of(image_format, len(image), key, spacing)(image, index, path))
    return file


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_format", SUFFIXES)
def test_the_package_reads_what_it_wrote(tmp_path, image_format, channels):
    """8 bits exactly; of NIfTI the package cuts off half a percent of the values at either end."""
    image = picture(channels)
    read = LoadRadiograph(SIZE, channels)(written(tmp_path, image_format, image))
    torch.testing.assert_close(read, image, atol=0.02 if image_format == "nifti" else 1e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_monai_reads_all_formats_in_one_orientation(tmp_path, channels):
    image, load = picture(channels), LoadImaged("image", ensure_channel_first=True)
    expected = (image.permute(0, 2, 1) + 1) * 127.5  # MONAI's arrays are [C, W, H]
    for image_format in SUFFIXES:
        read = load({"image": str(written(tmp_path, image_format, image))})["image"]
        if image_format == "nifti":
            assert read.shape == ((1, SIZE, SIZE) if channels == 1 else (3, SIZE, SIZE, 1))
            read = (read.reshape(expected.shape) + 1) * 127.5
        if image_format == "dicom" and channels == 3:
            assert read.shape == (1, SIZE, SIZE, 3)
            read = read[0].permute(2, 0, 1)
        torch.testing.assert_close(torch.as_tensor(read).float(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("image_format", SUFFIXES)
def test_values_beyond_the_range_and_rounding(tmp_path, image_format):
    image = picture()
    image[0, 0, :3] = torch.tensor([-1.0, 0.0, 1.0])
    content = written(tmp_path, image_format, image).read_bytes()
    again = written(tmp_path, image_format, image).read_bytes()
    assert content == again  # no date, no random number
    if image_format == "png":
        assert np.asarray(Image.open(io.BytesIO(content)))[0, :3].tolist() == [0, 128, 255]


def test_png_holds_pixels_alone():
    data, at, chunks = encode_png(picture()), 8, set()
    while at < len(data):
        chunks.add(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    assert chunks == {b"IHDR", b"IDAT", b"IEND"}


@pytest.mark.parametrize(("spacing", "expected"), [(None, 1.0), (0.5, 0.5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_nifti_header(tmp_path, spacing, expected, channels):
    scan = nibabel.load(written(tmp_path, "nifti", picture(channels), spacing))
    assert scan.shape == ((SIZE, SIZE) if channels == 1 else (SIZE, SIZE, 1, 3))
    assert scan.get_data_dtype() == np.float32 and scan.header.get_xyzt_units()[0] == "mm"
    assert np.array_equal(scan.affine, np.diag([-expected, -expected, expected, 1]))
    assert nibabel.aff2axcodes(scan.affine)[:2] == ("L", "P")
    assert scan.header.get_zooms()[:2] == (expected, expected)
    assert bytes(scan.header["descrip"]).rstrip(b"\0") == b"Synthetic image, not of any patient"
    assert np.array_equal(scan.get_fdata().reshape(SIZE, SIZE, -1)[:, :, 0].T, picture()[0].double().numpy())
    assert encode_nifti(picture()) == encode_nifti(picture(), 1.0)


# DICOM

TYPE_1 = {  # of the modules that a Secondary Capture image has: present, with a value
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "ConversionType"),
    *("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelData", "PatientIdentityRemoved", "DeidentificationMethod"),
}
TYPE_2 = {  # present, maybe empty
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("ReferringPhysicianName", "AccessionNumber", "SeriesNumber", "InstanceNumber", "PatientOrientation"),
    "Manufacturer",
}
MARKS = {
    *("SpecificCharacterSet", "ImageType", "SyntheticData", "SoftwareVersions", "SeriesDescription"),
    *("DerivationDescription", "BurnedInAnnotation", "LossyImageCompression"),
}


@pytest.fixture
def strict(monkeypatch):
    """Values that break DICOM's rules are errors."""
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    monkeypatch.setattr(pydicom.config.settings, "_writing_validation_mode", pydicom.config.RAISE)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spacing", [None, 0.143, 1 / 3])
def test_dicom_is_complete_and_knows_nobody(tmp_path, strict, channels, spacing):
    header = pydicom.dcmread(written(tmp_path, "dicom", picture(channels), spacing))
    header.walk(lambda dataset, element: element.value)  # reads, and with it validates, every element
    extra = {"PlanarConfiguration"} if channels == 3 else set()
    extra |= set() if spacing is None else {"PixelSpacing"}
    assert {element.keyword for element in header} == TYPE_1 | TYPE_2 | MARKS | extra  # and nothing else
    assert all(header[name].value not in ("", None) for name in TYPE_1)
    assert header.SOPClassUID == header.file_meta.MediaStorageSOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID
    assert list(header.ImageType)[:2] == ["DERIVED", "SECONDARY"] and header.ConversionType == "SYN"
    assert (header.SyntheticData, header.BurnedInAnnotation, header.PatientIdentityRemoved) == ("YES", "NO", "YES")
    assert "Synthetic" in header.DerivationDescription and "Not for diagnosis" in header.DerivationDescription
    assert str(header.PatientName) == "SYNTHETIC^NOT A PATIENT" and header.PatientID == "SYNTHETIC-path-12"
    dated = [element.keyword for element in header if element.VR in ("DA", "TM", "DT", "AS") and element.value]
    assert not dated and header.InstanceNumber == 8
    assert header.PhotometricInterpretation == ("MONOCHROME2" if channels == 1 else "RGB")
    expected = ((picture(channels) + 1) * 127.5).round().byte().permute(1, 2, 0).squeeze(-1).numpy()
    assert np.array_equal(header.pixel_array, expected)
    if spacing is not None:
        assert header.PixelSpacing == pytest.approx([spacing, spacing])


def test_dicom_uids_follow_from_key_index_and_group():
    def uids(key="a", index=0, group="path-1"):
        header = pydicom.dcmread(io.BytesIO(encode_dicom(picture(), key, index, group)))
        names = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
        assert all(header[name].value.is_valid for name in names)
        return tuple(str(header[name].value) for name in names)

    image, series, study = uids()
    assert uids() == (image, series, study) and len({image, series, study}) == 3
    assert uids(index=1)[1:] == (series, study) and uids(index=1)[0] != image
    assert not {*uids(group="path-2")[1:]} & {series, study}
    assert not {*uids(key="b")} & {image, series, study}
    assert uids("k", 11, "path-1")[0] != uids("k1", 1, "path-1")[0]  # no running together


# refusals


@pytest.mark.parametrize(
    ("image_format", "channels", "spacing", "message"),
    [
        ("jpeg", 1, None, "png, nifti, dicom, got 'jpeg'"),
        ("png", 2, None, "makes 2 channels"),
        ("png", 1, 0.5, "PNG keeps no spacing, got 0.5"),
        ("nifti", 1, 0, "must be > 0"),
        ("dicom", 1, -1.0, "got -1.0"),
        ("dicom", 1, float("nan"), "got nan"),
        ("dicom", 1, "half", "got 'half'"),
    ],
)
def test_refuses(image_format, channels, spacing, message):
    with pytest.raises(ValueError, match=message):
        encoder_of(image_format, channels, "key", spacing)


def test_old_or_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(image_export, "has_pydicom", False)
    with pytest.raises(OptionalImportError, match=r'pydicom 3 or later.*"monai_plan\[images\]"'):
        encode_dicom(picture(), "key", 0, "path-0")


def test_nothing_of_the_machine_is_written(tmp_path):
    for image_format in SUFFIXES:
        content = written(tmp_path, image_format, picture(), key=json.dumps({"seed": 4711})).read_bytes()
        assert b"4711" not in content and str(tmp_path).encode() not in content
