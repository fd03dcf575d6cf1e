"""A disk that fills up or is locked says so in words, leaves what was there, and is no fault of the program."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from monai_plan.utils import atomic_folder, atomic_path

LIMITED = """
import resource, sys
import torch
from monai_plan.utils import save_tensors, atomic_path, write_json
from monai_plan.handlers import ResumableCheckpoint, WeightsSaver
from ignite.engine import Engine
from PIL import Image
import numpy as np

def image(path):
    with atomic_path(path) as partial:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (512, 512)).astype(np.uint8)).save(partial)

network = torch.nn.Linear(512, 512)
writers = {
    "a.safetensors": lambda path: save_tensors(path, dict(network.state_dict()), "test"),
    "b.json": lambda path: write_json(path, {"a": "x" * 200000}),
    "c.pt": lambda path: WeightsSaver(path, network, False).save(Engine(lambda *_: None)),
    "d.pt": lambda path: ResumableCheckpoint(path, {"network": network}).save(Engine(lambda *_: None)),
    "e.png": image,
}
folder, *limits = sys.argv[1:]
for limit in limits:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    for name, write in writers.items():
        try:
            write(f"{folder}/{name}")
            print(name, "was written")
        except OSError as error:
            print(name, error.errno, error)
"""
WRITERS = ("a.safetensors", "b.json", "c.pt", "d.pt", "e.png")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_every_writer_says_that_nothing_more_fits_and_leaves_what_was_there(tmp_path):
    for name in WRITERS:
        (tmp_path / name).write_text("old")
    words = [sys.executable, "-c", LIMITED, str(tmp_path), "0", "4096", "100000"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    for name, line in zip(3 * WRITERS, lines, strict=True):
        assert line.startswith(f"{name} {errno.EFBIG} ") and f"{name}' could not be written (File too large)" in line
        assert "Free some space" in line and "type the same command again" in line
    assert sorted(os.listdir(tmp_path)) == sorted(WRITERS)
    assert all((tmp_path / name).read_text() == "old" for name in WRITERS)


@pytest.mark.parametrize("kind", [atomic_path, atomic_folder])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_is_named(tmp_path, kind, code):
    with pytest.raises(OSError, match="table.json' could not be written .*Free some space") as caught:  # noqa: SIM117
        with kind(tmp_path / "table.json"), atomic_path(tmp_path / "table.json"):
            raise OSError(code, os.strerror(code))
    assert caught.value.errno == code and not os.listdir(tmp_path)


def test_a_folder_that_was_locked_meanwhile_is_named_and_another_one_is_not_blamed_on_it(tmp_path):
    with pytest.raises(OSError, match="table.json' could not be written .*made writable again"):  # noqa: SIM117
        with atomic_path(tmp_path / "table.json") as partial:
            raise PermissionError(errno.EACCES, "Permission denied", str(partial))
    with pytest.raises(PermissionError, match="scan.png"), atomic_path(tmp_path / "table.json"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/scan.png")
