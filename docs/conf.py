"""How the site is built: ``sphinx-build -W --keep-going -b html docs docs/_build/html``; nothing is downloaded."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from monai_plan import __version__  # noqa: E402

project = "monai_plan"
author = "monai_plan maintainers"
copyright = "monai_plan maintainers, Apache License 2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
highlight_language = "none"
nitpicky = True
nitpick_ignore_regex = [
    # other packages' names, which are not looked up on the network
    (r"py:.*", r"(collections|ignite|monai|np|nn|numpy|os|pathlib|torch)\..*"),
    (r"py:.*", r"(DataLoader|Dataset|KeysCollection|Module|OptionalImportError|Sampler)"),
    # types of annotations that are not public
    (
        r"py:class",
        r"(monai_plan\..*\.)?(Anchors|ImageGate|ImageShards|ImageSource|InversionErrors|Network|Prior|Utility)",
    ),
]

myst_heading_anchors = 5
# the model zoo's README template jumps from "##" to "####"
suppress_warnings = ["myst.header"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autosummary_imported_members = True
autosummary_ignore_module_all = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"monai_plan {version}"
html_theme_options = {"top_of_page_buttons": []}
html_show_sourcelink = False
html_copy_source = False

PAGES = {
    "README.md": "manual.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "bundles/plan_tb/docs/README.md": "plan_tb.md",
    "bundles/plan_dr/docs/README.md": "plan_dr.md",
}
"""Files of the repository that are pages of the site, too."""


def with_links_of_the_site(text: str, folder: Path, source: Path) -> str:
    """Rewrite a file's relative links, which hold in the repository, so that they hold in the site's pages.

    Args:
        text: Markdown.
        folder: what the links are relative to.
        source: the site's source folder.
    """

    def rewritten(link: re.Match[str]) -> str:
        target = os.path.relpath(folder / link[1], source)
        return f"]({PAGES.get(os.path.relpath(source / target, source.parent), target)}"

    return re.sub(r"\]\((?!\w+:|#)([^)#\s]+)", rewritten, text)


def setup(app: Sphinx) -> None:
    """Rewrite the links of pages, and of files that pages include."""
    source = Path(app.srcdir)

    def read(_app: Sphinx, _name: str, content: list[str]) -> None:
        content[0] = with_links_of_the_site(content[0], source, source)

    def include(_app: Sphinx, path: Path, _name: str, content: list[str]) -> None:
        content[0] = with_links_of_the_site(content[0], source / path.parent, source)

    app.connect("source-read", read)
    app.connect("include-read", include)
