"""The site of docs/: it builds strictly without a network, loads nothing from elsewhere, and its links hold."""

from __future__ import annotations

import ast
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from monai.bundle import ConfigParser

import monai_plan
from monai_plan.__main__ import main
from monai_plan.latent import PrivacyGate
from monai_plan.networks.nets import IdentityEmbedder
from monai_plan.utils import knows_id

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("*.md"))
ROOT_DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "SECURITY.md"]
DOCUMENTS = [*PAGES, *ROOT_DOCUMENTS, *sorted(REPOSITORY.glob("bundles/*/docs/README.md"))]
LOADED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "object": "data", "embed": "src"}
LOADING_LINKS = {"stylesheet", "preload", "modulepreload", "icon", "preconnect", "dns-prefetch", "manifest"}


class Page(HTMLParser):
    """What a built page loads, links to, and can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors = {""}
        self.styles: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        self.styles.append(found.get("style", ""))
        if found.get(LOADED.get(tag, "")):
            self.loads.append(found[LOADED[tag]])
        if tag == "link" and LOADING_LINKS & set(found.get("rel", "").split()):
            self.loads.append(found["href"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style":
            self.styles.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, from a copy of docs/ and of what it shows of the repository."""
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -c constraints.txt '.[docs]'")
    root = tmp_path_factory.mktemp("site")
    without = shutil.ignore_patterns("_build", "api", "__pycache__", "*.safetensors", "*.pt", "output")
    for name in ("docs", "bundles", "tutorials"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=without)
    for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, root / name)
    (root / "monai_plan").symlink_to(REPOSITORY / "monai_plan")
    copied = root / "docs"
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        str(copied),
        str(root / "html"),
    ]
    refused = "http://127.0.0.1:9"  # nothing listens there
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "http_proxy": refused, "https_proxy": refused}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = sorted((root / "html").rglob("*.html"))
    return root / "html", {
        path: Page(path.read_text(encoding="utf-8")) for path in pages if "_downloads" not in path.parts
    }


def test_nothing_is_loaded_from_elsewhere(site):
    folder, pages = site
    assert {path.name for path in pages} >= {"index.html", "quickstart.html", "monai_plan.data.html"}
    loads = {link for page in pages.values() for link in page.loads}
    assert not [link for link in loads if urlsplit(link).scheme not in ("", "data") or urlsplit(link).netloc]
    styles = [style for page in pages.values() for style in page.styles]
    styles += [path.read_text(encoding="utf-8") for path in folder.rglob("*.css")]
    named = [link for text in styles for link in re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s]+)""", text)]
    assert not [link for link in named if re.match(r"(https?:)?//", link)]


def test_links_and_anchors_of_the_pages_lead_somewhere(site):
    folder, pages = site
    broken = []
    for path, page in pages.items():
        for link in (*page.links, *page.loads):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path.parent / unquote(parts.path) if parts.path else path
            anchors = pages[target.resolve()].anchors if target.resolve() in pages else {""}
            if not target.is_file() or (target.suffix == ".html" and unquote(parts.fragment) not in anchors):
                broken.append(f"{path.relative_to(folder)}: {link}")
    assert not broken


def test_every_page_is_in_a_table_of_contents():
    """So does the strict build say; this is fast."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    listed = {
        line.split("<")[-1].strip(" >")
        for block in re.findall(r"```{toctree}(.*?)```", text, re.S)
        for line in block.splitlines()
        if line and not line.startswith(":")
    }
    assert listed == {page.stem for page in PAGES} - {"index"}


def test_every_subpackage_is_in_the_reference():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^ +(monai_plan\.[\w.]+)$", text, re.M))
    found = {name for _, name, is_package in pkgutil.walk_packages(monai_plan.__path__, "monai_plan.") if is_package}
    assert listed == found - {"monai_plan.networks", "monai_plan.commands"} | {"monai_plan.pipeline"}


def slugs(path: Path) -> set[str]:
    """The anchors of a Markdown file's headings, as hubs of code and the site's generator make them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    headings = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line) for line in re.findall(r"^#+ +(.*?) *$", text, re.M)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=[str(path.relative_to(REPOSITORY)) for path in DOCUMENTS])
def test_links_and_anchors_of_the_sources_lead_somewhere(document):
    links = re.findall(r"\]\((?!\w+:)([^)\s]+)\)", document.read_text(encoding="utf-8"))
    broken = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in slugs(target)):
            broken.append(link)
    assert not broken


def test_every_tutorial_is_in_the_index():
    text = (DOCS / "how_to.md").read_text(encoding="utf-8")
    tutorials = {path.name for path in (REPOSITORY / "tutorials").glob("*.ipynb")}
    assert not tutorials - set(re.findall(r"\(\.\./tutorials/([\w.]+)\)", text))


def test_commands_within_the_text_exist(capsys):
    """Those in tables and sentences; tests/test_readme.py looks at the blocks of commands."""
    text = "\n".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    named = set(re.findall(r"`python -m monai_plan ([a-z]+)((?: [^`]*)?)`", text))
    assert {"release", "audit", "pipeline"} <= {command for command, _ in named}
    for command in {command for command, _ in named}:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        known = set(re.findall(r"--\w+", capsys.readouterr().out))
        options = {option for name, words in named if name == command for option in re.findall(r"--\w+", words)}
        assert not options - known, command


def test_every_setting_that_is_named_is_known():
    """Of the stages' own nodes; others may belong to a config of the reader's."""
    configs = [ConfigParser.load_config_file(str(path)) for path in REPOSITORY.glob("bundles/*/configs/*.json")]
    named = {
        setting
        for document in DOCUMENTS
        for setting in re.findall(
            r"\b(?:audit|embedder|gan|generate|identity|inversion|release|walk)#[\w#]*\w",
            document.read_text(encoding="utf-8"),
        )
    }
    assert {"gan#images", "walk#pairs_per_class"} <= named
    assert not [setting for setting in named if not any(knows_id(config, setting) for config in configs)]


def messages() -> str:
    """Every string of the package's code, what is filled in left out."""
    found = []
    for path in (REPOSITORY / "monai_plan").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(parts))
    return "\n".join(found)


def test_the_messages_of_troubleshooting_are_those_of_the_code():
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    symptoms = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    quoted = [quote for symptom in symptoms for quote in re.findall(r"`([^`]+)`", symptom)]
    known = re.sub(r"%[.\w]*[dfsg]", "…", messages())
    pieces = [piece.strip(" '") for quote in quoted for piece in quote.split("…")]
    strange = [piece for piece in pieces if piece.count(" ") >= 2 and piece not in known]
    assert not strange


def test_the_example_for_other_generators_runs(tmp_path, monkeypatch, capsys):
    text = (DOCS / "from_monai_generative.md").read_text(encoding="utf-8")
    code = re.search(r"<!-- run by tests/test_docs_site.py -->\n```python\n(.*?)```", text, re.S)[1]
    embedder = IdentityEmbedder().eval()
    rng = torch.Generator().manual_seed(0)
    real, drawn = (torch.rand(count, 1, 16, 16, generator=rng) * 2 - 1 for count in (40, 80))
    PrivacyGate(embedder, embedder(real[:20]).detach(), 1e-4).save(tmp_path / "gate.safetensors")
    monkeypatch.setattr("monai_plan.metrics.load_perceptual_features", lambda _: (torch.nn.Flatten(), "flat"))
    values = {
        **{"real": real, "drawn": drawn, "names": tuple(f"P{i}" for i in range(40))},
        **{"is_training": torch.arange(40) < 20, "labels": torch.arange(40) % 2},
    }
    exec(code.replace("runs/gate", str(tmp_path)), values)
    assert len(values["kept"]) == len(drawn)
    assert capsys.readouterr().out.count("'interval'") == 2
