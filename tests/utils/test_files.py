"""Files are whole or absent, and folders are proven before work starts."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from monai_plan.utils import atomic_path, files, locked, require_writable, sha256_of, write_json
from monai_plan.utils.files import require_private

posix = pytest.mark.skipif(os.name != "posix", reason="Windows keeps no such permissions")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_whole_with_the_targets_suffix(tmp_path):
    target = tmp_path / "new" / "folder" / "image.png"
    with atomic_path(target) as partial:
        assert partial.suffix == ".png" and partial.parent == target.parent and partial != target
        partial.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole" and names(target.parent) == ["image.png"]


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_leaves_nothing_and_keeps_the_old_file(tmp_path, old, error):
    target = tmp_path / "file.txt"
    if old is not None:
        target.write_text(old)
    with pytest.raises(error), atomic_path(target) as partial:
        partial.write_text("half")
        raise error
    assert names(tmp_path) == ([] if old is None else ["file.txt"])
    assert old is None or target.read_text() == old


def test_a_writer_that_ends_leaves_the_part_of_the_next_one(tmp_path, monkeypatch):
    """The name is free once the file has its final one."""
    replace = os.replace

    def overtaken(partial, final):
        replace(partial, final)
        partial.write_bytes(b"the next writer's")

    monkeypatch.setattr(os, "replace", overtaken)
    with atomic_path(tmp_path / "a.bin") as partial:
        partial.write_bytes(b"1")
    assert partial.read_bytes() == b"the next writer's" and (tmp_path / "a.bin").read_bytes() == b"1"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        with atomic_path(tmp_path / "file") as partial:
            partial.write_text("x")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def permissions(path: Path) -> int:
    return path.stat().st_mode & 0o777


@posix
@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_given_mode_overrules_the_umask_and_the_file_that_was_there(tmp_path, mask, mode):
    (tmp_path / "old.json").touch()
    (tmp_path / "old.json").chmod(0o666)
    before = os.umask(mask)
    try:
        for name in ("old.json", "new.json"):
            write_json(tmp_path / name, {}, mode=mode)
            assert permissions(tmp_path / name) == mode
    finally:
        os.umask(before)


@posix
@pytest.mark.parametrize("mode", [None, 0o600, 0o644])
def test_the_temporary_file_is_for_its_owner_alone(tmp_path, mode):
    before = os.umask(0)
    try:
        with atomic_path(tmp_path / "file", mode) as partial:
            assert permissions(partial) == 0o600
            partial.write_text("x")
            assert permissions(partial) == 0o600
    finally:
        os.umask(before)


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o610])
def test_a_secret_that_others_may_reach_is_refused(tmp_path, mode):
    secret = tmp_path / "a secret.json"
    secret.touch()
    secret.chmod(mode)
    with pytest.raises(ValueError, match=f"permissions {mode:04o}.*chmod 600 '{secret}'"):
        require_private(secret)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_secret_of_its_owner_is_taken(tmp_path, mode):
    (tmp_path / "secret").touch()
    (tmp_path / "secret").chmod(mode)
    assert require_private(tmp_path / "secret") is None


def test_windows_keeps_no_permissions(tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.touch()
    secret.chmod(0o644)
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        assert require_private(secret) is None


def test_require_writable_makes_the_folder_and_leaves_it_empty(tmp_path):
    assert require_writable(str(tmp_path / "a" / "b"), free_bytes=1) == tmp_path / "a" / "b"
    assert names(tmp_path / "a" / "b") == []


@pytest.mark.parametrize("below", [".", "deeper", "a/b"])
def test_a_path_under_a_file_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="cannot write to the folder.*Choose another one") as caught:
        require_writable(tmp_path / "file" / below)
    assert str(tmp_path / "file") in str(caught.value)
    assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="cannot write to the folder"):
            require_writable(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_full_disk_is_refused_before_the_work(tmp_path, monkeypatch):
    stats = namedtuple("stats", "f_bavail f_frsize")(10, 2**20)
    monkeypatch.setattr(os, "statvfs", lambda path: stats)
    assert require_writable(tmp_path, free_bytes=10 * 2**20) == tmp_path
    with pytest.raises(OSError, match="has 10 MiB left and this work needs about 11 MiB") as caught:
        require_writable(tmp_path, free_bytes=11 * 2**20)
    assert caught.value.errno == errno.ENOSPC


def add_one(file: Path, pause: float = 0.01) -> None:
    with locked(file):
        number = int(file.read_text())
        time.sleep(pause)
        file.write_text(str(number + 1))


@posix
def test_of_two_that_change_a_file_one_waits(tmp_path):
    file = tmp_path / "count"
    file.write_text("0")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add_one, [file] * 8))
    assert file.read_text() == "8" and names(tmp_path) == [".count.lock", "count"]
    assert permissions(tmp_path / ".count.lock") == 0o600


def test_windows_has_no_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "has_fcntl", False)
    with locked(tmp_path / "count"), locked(tmp_path / "count"):
        assert names(tmp_path) == []


def test_numbers_that_are_not_finite_become_null(tmp_path):
    content = {"a": [math.nan, 1.5, {"b": math.inf}], "c": (-math.inf, True, "NaN")}
    text = write_json(tmp_path / "file.json", content).read_text(encoding="utf-8")
    assert json.loads(text) == {"a": [None, 1.5, {"b": None}], "c": [None, True, "NaN"]} and "Infinity" not in text


def test_write_json(tmp_path):
    content = {"names": ["é", 1, None], "nested": {"x": 0.5}}
    assert write_json(tmp_path / "file.json", content) == tmp_path / "file.json"
    text = (tmp_path / "file.json").read_text(encoding="utf-8")
    assert json.loads(text) == content and "é" in text and text.endswith("}\n")
    with pytest.raises(TypeError):
        write_json(tmp_path / "file.json", {"x": object()})
    assert (tmp_path / "file.json").read_text(encoding="utf-8") == text and names(tmp_path) == ["file.json"]


@pytest.mark.parametrize("content", [b"", b"abc", bytes(3 << 20)])
def test_sha256(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()
