"""Text files as plain UTF-8, which can be read at any byte: of a file that is compressed or in another encoding a copy
is made once, any other is itself.

    .gz .zst .xz .bz2            told by their first bytes, not by their names
    UTF-16, UTF-32               told by their byte order mark
    any other encoding           where the user names it
    .csv .tsv                    told by their names, see `delimited`

Copies lie in `core.remote.cache_folder`, under the file's path, size and time; a row that does not decode keeps its
bytes, so that it alone is rejected.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import lzma
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa

from vlm_prep.core.bounds import MOST_TIMES, most_unpacked
from vlm_prep.core.errors import InputError
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.core.remote import cache_folder
from vlm_prep.media.delimited import delimiter_of, dialect_of, json_lines

_CHUNK: Final = 8 << 20
_COMPRESSED: Final[dict[bytes, str]] = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bz2",
}
_MARKS: Final = (
    *((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
    *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
)
ENDINGS: Final = (".gz", ".zst", ".zstd", ".xz", ".bz2")
_UTF8: Final = (None, "utf-8", "ascii", "utf-8-sig")
_VERSION: Final = 3
_OTHERWISE: Final = ".otherwise"
"""Ending of an empty file beside the copy of a table that is not written as its name says."""
_WINDOW: Final = 1 << 30
"""Most memory for what a decompressor remembers; `xz -9` needs 65 MiB."""


def utf8_path(path: str | Path, encoding: str | None = None) -> str:
    """Return the path of a file's text in UTF-8: its own, or that of a copy.

    Args:
        path: a file that exists.
        encoding: of a file without a byte order mark; None for UTF-8.

    Raises:
        InputError: the file is not what its first bytes say, or there is no room for the copy.
    """
    try:
        stat = os.stat(path)
    except OSError as error:
        raise _not_there(path, error) from error
    return _utf8_path(os.path.abspath(path), stat.st_size, stat.st_mtime_ns, encoding)


def _not_there(path: str | Path, error: OSError) -> InputError:
    what = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or error
    return InputError(f"{path}: {what}", "Check the path; in a meta file it starts there.")


def form_of(path: str | Path) -> str | None:
    """Name how a file is compressed or encoded by its first bytes, or csv or tsv by its name; None for plain text."""
    return _form(path, by_name=True)


def _form(path: str | Path, *, by_name: bool) -> str | None:
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise _not_there(path, error) from error
    if by_name and delimiter_of(plain_name(path)):
        return os.path.splitext(plain_name(path))[1][1:].lower()
    found = next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)
    return found or next((name for mark, name in _MARKS if head.startswith(mark)), None)


def is_encoded(path: str | Path, encoding: str | None) -> bool:
    """Whether the text of a file, unpacked, is in another encoding than UTF-8: by its mark, or as the user names it.

    Raises:
        InputError: there is no such file.
        OSError: it cannot be unpacked.
    """
    if encoding not in _UTF8:
        return True
    with _opened(str(path), _form(path, by_name=False)) as file:
        return file.read(4).startswith(tuple(mark for mark, _ in _MARKS))


_NO_TEXT: Final = (
    *(OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, UnicodeError, csv.Error),
    MemoryError,  # xz states how much is to be remembered, up to 4 GiB
)


@lru_cache(maxsize=256)
def _utf8_path(path: str, size: int, changed: int, encoding: str | None) -> str:
    form, delimiter = _form(path, by_name=False), delimiter_of(plain_name(path))
    if delimiter is None and form is None and encoding in _UTF8:
        return path
    key = digest_json([_VERSION, path, size, changed, encoding]).removeprefix("xxh3:")[:16]
    target = cache_folder() / "text" / key / (plain_name(path) + (".jsonl" if delimiter else ""))
    if not target.exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".copy-") as folder:
                temporary = Path(folder) / target.name
                if delimiter is None:
                    _copy(path, form, encoding, temporary)
                    if again := _form(temporary, by_name=False):
                        raise InputError(f"{path}: is compressed twice ({form}, {again})", "Unpack it once.")
                else:
                    _copy(path, form, encoding, Path(folder) / "plain")
                    _as_json_lines(Path(folder) / "plain", delimiter, temporary, Path(f"{target}{_OTHERWISE}"))
                os.replace(temporary, target)
        except _NO_TEXT as error:
            table = "CSV" if delimiter == "," else "TSV"
            columns = f"Columns are parted by {'commas' if delimiter == ',' else 'tabs'}. " if delimiter else ""
            raise InputError(
                f"{path}: cannot be read as {form or encoding or table} text: {error}",
                f"{columns}The file is damaged, or in another encoding (`encoding`); copies of such files are kept in "
                f"{target.parent.parent} ($VLM_PREP_CACHE).",
            ) from error
    return str(target)


def plain_name(path: str | Path) -> str:
    """Return a file's name without the ending of its compression."""
    name = os.path.basename(path)
    return next((name.removesuffix(end) for end in ENDINGS if name.lower().endswith(end)), name)


def is_table_otherwise(text: str) -> bool:
    """Whether the copy of a table is of one that is not written as its name says, see `delimited.dialect_of`."""
    return os.path.exists(f"{text}{_OTHERWISE}")


def _as_json_lines(source: Path, delimiter: str, target: Path, otherwise: Path) -> None:
    # newline="": a line end inside quotes is the field's own
    with open(source, encoding="utf-8-sig", newline="") as file:
        dialect = dialect_of(file, delimiter)
        if not dialect.is_usual:  # before the copy, so that no copy is without it
            otherwise.touch()
        file.seek(0)
        with open(target, "w", encoding="utf-8", newline="") as out:
            out.writelines(json_lines(file, dialect))


def most_bytes(path: str | Path) -> int:
    """Return how large what is unpacked of a file may be."""
    return most_unpacked(os.path.getsize(path))


def _copy(path: str, form: str | None, encoding: str | None, target: Path) -> None:
    most = most_bytes(path)
    with _opened(path, form) as file, open(target, "wb") as whole:
        out = _Limited(whole, most)
        first = file.read(_CHUNK)
        marked = next((name for mark, name in _MARKS if first.startswith(mark)), None)
        if marked is None and encoding is None:
            out.write(first)
            while chunk := file.read(_CHUNK):
                out.write(chunk)
        else:
            for text in _decoded(first, file, marked or str(encoding), strict=marked is not None):
                out.write(text)


class _Limited:
    """Writes a file up to a size."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self._left, self._most = file, most, most

    def write(self, data: bytes) -> None:
        """Write, or refuse.

        Raises:
            OSError: it would be more.
        """
        self._left -= len(data)
        if self._left < 0:
            raise OSError(
                f"its text has more than {self._most:,} bytes, {MOST_TIMES} times its size: unpack it yourself if it "
                "is what you mean"
            )
        self._file.write(data)


def _decoded(first: bytes, file: IO[bytes], encoding: str, *, strict: bool) -> Iterator[bytes]:
    # bytes that do not decode stay what they are: the row that holds them is not UTF-8, and is rejected
    errors = "strict" if strict else "surrogateescape"
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    chunk = first
    while chunk:
        yield decoder.decode(chunk).encode("utf-8", errors)
        chunk = file.read(_CHUNK)
    yield decoder.decode(b"", final=True).encode("utf-8", errors)


def _opened(path: str, form: str | None) -> IO[bytes]:
    file: IO[bytes] = _OPENERS.get(form or "", open)(path, "rb")
    return file


def _open_xz(path: str, mode: str) -> Any:
    with open(path, "rb") as file:
        lzma.LZMADecompressor(memlimit=_WINDOW).decompress(file.read(4096), 1)
    return lzma.open(path, "rb")


def _open_zstd(path: str, mode: str) -> Any:
    return pa.CompressedInputStream(path, "zstd")


_OPENERS: Final[dict[str, Callable[[str, str], Any]]] = {
    "gzip": gzip.open,
    "xz": _open_xz,
    "bz2": bz2.open,
    "zstd": _open_zstd,
}
