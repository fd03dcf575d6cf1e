"""Licences of all dependencies, and the audit of the lock files by a copy of OSV's advisories."""

import importlib
import json
import re
import sys
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import monai_plan

CI = Path(monai_plan.__file__).resolve().parent.parent / ".ci"
pytestmark = pytest.mark.skipif(not (CI / "lock_files.py").is_file(), reason="not a checkout")


@pytest.fixture(scope="module")
def licences():
    return tool("licences")


@pytest.fixture(scope="module")
def audit():
    return tool("audit_locks")


def tool(name):
    """One of .ci, which are scripts and import each other by name."""
    sys.path.insert(0, str(CI))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(CI))


def test_every_dependency_has_a_licence_that_is_allowed(licences):
    installed = installed_rows(licences)
    assert len(installed) > 100
    assert not [row for row in installed if not licences.is_fine(row[2])], "see .ci/licences.py"


def test_the_page_lists_what_is_locked_with_its_licence(licences):
    """If not: python .ci/licences.py."""
    written = {row[0]: row for row in licences.written_rows()}
    locked = licences.read_lock(licences.LOCK)
    assert {name: row[1] for name, row in written.items()} == {name: pin.version for name, pin in locked.items()}
    assert not [row for row in installed_rows(licences) if written[row[0]] != row]


def installed_rows(licences):
    try:
        return licences.rows()
    except PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed; the extra 'dev' brings everything")


@pytest.mark.parametrize(
    "expression, fine",
    [
        ("MIT", True),
        ("MPL-2.0 AND MIT", True),
        ("GPL-3.0-only OR Apache-2.0", True),
        ("GPL-3.0-only", False),
        ("MIT AND AGPL-3.0-or-later", False),
        ("LicenseRef-Proprietary", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_copyleft_and_the_unknown_are_refused(licences, expression, fine):
    assert licences.is_fine(expression) is fine


@pytest.mark.parametrize(
    "lines, expected",
    [
        ("License-Expression: MIT-0", "MIT-0"),
        ("License: Apache 2.0", "Apache-2.0"),
        ("License: BSD-3-Clause\nClassifier: License :: OSI Approved :: BSD License", "BSD-3-Clause"),
        ("License: whole text of a licence\nClassifier: License :: OSI Approved :: MIT License", "MIT"),
        ("Classifier: License :: OSI Approved :: GNU General Public License (GPL)", "GNU General Public License (GPL)"),
        ("Name: silent", "unknown"),
    ],
)
def test_licences_are_read_from_old_and_new_metadata(licences, tmp_path, monkeypatch, lines, expected):
    (tmp_path / "planted-1.0.dist-info").mkdir()
    (tmp_path / "planted-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.4\nVersion: 1.0\n{lines}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert licences.licence_of("planted") == expected


def advisory(name="OSV-1", package="Planted_Package", versions=(), events=(), kind="ECOSYSTEM", **more):
    ranges = [{"type": kind, "events": list(events)}] if events else []
    affected = {"package": {"ecosystem": "PyPI", "name": package}, "versions": list(versions), "ranges": ranges}
    return {"id": name, "modified": "2026-01-02T00:00:00Z", "summary": "Bad.", "affected": [affected], **more}


def zipped(folder, *advisories):
    path = folder / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, content in enumerate(advisories):
            archive.writestr(f"{number}.json", content if isinstance(content, str) else json.dumps(content))
    return path


PINS = {"planted-package": "2.13.0"}
FROM_ZERO = {"introduced": "0"}


@pytest.mark.parametrize(
    "told, hit",
    [
        ({"versions": ["2.13"]}, True),
        ({"versions": ["2.13.1", "not a version"]}, False),
        ({"events": [FROM_ZERO]}, True),
        ({"events": [FROM_ZERO, {"fixed": "2.13.0"}]}, False),
        ({"events": [FROM_ZERO, {"fixed": "2.13.0.post1"}]}, True),
        ({"events": [FROM_ZERO, {"fixed": "2.2"}]}, False),  # not as text: "2.2" > "2.13"
        ({"events": [{"introduced": "2.13.1"}]}, False),
        ({"events": [{"introduced": "2.13.0"}]}, True),
        ({"events": [FROM_ZERO, {"last_affected": "2.13.0"}]}, True),
        ({"events": [FROM_ZERO, {"last_affected": "2.12.9"}]}, False),
        ({"events": [{"fixed": "2.5"}, FROM_ZERO, {"introduced": "2.13"}, {"fixed": "2.14"}]}, True),
        ({"events": [FROM_ZERO, {"fixed": "2.5"}, {"introduced": "2.14"}]}, False),
        ({"events": [FROM_ZERO, {"limit": "2.0"}]}, False),
        ({"events": [FROM_ZERO, {"limit": "*"}]}, True),
        ({"events": [FROM_ZERO, {"fixed": "a commit"}]}, True),  # a person has to look
        ({"events": [FROM_ZERO], "kind": "GIT"}, False),
        ({"events": [FROM_ZERO], "package": "planted.package"}, True),
        ({"events": [FROM_ZERO], "package": "planted"}, False),
        ({"events": [FROM_ZERO], "withdrawn": "2026-01-01T00:00:00Z"}, False),
    ],
)
def test_an_advisory_is_matched_by_the_rules_of_osv(audit, tmp_path, told, hit):
    findings, count, newest = audit.audit(PINS, zipped(tmp_path, advisory(**told)))
    assert ([finding.advisory for finding in findings] == ["OSV-1"]) is hit
    assert (count, newest) == (1, "2026-01-02T00:00:00Z")


def test_other_ecosystems_are_left_out(audit, tmp_path):
    other = advisory(events=[FROM_ZERO])
    other["affected"][0]["package"]["ecosystem"] = "npm"
    assert audit.audit(PINS, zipped(tmp_path, other))[0] == []


def test_a_finding_says_what_mends_it(audit, tmp_path):
    planted = [
        advisory("OSV-2", events=[FROM_ZERO, {"fixed": "2.14"}]),
        advisory("OSV-1", events=[FROM_ZERO]),
    ]
    findings, *_ = audit.audit(PINS, zipped(tmp_path, *planted))
    assert list(map(str, findings)) == [
        "planted-package 2.13.0: OSV-1 (no fixed version is known). Bad.",
        "planted-package 2.13.0: OSV-2 (fixed in 2.14). Bad.",
    ]


def run(audit, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["audit_locks.py", *map(str, words)])
    return audit.main()


def test_the_locks_are_audited_and_the_exit_code_tells(audit, tmp_path, monkeypatch, capsys):
    clean = zipped(tmp_path, advisory(package="somebody-else", events=[FROM_ZERO]))
    assert run(audit, monkeypatch, clean) == 0
    assert re.search("0 findings in [0-9]{3} packages; 1 advisories", capsys.readouterr().out)
    for package in ("Torch", "nvidia_cublas"):
        assert run(audit, monkeypatch, zipped(tmp_path, advisory(package=package, events=[FROM_ZERO]))) == 1
        assert package.lower().replace("_", "-") in capsys.readouterr().out


def test_an_unpacked_folder_is_read_as_well(audit, tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(advisory(events=[FROM_ZERO])))
    assert len(audit.audit(PINS, tmp_path)[0]) == 1


@pytest.mark.parametrize("content", ["[]", "{}", "{", "null"])
def test_a_copy_that_is_broken_is_no_clean_bill(audit, tmp_path, monkeypatch, capsys, content):
    assert run(audit, monkeypatch, zipped(tmp_path, content)) == 2
    assert "is no OSV advisory" in capsys.readouterr().err


def test_an_empty_absent_or_cut_copy_is_no_clean_bill(audit, tmp_path, monkeypatch, capsys):
    cut = tmp_path / "cut.zip"
    cut.write_bytes(zipped(tmp_path, advisory()).read_bytes()[:50])
    for copy in (zipped(tmp_path), tmp_path / "absent.zip", cut):
        assert run(audit, monkeypatch, copy) == 2
        assert str(copy) in capsys.readouterr().err
