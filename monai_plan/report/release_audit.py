"""What a release can say of its audit: whether a certificate is of the very files it is made from, and its verdict."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_plan.report.release_texts import OVERALL
from monai_plan.utils import read_json, sha256_of

__all__ = ["audit_of_release"]

logger = logging.getLogger(__name__)


def audit_of_release(
    certificate: str | os.PathLike, files: Mapping[str, str | os.PathLike], mode: str
) -> dict[str, Any]:
    """Look whether what is about to be released was audited; a warning is logged unless it passed.

    A certificate counts if its hashes are those of all ``files``, and if it judged what the receiver will hold: one of
    mode "images" says nothing of a release of walks, which come with their generator.

    Args:
        certificate: where the audit writes ``certificate.json``; there need not be one.
        files: role to path of what the release is made from; the roles are those of
            :func:`~monai_plan.report.audit_release`, ``generator`` and ``walks``.
        mode: of the release, "walks" or "images".

    Returns:
        ``verdict`` ("passed", "failed" or "unclear"; ``None`` without a certificate that counts),
        ``certificate_sha256`` (``None`` likewise) and ``says``, a sentence for whoever receives the release.
    """
    path = Path(certificate)
    verdict, says = _verdict(path, files, mode)
    if verdict != "passed":
        logger.warning(
            "%s Nothing may leave on these grounds: run `python -m monai_plan audit` with the same --output_dir, read "
            "'%s', and release again",
            says,
            path.with_suffix(".html"),
        )
    return {"verdict": verdict, "certificate_sha256": sha256_of(path) if verdict else None, "says": says}


def _verdict(path: Path, files: Mapping[str, str | os.PathLike], mode: str) -> tuple[str | None, str]:
    if not path.is_file():
        return None, "NOT AUDITED: there was no certificate when this was released."
    try:
        record = read_json(path)
        audited = {file["role"]: file["sha256"] for file in record["files"].values()}
        verdict, audited_mode = record["verdict"]["overall"], record["release"]["mode"]
        sentence = OVERALL[verdict]["sentence"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None, "NOT AUDITED: the certificate that was there when this was released could not be read."
    if any(audited.get(role) != sha256_of(file) for role, file in files.items()):
        return None, f"NOT AUDITED: the certificate at hand is of another {' or of other '.join(files)}."
    if (audited_mode, mode) == ("images", "walks"):
        return None, "NOT AUDITED: the certificate at hand is of finished images, and this release holds the generator."
    return verdict, f"Audit {verdict}: {sentence[0].lower()}{sentence[1:]}"
