"""A release says of itself whether the very files that it was made from were audited, and what came of it."""

import hashlib
import json
import logging

import pytest
from audit_records import passing_record

from monai_plan.report import audit_of_release, write_certificate
from monai_plan.utils import sha256_of


@pytest.fixture
def files(tmp_path):
    found = {"generator": tmp_path / "generator.safetensors", "walks": tmp_path / "walks_private.safetensors"}
    for role, path in found.items():
        path.write_text(role)
    return found


@pytest.fixture
def certificate(tmp_path, files):
    """A function: changes of a record that passes -> its certificate, with the hashes of ``files``."""

    def make(verdict="passed", mode="walks", required=()):
        record = {**passing_record(), "release": {"mode": mode, "k": 12}}
        record["files"] = {
            path.name: {"role": role, "sha256": sha256_of(path), "bytes": path.stat().st_size}
            for role, path in files.items()
        }
        if verdict == "unclear":
            required = ("never run",)
        if verdict == "failed":
            record["tests"] = [{**record["tests"][0], "limit": {"at_most": -1.0}}, *record["tests"][1:]]
        return write_certificate(record, tmp_path / "certificate", required)["certificate.json"]

    return make


@pytest.mark.parametrize("verdict", ["passed", "failed", "unclear"])
def test_the_verdict_on_these_very_files(certificate, files, caplog, verdict):
    path = certificate(verdict)
    with caplog.at_level(logging.WARNING):
        found = audit_of_release(path, files, "walks")
    assert found["verdict"] == verdict == json.loads(path.read_text())["verdict"]["overall"]
    assert found["certificate_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found["says"].startswith(f"Audit {verdict}: ")
    assert bool(caplog.records) == (verdict != "passed"), "all but a pass is warned of"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("none", "there was no certificate"),
        ("damaged", "could not be read"),
        ("of another program", "could not be read"),
        ("other generator", "of another generator or of other walks"),
        ("other walks", "of another generator or of other walks"),
        ("images alone", "of finished images"),
    ],
)
def test_a_certificate_that_does_not_count_is_none(certificate, files, caplog, fault, words):
    path = certificate(mode="images" if fault == "images alone" else "walks")
    if fault == "none":
        path.unlink()
    elif fault == "damaged":
        path.write_text(path.read_text()[:-9])
    elif fault == "of another program":
        path.write_text('["verdict"]')
    elif fault.startswith("other"):
        files[{"other generator": "generator", "other walks": "walks"}[fault]].write_text("trained on")
    with caplog.at_level(logging.WARNING):
        found = audit_of_release(path, files, "walks")
    assert found["verdict"] is None and found["certificate_sha256"] is None
    assert found["says"].startswith("NOT AUDITED") and words in found["says"]
    assert "python -m monai_plan audit" in caplog.text and words in caplog.text


def test_who_may_hold_the_generator_may_hold_images(certificate, files):
    assert audit_of_release(certificate(mode="walks"), files, "images")["verdict"] == "passed"
