"""Files that are small and become large, deep or many: bounded memory, one message or a named reject."""

from __future__ import annotations

import bz2
import gzip
import lzma
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from vlm_prep.core import bounds
from vlm_prep.core.errors import InputError, Reject
from vlm_prep.core.records import Media, Rejected
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.probe import probe

ROW = b'{"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]}\n'
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: bytes(pa.compress(data, "zstd", asbytes=True)),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_PREP_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("end", PACK)
def test_a_text_that_becomes_200_times_as_large_is_refused_and_leaves_no_copy(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "_ANYWAY", 1 << 20)
    path = tmp_path / f"rows.jsonl.{end}"
    path.write_bytes(PACK[end](b" " * (24 << 20)))
    with pytest.raises(InputError, match="200 times its size: unpack it yourself") as caught:
        open_samples(path)
    assert "\n" not in caught.value.message
    assert sum(each.stat().st_size for each in (tmp_path / "cache").rglob("*") if each.is_file()) == 0


@pytest.mark.parametrize("end", PACK)
def test_text_that_is_only_well_compressed_is_read(end: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.jsonl.{end}"
    path.write_bytes(PACK[end](ROW * 20_000))
    assert len(open_samples(path)) == 20_000


def test_an_xz_that_asks_for_more_memory_than_any_program_writes_is_refused(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 3 << 29}]
    (tmp_path / "rows.jsonl.xz").write_bytes(lzma.compress(ROW, filters=filters))
    with pytest.raises(InputError, match="cannot be read as xz text"):
        open_samples(tmp_path / "rows.jsonl.xz")


@pytest.mark.parametrize("inner", ["[", '{"a":'])
def test_deep_json_rejects_its_row_alone(inner: str, tmp_path: Path) -> None:
    deep = inner * 200_000
    (tmp_path / "rows.jsonl").write_bytes(ROW + f'{{"messages": {deep}}}\n'.encode() + ROW)
    samples = open_samples(tmp_path / "rows.jsonl")
    first, second, third = samples.read(0, 3)
    assert isinstance(second, Rejected)
    assert second.reason in ("bad_json", "bad_row")
    assert len(second.message) < 500
    assert not isinstance(first, Rejected)
    assert not isinstance(third, Rejected)


def test_a_file_of_one_deep_value_is_one_message(tmp_path: Path) -> None:
    for name, text in (("rows.json", "[" * 300_000), ("meta.json", '{"a":' * 300_000)):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError) as caught:
            open_samples(tmp_path / name)
        assert "\n" not in caught.value.message


_LIMITED = """
import resource, sys
from vlm_prep.ingest.source import open_samples
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
samples = open_samples(sys.argv[1])
print(len(samples), sum(type(each).__name__ == "Sample" for each in samples.read(0, 2)))
"""


def test_a_line_of_64_megabytes_takes_few_times_its_size(tmp_path: Path) -> None:
    long = b'{"messages": [{"role": "user", "content": "' + b"x" * (64 << 20)
    with open(tmp_path / "rows.jsonl", "wb") as file:
        file.write(long + b'"}, {"role": "assistant", "content": "A."}]}\n' + ROW)
    line = [sys.executable, "-c", _LIMITED, str(tmp_path / "rows.jsonl"), str(2000 << 20)]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout.split()) == (0, ["2", "2"]), ended.stderr


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("decode", [False, True])
def test_a_picture_bomb_is_told_by_its_header(decode: bool, tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000, zlib.compress(bytes(1 << 20))))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Reject) as caught:
        probe(Media(kind="image", uris=(str(tmp_path / "bomb.png"),)), decode=decode)
    assert caught.value.reason == "image_too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_a_text_chunk_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    squeezed = zlib.compressobj(9)
    body = b"".join(squeezed.compress(bytes(1 << 20)) for _ in range(256)) + squeezed.flush()
    whole = png(2, 2, zlib.compress(b"\0\1\2" * 2))
    text = b"zTXt" + b"note\0\0" + body
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    (tmp_path / "a.png").write_bytes(whole[:33] + chunk + whole[33:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        probe(Media(kind="image", uris=(str(tmp_path / "a.png"),)), decode=True)
    except Reject as reject:
        assert reject.reason in ("unreadable_image", "image_too_large")  # noqa: PT017 - either may be
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
