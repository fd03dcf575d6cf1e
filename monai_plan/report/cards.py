"""Model card and datasheet of a release, from the certificate's figures; what only the user knows is left open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_plan.report.certificate_words import certificate_words
from monai_plan.report.render import fill_template

__all__ = ["datasheet_text", "model_card_text"]


def model_card_text(certificate: Mapping[str, Any]) -> str:
    """A model card in Markdown, with the headings of Mitchell et al., Model cards for model reporting, FAT* 2019.

    Args:
        certificate: what ``certificate.json`` holds, verdicts included.

    Raises:
        ImportError: jinja2 is not installed.
    """
    return _fill("model_card.md.j2", certificate)


def datasheet_text(certificate: Mapping[str, Any]) -> str:
    """A datasheet of the synthetic images in Markdown, after Gebru et al., Datasheets for datasets, CACM 2021.

    Args:
        certificate: what ``certificate.json`` holds, verdicts included.

    Raises:
        ImportError: jinja2 is not installed.
    """
    return _fill("datasheet.md.j2", certificate)


def _fill(name: str, certificate: Mapping[str, Any]) -> str:
    return fill_template(name, certificate=certificate, **certificate_words(certificate))
