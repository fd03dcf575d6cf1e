"""Finding the running bundle."""

from __future__ import annotations

import os
import sys

import pytest

from monai_plan.utils import find_bundle_root


@pytest.fixture
def bundle(tmp_path):
    (tmp_path / "bundle" / "configs").mkdir(parents=True)
    (tmp_path / "bundle" / "configs" / "metadata.json").write_text("{}")
    return tmp_path / "bundle"


def test_the_first_bundle_on_the_path(bundle, tmp_path, monkeypatch):
    second = tmp_path / "second" / "configs"
    second.mkdir(parents=True)
    (second / "metadata.json").write_text("{}")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(bundle), str(second.parent)])
    assert find_bundle_root() == str(bundle)


@pytest.mark.parametrize("entry", ["", ".", "../bundle"])
def test_relative_entries_become_absolute(bundle, monkeypatch, entry):
    monkeypatch.chdir(bundle)
    monkeypatch.setattr(sys, "path", [entry])
    assert find_bundle_root() == os.path.realpath(bundle)


def test_without_a_bundle_monais_default(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert find_bundle_root() == "."
