"""build_index finds every row of a JSON array or JSON lines file: its bytes and its line."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vlm_prep
from vlm_prep.core.errors import InputError
from vlm_prep.ingest import index
from vlm_prep.ingest.index import build_index, read_row

REPO = Path(vlm_prep.__file__).parents[1]
KIT = REPO.parent / "shared" / "kit" / "data"
BOM = b"\xef\xbb\xbf"


def rows_of(path: Path) -> list[Any]:
    found = build_index(path)
    with open(path, "rb") as file:
        return [json.loads(read_row(file, s, e)) for s, e in zip(found.starts, found.ends, strict=True)]


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# ---- JSON lines ----


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n  \n"])
@pytest.mark.parametrize("head", [b"", BOM, b"\n \t\n"])
def test_lines_are_found_whatever_ends_and_separates_them(
    tmp_path: Path, head: bytes, end: bytes, newline: bytes
) -> None:
    rows = [{"a": 1}, {"b": "x [ { \\ \u2028"}, [3]]
    text = (b"\n" + newline).join(json.dumps(row, ensure_ascii=False).encode() for row in rows)
    assert rows_of(write(tmp_path, "rows.jsonl", head + text + end.replace(b"\n", newline))) == rows


def test_line_numbers_count_blank_lines(tmp_path: Path) -> None:
    found = build_index(write(tmp_path, "rows.jsonl", b'\n{"a":1}\n\n \t\n{"a":2}\r\n\r\n{"a":3}'))
    assert found.kind == "lines" and found.lines.tolist() == [2, 5, 7]


def test_a_row_leaves_out_its_line_ending_but_keeps_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.jsonl", b'  {"a":1} \r\n{"a":2}\r\n')
    found = build_index(path)
    assert [path.read_bytes()[s:e] for s, e in zip(found.starts, found.ends, strict=True)] == [
        b'  {"a":1} ',
        b'{"a":2}',
    ]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_lines_that_cross_a_chunk_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(index, "_CHUNK", chunk)
    rows = [{"n": n, "text": "x" * (n % 13)} for n in range(50)]
    data = b"\n\n".join(json.dumps(row).encode() for row in rows)
    path = write(tmp_path, "rows.jsonl", BOM + data)
    assert rows_of(path) == rows
    assert build_index(path).lines.tolist() == list(range(1, 101, 2))


def test_json_lines_are_recognised_under_the_name_json(tmp_path: Path) -> None:
    assert build_index(write(tmp_path, "rows.json", b'{"a":1}\n{"a":2}\n')).kind == "lines"


def test_a_first_line_longer_than_the_head_is_a_row(tmp_path: Path) -> None:
    row = json.dumps({"text": "x" * 200_000}).encode()
    assert len(rows_of(write(tmp_path, "rows.json", row + b"\n" + row))) == 2


def test_a_spoilt_first_line_of_a_jsonl_file_is_one_row(tmp_path: Path) -> None:
    assert len(build_index(write(tmp_path, "rows.jsonl", b'{"a": oops\n{"a":2}\n'))) == 2


# ---- arrays ----

NASTY: list[Any] = [
    [],
    [{}],
    [1],
    ["a"],
    [[]],
    [None, True, -1.5e3, "x,y]", "\\", '"', "[", "}", "\\\\", '\\"', ""],
    [{"a": '"]}[{,\\"', "b": ["\\", {"c": "\\\\"}]}, {"d": {"e": [[[{}]]]}}],
    ["日本語 { \U0001f600 [", {"é": "ü]"}],
    [{"t": "line\nbreak\ttab\u0000"}, [[1, 2], [3, [4]]], 7],
]


@pytest.mark.parametrize("rows", NASTY)
@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize("head", [b"", BOM, b" \r\n\t"])
def test_array_elements_are_what_json_reads(
    tmp_path: Path, rows: list[Any], indent: int | None, ascii: bool, head: bytes
) -> None:
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii).encode()
    assert rows_of(write(tmp_path, "rows.json", head + text + b" \n")) == rows
    assert rows_of(write(tmp_path, "crlf.json", head + text.replace(b"\n", b"\r\n"))) == rows


def random_value(rng: random.Random, depth: int) -> Any:
    kind = rng.randrange(6 if depth else 4)
    if kind < 4:
        letters = '"\\[]{},:\n\r\t aé日\U0001f600'
        text = "".join(rng.choices(letters, k=rng.randrange(12)))
        return [text, rng.random(), None, rng.randrange(99)][kind]
    children = [random_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return children if kind == 4 else {f'k"{n}]\\': child for n, child in enumerate(children)}


@pytest.mark.parametrize("seed", range(60))
def test_random_arrays_are_what_json_reads(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    rows = [random_value(rng, 4) for _ in range(rng.randrange(8))]
    text = json.dumps(rows, indent=rng.choice([None, 1]), ensure_ascii=rng.random() < 0.5)
    assert rows_of(write(tmp_path, "rows.json", text.encode())) == rows


@pytest.mark.parametrize(
    "name", [f"llamafactory/{n}.json" for n in ("mllm_demo", "alpaca_zh_demo", "glaive_toolcall_en_demo")]
)
def test_the_index_of_a_real_file_is_what_json_reads(name: str) -> None:
    path = KIT / name
    if not path.exists():
        pytest.skip(f"the test kit is not at {KIT}")
    text = path.read_text()
    assert rows_of(path) == json.loads(text)
    lines = text.splitlines()
    assert all(lines[line - 1].strip() == "{" for line in build_index(path).lines)


def test_lines_of_array_elements_are_those_they_start_on(tmp_path: Path) -> None:
    found = build_index(write(tmp_path, "rows.json", b'\n[ {"a":\n1}, 2\n,\n\n"x"]'))
    assert found.kind == "array" and found.lines.tolist() == [2, 3, 6]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (b'[\n{"a":1},\n{"b":2}\n', 4, "not closed"),
        (b'[\n{"a":1},\n{"b":[2}\n', 3, "not closed"),
        (b'[\n{"a":1},\n{"b":"2]\n', 3, "not closed"),
        (b'[\n{"a":1}\n]\n{"b":2}\n', 4, "follows"),
        (b'[\n{"a":1}\n{"b":2}\n]', 3, "missing"),
        (b'[\n{"a":1},\n]', 3, "missing"),
        (b"[1,,2]", 1, "missing"),
        (b"[1}", 1, "missing"),
        (b"[", 1, "not closed"),
        (b"[1,", 1, "not closed"),
        (b"[1]]", 1, "follows"),
    ],
)
def test_a_broken_array_is_refused_with_its_line(tmp_path: Path, text: bytes, line: int, what: str) -> None:
    with pytest.raises(InputError, match=f"line {line}: .*{what}"):
        build_index(write(tmp_path, "rows.json", text))


def test_many_escaped_quotes_in_a_cut_file_take_linear_time(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not closed"):
        build_index(write(tmp_path, "rows.json", b'[{"a":1},{"b":"' + b'\\"' * 2_000_000))


def test_an_unclosed_string_spoils_its_own_row_only(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.json", b'[\n{\n"a": "oops,\n"b": 1\n},\n{"c": 2}\n]')
    found = build_index(path)
    assert found.lines.tolist() == [2, 6]
    assert path.read_bytes()[found.starts[1] : found.ends[1]] == b'{"c": 2}'


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("a.jsonl", b"", "empty"),
        ("a.json", BOM + b" \n", "empty"),
        ("a.parquet", b"PAR1\x15\x04", "Parquet"),
        ("a.bin", b"\x7fELF\0\0", "binary"),
        ("a.csv", b"a,b\n1,2\n", "neither"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_what_is_read(tmp_path: Path, name: str, data: bytes, what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        build_index(write(tmp_path, name, data))
    assert ".jsonl" in str(caught.value)


def test_a_row_of_a_file_that_became_shorter_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.jsonl", b'{"a":1}\n{"a":2}\n')
    found = build_index(path)
    path.write_bytes(b'{"a":1}\n')
    with open(path, "rb") as file, pytest.raises(InputError, match="shorter"):
        read_row(file, int(found.starts[1]), int(found.ends[1]))


MEASURE = """
import resource, sys
from vlm_prep.ingest.index import build_index
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
rows = len(build_index(sys.argv[1]))
print(rows, peak() - before)
"""


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    row, count = json.dumps({"messages": [{"role": "user", "content": "x" * 16_000}]}), 12_000
    first, between, last = ("[", ",\n", "]") if name.endswith(".json") else ("", "\n", "\n")
    with open(tmp_path / name, "w") as file:
        file.write(first + row)
        for _ in range(count - 1):
            file.write(between + row)
        file.write(last)
    assert (tmp_path / name).stat().st_size > 180e6
    command = [sys.executable, "-c", MEASURE, str(tmp_path / name)]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    rows, grown_kib = map(int, done.stdout.split())
    assert rows == count
    assert grown_kib < 64 << 10
