"""The rules of the house: directions of imports, names, docstrings, optional packages."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import monai_plan

PACKAGE = Path(monai_plan.__file__).parent
REPOSITORY = PACKAGE.parent
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages([str(PACKAGE)], "monai_plan.")
    if not info.name.endswith("__main__")  # a command line, nothing to import
)
# whatever a bare install (torch, monai, numpy, scipy, safetensors, pytorch-ignite) does not bring
OPTIONAL = [
    "PIL",
    "lpips",
    "torchvision",
    "torch_fidelity",
    "prdc",
    "tensorboard",
    "cryptography",
    "k_means_constrained",
    "ortools",
    "matplotlib",
    "nibabel",
    "pydicom",
    "ray",
    "pyarrow",
    "shtab",
    "skimage",
    "sklearn",
    "pandas",
    "tqdm",
    "jinja2",
    "fire",
    "jsonschema",
    "yaml",
    "einops",
    "tensorboard",
    "cryptography",
    "k_means_constrained",
    "ortools",
    "torchmetrics",
    "seaborn",
    "imageio",
    "cv2",
    "itk",
    "transformers",
]


def run(*command: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, cwd=options.pop("cwd", REPOSITORY), **options)


def public(module) -> Iterator[tuple[str, object]]:
    """Classes and functions in ``__all__`` that are defined in the module itself."""
    for name in getattr(module, "__all__", ()):
        item = getattr(module, name)
        if (inspect.isclass(item) or inspect.isfunction(item)) and item.__module__ == module.__name__:
            yield name, item


PUBLIC = [(f"{name}.{label}", item) for name in MODULES for label, item in public(importlib.import_module(name))]


@pytest.mark.skipif(not (REPOSITORY / "setup.cfg").is_file(), reason="not a checkout")
def test_imports_point_downwards_and_privacy_is_kept():
    pytest.importorskip("importlinter")
    code = "from importlinter.cli import lint_imports_command as main; main()"
    result = run(sys.executable, "-c", code, "--config", str(REPOSITORY / "setup.cfg"), "--no-cache")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Contracts: 2 kept, 0 broken" in result.stdout


def test_monai_is_imported_first():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    first = next(node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))
    assert isinstance(first, ast.Import) and [alias.name for alias in first.names] == ["monai"]


@pytest.fixture(scope="module")
def located() -> dict[str, list[str]]:
    """Every class and function that MONAI's bundle parser can find by its bare name, and where."""
    from monai.bundle import ComponentLocator

    locator = ComponentLocator()
    table = locator._find_classes_or_functions([name for name in locator._find_module_names() if "_c." not in name])
    assert "SupervisedTrainer" in table  # MONAI has been scanned
    return table


def test_public_names_are_ours_alone(located):
    """A name that MONAI has too would clash in, or hijack, every config that uses it bare."""
    clashes = {}
    for path, _ in PUBLIC:
        name = path.rsplit(".", 1)[1]
        if len(located.get(name, [])) != 1:
            clashes[path] = located.get(name)
    assert PUBLIC and not clashes, clashes


def test_classes_clash_with_nothing_that_monai_exports(located):
    """Private ones and re-exports included: the parser scans every module whose name starts with "monai"."""
    ours = {name: mods for name, mods in located.items() if any(mod.split(".")[0] == "monai_plan" for mod in mods)}
    shared = {
        name: mods
        for name, mods in ours.items()
        if any(mod.split(".")[0] == "monai" for mod in mods) and not name.startswith("_")
    }
    assert not shared, shared


@pytest.mark.parametrize("blocked", [OPTIONAL, ["lpips"], ["sklearn"], ["PIL", "tqdm"]], ids=lambda names: names[0])
def test_the_package_imports_without_optional_packages(blocked, tmp_path):
    code = (
        f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
        f"import importlib\nfor name in {MODULES!r}: importlib.import_module(name)\n"
        "print('imported')"
    )
    result = run(sys.executable, "-c", code, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert result.returncode == 0 and "imported" in result.stdout, result.stderr[-2000:]


@pytest.mark.parametrize(("path", "item"), PUBLIC, ids=[path.removeprefix("monai_plan.") for path, _ in PUBLIC])
def test_everything_public_has_a_docstring(path, item):
    assert (item.__doc__ or "").strip() and not item.__doc__.startswith(f"{item.__name__}("), path
    if inspect.isclass(item):
        missing = [
            name
            for name, member in vars(item).items()
            if inspect.isfunction(inspect.unwrap(getattr(member, "__func__", member)))
            and not name.startswith("_")
            and name != "forward"  # documented by the class
            and not inspect.getdoc(getattr(item, name))
        ]
        assert not missing, f"{path}: {missing}"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_and_what_is_public(name):
    module = importlib.import_module(name)
    source = Path(module.__file__)
    assert (module.__doc__ or "").strip()
    assert len(source.read_text(encoding="utf-8").splitlines()) <= 400
    if source.name != "__init__.py" and not source.name.startswith("_"):
        assert module.__all__ and all(hasattr(module, label) for label in module.__all__)
