"""What strangers may try: every shipped file with one byte changed is refused before use; nobody's pickle is run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import monai_plan
from monai_plan.__main__ import main
from monai_plan.utils import (
    load_tensors,
    read_weights,
    require_listed,
    require_small,
    require_stored,
    save_tensors,
    sha256_of,
)

REPOSITORY = Path(monai_plan.__file__).resolve().parent.parent
BUNDLES = REPOSITORY / "bundles"
if not BUNDLES.is_dir():
    pytest.skip("not a checkout", allow_module_level=True)
SHIPPED = [
    (bundle, line.split()[1])
    for bundle in ("plan_tb", "plan_dr")
    for line in (BUNDLES / bundle / "weights.sha256").read_text().splitlines()
]


def flip(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def load(path: Path) -> object:
    """As the stages do."""
    if path.suffix == ".pt":
        return read_weights(path)
    with safe_open(str(path), framework="pt") as stream:
        schema = json.loads(stream.metadata()["monai_plan"])["schema"]
    return load_tensors(path, schema)


@pytest.mark.parametrize(("bundle", "name"), SHIPPED)
def test_a_shipped_file_with_a_changed_byte_is_refused(tmp_path, bundle, name):
    for part in ("weights.sha256", name):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        shutil.copy(BUNDLES / bundle / part, tmp_path / part)
    load(tmp_path / name)
    flip(tmp_path / name)
    with pytest.raises(
        ValueError, match=r"has the SHA-256 .*weights.sha256' lists .* Copy what belongs there once more"
    ):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("command", "name"), [("generate", "models/generator.safetensors"), ("audit", "models/generator.safetensors")]
)
def test_commands_refuse_it_too(tmp_path, capsys, command, name):
    bundle = Path(shutil.copytree(BUNDLES / "plan_tb", tmp_path / "plan_tb"))
    flip(bundle / name)
    words = {
        "generate": ["generate", "--bundle", str(bundle), "--to", str(tmp_path / "to"), "--per_class", "1"],
        "audit": ["audit", "--bundle", str(bundle), "--output_dir", str(tmp_path / "to")],
    }
    assert main(words[command]) == 2
    assert "has the SHA-256" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "to").rglob("*") if path.is_file() and not path.name.startswith(".")]


def test_files_that_no_list_names_are_not_checked(tmp_path):
    (tmp_path / "models").mkdir()
    torch.save({"a": torch.zeros(1)}, tmp_path / "models" / "own.pt")
    (tmp_path / "weights.sha256").write_text(f"{'0' * 64}  models/other.pt\n")
    (tmp_path / "models" / "manifest.json").write_text("not of a release")
    require_listed(tmp_path / "models" / "own.pt")
    assert read_weights(tmp_path / "models" / "own.pt")["a"].shape == (1,)


def test_what_is_made_anew_in_its_place_is_taken_out_of_the_list(tmp_path, caplog):
    """And a file that is a link, as caches of downloads have them, is held against the list like any other."""
    folder = tmp_path / "models"
    for name in ("a", "b"):
        save_tensors(folder / f"{name}.safetensors", {"x": torch.zeros(1)}, "thing")
    (tmp_path / "blob").write_bytes((folder / "b.safetensors").read_bytes())
    (folder / "b.safetensors").unlink()
    (folder / "b.safetensors").symlink_to(tmp_path / "blob")
    lines = [f"{sha256_of(folder / f'{name}.safetensors')}  models/{name}.safetensors\n" for name in ("a", "b")]
    (tmp_path / "weights.sha256").write_text("".join(lines))
    save_tensors(folder / "a.safetensors", {"x": torch.ones(1)}, "thing")
    assert load_tensors(folder / "a.safetensors", "thing")[0]["x"] == 1 and "is made anew" in caplog.text
    assert (tmp_path / "weights.sha256").read_text() == lines[1]
    load_tensors(folder / "b.safetensors", "thing")
    (tmp_path / "blob").write_bytes((folder / "a.safetensors").read_bytes())
    with pytest.raises(ValueError, match="b.safetensors' has the SHA-256"):
        load_tensors(folder / "b.safetensors", "thing")


def test_archives_of_torch_are_stored_and_nothing_else_is_taken(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "own.pt")
    require_stored(tmp_path / "own.pt")
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "own.pt")
    with pytest.raises(ValueError, match="unpacks to"):
        require_stored(tmp_path / "packed.zip")


def test_sizes_are_bounded(tmp_path):
    (tmp_path / "a").write_bytes(b"123")
    require_small(tmp_path / "a", 3)
    with pytest.raises(ValueError, match="3 bytes, more than the 2"):
        require_small(tmp_path / "a", 2)


def test_nothing_of_ours_unpickles_or_evaluates():
    """`torch.load` says weights_only, numpy and pickle load nothing, and no text is evaluated."""
    source = "\n".join(path.read_text() for path in (REPOSITORY / "monai_plan").rglob("*.py"))
    loads = re.findall(r"torch\.load\(.*", source)
    assert loads and all("weights_only=True" in load for load in loads)
    assert not re.search(r"^\s*import pickle|np\.load\(|joblib|yaml\.load\(|\bexec\(", source, re.M)
    assert not re.search(r"(?<![.\w])eval\(", source)


def test_the_documents_say_that_a_config_is_code():
    for page in ("README.md", "docs/bundles.md", "docs/reliability.md"):
        assert "config is code" in (REPOSITORY / page).read_text(), page
