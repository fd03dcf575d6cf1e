"""Fills the templates of the certificate's page and cards; whatever comes from a record is escaped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from monai.utils import optional_import

__all__ = ["TEMPLATES", "fill_template"]

TEMPLATES = Path(__file__).parent / "templates"
_MARKDOWN = re.compile(r"([\\`*\[\]<>|&])")


def fill_template(name: str, **values: Any) -> str:
    """Fill a template of ``templates/``.

    Every value is escaped, for HTML or for Markdown by the template's name: the name of a class cannot add a tag, a
    link or a column.

    Args:
        name: the template's file, ``*.html.j2`` or ``*.md.j2``.
        values: what it shows.

    Raises:
        ImportError: jinja2 is not installed.
    """
    jinja2, _ = optional_import("jinja2", descriptor='certificates need jinja2: pip install "monai_plan[bundle]"')
    markdown = name.endswith(".md.j2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=not markdown,
        finalize=_escape_markdown if markdown else None,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name).render(**values)


def _escape_markdown(value: Any) -> Any:
    return _MARKDOWN.sub(r"\\\1", " ".join(value.splitlines())) if isinstance(value, str) else value
