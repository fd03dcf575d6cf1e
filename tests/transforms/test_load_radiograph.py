"""Every format becomes the same kind of image; every unusable file is refused by a message that names it."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_plan.transforms import LoadRadiograph, LoadRadiographD, LoadRadiographd, LoadRadiographDict

pydicom = pytest.importorskip("pydicom", minversion="3.0")
nibabel = pytest.importorskip("nibabel")
Image = pytest.importorskip("PIL.Image")

SIDE = 16
RAMP = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)  # 0..255, a different value in every pixel


def write_dicom(path: Path, pixels: np.ndarray, bits: int = 12, **fields) -> Path:
    """A small DICOM file; ``fields`` are DICOM keywords."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = fields.pop("syntax", pydicom.uid.ExplicitVRLittleEndian)
    data.file_meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.SOPClassUID, data.SOPInstanceUID = data.file_meta.MediaStorageSOPClassUID, "1.2.3"
    frames = pixels if pixels.ndim == 3 and not fields.get("SamplesPerPixel") else pixels[None]
    if len(frames) > 1:
        data.NumberOfFrames = len(frames)
    data.Rows, data.Columns = frames.shape[1:3]
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated = 8 if bits <= 8 else 16
    data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, 0
    raw = frames.astype(np.uint8 if bits <= 8 else np.uint16).tobytes()
    compressed = data.file_meta.TransferSyntaxUID.is_compressed
    data.PixelData = pydicom.encaps.encapsulate([raw]) if compressed else raw
    if compressed:
        data["PixelData"].VR = "OB"
    for name, value in fields.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def write_nifti(path: Path, voxels: np.ndarray, affine=(1, 1, 1)) -> Path:
    matrix = np.asarray(affine, float)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*matrix, 1]) if matrix.ndim == 1 else matrix), path)
    return path


def write_png(path: Path, pixels: np.ndarray, mode: str | None = None, **options) -> Path:
    Image.fromarray(pixels, mode).save(path, **options) if mode else Image.fromarray(pixels).save(path, **options)
    return path


def unit(path: Path, **options) -> np.ndarray:
    """The image of ``path`` back in [0, 1], one channel, at 16 pixels unless asked otherwise."""
    image = LoadRadiograph(**{"image_size": SIDE, **options})(path)
    assert image.dtype == torch.float32 and type(image) is torch.Tensor and image.is_contiguous()
    assert image.min() >= -1 and image.max() <= 1
    return ((image.numpy() + 1) / 2)[0]


# grey values of pictures


@pytest.mark.parametrize(
    ("pixels", "top"),
    [
        pytest.param(RAMP.astype(np.uint8), 255, id="8 bit"),
        pytest.param((RAMP * 257).astype(np.uint16), 65535, id="16 bit"),
        pytest.param((RAMP * 16).astype(np.uint16), 4095, id="12 bit in 16"),
        pytest.param((RAMP * 64).astype(np.uint16), 16383, id="14 bit in 16"),
    ],
)
def test_grey_png_is_scaled_by_its_native_range(tmp_path, pixels, top):
    found = unit(write_png(tmp_path / "a.png", pixels))
    np.testing.assert_allclose(found, pixels / top, atol=1e-6)


def test_colour_becomes_grey_by_luma_and_grey_becomes_three_equal_channels(tmp_path):
    colour = np.zeros((SIDE, SIDE, 3), np.uint8)
    colour[:8, :, 0], colour[8:, :, 2] = 255, 255  # red above, blue below
    path = write_png(tmp_path / "a.png", colour)
    grey = unit(path)
    np.testing.assert_allclose(grey[[0, -1], 0], [0.299, 0.114], atol=1e-6)
    both = LoadRadiograph(SIDE, channels=3)(path)
    assert both[:, 0, 0].tolist() == [1, -1, -1] and both[:, -1, 0].tolist() == [-1, -1, 1]
    three = LoadRadiograph(SIDE, channels=3)(write_png(tmp_path / "b.png", RAMP.astype(np.uint8)))
    assert three.shape == (3, SIDE, SIDE) and torch.equal(three[0], three[2])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "CMYK"])
def test_other_modes_are_read(tmp_path, mode):
    grey = Image.fromarray(np.where(RAMP % 16 < 8, 0, 255).astype(np.uint8))
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    grey.convert("RGB").convert(mode).save(path, **({"quality": 100} if mode == "CMYK" else {}))
    found = unit(path)
    np.testing.assert_allclose(found[:, [0, 15]], np.tile([0.0, 1.0], (SIDE, 1)), atol=0.02)


def test_alpha_is_laid_over_black(tmp_path):
    pixels = np.full((SIDE, SIDE, 4), 255, np.uint8)
    pixels[:, :8, 3] = 51  # white at 20 %
    np.testing.assert_allclose(unit(write_png(tmp_path / "a.png", pixels))[0, [0, 15]], [0.2, 1.0], atol=1e-6)


def test_exif_orientation_turns_the_picture(tmp_path):
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:8] = 255  # the sensor's top; orientation 6: turn by 90 degrees clockwise, so that it becomes the right
    exif = Image.Exif()
    exif[0x0112] = 6
    found = unit(write_png(tmp_path / "a.jpg", pixels, exif=exif, quality=95), image_size=32)
    assert found[16, -1] > 0.95 and found[16, 0] < 0.05 and found[0, 16] < 0.05


@pytest.mark.parametrize("shape", [(16, 32), (32, 16)])
def test_aspect_is_kept_with_black_or_stretched(tmp_path, shape):
    pixels = np.full(shape, 200, np.uint8)
    pixels[8, 8] = 201
    path = write_png(tmp_path / "a.png", pixels)
    kept = unit(path, image_size=32)
    inner = kept[8:24] if shape[0] == 16 else kept[:, 8:24]
    assert inner.min() > 0.78
    assert kept.sum() == pytest.approx(inner.sum())
    assert unit(path, image_size=32, keep_aspect=False).min() > 0.78


def test_shrinking_is_antialiased(tmp_path):
    stripes = np.tile([255, 0, 0, 255], (64, 16)).astype(np.uint8)  # each quarter-size pixel covers half black, half
    # white; plain bilinear sampling would look at its two black middles only
    stripes[:, :16] = 0
    found = unit(write_png(tmp_path / "a.png", stripes))
    np.testing.assert_allclose(found[:, 6:14], 0.5, atol=0.05)


# the field of view


def fundus(height: int, width: int, radius: int, brightness: int = 160, border: int = 0) -> np.ndarray:
    """A reddish disc of faint texture in the middle, cut by the frame where it is larger; noise in the border."""
    y, x = np.mgrid[:height, :width]
    disc = (y - height / 2 + 0.5) ** 2 + (x - width / 2 + 0.5) ** 2 <= radius**2
    texture = brightness - (3 * x + 5 * y) % 16 * brightness // 160
    noise = np.random.default_rng(0).integers(0, 8, (height, width))
    red = np.where(disc, texture, noise) + border * ~disc
    return np.stack([red, red // 2, red // 4], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_field_is_cropped_to_and_then_padded(tmp_path, suffix, channels):
    pixels = fundus(192, 288, 112)  # a field of 224 x 192 pixels, cut above and below, as IDRiD's of 3700 x 2848
    pixels[4, 4] = 60  # dust in the corner
    path = write_png(tmp_path / f"a{suffix}", pixels, **({"quality": 95} if suffix == ".jpg" else {}))
    field = np.pad(pixels[:, 32:256], [(16, 16), (0, 0), (0, 0)])
    cropped = LoadRadiograph(224, channels, crop_to_field=True)(path)
    by_hand = LoadRadiograph(224, channels)(write_png(tmp_path / "b.png", field))
    # colour bleeds over the edge in JPEG, so that the box may be a pixel larger
    assert (cropped - by_hand).abs().mean() < (1e-6 if suffix == ".png" else 0.03)
    item = LoadRadiographd("image", 224, channels, crop_to_field=True)({"image": path})
    assert torch.equal(item["image"], cropped)
    assert (LoadRadiograph(224, channels)(path) - cropped).abs().mean() > 0.1


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.pad(fundus(96, 112, 56), [(8, 8), (0, 0), (0, 0)]), id="cropped and padded before"),
        pytest.param(np.pad(fundus(95, 112, 56), [(9, 8), (0, 0), (0, 0)]), id="padded by one pixel more above"),
        pytest.param(fundus(96, 144, 90), id="no border"),
        pytest.param(fundus(96, 96, 48, brightness=24, border=1), id="too dark"),
        pytest.param(
            np.where(RAMP[..., None] == 99, 255, fundus(16, 16, 9, 12)).astype(np.uint8), id="one bright spot"
        ),
        pytest.param(np.maximum(fundus(96, 144, 64, 14), fundus(96, 144, 12)), id="dark but for the optic disc"),
    ],
)
def test_where_there_is_no_border_to_cut_off_pixels_stay(tmp_path, pixels):
    path = write_png(tmp_path / "a.png", pixels)
    assert torch.equal(LoadRadiograph(64, 3, crop_to_field=True)(path), LoadRadiograph(64, 3)(path))


# DICOM


def test_dicom_without_window_uses_the_stored_bits(tmp_path):
    np.testing.assert_allclose(unit(write_dicom(tmp_path / "a.dcm", RAMP * 16)), RAMP * 16 / 4095, atol=1e-6)


def test_monochrome1_is_inverted(tmp_path):
    found = unit(write_dicom(tmp_path / "a.dcm", RAMP * 16, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_allclose(found, 1 - RAMP * 16 / 4095, atol=1e-6)


def test_12_bit_window(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP * 16, WindowCenter=2048, WindowWidth=1024)
    # PS3.3 C.11.2.1.2.1: y = (x - (c - 0.5)) / (w - 1) + 0.5, so dark up to 1536 and bright from 2559 on
    np.testing.assert_allclose(unit(path), np.clip((RAMP * 16 - 2047.5) / 1023 + 0.5, 0, 1), atol=1e-6)


@pytest.mark.parametrize("slope", [2, -2])
def test_rescale_comes_before_the_window(tmp_path, slope):
    path = write_dicom(
        tmp_path / "a.dcm", RAMP, RescaleSlope=slope, RescaleIntercept=10, WindowCenter=10, WindowWidth=101
    )
    expected = np.clip((RAMP * slope + 10 - 9.5) / 100 + 0.5, 0, 1)
    np.testing.assert_allclose(unit(path), expected, atol=1e-6)


def test_voi_table_is_looked_up(tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor = [256, 0, 8]
    table.LUTData = list(range(255, -1, -1))
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    path = write_dicom(tmp_path / "a.dcm", RAMP * 4, VOILUTSequence=[table], WindowCenter=1, WindowWidth=2)
    np.testing.assert_allclose(unit(path), 1 - np.minimum(RAMP * 4, 255) / 255, atol=1e-6)


def test_signed_and_colour_and_unnamed_dicom(tmp_path):
    signed = write_dicom(tmp_path / "a.dcm", (RAMP * 16 - 2048).astype(np.int16).view(np.uint16), PixelRepresentation=1)
    np.testing.assert_allclose(unit(signed), RAMP * 16 / 4095, atol=1e-6)
    colour = np.repeat(RAMP[..., None], 3, -1)
    path = write_dicom(
        tmp_path / "1.2.840.99", colour, 8, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0
    )
    np.testing.assert_allclose(unit(path), RAMP / 255, atol=1e-6)


@pytest.mark.parametrize(("rule", "value"), [("middle", 2048), (0, 1024), (2, 3072), (-1, 3072)])
def test_slice_rule_chooses_a_frame(tmp_path, rule, value):
    frames = np.zeros((3, SIDE, SIDE), int)
    frames[:, 4, 4] = [1024, 2048, 3072]
    path = write_dicom(tmp_path / "a.dcm", frames)
    assert unit(path, slice_rule=rule)[4, 4] == pytest.approx(value / 4095)
    assert unit(path, slice_rule="max_projection")[4, 4] == pytest.approx(3072 / 4095)


# NIfTI: voxels are made so that the patient's left, front and head are known by hand


def upright_plane(axes: tuple[int, int]) -> np.ndarray:
    """[20, 18] along canonical axes (right, front) or so: bright where both axes are large."""
    plane = np.zeros((20, 18), np.float32)
    plane[15:, 12:] = 1  # right (or front), and front (or head)
    return plane if axes == (0, 1) else plane.T


@pytest.mark.parametrize(
    ("flip", "affine"),
    [
        pytest.param((1, 1), (1, 1, 1), id="RAS"),
        pytest.param((-1, -1), (-1, -1, 1), id="LPS, as ITK writes pictures"),
        pytest.param((-1, 1), (-1, 1, 1), id="LAS"),
    ],
)
@pytest.mark.parametrize("depth", [None, 1, 3])
def test_axial_nifti_shows_the_right_side_left_and_the_front_on_top(tmp_path, flip, affine, depth):
    plane = upright_plane((0, 1))[:: flip[0], :: flip[1]]
    voxels = plane if depth is None else np.stack([plane] * depth, axis=-1)
    found = unit(write_nifti(tmp_path / "a.nii.gz", np.ascontiguousarray(voxels), affine), image_size=20)
    assert found[2, 1] == 1  # top left corner: front and right (one row of padding above)
    assert found[2, 18] == 0 and found[17, 1] == 0 and found[17, 18] == 0


def test_frontal_nifti_has_the_head_on_top(tmp_path):
    # array axes: (feet to head, right to left), lying in the frontal plane
    plane = upright_plane((0, 1)).T[:, ::-1]  # axis 0: 18 towards the head; axis 1: 20 towards the left
    affine = np.array([[0, -1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float)
    path = write_nifti(tmp_path / "a.nii", np.ascontiguousarray(plane)[..., None], affine)
    found = unit(path, image_size=20)
    assert found[2, 1] == 1 and found[2, 18] == 0 and found[17, 1] == 0


@pytest.mark.parametrize(("rule", "bright"), [("middle", 2), (0, 0), (3, 3)])
def test_nifti_slices_count_from_the_feet(tmp_path, rule, bright):
    voxels = np.zeros((SIDE, SIDE, 4), np.float32)
    for k in range(4):
        voxels[4 * k : 4 * k + 4, :, k] = 100  # the bright band moves to the right with height
    path = write_nifti(tmp_path / "a.nii", np.ascontiguousarray(voxels[..., ::-1]), (1, 1, -1))  # stored head first
    found = unit(path, slice_rule=rule)
    assert found[0].argmax() == SIDE - 4 * (bright + 1)
    assert found.mean() == pytest.approx(0.25)


def test_float_images_are_scaled_by_percentiles(tmp_path):
    voxels = np.linspace(-5, 5, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    voxels[0, 0] = 1e6  # one hot pixel
    found = unit(write_nifti(tmp_path / "a.nii", voxels))
    assert np.median(found) == pytest.approx(0.5, abs=0.02)


# refusals


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb_png(path: Path, width: int, height: int) -> Path:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    return path


def cut(path: Path, keep: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
PLANE = NOISE.astype(np.float32)
BAD = {  # a maker of the file, and what the message must say beside its name
    "missing": (lambda d: d / "a.png", "no file"),
    "a folder": (lambda d: d, "no file"),
    "empty": (lambda d: written(d / "a.png", b""), "0 bytes"),
    "unknown suffix": (lambda d: written(d / "a.bmp", b"BM" + bytes(200)), "suffix '.bmp' is unknown"),
    "text named png": (lambda d: written(d / "a.png", b"not a picture"), "cannot be decoded"),
    "gif named png": (lambda d: write_png(d / "a.png", NOISE, format="GIF"), "cannot be decoded"),
    "truncated png": (lambda d: cut(write_png(d / "a.png", NOISE), 0.5), "truncated"),
    "truncated jpeg": (lambda d: cut(write_png(d / "a.jpg", NOISE), 0.5), "truncated"),
    "truncated dicom": (lambda d: cut(write_dicom(d / "a.dcm", RAMP), 0.7), "truncated"),
    "not dicom": (lambda d: written(d / "a.dcm", b"x" * 300), "cannot be decoded"),
    "truncated nifti": (lambda d: cut(write_nifti(d / "a.nii", PLANE), 0.5), "truncated"),
    "truncated gz": (lambda d: cut(write_nifti(d / "a.nii.gz", PLANE), 0.5), "truncated"),
    "not nifti": (lambda d: written(d / "a.nii", b"x" * 400), "cannot be decoded"),
    "nan": (lambda d: write_nifti(d / "a.nii", np.where(PLANE > 250, np.nan, PLANE)), "NaN or infinite"),
    "inf": (lambda d: write_nifti(d / "a.nii", np.where(PLANE > 250, np.inf, PLANE)), "NaN or infinite"),
    "constant png": (lambda d: write_png(d / "a.png", np.full((32, 32), 7, np.uint8)), "constant"),
    "constant nifti": (lambda d: write_nifti(d / "a.nii", np.ones((32, 32), np.float32)), "constant"),
    "outside the window": (
        lambda d: write_dicom(d / "a.dcm", RAMP, WindowCenter=3000, WindowWidth=10),
        "constant",
    ),
    "7 channels": (lambda d: write_nifti(d / "a.nii", np.stack([PLANE] * 7, -1)[:, :, None]), "7 channels"),
    "time series": (lambda d: write_nifti(d / "a.nii", np.zeros((16, 16, 4, 5), np.float32)), "series of volumes"),
    "complex": (lambda d: write_nifti(d / "a.nii", PLANE.astype(np.complex64)), "complex64"),
    "small": (lambda d: write_png(d / "a.png", NOISE[:15]), "64 x 15 pixels"),
    "bomb png": (lambda d: bomb_png(d / "a.png", 10_001, 10_000), "10001 x 10000 pixels"),
    "great bomb png": (lambda d: bomb_png(d / "a.png", 60_000, 60_000), "decompression bomb"),
    "bomb dicom": (lambda d: write_dicom(d / "a.dcm", RAMP, Rows=20_000, Columns=20_000), "20000 x 20000 pixels"),
    "no image": (lambda d: write_dicom(d / "a.dcm", RAMP, Rows=0), "without an image"),
    "compressed": (
        lambda d: write_dicom(d / "a.dcm", RAMP, syntax=pydicom.uid.MPEG2MPML),
        "pip install",
    ),
    "bad window": (lambda d: write_dicom(d / "a.dcm", RAMP, WindowCenter=100, WindowWidth=0), "grey-value description"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", BAD)
def test_unusable_files_are_refused_by_name_and_reason(tmp_path, name):
    make, reason = BAD[name]
    path = make(tmp_path)
    with pytest.raises(ValueError) as caught:
        LoadRadiograph(32)(path)
    assert str(path) in str(caught.value) and reason in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "reason"), [(None, "slice_rule is None"), (9, "slice_rule=9 is outside 0 to 2"), (-4, "outside")]
)
def test_volumes_are_refused_unless_the_rule_fits(tmp_path, rule, reason):
    volume = write_nifti(tmp_path / "a.nii", np.stack([PLANE] * 3, -1))
    frames = write_dicom(tmp_path / "a.dcm", np.stack([RAMP] * 3))
    for path in (volume, frames):
        with pytest.raises(ValueError, match=reason) as caught:
            LoadRadiograph(32, slice_rule=rule)(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": 8, "channels": 2}, "channels is 2"),
        ({"image_size": 8, "slice_rule": "centre"}, "centre"),
    ],
)
def test_bad_arguments(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        LoadRadiograph(**arguments)


def test_missing_package_is_named_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("monai_plan.transforms.radiograph_files._has_nibabel", False)
    with pytest.raises(ImportError, match=r'nibabel .*pip install "monai_plan\[images\]"'):
        LoadRadiograph(16)(write_nifti(tmp_path / "a.nii", PLANE))


# the dictionary form


def test_dictionary_form_replaces_paths_and_keeps_the_rest(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, PatientName="PLANTED^MARKER", PatientID="PLANTED")
    item = {"image": str(path), "label": 1, "patient_id": "p1"}
    found = LoadRadiographd("image", image_size=SIDE)(item)
    assert item["image"] == str(path)
    assert torch.equal(found.pop("image"), LoadRadiograph(SIDE)(path))
    assert found == {"label": 1, "patient_id": "p1"}


def test_dictionary_form_has_monai_aliases_and_missing_keys():
    assert LoadRadiographD is LoadRadiographd is LoadRadiographDict
    assert LoadRadiographd("image", SIDE, allow_missing_keys=True)({"label": 0}) == {"label": 0}
    with pytest.raises(KeyError):
        LoadRadiographd("image", SIDE)({"label": 0})
