"""Public sets are read as their providers pack them, and one file never stands on two sides of a split."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from monai_plan.__main__ import main
from monai_plan.data import build_datalist, load_datalist
from monai_plan.data.datalist import SPLITS
from monai_plan.data.identical_files import first_of_identical

Image = pytest.importorskip("PIL.Image")

IDRID_TRAIN, IDRID_TEST = "1. Original Images/a. Training Set", "1. Original Images/b. Testing Set"
IDRID_TABLES = {
    IDRID_TRAIN: "2. Groundtruths/a. IDRiD_Disease Grading_Training Labels.csv",
    IDRID_TEST: "2. Groundtruths/b. IDRiD_Disease Grading_Testing Labels.csv",
}


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(path)


def write_table(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_idrid(root: Path) -> Path:
    """20 training and 15 testing images under the same names, grades 0 to 4 in turn; the training table ends ragged."""
    for folder, count, empty in ((IDRID_TRAIN, 20, ",,"), (IDRID_TEST, 15, "")):
        lines = [f"Image name,Retinopathy grade,Risk of macular edema {empty}"]
        for number in range(count):
            write_image(root / folder / f"IDRiD_{number + 1:03d}.jpg", number + 100 * (folder == IDRID_TEST))
            lines.append(f"IDRiD_{number + 1:03d},{number % 5},{number % 3}{empty}")
        write_table(root / IDRID_TABLES[folder], [*lines, *([",,,,"] if empty else [])])
    return root


def make_aptos(root: Path) -> Path:
    names = [f"{number:012x}" for number in range(30)]
    for number, name in enumerate(names):
        write_image(root / "train_images" / f"{name}.png", number)
        write_image(root / "test_images" / f"{name[::-1]}.png", number + 100)
    write_table(root / "train.csv", ["id_code,diagnosis", *(f"{name},{n % 5}" for n, name in enumerate(names))])
    write_table(root / "test.csv", ["id_code", *(name[::-1] for name in names)])
    return root


def make_own(root: Path) -> Path:
    """Tables and images in folders of their own, as no public set has them."""
    for part in ("a", "b"):
        for number in range(12):
            write_image(root / "pictures" / part / f"{number}.png", number + 100 * (part == "b"))
        write_table(root / "lists" / f"{part}.csv", ["image,level", *(f"{n},{n % 2}" for n in range(12))])
    return root


OWN = {"tables": ["lists/a.csv", "lists/b.csv"], "image_folders": ["pictures/a", "pictures/b"]}


def records(content: dict) -> dict[str, dict]:
    return {record["image"]: record for split in SPLITS for record in content[split]}


# layouts


@pytest.mark.parametrize(
    ("make", "options", "counts", "classes"),
    [
        pytest.param(make_idrid, {"keep_columns": ["Risk of macular edema"]}, {IDRID_TRAIN: 20, IDRID_TEST: 15}, 5),
        pytest.param(make_aptos, {}, {"train_images": 30}, 5),
        pytest.param(make_own, OWN, {"pictures/a": 12, "pictures/b": 12}, 2),
        pytest.param(make_own, {"tables": ["lists/b.csv"], "image_folders": ["pictures/b"]}, {"pictures/b": 12}, 2),
    ],
    ids=["IDRiD", "APTOS", "own", "one of two"],
)
def test_what_is_read(tmp_path, make, options, counts, classes):
    content = build_datalist(make(tmp_path), tmp_path, **options)
    found = records(content)
    folders = [Path(name).parent.as_posix() for name in found]
    assert {folder: folders.count(folder) for folder in folders} == counts
    assert content["labels"] == {str(label): str(label) for label in range(classes)}
    assert all((tmp_path / name).is_file() for name in found) and "left_out" not in content
    load_datalist(tmp_path)


def test_each_table_has_its_own_folder(tmp_path):
    content = build_datalist(make_idrid(tmp_path), tmp_path, keep_columns=["Risk of macular edema"])
    for folder in IDRID_TABLES:
        record = records(content)[f"{folder}/IDRiD_012.jpg"]
        assert (record["label"], record["Risk of macular edema"], record["patient_id"]) == (1, "2", "")
        assert record["group_id"] == record["image"]


def test_one_folder_for_all_tables_and_a_csv_as_source(tmp_path):
    make_own(tmp_path)
    write_table(tmp_path / "lists" / "b.csv", ["image,level", *(f"b/{n}.png,{n % 2}" for n in range(12))])
    write_table(tmp_path / "all.csv", ["image,level", *(f"a/{n},{n % 2}" for n in range(12))])
    both = build_datalist(tmp_path, tmp_path, tables=["all.csv", "lists/b.csv"], image_folders=["pictures"])
    assert len(records(both)) == 24
    assert len(records(build_datalist(tmp_path / "all.csv", tmp_path, image_folders=["pictures"]))) == 12


def test_own_table_wins_over_a_public_layout(tmp_path):
    make_aptos(tmp_path)
    lines = [f"test_images/{n:012x}".replace(f"{n:012x}", f"{n:012x}"[::-1]) + f",{n % 2},p{n}" for n in range(12)]
    write_table(tmp_path / "metadata.csv", ["file,label,patient_id", *lines])
    assert all(name.startswith("test_images/") for name in records(build_datalist(tmp_path, tmp_path)))


def test_dots_in_a_name_and_suffixes_in_capitals(tmp_path):
    for number in range(12):
        write_image(tmp_path / f"v1.{number}.PNG", number)
    write_table(tmp_path / "labels.csv", ["image,level", *(f"v1.{n},{n % 2}" for n in range(12))])
    assert set(records(build_datalist(tmp_path, tmp_path))) == {f"v1.{n}.PNG" for n in range(12)}


# faults


def without(make, part: str):
    """A maker of a layout that lacks a file or a folder."""

    def made(root: Path) -> Path:
        make(root)
        (root / part).rename(root.parent / "aside")
        return root

    return made


def doubled_name(root: Path) -> Path:
    make_aptos(root)
    write_image(root / "train_images" / f"{0:012x}.jpeg", 50)
    return root


def linked_folder(root: Path) -> Path:
    make_own(root)
    (root.parent / "outside").mkdir()
    (root / "linked").symlink_to(root.parent / "outside")
    return root


def same_image_in_both(root: Path) -> Path:
    make_own(root)
    write_table(root / "lists" / "b.csv", ["image,level", *(f"{n},{n % 2}" for n in range(12))])
    return root


BAD = {  # a maker of the source, options, and what the message must say
    "half of IDRiD": (
        without(make_idrid, IDRID_TABLES[IDRID_TEST]),
        {},
        ["IDRiD", f"no '{IDRID_TABLES[IDRID_TEST]}'", "--table"],
    ),
    "IDRiD's images": (without(make_idrid, IDRID_TEST), {}, ["IDRiD", f"no '{IDRID_TEST}'", "--image_folder"]),
    "APTOS without table": (without(make_aptos, "train.csv"), {}, ["APTOS 2019", "no 'train.csv'"]),
    "APTOS without images": (without(make_aptos, "train_images"), {}, ["'train.csv' as APTOS", "no 'train_images'"]),
    "image not there": (
        without(make_aptos, f"train_images/{3:012x}.png"),
        {},
        ["line 5", f"no image '{3:012x}'", "train_images", ".png, .jpg"],
    ),
    "two suffixes": (doubled_name, {}, ["line 2", f"{0:012x}.jpeg and {0:012x}.png", "Write the suffix"]),
    "no such table": (make_own, {"tables": ["lists/c.csv"]}, ["no 'lists/c.csv'", "--table"]),
    "no such folder": (make_own, OWN | {"image_folders": ["images"]}, ["no 'images'", "--image_folder"]),
    "names elsewhere": (make_own, {"tables": ["lists/a.csv"]}, ["no image '0'", "lists", "--image_folder"]),
    "three folders": (make_own, OWN | {"image_folders": ["pictures"] * 3}, ["3 image folders for 2 tables"]),
    "folder, no table": (make_own, {"image_folders": ["pictures"]}, ["neither metadata.csv nor labels.csv", "--table"]),
    "table of a file": (lambda r: make_own(r) / "lists/a.csv", {"tables": ["b.csv"]}, ["is a file", "as SOURCE"]),
    "folder above": (make_own, OWN | {"image_folders": ["../x"]}, ["'../x'", "contains '..'"]),
    "table elsewhere": (make_own, {"tables": ["/etc/passwd"]}, ["'/etc/passwd' is absolute"]),
    "folder linked outside": (linked_folder, OWN | {"image_folders": ["linked"]}, ["outside the data folder"]),
    "image in both": (
        same_image_in_both,
        OWN | {"image_folders": ["pictures/a"]},
        ["line 2", "line 2 of 'lists/a.csv'"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_faulty_layouts_are_refused(tmp_path, name):
    make, options, essentials = BAD[name]
    source = make(tmp_path / "data")
    with pytest.raises(ValueError) as caught:
        build_datalist(source, tmp_path, **options)
    for essential in essentials:
        assert essential in str(caught.value)
    assert not list(tmp_path.glob("*.json"))


# identical files


def copy(root: Path, source: str, target: str) -> None:
    (root / target).write_bytes((root / source).read_bytes())


def test_identical_files_share_a_group_or_are_left_out(tmp_path, caplog, capsys):
    root = make_idrid(tmp_path / "data")
    copy(root, f"{IDRID_TRAIN}/IDRiD_006.jpg", f"{IDRID_TEST}/IDRiD_011.jpg")  # grade 0 both
    copy(root, f"{IDRID_TRAIN}/IDRiD_002.jpg", f"{IDRID_TEST}/IDRiD_003.jpg")  # grades 1 and 2
    assert main(["datalist", str(root), "--output", str(root)]) == 0
    content = load_datalist(root)
    left_out = [f"{IDRID_TRAIN}/IDRiD_002.jpg", f"{IDRID_TEST}/IDRiD_003.jpg"]
    assert content["left_out"] == left_out
    found = {Path(name).relative_to(root).as_posix(): record for name, record in records(content).items()}
    assert len(found) == 33 and not set(left_out) & set(found)
    assert found[f"{IDRID_TEST}/IDRiD_011.jpg"]["group_id"] == f"{IDRID_TRAIN}/IDRiD_006.jpg"
    places = defaultdict(set)
    for split in SPLITS:
        for record in content[split]:
            places[record["group_id"]].add(split)
    assert len(places) == 32 and all(len(splits) == 1 for splits in places.values())
    assert "2 images were left out" in caplog.text and "1 images are byte for byte the same" in caplog.text
    assert "left out        2 images (one file under two labels)" in capsys.readouterr().out


@pytest.mark.parametrize("seed", range(4))
def test_identical_files_join_their_patients(tmp_path, seed):
    for number in range(40):
        write_image(tmp_path / f"{number}.png", number // 20 + 10 * (number % 10))  # 4 copies of 10 files
    write_table(
        tmp_path / "labels.csv", ["file,label,patient", *(f"{n}.png,{n % 10 % 2},p{n % 20}" for n in range(40))]
    )
    content = build_datalist(tmp_path, tmp_path, seed=seed)
    contents = defaultdict(set)
    for split in SPLITS:
        for record in content[split]:
            contents[(tmp_path / record["image"]).read_bytes()].add(split)
            assert record["group_id"] == record["patient_id"] != ""
    assert len(contents) == 20 and all(len(splits) == 1 for splits in contents.values())


def test_nothing_left(tmp_path):
    for folder in ("ill", "well"):
        write_image(tmp_path / folder / "a.png", 1)
    with pytest.raises(ValueError, match="under two labels"):
        build_datalist(tmp_path, tmp_path)


def test_first_of_identical(tmp_path):
    contents = {"a": b"xy", "b": b"xz", "c": b"xy", "d": b"", "e": b"", "f": b"long", "h": b"xy"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert first_of_identical(tmp_path, list("abcdefgh")) == list("abadefga")
