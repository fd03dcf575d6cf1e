"""No network and no shell: neither when the commands run, nor anywhere in the source."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BUNDLE, tiny_pipeline

import monai_plan

pytestmark = pytest.mark.skipif(not BUNDLE.is_dir(), reason="not a checkout")

WATCHED = (
    "socket.connect",
    "socket.bind",
    "socket.sendto",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "urllib.Request",
    "http.client.connect",
    "ftplib.connect",
    "smtplib.connect",
    "webbrowser.open",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.spawn",
    "os.posix_spawn",
    "os.startfile",
    "pty.spawn",
)
"""Audit events of Python, see PEP 578."""
ALLOWED = {
    "urllib3/util/connection.py": ("socket.bind", "imported by MONAI, it tries whether the machine knows IPv6"),
}
"""Source file among the callers to what it may do, and why; nothing is sent."""
WATCH = f"""
import json, sys, traceback

seen, watched = [], frozenset({WATCHED!r})

def hook(event, arguments):
    if event in watched:
        callers = [frame.filename for frame in traceback.extract_stack() if not frame.filename.startswith("<")]
        seen.append([event, repr(arguments)[:200], callers[-4:]])

sys.addaudithook(hook)
"""


def watched(source: str, *words: str, folder: Path, **environment: str) -> list:
    """What a Python program did of what is watched: event, arguments, and the last files among the callers."""
    record = folder / "seen.json"
    program = f"{WATCH}\ntry:\n    exec({source!r})\nfinally:\n    json.dump(seen, open({str(record)!r}, 'w'))\n"
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(record.read_text())


def may(event: str, callers: list[str]) -> bool:
    return any(event == does and caller.endswith(file) for caller in callers for file, (does, _) in ALLOWED.items())


COMMANDS = """
import json, sys
from monai_plan.__main__ import main
import monai_plan.report, monai_plan.data, monai_plan.transforms

for words in json.loads(sys.argv[1]):
    code = main(words)
    assert code == 0, (words, code)
"""


def test_no_command_opens_a_connection_or_starts_a_program(radiographs, tmp_path):
    """Every command that works with images, each with MONAI, torch and all other packages in the same process."""
    output = str(tmp_path / "output")
    quick = ["--set", "audit#images=24", "audit#iterations=2"]
    exports = [
        ["generate", "--output_dir", output, "--to", str(tmp_path / kind), "--per_class", "2", "--format", kind]
        for kind in ("png", "nifti", "dicom")
    ]
    commands = [
        ["datalist", str(radiographs), "--output", str(tmp_path / "list.json")],
        tiny_pipeline(radiographs, Path(output), "walk#planner#label_network=null"),
        ["audit", "--output_dir", output, *quick],
        ["release", "--output_dir", output],
        ["release", "--output_dir", output, "--mode", "images"],
        *exports,
        ["pack", "--bundle", str(BUNDLE), "--to", str(tmp_path / "packed")],
    ]
    seen = watched(COMMANDS, json.dumps(commands), folder=tmp_path)
    assert (tmp_path / "output" / "certificate" / "certificate.html").is_file()
    strange = [(event, what, callers) for event, what, callers in seen if not may(event, callers)]
    assert not strange, json.dumps(strange[:5], indent=1)


@pytest.mark.parametrize(
    ("act", "event"),
    [
        ("import socket\ntry: socket.create_connection(('127.0.0.1', 1), 0.1)\nexcept OSError: pass", "socket.connect"),
        ("import subprocess, sys; subprocess.run([sys.executable, '-c', ''])", "subprocess.Popen"),
        ("import os; os.system('true')", "os.system"),
        (
            "import urllib.request\ntry: urllib.request.urlopen('http://127.0.0.1:1')\nexcept OSError: pass",
            "urllib.Request",
        ),
        ("import os; os.posix_spawn('/bin/true', ['true'], {})", "os.posix_spawn"),
    ],
)
def test_the_watch_sees(tmp_path, act, event):
    seen = watched(act, folder=tmp_path)
    assert event in {name for name, _, callers in seen if not may(name, callers)}


# the source

PACKAGE = Path(monai_plan.__file__).parent
CALLS = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "os.system": "starts a shell",
    "os.popen": "starts a shell",
    "pickle.load": "runs what a file says",
    "pickle.loads": "runs what a file says",
    "marshal.loads": "runs what a file says",
    "shelve.open": "unpickles",
    "yaml.load": "makes any object",
    "urllib.request.urlopen": "network",
    "urllib.request.urlretrieve": "network",
    "webbrowser.open": "network",
    "torch.hub.load": "network, and runs what it fetched",
}
MODULES = (
    "subprocess",
    "socket",
    "urllib.request",
    "http.client",
    "requests",
    "httpx",
    "ftplib",
    "smtplib",
    "pty",
    "webbrowser",
)
ASKED = {"monai_plan/metrics/image_features.py": "torchvision's weights, where the user wrote download=True"}
"""Files that may call ``torch.hub``, and why."""


def faults_in(source: str, name: str) -> list[str]:
    """Calls and imports that have no place in the package."""
    found = []
    for node in ast.walk(ast.parse(source)):
        where = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"{where} imports {module}" for module in modules if module in MODULES]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {option.arg: ast.unparse(option.value) for option in node.keywords}
        if called in CALLS:
            found.append(f"{where} calls {called}: {CALLS[called]}")
        if options.get("shell", "False") != "False":
            found.append(f"{where} gives a shell to {called}")
        if called == "torch.load" and options.get("weights_only") != "True":
            found.append(f"{where} unpickles: torch.load without weights_only=True")
        if called.endswith(("np.load", "numpy.load")) and options.get("allow_pickle", "False") != "False":
            found.append(f"{where} unpickles: {called}")
        if called.startswith("torch.hub.") and called != "torch.hub.get_dir" and name not in ASKED:
            found.append(f"{where} calls {called}: network")
        if called.endswith("optional_import") and node.args and ast.unparse(node.args[0]).strip("'\"") in MODULES:
            found.append(f"{where} imports {ast.unparse(node.args[0])}")
    return found


def test_the_source_has_no_shell_no_network_and_unpickles_nothing():
    files = sorted(PACKAGE.rglob("*.py"))
    faults = [
        fault
        for path in files
        for fault in faults_in(path.read_text(encoding="utf-8"), path.relative_to(PACKAGE.parent).as_posix())
    ]
    assert len(files) > 100 and not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "exec(text)",
        "import subprocess",
        "from urllib.request import urlopen",
        "os.system('ls')",
        "run(words, shell=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "pickle.load(stream)",
        "yaml.load(text)",
        "torch.hub.load_state_dict_from_url(address)",
        "requests, _ = optional_import('requests')",
    ],
)
def test_the_look_at_the_source_sees(line):
    assert faults_in(line, "somewhere.py")


def test_downloads_are_off_unless_asked_for(monkeypatch, tmp_path):
    """The two functions that can fetch weights refuse, with what to type, before they would."""
    import torch

    from monai_plan.metrics import LPIPSFeatures
    from monai_plan.metrics.image_features import torchvision_weights

    def fetched(*_, **__):
        raise AssertionError("it went to the network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetched)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for ask in (LPIPSFeatures, lambda: torchvision_weights("SqueezeNet1_1_Weights")):
        with pytest.raises((ValueError, OSError), match="download=True"):
            ask()
