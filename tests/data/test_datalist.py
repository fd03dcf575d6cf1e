"""Real images in: what a datalist holds, that it never divides a patient, and that faults leave nothing behind."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from monai.data import load_decathlon_datalist

from monai_plan.data import build_datalist, load_datalist, read_splits

Image = pytest.importorskip("PIL.Image")
pydicom = pytest.importorskip("pydicom", minversion="3.0")

SPLITS = ("training", "validation", "testing")
REAL = Path(os.environ.get("MONAI_PLAN_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")).resolve()


def write_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16)).astype(np.uint8)
    if path.suffix == ".dcm":
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
        data.PatientID, data.PatientName = f"MARKER-ID-{seed // 2}", f"MARKER^NAME{seed}"
        data.PatientBirthDate, data.AccessionNumber, data.InstitutionName = "19010203", "MARKER-ACC", "MARKER-INST"
        data.ImageComments, data.StudyInstanceUID = "MARKER-COMMENT", "1.2.3.19010203"
        data.Rows, data.Columns, data.SamplesPerPixel = 16, 16, 1
        data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 0
        data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
        data.PixelData = pixels.tobytes()
        data.save_as(path, enforce_file_format=True)
    else:
        Image.fromarray(pixels).save(path)


def make_table(
    root: Path, header: str = "file,label,patient_id,group_id,age", rows: list[str] | None = None, name="metadata.csv"
) -> Path:
    """A data folder with ``images/0.png`` … ``19.png``, two images a patient, ten a class."""
    for number in range(20):
        write_image(root / "images" / f"{number}.png", number)
    if rows is None:
        rows = [f"images/{n}.png,{n // 10},p{n // 2},,{20 + n}" for n in range(20)]
    (root / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return root


def records(content: dict) -> list[dict]:
    return [record for split in SPLITS for record in content[split]]


# what is written


def test_content_of_a_table(tmp_path):
    root = make_table(tmp_path / "data")
    content = build_datalist(root, root / "datalist.json", keep_columns=["age"], seed=3)
    assert json.loads((root / "datalist.json").read_text()) == content
    assert list(content) == ["description", "labels", "num_classes", "seed", "fractions", *SPLITS]
    assert (content["labels"], content["num_classes"], content["seed"]) == ({"0": "0", "1": "1"}, 2, 3)
    assert content["fractions"] == [0.7, 0.1, 0.2]
    found = {record["image"]: record for record in records(content)}
    assert len(found) == 20
    assert found["images/13.png"] == {
        "image": "images/13.png",
        "label": 1,
        "patient_id": "p6",
        "group_id": "p6",
        "age": "33",
    }
    assert {len({r["label"] for r in content[split]}) for split in SPLITS} == {2}


def test_monai_reads_it_from_any_directory(tmp_path, monkeypatch):
    root = make_table(tmp_path / "data")
    build_datalist(root, root)
    monkeypatch.chdir("/")
    items = load_decathlon_datalist(str(root / "datalist.json"), False, "testing")
    assert items and all(Path(item["image"]).is_file() for item in items)


def test_json_above_the_data_moves_with_it(tmp_path):
    root = make_table(tmp_path / "a" / "data")
    content = build_datalist(root, tmp_path / "a" / "list.json")
    assert content["dataset_dir"] == "data"
    (tmp_path / "a").rename(tmp_path / "b")
    loaded = load_datalist(tmp_path / "b" / "list.json")
    assert loaded["training"][0]["image"].startswith(str(tmp_path / "b" / "data" / "images"))


def test_json_elsewhere_names_the_data_folder_and_can_be_moved(tmp_path):
    root = make_table(tmp_path / "data")
    content = build_datalist(root, tmp_path / "lists" / "a.json")
    assert content["dataset_dir"] == str(root)
    assert all(Path(r["image"]).is_file() for r in records(load_datalist(tmp_path / "lists" / "a.json")))
    root.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="20 images that do not exist"):
        load_datalist(tmp_path / "lists" / "a.json")
    loaded = load_datalist(tmp_path / "lists" / "a.json", tmp_path / "moved")
    assert all(Path(r["image"]).is_file() for r in records(loaded))


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        pytest.param(["0", "1"], ["0", "1"], id="numbers"),
        pytest.param(["1.0", "0.0"], ["0", "1"], id="numbers of a table with gaps"),
        pytest.param(["10", "2"], ["2", "10"], id="numbers with gaps, by value"),
        pytest.param(["tuberculosis", "normal"], ["normal", "tuberculosis"], id="names by alphabet"),
    ],
)
def test_labels_become_numbers(tmp_path, texts, names):
    root = make_table(tmp_path, "file,label,patient_id", [f"images/{n}.png,{texts[n // 10]},{n}" for n in range(20)])
    content = build_datalist(root, root)
    assert content["labels"] == dict(zip("01", names, strict=True))
    for record in records(content):
        text = texts[int(record["patient_id"]) // 10].removesuffix(".0")
        assert names[record["label"]] == text


@pytest.mark.parametrize(
    ("classes", "names", "warned"),
    [
        ([], ["mild", "none", "severe"], True),
        (["none", "mild", "severe"], ["none", "mild", "severe"], False),
        (["none", "mild"], ["--classes names none, mild, and the labels are mild, none, severe"], False),
        (["none", "mild", "mild", "severe"], ["Name every label once"], False),
    ],
)
def test_named_grades_have_the_order_that_is_given(tmp_path, caplog, classes, names, warned):
    grades = ["none", "mild", "severe"]
    root = make_table(tmp_path, "file,label,patient_id", [f"images/{n}.png,{grades[n % 3]},{n}" for n in range(20)])
    if len(names) == 1:
        with pytest.raises(ValueError, match=names[0]):
            build_datalist(root, root, classes=classes)
        return
    content = build_datalist(root, root, classes=classes)
    assert list(content["labels"].values()) == names
    assert all(names[r["label"]] == grades[int(r["patient_id"]) % 3] for r in records(content))
    assert ("numbered by alphabet" in caplog.text) == warned


@pytest.mark.parametrize(
    ("header", "options"),
    [
        ("Filename,Finding,Subject", {}),
        ("path;class;patient", {}),
        ("x,y,z", {"image_column": "x", "label_column": "y", "patient_column": "z"}),
        ("\ufefffile,label,z", {"group_column": "z"}),
    ],
)
def test_columns_are_found_or_named(tmp_path, header, options):
    rows = [f"images/{n}.png,{n // 10},p{n // 2}".replace(",", ";" if ";" in header else ",") for n in range(20)]
    root = make_table(tmp_path, header, rows, "any.csv")
    content = build_datalist(root / "any.csv", root, **options)
    assert Counter(record["group_id"] for record in records(content)) == {f"p{n}": 2 for n in range(10)}


def test_group_wins_over_patient_and_no_patient_is_divided(tmp_path):
    rows = [f"images/{n}.png,{n // 10},p{n // 2},{'g' if n in (0, 2) else ''},1" for n in range(20)]
    content = build_datalist(make_table(tmp_path, rows=rows), tmp_path)
    home = {record["image"]: split for split in SPLITS for record in content[split]}
    assert len({home[f"images/{n}.png"] for n in range(4)}) == 1  # patients p0 and p1 share the group g
    groups = {record["image"]: record["group_id"] for record in records(content)}
    assert (groups["images/0.png"], groups["images/1.png"], groups["images/4.png"]) == ("g", "p0", "p2")


def test_images_without_a_patient_are_said_to_stand_alone(tmp_path, caplog):
    root = make_table(tmp_path, "file,label", [f"images/{n}.png,{n // 10}" for n in range(20)])
    content = build_datalist(root, root)
    assert all(r["group_id"] == r["image"] and r["patient_id"] == "" for r in records(content))
    assert "20 of 20 images name neither a group nor a patient" in caplog.text and "--patient_column" in caplog.text


def test_order_of_rows_does_not_matter(tmp_path):
    first = build_datalist(make_table(tmp_path), tmp_path)
    lines = (tmp_path / "metadata.csv").read_text().splitlines()
    (tmp_path / "metadata.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    assert build_datalist(tmp_path, tmp_path) == first


# folders and DICOM


def make_class_folders(root: Path, suffix: str) -> Path:
    for number in range(20):
        write_image(root / ("ill" if number >= 10 else "well") / f"{number}{suffix}", number)
    return root


def test_subfolders_are_classes(tmp_path, caplog):
    root = make_class_folders(tmp_path, ".png")
    (root / "well" / "notes.txt").write_text("x")
    content = build_datalist(root, root)
    assert content["labels"] == {"0": "ill", "1": "well"} and len(records(content)) == 20
    assert all(r["image"].startswith(content["labels"][str(r["label"])] + "/") for r in records(content))
    assert "1 files below" in caplog.text


@pytest.mark.parametrize("tag", [None, "PatientID"])
def test_nothing_of_a_dicom_header_is_written_but_what_is_named(tmp_path, tag):
    root = make_class_folders(tmp_path / "data", ".dcm")
    content = build_datalist(root, root, patient_tag=tag)
    text = (root / "datalist.json").read_text()
    for marker in ("MARKER^NAME", "MARKER-ACC", "MARKER-INST", "MARKER-COMMENT", "19010203"):
        assert marker not in text
    assert ("MARKER" in text) == bool(tag)
    if tag:
        assert Counter(r["patient_id"] for r in records(content)) == {f"MARKER-ID-{n}": 2 for n in range(10)}
        load_datalist(root)


# faults


def table(header: str = "file,label,patient_id", rows: list[str] | None = None, **edits: str):
    """A maker of a table whose row ``line<n>`` is replaced."""

    def make(root: Path) -> Path:
        lines = rows or [f"images/{n}.png,{n // 10},p{n // 2}" for n in range(20)]
        for name, text in edits.items():
            lines = [text if f"line{n}" == name else line for n, line in enumerate(lines)]
        return make_table(root, header, lines)

    return make


def broken_images(root: Path) -> Path:
    make_table(root)
    (root / "images" / "3.png").write_bytes(b"no picture")
    (root / "images" / "7.png").unlink()
    Image.new("L", (32, 32), 5).save(root / "images" / "11.png")
    return root


def linked_outside(root: Path) -> Path:
    make_table(root)
    write_image(root.parent / "secret.png")
    (root / "images" / "3.png").unlink()
    (root / "images" / "3.png").symlink_to(root.parent / "secret.png")
    return root


def folder_linked_outside(root: Path) -> Path:
    make_class_folders(root, ".png")
    (root.parent / "elsewhere").mkdir()
    (root / "well" / "more").symlink_to(root.parent / "elsewhere")
    return root


def split_folders(root: Path) -> Path:
    for name in ("train", "test"):
        write_image(root / name / "normal" / "a.png")
    return root


def empty_folder(root: Path) -> Path:
    root.mkdir()
    return root


def binary_table(root: Path) -> Path:
    make_table(root)
    (root / "metadata.csv").write_bytes(b"file,label\n\xff\xfe,1\n")
    return root


BAD = {  # a maker of the source, options, and what the message must say
    "no source": (lambda root: root, {}, ["no file or folder", "data"]),
    "empty folder": (empty_folder, {}, ["no subfolder with images", "metadata.csv", "'train.csv' with 'train_images'"]),
    "split folders": (split_folders, {}, ["test, train", "splits and not classes"]),
    "no label column": (table("file,kind,patient_id"), {}, ["file, kind, patient_id", "--label_column"]),
    "no image column": (table("slide,label,patient_id"), {}, ["--image_column"]),
    "unknown column": (table(), {"label_column": "grade"}, ["no column 'grade'", "file, label, patient_id"]),
    "unknown kept column": (table(), {"keep_columns": ["age"]}, ["no column 'age'"]),
    "kept column clashes": (table(), {"keep_columns": ["label"]}, ["label cannot be kept"]),
    "column of a folder": (lambda r: make_class_folders(r, ".png"), {"label_column": "y"}, ["'y' was named"]),
    "column twice": (table("file,label,label"), {}, ["names a column twice"]),
    "short row": (table(line4="images/4.png,0"), {}, ["line 6", "3 values are needed"]),
    "long row": (table(line4="images/4.png,0,p2,x"), {}, ["line 6", "3 values are needed"]),
    "empty label": (table(line4="images/4.png,,p2"), {}, ["line 6", "the label is empty"]),
    "empty image": (table(line4=",0,p2"), {}, ["line 6", "the image is empty"]),
    "image twice": (table(line4="images/./3.png,0,p2"), {}, ["line 6", "same file as in line 5"]),
    "absolute path": (table(line4="/etc/passwd,0,p2"), {}, ["line 6", "'/etc/passwd' is absolute"]),
    "parent path": (table(line4="images/../../x.png,0,p2"), {}, ["line 6", "contains '..'"]),
    "link outside": (linked_outside, {}, ["images/3.png", "outside the data folder"]),
    "folder link outside": (folder_linked_outside, {}, ["well/more", "outside the data folder"]),
    "not a table": (binary_table, {}, ["UTF-8"]),
    "no rows": (lambda r: make_table(r, rows=[]), {}, ["lists no images"]),
    "one class": (table(rows=[f"images/{n}.png,1,p{n}" for n in range(20)]), {}, ["every image", "has the label '1'"]),
    "rare class": (table(line4="images/4.png,9,p2"), {}, ["class '9' has 1 images of only 1 patients"]),
    "bad images": (broken_images, {}, ["3 images cannot be used", "3.png", "7.png", "11.png", "constant", "no file"]),
    "bad fractions": (table(), {"fractions": (0.7, 0.7, 0.7)}, ["0.7, 0.7, 0.7", "--fractions 0.7 0.1 0.2"]),
    "two patients": (table(), {"patient_column": "patient_id", "patient_tag": "PatientID"}, ["Give one of them"]),
    "tag of a png": (table(), {"patient_tag": "PatientID"}, ["not a DICOM file"]),
    "unknown tag": (lambda r: make_class_folders(r, ".dcm"), {"patient_tag": "Patient"}, ["no DICOM keyword"]),
    "empty tag": (lambda r: make_class_folders(r, ".dcm"), {"patient_tag": "StudyID"}, ["has no StudyID"]),
}


@pytest.mark.parametrize("name", BAD)
def test_faulty_sources_are_refused_and_leave_nothing(tmp_path, name):
    make, options, essentials = BAD[name]
    source = make(tmp_path / "data")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError) as caught:
        build_datalist(source, tmp_path / "out", **options)
    for essential in essentials:
        assert essential in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_a_failed_run_leaves_the_earlier_datalist(tmp_path):
    root = make_table(tmp_path)
    build_datalist(root, root)
    before = (root / "datalist.json").read_bytes()
    (root / "images" / "3.png").write_bytes(b"")
    with pytest.raises(ValueError, match="0 bytes"):
        build_datalist(root, root)
    assert (root / "datalist.json").read_bytes() == before
    assert not [path for path in root.iterdir() if "part" in path.name]
    build_datalist(root, root, check_images=False)


def test_at_most_ten_faults_are_reported(tmp_path):
    root = make_table(tmp_path)
    for number in range(15):
        (root / "images" / f"{number}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="10 images cannot be used, and reading stopped there") as caught:
        build_datalist(root, root)
    assert str(caught.value).count("0 bytes") == 10


def test_output_must_be_json(tmp_path):
    root = make_table(tmp_path)
    before = (root / "metadata.csv").read_text()
    with pytest.raises(ValueError, match=r"must end in \.json"):
        build_datalist(root, root / "metadata.csv")
    assert (root / "metadata.csv").read_text() == before


# reading


def change(**entries):
    """An edit of the content's top level."""
    return lambda content: content.update(entries)


def change_record(**entries):
    """An edit of the first test record."""
    return lambda content: content["testing"][0].update(entries)


def leak(key: str):
    return lambda content: content["testing"][0].update({key: content["training"][0][key]})


EDITS = {
    "no split": (lambda content: content.pop("testing"), "non-empty lists"),
    "empty split": (change(validation=[]), "non-empty lists"),
    "folder is a number": (change(dataset_dir=3), "has dataset_dir 3"),
    "labels absent": (change(labels=None), "has labels None"),
    "one class": (change(labels={"0": "a"}, num_classes=1), "two or more"),
    "labels misnumbered": (change(labels={"0": "a", "2": "b"}), "two or more"),
    "count differs": (change(num_classes=3), "num_classes 3 and 2 labels"),
    "patient in two splits": (leak("patient_id"), "is in training and in testing"),
    "group in two splits": (leak("group_id"), "is in training and in testing"),
    "image in two splits": (leak("image"), "is in training and in testing"),
    "label too great": (change_record(label=2), "testing[0] has label 2, outside 0 to 1"),
    "label is text": (change_record(label="1"), "testing[0] needs"),
    "label is a boolean": (change_record(label=True), "testing[0] has label True"),
    "group is a number": (change_record(group_id=3), "testing[0] needs"),
    "record is text": (change(testing=["a.png"]), "testing[0] needs"),
    "parent path": (change_record(image="../x.png"), "contains '..'"),
    "absolute path": (change_record(image="/etc/passwd"), "is absolute"),
    "missing file": (change_record(image="images/none.png"), "images/none.png"),
    "class absent": (lambda c: c.update(testing=[r for r in c["testing"] if r["label"]]), "no image of class '0'"),
}


@pytest.mark.parametrize("name", EDITS)
def test_faulty_datalists_are_refused(tmp_path, name):
    edit, essential = EDITS[name]
    content = build_datalist(make_table(tmp_path), tmp_path)
    edit(content)
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(ValueError) as caught:
        load_datalist(tmp_path)
    assert essential in str(caught.value)


@pytest.mark.parametrize(
    ("text", "essential"), [("[1, 2", "is not JSON"), ("[]", "non-empty lists"), (None, "no datalist")]
)
def test_unreadable_datalists_are_refused(tmp_path, text, essential):
    if text is not None:
        (tmp_path / "datalist.json").write_text(text)
    with pytest.raises(ValueError, match=essential) as caught:
        load_datalist(tmp_path)
    assert "python -m monai_plan datalist" in str(caught.value)


def test_read_splits_chooses_phantoms_or_real_images(tmp_path):
    root = make_table(tmp_path / "data")
    for empty in (None, ""):
        phantoms = read_splits(empty, patients_per_class=10, visits=1)
        assert phantoms["num_classes"] == 2 and sum(len(phantoms[split]) for split in SPLITS) == 20
    build_datalist(root, root)
    build_datalist(root, tmp_path / "other.json", seed=1)
    assert read_splits(str(root)) == load_datalist(root)
    assert read_splits(str(root), str(tmp_path / "other.json"))["seed"] == 1
    assert read_splits(None, str(tmp_path / "other.json"))["seed"] == 1


# real data


@pytest.mark.skipif(not REAL.is_dir(), reason="no real data at MONAI_PLAN_DATA")
@pytest.mark.parametrize(
    ("name", "images", "groups", "classes"),
    [("shenzhen_cxr_128", 522, 522, 2), ("nih_cxr_256", 693, 473, 2), ("idrid_dr_256", 507, 500, 5)],
)
def test_real_data(tmp_path, name, images, groups, classes):
    build_datalist(REAL / name, tmp_path)
    content = load_datalist(tmp_path)
    places = defaultdict(set)
    for split in SPLITS:
        for record in content[split]:
            places[record["group_id"]].add(split)
    assert (len(records(content)), len(places), content["num_classes"]) == (images, groups, classes)
    assert all(len(found) == 1 for found in places.values())
    for split, share in zip(SPLITS, (0.7, 0.1, 0.2), strict=True):
        assert len(content[split]) == pytest.approx(share * images, abs=classes)
