"""Finds planted words in any bytes: as text of several encodings, as hashes, and within what is packed or embedded."""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import io
import lzma
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
from marked_images import Marker

KEY_BYTES = 8
TABLE_BITS = 22
DEEPEST = 6
"""Containers within containers that are looked into."""
PNG = b"\x89PNG\r\n\x1a\n"
ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
HASHES = ("md5", "sha1", "sha256", "sha512", "blake2b")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{48,}")
_ESCAPED = re.compile(rb"\\u00([0-9a-fA-F]{2})|\\x([0-9a-fA-F]{2})|&#x([0-9a-fA-F]{2});")


@dataclass(frozen=True)
class Hit:
    """A marker that was found.

    Attributes:
        place: of the file, and of what is within it.
        marker: which one.
        form: how it was written.
    """

    place: str
    marker: Marker
    form: str


class MarkerScan:
    """Looks for markers, and counts what it looked at.

    Args:
        markers: each is looked for by its token, in every encoding, and by the hashes of its whole value.

    Attributes:
        files, bytes: looked at so far, as they lie on the disk.
    """

    def __init__(self, markers: Iterable[Marker]) -> None:
        self.files = self.bytes = 0
        self._needles: dict[int, list[tuple[bytes, str, Marker]]] = defaultdict(list)
        for marker in markers:
            for form, needle in _forms(marker):
                self._needles[int.from_bytes(needle[:KEY_BYTES], "little")].append((needle, form, marker))
        self._keys = np.array(sorted(self._needles), dtype="<u8")
        self._may_be_one = np.zeros(2**TABLE_BITS, bool)
        self._may_be_one[_place_in_table(self._keys)] = True

    def files_of(self, folder: Path) -> dict[str, list[Hit]]:
        """Every file below a folder, hidden ones too -> what was found in it, or in its path below the folder."""
        found: dict[str, list[Hit]] = {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file():
                content = path.read_bytes()
                self.files, self.bytes = self.files + 1, self.bytes + len(content)
                found[name] = [*self.of(content, name), *self.of(name.encode(), f"{name} (name)")]
        return found

    def of(self, content: bytes, place: str) -> list[Hit]:
        """What was found in some bytes, and in what they hold."""
        hits: dict[tuple[str, str, str], Hit] = {}
        for where, part in parts_of(content, place):
            for form, marker in self._in(part):
                hits.setdefault((where, marker.token, form), Hit(where, marker, form))
        return list(hits.values())

    def _in(self, content: bytes) -> Iterator[tuple[str, Marker]]:
        lowered = content.lower()
        for text in (content,) if lowered == content else (content, lowered):
            for start in range(min(KEY_BYTES, len(text) - KEY_BYTES + 1)):
                windows = np.frombuffer(text, "<u8", count=(len(text) - start) // KEY_BYTES, offset=start)
                rows = np.flatnonzero(self._may_be_one[_place_in_table(windows)])
                places = np.searchsorted(self._keys, windows[rows]).clip(max=len(self._keys) - 1)
                for row in rows[self._keys[places] == windows[rows]].tolist():
                    at = start + KEY_BYTES * row
                    for needle, form, marker in self._needles[int(windows[row])]:
                        if text.startswith(needle, at):
                            yield form, marker


def _place_in_table(keys: np.ndarray) -> np.ndarray:
    """Multiplicative hashing: few of the many windows of a file share a place with a key."""
    return (keys * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - TABLE_BITS)


def _forms(marker: Marker) -> Iterator[tuple[str, bytes]]:
    """How a marker may be written; all in small letters where the case does not matter."""
    token = marker.token.lower()
    for encoding in ENCODINGS:
        yield encoding, token.encode(encoding)
    yield "hexadecimal", token.encode().hex().encode()
    yield "reversed", token[::-1].encode()
    for shift in range(3):  # where the text begins within three bytes; its ends mix with what stands beside it
        code = base64.b64encode(bytes(shift) + token.encode()).rstrip(b"=")
        yield "base64", code[-(-4 * shift // 3) : len(code) - 1]
    for value in {form for plain in marker.hashed for form in (plain, plain.lower(), plain.upper())}:
        for name in HASHES:
            digest = hashlib.new(name, value).digest()
            yield f"{name} (bytes)", digest[:16]
            yield name, digest.hex()[:16].encode()  # a shortened one tells as much
            yield f"{name} (base64)", base64.b64encode(digest)[:20]


def parts_of(content: bytes, place: str, depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """The bytes, and whatever is packed or embedded in them, each with the way to it."""
    yield place, content
    if depth == DEEPEST or not content:
        return
    for kind, opened in _OPENERS.items():
        for name, part in opened(content):
            if part and part != content:
                yield from parts_of(part, f"{place} > {kind}{name and ' ' + name}", depth + 1)


def _zipped(content: bytes) -> Iterator[tuple[str, bytes]]:
    if b"PK\x05\x06" not in content:
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield "comment", archive.comment
            for info in archive.infolist():
                yield f"name {info.filename}", info.filename.encode() + b"\n" + info.comment + info.extra
                yield info.filename, archive.read(info)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OSError, zlib.error):
        return


def _streams(magic: bytes, decoder: Callable[[], object]) -> Callable[[bytes], Iterator[tuple[str, bytes]]]:
    def opened(content: bytes) -> Iterator[tuple[str, bytes]]:
        at = content.find(magic)
        while at >= 0:
            try:
                part = decoder().decompress(content[at:])  # type: ignore[attr-defined]
            except (zlib.error, OSError, EOFError, ValueError, lzma.LZMAError):
                part = b""
            if len(part) > 3:
                yield f"at {at}", part
            at = content.find(magic, at + 1)

    return opened


def _gzip_decoder() -> object:
    return zlib.decompressobj(wbits=31)


def _png_texts(content: bytes) -> Iterator[tuple[str, bytes]]:
    """What PNG pictures keep beside pixels in packed form, wherever the pictures lie."""
    at = content.find(PNG)
    while at >= 0:
        here = at + len(PNG)
        while here + 8 <= len(content):
            length, kind = int.from_bytes(content[here : here + 4], "big"), content[here + 4 : here + 8]
            if kind in (b"zTXt", b"iTXt", b"iCCP"):
                body = content[here + 8 : here + 8 + length]
                yield from _zlib_streams(body)
            if kind == b"IEND":
                break
            here += length + 12
        at = content.find(PNG, at + 1)


def _base64_texts(content: bytes) -> Iterator[tuple[str, bytes]]:
    for found in _BASE64.finditer(content):
        code = found.group().translate(bytes.maketrans(b"-_", b"+/"))
        for start in range(4 if len(code) < 4096 else 1):  # letters before it may belong to something else
            whole = code[start:]
            yield f"at {found.start() + start}", base64.b64decode(whole[: len(whole) // 4 * 4])


def _unescaped(content: bytes) -> Iterator[tuple[str, bytes]]:
    if b"%" in content:
        yield "percent signs", unquote_to_bytes(content)
    if _ESCAPED.search(content):
        yield "escapes", _ESCAPED.sub(lambda found: bytes([int(next(filter(None, found.groups())), 16)]), content)


_zlib_streams = _streams(b"\x78", zlib.decompressobj)
_OPENERS: dict[str, Callable[[bytes], Iterator[tuple[str, bytes]]]] = {
    "zip": _zipped,
    "gzip": _streams(gzip.compress(b"")[:3], _gzip_decoder),
    "bzip2": _streams(b"BZh9", bz2.BZ2Decompressor),
    "xz": _streams(b"\xfd7zXZ\x00", lzma.LZMADecompressor),
    "PNG text": _png_texts,
    "base64": _base64_texts,
    "text": _unescaped,
}
