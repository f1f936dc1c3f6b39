"""Sources of some hundred bytes that have no end, or become larger than memory: one message, or bounded memory."""

from __future__ import annotations

import io
import json
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from vlm_prep.cli.run_file import read_run_file
from vlm_prep.core.errors import InputError, Reject
from vlm_prep.core.yaml_text import YamlFault, read_yaml
from vlm_prep.ingest.derived import sql_rows, tar_rows
from vlm_prep.ingest.derived.axolotl import axolotl_meta
from vlm_prep.ingest.derived.energon import metadataset
from vlm_prep.ingest.mapping.compiled import canonical
from vlm_prep.ingest.source import open_samples
from vlm_prep.media import table_rows
from vlm_prep.media.files import read_bytes
from vlm_prep.pack.mix_file import read_mix

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT 'Q' || i AS question, 'A.' AS answer"
TALK = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


@pytest.mark.parametrize(
    ("made", "said", "seconds"),
    [
        (f"CREATE VIEW rows AS {NUMBERS} FROM n WHERE i < 0", "gave no rows for", 0.3),
        (f"CREATE VIEW rows AS {NUMBERS} FROM n LIMIT 10000000000", "gave no rows for", 0.3),
        (
            f"CREATE VIEW rows AS {NUMBERS} FROM n".replace("FROM n)", "FROM n WHERE i < 50000)"),
            "its rows have more than",
            60,
        ),
        ("CREATE VIEW rows AS SELECT zeroblob(900000000) AS question, 'A.' AS answer", "too big", 60),
        ("CREATE TABLE rows (question TEXT, answer TEXT AS (hex(zeroblob(200000000))))", "too big", 60),
    ],
    ids=["silent", "endless", "many", "value", "computed"],
)
def test_a_database_without_an_end_is_refused(
    made: str, said: str, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_rows, "_SECONDS", seconds)
    monkeypatch.setattr(sql_rows, "most_bytes", lambda path: 1 << 20)
    with sqlite3.connect(tmp_path / "rows.db") as database:
        database.execute(made)
        if made.startswith("CREATE TABLE"):
            database.execute("INSERT INTO rows (question) VALUES ('Q')")
    database.close()
    with pytest.raises(InputError, match=said) as caught:
        open_samples(tmp_path / "rows.db")
    assert "\n" not in caught.value.message


def backward_tar() -> bytes:
    """A tar whose second member leads back to itself."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("a.png", "b.png"):
            member = tarfile.TarInfo(name)
            member.size = 10
            tar.addfile(member, io.BytesIO(b"0123456789"))
    data = bytearray(buffer.getvalue())
    header = data[1024:1536]
    header[124:136] = b"\xff" + (-512 % (1 << 88)).to_bytes(11)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[1024:1536] = header
    return bytes(data)


def test_a_tar_that_leads_back_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(backward_tar())
    with pytest.raises(InputError, match="a header leads back"):
        open_samples(tmp_path / "a.tar")
    with pytest.raises(Reject, match="a header leads back"):
        read_bytes(f"{tmp_path / 'a.tar'}::a.png")


def bomb(path: Path, short: int, long: int) -> None:
    """Rows in one row group or compressed batch, whose long text is in the file once."""
    text = "x" * 200_000
    talks = [[{"role": "user", "content": "Q"}, {"role": "assistant", "content": each}] for each in ("A.", text)]
    few = pa.table({"messages": pa.array([talks[0]] * short + [talks[1]] * long, TALK)})
    if path.suffix == ".parquet":
        pq.write_table(few, path, compression="zstd", row_group_size=1 << 20)
        return
    with pa.ipc.new_file(path, few.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as out:
        for _ in range(8):
            out.write_table(few)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_rows_that_share_a_long_text_do_not_lie_in_memory_together(name: str, tmp_path: Path) -> None:
    bomb(tmp_path / name, 0, 400 if name == "a.parquet" else 100)
    before = pa.total_allocated_bytes()
    rows = 400 if name == "a.parquet" else 800
    samples = open_samples(tmp_path / name)
    assert len(samples) == rows and len(list(samples.read(rows - 2, rows))) == 2
    assert pa.total_allocated_bytes() - before < 60_000_000
    table_rows._tables.clear()


def test_a_batch_that_no_memory_holds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    usual = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())  # which gives back what was freed: else it would be used again
    request.addfinalizer(lambda: pa.set_memory_pool(usual))
    bomb(tmp_path / "a.parquet", table_rows._PROBE, 1500)
    monkeypatch.setattr("vlm_prep.core.bounds.at_most.__wrapped__.__defaults__", (100 << 20,))
    with pytest.raises(InputError, match="takes more than 6 GiB of memory"):
        list(open_samples(tmp_path / "a.parquet").read(0, 100))
    table_rows._tables.clear()


LAUGHS = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{p: *a{n - 1}, q: *a{n - 1}}}\n" for n in range(1, 40))
TEXTS = {
    "aliases": LAUGHS,
    "aliases in lists": "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)),
    "itself": "out: &a {b: *a}\n",
    "depth": "out: " + "[" * 1000,
    "digits": "max_length: " + "9" * 6000,
    "day": "out: 2024-99-99",
    "base64": 'out: !!binary "@@é"',
    "key": "? [a]\n: 1",
}


def of_energon(path: Path) -> object:
    (path.parent / ".nv-meta").mkdir()
    path.rename(path.parent / ".nv-meta" / "split.yaml")
    return tar_rows.files(path.parent, None)


@pytest.mark.parametrize("what", TEXTS)
@pytest.mark.parametrize(
    "read",
    [
        *(read_run_file, read_mix, lambda path: canonical(path.read_text())),
        *(axolotl_meta, lambda path: metadataset(path, {}), of_energon),
    ],
    ids=["run file", "mix", "mapping", "axolotl", "metadataset", "energon"],
)
def test_a_yaml_that_means_more_than_memory_holds_or_nothing_is_refused(
    what: str, read: Callable[[Path], Any], tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(TEXTS[what])
    with pytest.raises(InputError) as caught:
        read(path)
    assert len(caught.value.message) < 500 and "\n" not in caught.value.message


def test_yaml_that_names_a_part_twice_is_read() -> None:
    text = "a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 2024-02-29}\n"
    assert read_yaml(text) == yaml.safe_load(text)
    with pytest.raises(YamlFault, match="line 2: "):
        read_yaml("a: 1\n]")


def test_ranges_of_files_are_counted_together() -> None:
    with pytest.raises(InputError, match="a range of more than 1,000,000 files"):
        list(tar_rows.expanded("a{0..999}b{0..999}c{0..1}.tar"))
    assert len(list(tar_rows.expanded("a{08..11}b{0..1}.tar"))) == 8


@pytest.mark.parametrize("ratio", [1e9, 1e300])
def test_rows_that_no_memory_numbers_are_refused(ratio: float, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps({'messages': turns})}\n" * 2)
    (tmp_path / "meta.json").write_text(json.dumps({"x": {"file_name": "rows.jsonl", "sample_ratio": ratio}}))
    with pytest.raises(InputError, match=r"2 rows, each .* times \(sample_ratio\), are more than"):
        open_samples(tmp_path / "meta.json")


@pytest.mark.parametrize("state", ['{"_data_files": 5}', '{"_data_files": [{"filename": 5}]}', "[" * 5000])
def test_a_saved_dataset_that_names_no_files_is_one_message(state: str, tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(InputError, match=r"state\.json"):
        open_samples(tmp_path)
