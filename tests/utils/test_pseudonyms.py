"""Pseudonyms need the key, and the key is made once, whole, and for its owner alone."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_plan.utils import pseudonyms
from monai_plan.utils.pseudonyms import pseudonym, read_or_make_key

KEY = bytes(range(32))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        # printf 'patient-0001' | openssl dgst -sha256 -mac HMAC -macopt hexkey:000102…1f
        ("patient-0001", "6a7f7c72f29cc4b44ad88e17961cad42"),
        ("Zoë", "895eaa5b6ad2cd8a4aadf561368adafa"),
    ],
)
def test_known_answers(name, answer):
    assert pseudonym(name, KEY) == answer


@given(st.text(), st.binary(min_size=32, max_size=32))
def test_the_definition_of_hmac(name, key):
    """RFC 2104 written out: H((K ^ opad) | H((K ^ ipad) | name)), the key padded to a block of 64 bytes."""
    padded = key + bytes(32)
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded) + name.encode()).digest()
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded) + inner).hexdigest()
    assert pseudonym(name, key) == outer[:32]


def test_names_and_keys_are_told_apart():
    names = ["P1", "p1", "P1 ", "", "P11"]
    assert len({pseudonym(name, key) for name in names for key in (KEY, KEY[::-1])}) == 2 * len(names)


@pytest.mark.parametrize("key", [b"", KEY[:-1], KEY + b"x"])
def test_a_key_of_another_length_is_refused(key):
    with pytest.raises(ValueError, match=f"32 bytes, got {len(key)}.*read_or_make_key"):
        pseudonym("a", key)


def test_the_key_is_made_once(tmp_path):
    path = tmp_path / "new" / "patients.key"
    key = read_or_make_key(str(path))
    assert len(key) == 32 and path.read_text() == key.hex() + "\n"
    assert read_or_make_key(path) == key and [file.name for file in path.parent.iterdir()] == ["patients.key"]
    assert read_or_make_key(tmp_path / "other.key") != key


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps no such permissions")
def test_the_key_is_for_its_owner_alone(tmp_path):
    before = os.umask(0)
    try:
        read_or_make_key(tmp_path / "patients.key")
    finally:
        os.umask(before)
    assert (tmp_path / "patients.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "patients.key").chmod(0o640)
    with pytest.raises(ValueError, match="permissions 0640.*chmod 600"):
        read_or_make_key(tmp_path / "patients.key")


def test_processes_that_come_first_at_once_share_one_key(tmp_path, monkeypatch):
    together, make = Barrier(4, timeout=30), pseudonyms._make_key

    def make_together(path):
        together.wait()
        make(path)

    monkeypatch.setattr(pseudonyms, "_make_key", make_together)
    with ThreadPoolExecutor(4) as pool:
        keys = set(pool.map(read_or_make_key, [tmp_path / "patients.key"] * 4))
    assert len(keys) == 1 and [file.name for file in tmp_path.iterdir()] == ["patients.key"]


@pytest.mark.parametrize("edit", [str.upper, str.strip, lambda text: text.strip() + "\r\n"])
def test_a_key_that_an_editor_touched_is_still_read(tmp_path, edit):
    path = tmp_path / "patients.key"
    key = read_or_make_key(path)
    path.write_text(edit(path.read_text()), newline="")
    assert read_or_make_key(path) == key


@pytest.mark.parametrize(
    "content", [b"", b"ab" * 31, b"ab" * 33, b"xy" * 32, b"ab " * 22, bytes(64), "é".encode() * 32], ids=repr
)
def test_what_is_no_key_is_refused_and_kept_and_not_shown(tmp_path, content):
    path = tmp_path / "patients.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ValueError, match="holds no key.*restore it from your copy") as caught:
        read_or_make_key(path)
    assert path.read_bytes() == content and "abab" not in str(caught.value)
