"""Media inside Parquet, Arrow and JSON rows: bytes by uri, rows by number, memory, and files that change."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlm_prep.core.errors import InputError, Reject
from vlm_prep.media import table_rows as tables
from vlm_prep.media.files import ends_of, read_bytes, read_ends, split_uri
from vlm_prep.media.row_media import cell_uri
from vlm_prep.media.table_rows import open_table, read_row, read_scalar, table_kind

ROWS: list[dict[str, Any]] = [
    {
        "audio": {"bytes": bytes([n]) * (n + 1), "path": f"{n}.wav"},
        "images": [b"a%d" % n, b"b%d" % n],
        "raw": b"raw%d" % n,
        "a/b~c": {"d": f"data:image/png;base64,{base64.b64encode(b'png%d' % n).decode()}"},
        "text": f"row {n}",
    }
    for n in range(10)
]


def write(path: Path, kind: str, rows: list[dict[str, Any]] = ROWS) -> Path:
    table = pa.Table.from_pylist(rows)
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=4)
    else:
        writer = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as sink, writer(sink, table.schema) as out:
            out.write_table(table, max_chunksize=3)
    return path


KINDS = ["parquet", "file", "stream"]


def reason(uri: str) -> str:
    with pytest.raises(Reject) as caught:
        read_bytes(uri)
    return caught.value.reason.value


@pytest.mark.parametrize("kind", KINDS)
def test_a_uri_names_bytes_in_a_row(tmp_path: Path, kind: str) -> None:
    path = str(write(tmp_path / "rows", kind))
    for row in (7, 0, 3, 4, 9):  # back and forth, within row groups and over them
        assert read_bytes(f"{path}::{row}/audio") == ROWS[row]["audio"]["bytes"]
        assert read_bytes(f"{path}::{row}/audio/bytes") == ROWS[row]["audio"]["bytes"]
        assert read_bytes(f"{path}::{row}/images/1") == b"b%d" % row
        assert read_bytes(f"{path}::{row}/raw") == b"raw%d" % row
        assert read_bytes(cell_uri(path, row, ("a/b~c", "d"))) == b"png%d" % row
    assert read_ends(f"{path}::9/audio") == ends_of(ROWS[9]["audio"]["bytes"])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_read_by_number(tmp_path: Path, kind: str) -> None:
    path = str(write(tmp_path / "rows", kind))
    assert len(open_table(path)) == 10
    assert [read_row(path, row) for row in range(10)] == ROWS
    assert [read_row(path, row) for row in (9, 2, 5)] == [ROWS[row] for row in (9, 2, 5)]
    assert read_scalar(path, 6, "text").as_py() == "row 6"


def test_rows_of_a_group_of_many_batches_are_read_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH_BYTES", 1)  # a batch of one row
    path = str(write(tmp_path / "rows", "parquet"))
    for row in (2, 1, 0, 3, 2, 9, 8, 5, 4):
        assert read_row(path, row) == ROWS[row]
        assert read_bytes(f"{path}::{9 - row}/raw") == b"raw%d" % (9 - row)
        assert read_bytes(f"{path}::{row}/audio") == ROWS[row]["audio"]["bytes"]


def test_the_media_of_a_row_just_read_cost_no_second_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str | None] = []

    class Walk(tables._Walk):
        def __init__(self, file: Any, group: int, start: int, column: str | None, size: int) -> None:
            begun.append(column)
            super().__init__(file, group, start, column, size)

    monkeypatch.setattr(tables, "_Walk", Walk)
    path = str(write(tmp_path / "rows", "parquet"))
    for row in range(10):
        read_row(path, row)
        read_bytes(f"{path}::{row}/audio")
        read_bytes(f"{path}::{row}/images/0")
    assert begun == [None] * 3  # one for each row group


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("10/audio", "unreadable_file"),
        ("-1/audio", "unreadable_file"),
        ("x/audio", "missing_key"),
        ("0", "missing_key"),
        ("0/sound", "missing_key"),
        ("0/images/5", "missing_key"),
        ("0/images/x", "missing_key"),
        ("0/audio/path/x", "missing_key"),
        ("0/images", "missing_key"),
        ("0/audio/path", "unreadable_file"),
    ],
)
def test_a_place_without_media_is_a_reject(tmp_path: Path, kind: str, key: str, code: str) -> None:
    assert reason(f"{write(tmp_path / 'rows', kind)}::{key}") == code


def test_null_and_empty_cells_are_rejects(tmp_path: Path) -> None:
    path = write(tmp_path / "rows", "parquet", [{"a": {"bytes": b""}}, {"a": {"bytes": None}}, {"a": None}])
    assert [reason(f"{path}::{row}/a") for row in range(3)] == ["empty_file", "missing_key", "missing_key"]


def test_a_file_that_is_gone_is_missing(tmp_path: Path) -> None:
    assert reason(f"{tmp_path}/rows.parquet::0/audio") == "missing_file"


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_table_is_said_with_its_name(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "rows", kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if kind == "stream":
        assert reason(f"{path}::9/audio") in ("unreadable_file", "missing_key")
        return
    assert reason(f"{path}::9/audio") == "unreadable_file"
    with pytest.raises(InputError, match="rows: cannot be read as a") as caught:
        open_table(str(path))
    assert "damaged" in str(caught.value)


def test_a_table_is_told_by_its_content(tmp_path: Path) -> None:
    assert [table_kind(str(write(tmp_path / "rows", kind))) for kind in KINDS] == ["parquet", "arrow", "arrow"]
    (tmp_path / "text.parquet").write_text("{}")
    assert [table_kind(str(tmp_path / name)) for name in ("text.parquet", "none", ".")] == [None, None, None]


def test_a_replaced_file_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "rows", "parquet")
    assert read_bytes(f"{path}::1/raw") == b"raw1"
    write(tmp_path / "new", "parquet", [ROWS[5], ROWS[6]]).replace(path)
    assert read_bytes(f"{path}::1/raw") == b"raw6"


def test_a_forked_child_reads_what_its_parent_has_open(tmp_path: Path) -> None:
    path = write(tmp_path / "rows", "parquet")
    assert read_bytes(f"{path}::0/raw") == b"raw0"
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if read_bytes(f"{path}::9/raw") == b"raw9" else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert read_bytes(f"{path}::1/raw") == b"raw1"


def test_two_colons_in_a_folder_do_not_hide_the_file(tmp_path: Path) -> None:
    (tmp_path / "a::b").mkdir()
    path = write(tmp_path / "a::b" / "rows", "parquet")
    assert split_uri(f"{path}::3/raw") == (str(path), "3/raw")
    assert read_bytes(f"{path}::3/raw") == b"raw3"


# --- JSON -----


def test_a_uri_names_base64_in_a_row_of_json(tmp_path: Path) -> None:
    rows = [
        {"m": [{"url": "data:audio/wav;base64,UklG\nRg=="}], "é/": {"data": "UklGRg=="}},
        {"m": ["data:,text", "data:audio/wav;base64,U", 3, "data:audio/wav;base64,"]},
    ]
    texts = [json.dumps(row).encode() for row in rows]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(texts))
    first, second = (0, len(texts[0])), (len(texts[0]) + 1, len(texts[1]))
    assert read_bytes(cell_uri(str(path), first, ("m", 0, "url"))) == b"RIFF"
    assert read_bytes(cell_uri(str(path), first, ("é/", "data"))) == b"RIFF"
    codes = [reason(cell_uri(str(path), second, ("m", place))) for place in range(5)]
    assert codes == ["unreadable_file", "unreadable_file", "missing_key", "empty_file", "missing_key"]
    assert reason(f"{path}::1+5/m") == reason(f"{path}::zero/m") == "missing_key"


# --- memory -----

MEASURE = """
import resource, sys
from vlm_prep.media.files import read_bytes
from vlm_prep.media.table_rows import open_table, read_row
path = sys.argv[1]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = len(open_table(path))
read_row(path, 0)
before = peak()
total = 0
for row in range(rows):
    assert read_row(path, row)["audio"] == read_bytes(f"{path}::{row}/audio")
    total += 1
print(total, peak() - before)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path, group = tmp_path / "rows.parquet", [{"audio": os.urandom(200_000)} for _ in range(50)]
    table = pa.Table.from_pylist(group)
    with pq.ParquetWriter(path, table.schema, use_dictionary=False) as writer:
        for _ in range(18):
            writer.write_table(table)
    assert path.stat().st_size > 175e6
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    rows, grown_kib = map(int, done.stdout.split())
    assert rows == 900
    assert grown_kib < 64 << 10
