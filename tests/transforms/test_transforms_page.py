"""The examples run: those of the transforms' docstrings, and those of docs/transforms.md."""

from __future__ import annotations

import doctest
import inspect
import re
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from monai_plan import transforms
from monai_plan.data import phantom_datalist, synthetic_source
from monai_plan.latent import InvertedImages, PrivacyGate, WalkSet
from monai_plan.networks.nets import IdentityEmbedder, LatentEncoder, StyleGenerator
from monai_plan.utils import weights_digest

PAGE = Path(__file__).parents[2] / "docs" / "transforms.md"
TEXT = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
HEADINGS = re.findall(r"^## (.+)$", TEXT, flags=re.M)
NEW = ["RandSyntheticImage", "PassGate", "EncodeLatent", "NearestAnchor"]
NARROW = {"layers": (1, 1, 1, 1), "block_inplanes": (2, 2, 2, 2)}

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="not a checkout")


def has_example(item) -> bool:
    return inspect.isclass(item) and ">>>" in (item.__doc__ or "")


WITH_EXAMPLE = sorted(
    {
        item
        for module in (transforms, synthetic_source)
        for item in vars(module).values()
        if has_example(item) and item.__module__.startswith("monai_plan")
    },
    key=lambda item: item.__name__,
)


@pytest.mark.parametrize("item", WITH_EXAMPLE, ids=lambda item: item.__name__)
def test_docstring_examples_give_what_they_say(item):
    (test,) = doctest.DocTestFinder(recurse=False).find(item, globs=dict(vars(sys.modules[item.__module__])))
    report: list[str] = []
    assert doctest.DocTestRunner().run(test, out=report.append).failed == 0, "".join(report)


def test_every_new_transform_has_an_example_in_both_forms():
    names = {item.__name__ for item in WITH_EXAMPLE}
    assert names >= {"SyntheticSource", "RenderPhantom", "RenderFundus", *NEW, *(f"{name}d" for name in NEW)}


@pytest.fixture(scope="module")
def private(tmp_path_factory) -> Path:
    """The files that the page names, of tiny networks."""
    folder = tmp_path_factory.mktemp("private")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = StyleGenerator(64, 1, 2, z_dim=8, w_dim=8, channel_base=64, channel_max=8).eval()
        embedder, encoder = IdentityEmbedder(**NARROW).eval(), LatentEncoder(8, **NARROW)
        points, latents = torch.randn(4, 5, 8), torch.randn(48, 8)
        with torch.no_grad():
            gallery = embedder(torch.rand(3, 1, 64, 64) * 2 - 1)
    verified = torch.tensor([[False, True, True, True, False]] * 4)
    WalkSet(points, torch.tensor([0, 0, 1, 1]), verified, "private").save(folder / "walks_private.safetensors")
    generator.save(folder / "generator.safetensors")
    encoder.save(folder / "encoder.safetensors")
    PrivacyGate(embedder, gallery, 1e-6).save(folder / "gate.safetensors")
    names, errors = tuple(f"p{number:02d}" for number in range(48)), torch.full((48,), 0.1)
    meta = {"generator": weights_digest(generator)}
    splits = ("training",) * 48
    inverted = InvertedImages(latents, torch.arange(48) % 2, errors, errors, names, names, splits, meta)
    inverted.save(folder / "latents.safetensors")
    return folder


def section(heading: str, language: str, private: Path) -> str:
    of_heading = TEXT.split(f"## {heading}\n", maxsplit=1)[1].split("\n## ")[0]
    (snippet,) = re.findall(rf"```{language}\n(.*?)```", of_heading, flags=re.S)
    assert "runs/first/private" in snippet
    return snippet.replace("runs/first/private", private.as_posix())


PRINTED = {
    "Replace an image by a synthetic one": r"torch\.Size\(\[8, 1, 64, 64\]\) .*True",
    "Ask the gate": r"8 of 8 pass; 8 come out of the loader",
    "From an image to its latent and its anchor": r"torch\.Size\(\[8\]\) nearest to anchor [0-3]\n",
}


def test_each_section_is_run():
    assert list(PRINTED) == HEADINGS


@pytest.mark.parametrize("heading", PRINTED)
def test_python_of_the_page_runs(heading, private, capsys):
    pytest.importorskip("k_means_constrained")
    exec(compile(section(heading, "python", private), str(PAGE), "exec"), {})
    assert re.search(PRINTED[heading], capsys.readouterr().out)


@pytest.mark.parametrize("heading", PRINTED)
def test_configs_of_the_page_make_a_preprocessing(heading, private, tmp_path):
    path = tmp_path / "preprocessing.json"
    path.write_text(section(heading, "json", private))
    parser = ConfigParser()
    parser.read_config(path)
    out = parser.get_parsed_content("preprocessing")(phantom_datalist()["testing"][0])
    item = out[0] if isinstance(out, list) else out
    assert item["image"].shape in ((1, 64, 64), (8,))


def test_links_lead_to_files():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert links and not [link for link in links if not (PAGE.parent / link).exists()]
