"""Text files in all encodings, containers and odd forms: read where it is plain, or by one switch."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from vlm_prep.core.errors import InputError, VlmPrepError
from vlm_prep.core.records import Rejected, Sample
from vlm_prep.core.row_json import RepeatedKeyError, RowJsonError, parse_row
from vlm_prep.ingest.row_source import RowSource
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.row_media import read_cell, rows_kind

ROWS = [
    {
        "conversations": [{"from": "human", "value": f"杯子 ä {n} // it's, ]"}, {"from": "gpt", "value": "no:\"}'"}],
        "n": n,
    }
    for n in range(3)
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of converted files lie in the test's own folder."""
    monkeypatch.setenv("VLM_PREP_CACHE", str(tmp_path / "cache"))


def texts(path: Path, **options: Any) -> list[str]:
    samples = open_samples(path, **options)
    return [
        each.messages[0]["content"][0]["text"] if isinstance(each, Sample) else each.reason
        for each in samples.read(0, len(samples))
    ]


EXPECTED = [row["conversations"][0]["value"] for row in ROWS]  # type: ignore[index]


def zstd(data: bytes) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as file:
        file.write(data)
    return bytes(out.getvalue())


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress, "zst": zstd
}  # fmt: skip
FORMS: dict[str, str] = {
    "lines": LINES,
    "lines without a last end": LINES.rstrip("\n"),
    "windows lines": LINES.replace("\n", "\r\n"),
    "carriage returns alone": LINES.replace("\n", "\r"),
    "array": json.dumps(ROWS, ensure_ascii=False),
    "indented array": json.dumps(ROWS, indent=1),
    "lines of files put together": "".join("\ufeff" + line + "\n" for line in LINES.splitlines()),
    "objects": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "objects on one line": " ".join(json.dumps(row) for row in ROWS),
    "keyed": json.dumps({f"id{n}": row for n, row in enumerate(ROWS)}, ensure_ascii=False),
    "indented keyed": json.dumps({f"id{n}": row for n, row in enumerate(ROWS)}, indent=1),
}


@pytest.mark.parametrize("end", ["json", "jsonl"])
@pytest.mark.parametrize("form", FORMS)
def test_rows_in_every_form_are_the_same_rows(tmp_path: Path, form: str, end: str) -> None:
    path = tmp_path / f"rows.{end}"
    path.write_text(FORMS[form], newline="")
    assert texts(path) == EXPECTED


@pytest.mark.parametrize("form", ["lines", "array", "keyed"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be with mark", "gbk"])
@pytest.mark.parametrize("compression", ["", *COMPRESSED])
def test_an_encoded_or_compressed_file_has_the_same_rows(
    tmp_path: Path, form: str, encoding: str, compression: str
) -> None:
    marked = encoding == "utf-16-be with mark"
    data = ("\ufeff" + FORMS[form]).encode("utf-16-be") if marked else FORMS[form].replace("ä", "a").encode(encoding)
    path = tmp_path / f"rows.json{'.' + compression if compression else ''}"
    path.write_bytes(COMPRESSED[compression](data) if compression else data)
    options = {"encoding": "gbk"} if encoding == "gbk" else {}
    expected = EXPECTED if marked else [text.replace("ä", "a") for text in EXPECTED]
    assert texts(path, **options) == expected
    assert texts(path, **options) == expected  # from the copy


def test_a_row_in_another_encoding_alone_is_rejected_and_the_setting_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = LINES.encode().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1].decode().encode("gbk", "replace"), lines[2]]))
    samples = open_samples(path)
    good, bad, last = samples.read(0, 3)
    assert isinstance(good, Sample) and isinstance(last, Sample) and isinstance(bad, Rejected)
    assert bad.reason == "bad_json" and "encoding" in bad.message
    assert texts(path, encoding="gbk")[1:2] == ["bad_json"] or "杯子" in texts(path, encoding="gbk")[1]


def test_damaged_containers_are_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(LINES.encode() * 50)[:-20])
    with pytest.raises(InputError, match="cannot be read as gzip text"):
        open_samples(path)


def test_a_changed_file_is_converted_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(LINES.encode()))
    assert len(texts(path)) == 3
    path.write_bytes(gzip.compress(LINES.encode() * 2))
    assert len(texts(path)) == 6


def test_media_inside_a_compressed_file_is_found_again(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "b"}]
    row = {"messages": turns, "images": ["data:image/png;base64,aGFsbG8="]}
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress((LINES + json.dumps(row)).encode()))
    samples = open_samples(path)
    (sample,) = samples.read(3, 4)
    assert isinstance(sample, Sample)
    file, _, key = sample.media[0].uris[0].partition("::")
    assert file == str(path) and rows_kind(file) == "json"
    assert read_cell(file, "json", key) == b"hallo"


# ---- one switch ----


def test_a_wrapped_array_is_refused_in_a_line_and_read_by_its_key(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"info": {"v": 1}, "data": ROWS * 2000}))
    with pytest.raises(InputError) as caught:
        open_samples(path)
    assert "`rows_key=data`" in str(caught.value) and len(str(caught.value)) < 400
    assert texts(path, rows_key="data")[:3] == EXPECTED
    with pytest.raises(InputError, match=r"no key 'date'"):
        open_samples(path, rows_key="date")
    path.write_text(json.dumps({"data": {"train": ROWS}}))
    assert texts(path, rows_key="data.train") == EXPECTED


LENIENT = {
    "a comment before": "// export\n" + json.dumps(ROWS),
    "comments inside": "/* [ */" + json.dumps(ROWS).replace("}, {", "}, // ]\n # ' \n {"),
    "trailing commas": json.dumps(ROWS).replace("}]", "},]"),
    "python literals": repr(ROWS),
    "lines of python literals": "\n".join(map(repr, ROWS)),
    "lines with trailing commas": LINES.replace("}]", "},]"),
}


@pytest.mark.parametrize("end", ["json", "jsonl"])
@pytest.mark.parametrize("form", LENIENT)
def test_what_is_json_to_people_is_read_by_lenient_json_alone(tmp_path: Path, form: str, end: str) -> None:
    if end == "jsonl" and "line" not in form:
        pytest.skip("the name says that a line is a row")
    path = tmp_path / f"rows.{end}"
    path.write_text(LENIENT[form])
    with pytest.raises(VlmPrepError, match="lenient_json"):
        open_samples(path)
    assert texts(path, lenient_json=True) == EXPECTED


def test_lenient_json_reads_json_as_it_is(tmp_path: Path) -> None:
    for form, text in FORMS.items():
        path = tmp_path / f"{form}.json"
        path.write_text(text, newline="")
        assert texts(path, lenient_json=True) == EXPECTED, form


# ---- one row ----


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"x": {"a" : 1,\n"a"\t: [1]}}', '{"a\\"": 1, "a\\"": true}'])
def test_a_key_twice_is_an_error_where_the_values_differ(text: str) -> None:
    with pytest.raises(RepeatedKeyError, match="stands twice"):
        parse_row(text.encode())


@pytest.mark.parametrize(
    "text", ['{"a": ":", "b": "\\":", "c\\\\": "x"}', '{"a": {"b": 1}, "b": ": {"}', '{"\\"": ":\\":"}']
)
def test_colons_and_quotes_in_texts_are_no_keys(text: str) -> None:
    assert parse_row(text.encode()) == (json.loads(text), frozenset())


def test_equal_values_under_one_key_are_one() -> None:
    assert parse_row(b'{"a": [1], "a": [1]}') == ({"a": [1]}, frozenset({"read_repeated_keys"}))


def test_numbers_are_what_they_are() -> None:
    value, notes = parse_row(b'{"a": 1180591620717411303424, "b": 18446744073709551616}')
    assert value == {"a": 2**70, "b": 2**64} and not notes
    assert parse_row(b'{"a": -1' + b"0" * 400 + b"}") == ({"a": -(10**400)}, frozenset())
    value, notes = parse_row(b'{"a": NaN, "b": [-Infinity, 1e999]}')
    assert notes == {"read_not_a_number"} and json.dumps(value) == '{"a": NaN, "b": [-Infinity, Infinity]}'


@pytest.mark.parametrize("text", ['{"a": __import__("os")}', "{'a': f'{1}'}", "{'a': 1 + 1}", "{a: 1}", "{'a': b'x'}"])
def test_lenient_json_reads_literals_and_runs_nothing(text: str) -> None:
    with pytest.raises(RowJsonError):
        parse_row(text.encode(), lenient=True)


def test_not_a_number_reaches_no_tool_call(tmp_path: Path) -> None:
    call = '{"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"a": NaN}}]}'
    path = tmp_path / "rows.jsonl"
    row = '{"messages": [{"role": "user", "content": "a"}, ' + call + "]}"
    path.write_text(row + "\n" + LINES.replace("conversations", "messages"))
    assert texts(path)[0] == "bad_type"


# ---- the kit's cases ----

PLAIN = (
    *("bigint.jsonl", "blank_lines.jsonl", "bom.jsonl", "concat.json", "control.jsonl", "cr_only.jsonl", "crlf.jsonl"),
    *("dict_rows.json", "nan.jsonl", "rows.jsonl.gz", "u2028.jsonl", "utf16.jsonl"),
)
SWITCHED: dict[str, dict[str, Any]] = {
    **{name: {"lenient_json": True} for name in ("comments.json", "py_repr.jsonl", "rawtab.jsonl", "trailing.json")},
    "wrapped.json": {"rows_key": "data"},
    "gbk.jsonl": {"encoding": "gbk"},
    "latin1.jsonl": {"encoding": "latin-1"},
}
REJECTS = {
    "dup.jsonl": ["duplicate_key"],
    "nolast.jsonl": ["bad_json"],
    "surrogate.jsonl": ["bad_json"],
    "deep.jsonl": ["bad_json"],
}


@pytest.mark.parametrize("name", [*PLAIN, *SWITCHED, *REJECTS])
def test_the_cases_are_read(kit: Path, name: str) -> None:
    samples = open_samples(kit / "cases" / "19-text-files" / name, **SWITCHED.get(name, {}))
    results = list(samples.read(0, len(samples)))
    assert [each.reason for each in results if isinstance(each, Rejected)] == REJECTS.get(name, [])
    assert results


def test_the_index_is_the_copys(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(LINES.encode()))
    (source,) = open_samples(path).sources  # type: ignore[attr-defined]
    assert isinstance(source, RowSource) and source.describe()["text"] == "gzip"
    assert source.index.kind == "lines"


# ---- delimited text ----

COMMON_VOICE = 'client_id\tpath\tsentence\tup_votes\nx\ta.mp3\tHe said "no.\t2\ny\tb.mp3\t\t0\nz\tc.mp3\n'


@pytest.mark.parametrize("compression", ["", "gz"])
def test_a_tsv_of_speech_is_read_as_it_is(tmp_path: Path, compression: str) -> None:
    path = tmp_path / ("validated.tsv" + ("." + compression if compression else ""))
    data = COMMON_VOICE.encode()
    path.write_bytes(COMPRESSED[compression](data) if compression else data)
    with pytest.raises(InputError, match="format=asr"):
        open_samples(path)
    samples = open_samples(path, format="asr", media_dir=str(tmp_path / "clips"))
    good, empty, short = samples.read(0, 3)
    assert isinstance(good, Sample) and good.messages[1]["content"][0]["text"] == 'He said "no.'
    assert good.media[0].uris == (str(tmp_path / "clips" / "a.mp3"),) and good.line == 2
    assert isinstance(empty, Rejected) and (empty.reason, empty.line) == ("empty_transcript", 3)
    assert isinstance(short, Rejected) and (short.reason, short.line) == ("bad_row", 4) and "2 fields" in short.message


def test_a_csv_holds_conversations_as_json_text_and_quoted_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "messages", "note"])
        chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        writer.writerow(["", json.dumps(chat), "x\ny"])
        writer.writerow(["", "[{", ""])
        writer.writerow(["", json.dumps([{"from": "human", "value": 'q"'}, {"from": "gpt", "value": "c"}]), ""])
    samples = open_samples(path)
    assert texts(path) == ["a", "bad_json", 'q"']
    first, bad, last = samples.read(0, 3)
    assert isinstance(first, Sample) and "read_json_text" in first.notes and first.unread == {"row.note": "x\ny"}
    assert (first.line, bad.line, last.line) == (2, 4, 5)


def test_an_open_quote_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('instruction,output\na,"b\n')
    with pytest.raises(InputError, match="cannot be read"):
        open_samples(path)


@pytest.mark.parametrize("split", [None, "train", "test"])
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_folder_of_audio_is_read_by_its_metadata(tmp_path: Path, name: str, split: str | None) -> None:
    folder = tmp_path / "speech" / (split or "")
    folder.mkdir(parents=True)
    row = {"file_name": "data/a.wav", "transcription": "Hello."}
    text = json.dumps(row) if name.endswith("l") else "file_name,transcription\ndata/a.wav,Hello.\n"
    (folder / name).write_text(text)
    samples = open_samples(tmp_path / "speech", format="asr", split="test" if split == "test" else None)
    (sample,) = samples.read(0, 1)
    assert isinstance(sample, Sample) and sample.media[0].uris == (str(folder / "data" / "a.wav"),)
    assert sample.sample_id == "speech/0" and sample.source == str(Path("speech", split or "", name))


def test_rows_cut_out_of_an_array_keep_their_commas(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "q,"}, {"role": "assistant", "content": each}]} for each in "ab"]
    for name, text in (
        ("json", ",\n".join(map(json.dumps, rows)) + ","),
        ("python", ",\n".join(map(repr, rows)) + " , "),
    ):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(text)
        with pytest.raises(InputError, match="lenient_json=true"):
            open_samples(path)
        found = list(open_samples(path, lenient_json=True).read(0, 2))
        assert [each.messages[1]["content"][0]["text"] for each in found if isinstance(each, Sample)] == ["a", "b"]


def test_a_byte_that_is_not_utf8_is_said_with_its_column(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"messages": []}\n{"x": "\xb1"}')
    (reject,) = list(open_samples(path).read(1, 2))
    assert isinstance(reject, Rejected) and reject.message.startswith("line 2, column 8: not UTF-8: byte 0xb1")
