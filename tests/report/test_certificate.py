"""What is written, and what is refused."""

import copy
import json
import os

import pytest
from audit_records import EVIL, passing_record, sample_record

from monai_plan.report import with_verdicts, write_certificate

pytest.importorskip("jinja2")
pytest.importorskip("jsonschema")


def test_verdicts_are_added_to_a_copy():
    record = sample_record()
    before = copy.deepcopy(record["tests"])
    found = with_verdicts(record, ["screening", "linkability"])
    assert record["tests"] == before and "verdict" not in record
    assert found["verdict"] == {
        "overall": "unclear",
        "required": ["screening", "linkability"],
        "missing": ["linkability"],
    }
    verdicts = {test["id"]: test["verdict"] for test in found["tests"]}
    assert verdicts["membership_distance/embedding"] == "unclear" and verdicts["reidentification"] == "passed"
    assert verdicts["canaries"] == "no limit" and verdicts["membership_shadow"] == "not run"
    assert with_verdicts({**found, "verdict": {"overall": "passed"}}, ["screening", "linkability"]) == found


def test_files(tmp_path):
    files = write_certificate(sample_record(), tmp_path / "new" / "folder")
    assert list(files) == ["certificate.json", "certificate.html", "model_card.md", "datasheet.md"]
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == sorted(files)
    text = files["certificate.json"].read_text(encoding="utf-8")
    assert "NaN" not in text and "Infinity" not in text and "Lungenentzündung" in text
    certificate = json.loads(text)
    assert certificate["utility"]["quality"]["fid"] is None and certificate["data"]["classes"]["1"] == EVIL
    assert list(certificate)[:3] == ["schema", "version", "verdict"]


@pytest.mark.parametrize("make", [sample_record, passing_record])
def test_equal_records_give_equal_bytes(tmp_path, make):
    first = write_certificate(make(), tmp_path / "first", pictures={"pair": b"\x89PNG\r\n\x1a\n1"})
    second = write_certificate(make(), tmp_path / "second", pictures={"pair": b"\x89PNG\r\n\x1a\n1"})
    assert [file.read_bytes() for file in first.values()] == [file.read_bytes() for file in second.values()]


def broken(*path, value=None, remove=False):
    record = sample_record()
    place = record
    for step in path[:-1]:
        place = place[step]
    if remove:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return record


@pytest.mark.parametrize(
    "record, message",
    [
        (broken("schema", value="another"), "schema"),
        (broken("version", value=2), "version"),
        (broken("files", remove=True), "'files' is a required property"),
        (broken("extra", value=1), "extra"),
        (broken("release", "mode", value="all"), "release/mode"),
        (broken("release", "k", value="12"), "release/k"),
        (broken("config_sha256", value="abc"), "config_sha256"),
        (broken("about", "date", value="yesterday"), "about/date"),
        (broken("data", "splits", remove=True), "splits"),
        (broken("data", "splits", "training", "patients", value=-1), "training/patients"),
        (broken("tests", value=[]), "tests"),
        (broken("tests", 0, "result", "n", remove=True), "tests/0/result"),
        (broken("tests", 0, "result", "value", value="0.5"), "tests/0/result"),
        (broken("tests", 0, "result", "interval", value=[0.1]), "values to unpack"),
        (broken("tests", 2, "result", "curve", value=[[0.1, 1.2]]), "tests/2/result"),
        (broken("tests", 0, "not_run", value="and yet it was"), "tests/0"),
        (broken("tests", 0, "result", value=None), "tests/0"),
        (broken("tests", 0, "limit", value={"figure": "control", "at_most": 1}), "figure 'control'"),
        (broken("tests", 0, "limit", value={"at_most": 1, "most": 2}), "tests/0/limit"),
        (broken("tests", 1, "id", value="screening/lpips_squeeze"), "twice: screening/lpips_squeeze"),
        (broken("utility", "rows", "plan", "auroc", remove=True), "utility"),
        (broken("tests", remove=True), "no list 'tests'"),
    ],
)
def test_broken_records_leave_nothing_behind(tmp_path, record, message):
    with pytest.raises(ValueError, match=message):
        write_certificate(record, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_earlier_certificate_as_it_was(tmp_path):
    files = write_certificate(passing_record(), tmp_path)
    before = {name: file.read_bytes() for name, file in files.items()}
    with pytest.raises(ValueError, match="is no PNG"):
        write_certificate(sample_record(), tmp_path, pictures={"pair": b"GIF89a"})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Choose another one"):
        write_certificate(passing_record(), tmp_path / "file" / "out")
