"""The certificate: the audit's record with its verdicts, as JSON, as a page to read and sign, and as two cards."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.utils import optional_import

from monai_plan.report.cards import datasheet_text, model_card_text
from monai_plan.report.html import certificate_html
from monai_plan.report.render import TEMPLATES
from monai_plan.report.signature import SIGNATURE_SUFFIX, load_signing_key
from monai_plan.report.verdicts import missing_tests, overall_verdict, real_shares, verdict_of
from monai_plan.utils import atomic_folder, atomic_path, require_writable, write_json

__all__ = ["with_verdicts", "write_certificate"]

JSON, PAGE, MODEL_CARD, DATASHEET = "certificate.json", "certificate.html", "model_card.md", "datasheet.md"
CONFIG = "config.json"


def write_certificate(
    record: Mapping[str, Any],
    output_dir: str | os.PathLike,
    required: Sequence[str] = (),
    pictures: Mapping[str, bytes] | None = None,
    signing_key: str | os.PathLike | None = None,
    config: str | None = None,
) -> dict[str, Path]:
    """Write ``certificate.json``, ``certificate.html``, ``model_card.md`` and ``datasheet.md``.

    The page, the cards and the JSON hold the same figures; the page shows the JSON's SHA-256. Equal arguments give
    equal bytes. Nothing is written before everything could be made, and each file is whole or absent.

    With a key ``certificate.json.sig`` is written too: 64 bytes, Ed25519 over the JSON's bytes. Whoever has the public
    key can check it with OpenSSL 3.0 or later::

        openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in certificate.json -sigfile certificate.json.sig

    Args:
        record: the audit's record, plain values; it is not changed. What is not finite becomes ``null``.
        output_dir: the folder; certificates in it are replaced, and an earlier signature is deleted.
        required: ids of the tests without which nothing passes.
        pictures: name to PNG bytes, e.g. pairs of a synthetic image and its closest real one. They are part of the
            page: give them only where every reader may see real images.
        signing_key: a PEM file, see :func:`~monai_plan.report.load_signing_key`.
        config: written as ``config.json``: what the audit ran with, see :func:`~monai_plan.report.shareable_config`.

    Returns:
        Name of each file to its path.

    Raises:
        OSError: the folder cannot be written.
        ValueError: the record is not one, a limit makes no sense, a picture is no PNG, the key is of no use, or the
            record has another hash of ``config``.
        ImportError: jinja2, jsonschema or (with a key) cryptography is not installed.
    """
    key = None if signing_key is None else load_signing_key(signing_key)
    folder = require_writable(output_dir)
    with atomic_folder(folder / JSON) as part:
        content = write_json(part / JSON, with_verdicts(record, required)).read_bytes()
        certificate = json.loads(content)
        _check(certificate)
        page = certificate_html(certificate, hashlib.sha256(content).hexdigest(), pictures, signed=key is not None)
        texts = {PAGE: page, MODEL_CARD: model_card_text(certificate), DATASHEET: datasheet_text(certificate)}
        if config is not None:
            if hashlib.sha256(config.encode()).hexdigest() != certificate["config_sha256"]:
                raise ValueError(
                    "the record's config_sha256 is not that of config, so they are of two audits; give the config that "
                    "the record was made with"
                )
            texts[CONFIG] = config
        for name, text in texts.items():
            with atomic_path(part / name) as partial:
                partial.write_bytes(text.encode())
        names = [JSON, *texts]
        if key is not None:
            with atomic_path(part / (JSON + SIGNATURE_SUFFIX)) as partial:
                partial.write_bytes(key.sign(content))
            names.append(JSON + SIGNATURE_SUFFIX)
        (folder / (JSON + SIGNATURE_SUFFIX)).unlink(missing_ok=True)  # never beside a file that it does not sign
        for name in names:
            os.replace(part / name, folder / name)
    return {name: folder / name for name in names}


def with_verdicts(record: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    """A copy of the record with ``verdict`` (``overall``, ``required``, ``missing``), and one for each test.

    Args:
        record: the audit's record.
        required: see :func:`~monai_plan.report.overall_verdict`.

    Raises:
        ValueError: the record has no list of tests, or a limit makes no sense.
    """
    tests = record.get("tests")
    if not isinstance(tests, Sequence) or not all(isinstance(test, Mapping) and "id" in test for test in tests):
        raise ValueError("the record has no list 'tests' of tests with an 'id'; give what the audit returned")
    verdict = {
        "overall": overall_verdict(tests, required, real_shares(record)),
        "required": list(required),
        "missing": missing_tests(tests, required),
    }
    judged = [{**test, "verdict": verdict_of(test)} for test in tests]
    head = {name: record[name] for name in ("schema", "version") if name in record}
    rest = {name: value for name, value in record.items() if name not in (*head, "verdict")}
    return {**head, "verdict": verdict, **rest, "tests": judged}


def _check(certificate: Mapping[str, Any]) -> None:
    advice = 'certificates need jsonschema: pip install "monai_plan[bundle]"'
    validator, _ = optional_import("jsonschema", name="Draft202012Validator", descriptor=advice)
    best_match, _ = optional_import("jsonschema.exceptions", name="best_match", descriptor=advice)
    schema = json.loads((TEMPLATES / "certificate.schema.json").read_text(encoding="utf-8"))
    error = best_match(validator(schema).iter_errors(certificate))
    if error is not None:
        where = "/".join(map(str, error.absolute_path)) or "the top"
        raise ValueError(
            f"the audit's record does not keep the certificate's schema: at {where}, {error.message[:300]}. Correct "
            "what made the record, or give one of this version of monai_plan"
        )
    names = [test["id"] for test in certificate["tests"]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the record has a test twice: {', '.join(twice)}; add the distance to its id, after a slash")
