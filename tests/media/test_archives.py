"""Hostile archives beside rows: each name is read, a reject in words, and never more memory than the member is said
to take."""

from __future__ import annotations

import gzip
import io
import re
import stat
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.core.errors import Reject
from vlm_prep.media.files import read_bytes

RED, GREEN = b"red" * 40, b"green" * 40
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def zipped(
    members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED, types: dict[str, int] | None = None
) -> bytes:
    """A zip; of some names with what kind of file they are on Unix."""
    data = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(data, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in members:
            archive.writestr(name, content)
            archive.infolist()[-1].external_attr |= (types or {}).get(name, 0) << 16
    return data.getvalue()


def tarred(members: list[tuple[str, bytes | tuple[bytes, str]]]) -> bytes:
    """A tar; of a link its type and target."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    (tmp_path / "secret.png").write_bytes(b"secret")
    plain = [("a.png", RED), ("../up.png", RED), ("/abs.png", RED), ("twice.png", RED), ("twice.png", RED)]
    twice = [("both.png", RED), ("both.png", GREEN), ("x/../same.png", RED), ("./same.png", GREEN)]
    inner = zipped([("c.png", RED)])
    members = [*plain, *twice, ("b.zip", inner), ("b.tar", tarred([("c.png", RED)])), ("p.png.gz", gzip.compress(RED))]
    others = {"sym.png": stat.S_IFLNK, "fifo.png": stat.S_IFIFO, "null.png": stat.S_IFCHR, "a.png": stat.S_IFREG}
    (tmp_path / "a.zip").write_bytes(zipped([*members, *((name, b"/etc/x") for name in others)][:-1], types=others))
    links = [("sym.png", (tarfile.SYMTYPE, "secret.png")), ("hard.png", (tarfile.LNKTYPE, "a.png"))]
    devices = [("fifo.png", (tarfile.FIFOTYPE, "")), ("null.png", (tarfile.CHRTYPE, ""))]
    (tmp_path / "a.tar").write_bytes(tarred([*members, *links, *devices]))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tarred([("a.png", RED)])))
    return tmp_path


def read(uri: str | Path) -> bytes | str:
    """Return what is behind a uri, or the reason that it is rejected for; the message, if that has several lines."""
    try:
        return read_bytes(str(uri))
    except Reject as fault:
        return fault.message if "\n" in fault.message else str(fault.reason)


@pytest.mark.parametrize("archive", ["a.zip", "a.tar"])
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.png", RED),
        ("../up.png", RED),
        ("/abs.png", RED),
        ("abs.png", RED),
        ("twice.png", RED),
        ("both.png", "unreadable_file"),
        ("same.png", "unreadable_file"),
        ("b.zip::c.png", "missing_key"),
        ("b.tar::c.png", "missing_key"),
        ("p.png.gz::p.png", "missing_key"),
        ("../secret.png", "missing_key"),
        ("", "missing_key"),
        ("sym.png", "missing_key"),
        ("hard.png", "missing_key"),
        ("fifo.png", "missing_key"),
        ("null.png", "missing_key"),
    ],
)
def test_a_name_is_a_members_own_content_or_a_reject(
    archives: Path, archive: str, name: str, found: bytes | str
) -> None:
    assert read(f"{archives / archive}::{name}") == found


def test_a_name_with_two_contents_is_said_so(archives: Path) -> None:
    with pytest.raises(Reject, match="several files of this name, with different contents: give each its own"):
        read_bytes(f"{archives / 'a.zip'}::both.png")


def test_a_compressed_tar_is_not_read_in_places(archives: Path) -> None:
    assert read(f"{archives / 'a.tar.gz'}::a.png") == "unreadable_file"


@pytest.mark.parametrize("method", METHODS)
def test_members_of_all_methods_are_read_as_the_library_reads_them(method: int, tmp_path: Path) -> None:
    contents = [(f"{number}.png", bytes(range(256)) * number) for number in range(1, 5)]
    # something before the archive, as self-extracting ones have
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04" + zipped(contents, method))
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert [archive.read(name) for name, _ in contents] == [content for _, content in contents]
    assert [read(f"{tmp_path / 'a.zip'}::{name}") for name, _ in contents] == [content for _, content in contents]


def lying(method: int, size: int, said: int) -> bytes:
    """A zip of a member of zeros whose headers say another size."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive, archive.open("a.png", "w") as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    return data.getvalue().replace(struct.pack("<I", size), struct.pack("<I", said))


MEASURE = """
import resource, sys
from vlm_prep.core.errors import Reject
from vlm_prep.media.files import read_bytes
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_bytes(sys.argv[1])
except Reject as fault:
    print(fault.reason, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_member_that_is_larger_than_it_is_said_to_be_takes_no_memory(method: int, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(lying(method, 256 << 20, 100))
    line = [sys.executable, "-c", MEASURE, f"{tmp_path / 'a.zip'}::a.png"]
    reason, mebibytes = subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()
    assert reason == "unreadable_file" and int(mebibytes) < 40


@pytest.mark.parametrize("method", METHODS)
def test_a_member_that_is_smaller_than_it_is_said_to_be_is_no_other_one(method: int, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(lying(method, 1 << 20, 2_000_000_000))
    assert read(f"{tmp_path / 'a.zip'}::a.png") in (bytes(1 << 20), "unreadable_file")


def test_every_changed_byte_of_a_zip_is_the_right_content_or_a_reject(tmp_path: Path) -> None:
    """Also one of a method that is unpacked here."""
    content = bytes(range(64))
    for method in METHODS[1:]:
        whole = zipped([("a.png", content)], method)
        for place in range(len(whole)):
            path = tmp_path / f"{method}-{place}.zip"
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
            found: Any = read(f"{path}::a.png")
            assert found == content or re.fullmatch("[a-z_]+", found), (method, place)
