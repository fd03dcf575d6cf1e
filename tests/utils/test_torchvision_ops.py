"""torchvision beside any torch."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys

import pytest

from monai_plan.utils import import_torchvision, torchvision_ops

needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"
)


@needs_torchvision
def test_importing_twice_gives_the_same_module():
    assert import_torchvision() is import_torchvision() is sys.modules["torchvision"]


@needs_torchvision
@pytest.mark.skipif(importlib.util.find_spec("lpips") is None, reason="lpips is not installed")
def test_lpips_can_be_imported_afterwards():
    code = (
        "from monai_plan.utils import import_torchvision as f; f(); f(); import lpips, torchvision.models as m; "
        "assert callable(lpips.LPIPS) and callable(m.resnet18)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("message", ["something else", "operator torchvision::nms does not exist"])
def test_only_the_known_error_is_answered_and_only_once(monkeypatch, message):
    calls = []

    def fail(name):
        calls.append(name)
        raise RuntimeError(message)

    monkeypatch.setattr(importlib, "import_module", fail)
    monkeypatch.setattr(torchvision_ops, "_library", object())  # the schemas have been defined already
    with pytest.raises(RuntimeError, match=message):
        import_torchvision()
    assert calls == ["torchvision"]


def test_without_torchvision_it_is_an_import_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError):
        import_torchvision()
