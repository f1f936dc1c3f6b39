"""Text files with comments between their rows, of two compressions, or with fields parted otherwise."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlm_prep.core.errors import InputError, Reject
from vlm_prep.core.records import Rejected, Sample
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.files import read_bytes
from vlm_prep.media.places import ANYWHERE, located

TEXTS = [f"ä {n} // it's" for n in range(3)]
ANSWER = {"role": "assistant", "content": "x"}
LINES = "".join(json.dumps({"messages": [{"role": "user", "content": text}, ANSWER]}) + "\n" for text in TEXTS)

ROWS = [json.loads(line) for line in LINES.splitlines()]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of converted files lie in the test's own folder."""
    monkeypatch.setenv("VLM_PREP_CACHE", str(tmp_path / "cache"))


def test_lines_that_are_comments_are_no_rows_by_lenient_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first, *others = LINES.splitlines(keepends=True)
    path.write_text("// of 2026\n" + first + "  # more\n/* and\tmore */ \n" + "".join(others) + "//")
    samples = open_samples(path, lenient_json=True)
    read = [each for each in samples.read(0, len(samples)) if isinstance(each, Sample)]
    assert len(samples) == 3 and [each.messages[0]["content"][0]["text"] for each in read] == TEXTS
    samples = open_samples(path)
    (comment,) = samples.read(0, 1)
    assert isinstance(comment, Rejected) and comment.message.startswith("line 1") and "lenient_json" in comment.message


def test_what_is_wrong_with_a_compressed_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    for data in (gzip.compress(LINES.encode()), b'[{"a": 1}, {"a"'):
        path.write_bytes(gzip.compress(data))
        with pytest.raises(InputError) as caught:
            open_samples(path)
        assert str(path) in str(caught.value) and "cache" not in caught.value.message


def test_a_table_parted_otherwise_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('messages|image\n"[""a""]"|a.png\n')
    with pytest.raises(InputError, match="cannot be read as CSV text") as caught:
        open_samples(path)
    assert "commas" in str(caught.value)


@pytest.mark.parametrize(
    ("wrapped", "key"),
    [
        ({"data": {"rows": ROWS}}, "data.rows"),
        ({"dataset": {"info": {"v": 1}, "data": ROWS}}, "dataset.data"),
        ({"info": {"name": "x"}, "data": {"rows": ROWS}}, "data.rows"),
        ({"v": 1, "data": {"rows": {str(n): row for n, row in enumerate(ROWS)}}}, "data.rows"),
        ({"a": {"b": {"c": ROWS}}}, "a.b.c"),
    ],
)
def test_rows_in_objects_of_objects_are_named_by_the_key_that_reads_them(
    tmp_path: Path, wrapped: dict[str, Any], key: str
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(wrapped))
    with pytest.raises(InputError, match=f"`rows_key={key}` reads them"):
        open_samples(path)
    samples = open_samples(path, rows_key=key)
    read = [each for each in samples.read(0, len(samples)) if isinstance(each, Sample)]
    assert [each.messages[0]["content"][0]["text"] for each in read] == TEXTS


@pytest.mark.parametrize("between", ["", " ", ", "])
@pytest.mark.parametrize("lenient", [False, True])
def test_rows_on_one_line_say_that_each_needs_its_own(tmp_path: Path, between: str, lenient: bool) -> None:
    path = tmp_path / "rows.jsonl"
    first, second, third = LINES.splitlines()
    path.write_text(f"{first}\n{second}{between}{third}\n{first}\n")
    samples = open_samples(path, lenient_json=lenient)
    read = list(samples.read(0, 3))
    assert isinstance(read[1], Rejected) and "2 objects on one line" in read[1].message
    assert isinstance(read[0], Sample) and isinstance(read[2], Sample)


def test_what_is_no_json_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first, *others = LINES.splitlines()
    path.write_text(first + " x\x1b[3m\n" + "\n".join(others))
    read = next(iter(open_samples(path).read(0, 1)))
    assert isinstance(read, Rejected) and "x\\x1b[3m'" in read.message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_a_picture_in_base64_alone_is_that_picture(tmp_path: Path, kind: str) -> None:
    made = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 10, 10)).save(made, kind)
    text = base64.b64encode(made.getvalue()).decode()
    rows = [
        {"messages": [{"role": "user", "content": "<image>?"}, ANSWER | {"content": text}], "images": images}
        for images in ([text], [{"bytes": text}], text, ["A" * 9000])
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row).replace("/", "\\/") + "\n" for row in rows))
    samples = list(open_samples(tmp_path / "rows.jsonl").read(0, 4))
    for sample in samples[:3]:
        assert isinstance(sample, Sample) and read_bytes(sample.media[0].uris[0]) == made.getvalue()
        assert sample.messages[1]["content"][0]["text"] == text
    assert isinstance(samples[3], Sample)
    with pytest.raises(Reject) as caught:
        located(samples[3].media[0], ANYWHERE)
    assert len(str(caught.value)) < 1000 and "9," in str(caught.value)


# ---- tables as other programs write them ----

SAID = ['"hi" she said', "one\ntwo", "a\ttab", "plain", ""]
QUOTED = {"read_delimited"}


def _table(path: Path, **how: Any) -> list[Sample | Rejected]:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, **how)
        writer.writerow(["instruction", "input", "output"])
        writer.writerows(["Do", "", said] for said in SAID)
    samples = open_samples(path)
    return list(samples.read(0, len(samples)))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("rows.tsv", {"delimiter": "\t"}),
        ("rows.tsv", {"delimiter": "\t", "lineterminator": "\n"}),
        ("rows.tsv", {"delimiter": "\t", "quoting": csv.QUOTE_ALL}),
        ("rows.csv", {"delimiter": ";"}),
        ("rows.csv", {"delimiter": "\t"}),
    ],
)
def test_tables_are_read_as_they_are_written_whatever_their_names_say(
    name: str, how: dict[str, Any], tmp_path: Path
) -> None:
    rows = _table(tmp_path / name, **how)
    assert [row.messages[1]["content"][0]["text"] for row in rows if isinstance(row, Sample)] == SAID
    assert all(isinstance(row, Sample) and set(row.notes) >= QUOTED for row in rows)
    assert [row.line for row in rows] == [2, 3, 5, 6, 7]


@pytest.mark.parametrize("other", ['"Oh," he said', 'Say "hi"', '"Yes."', '"open', 'a""b'])
def test_a_quote_that_stands_otherwise_anywhere_makes_quotes_of_a_tsv_texts(other: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text(f'instruction\tinput\toutput\nDo\t\t"""hi"" she"\nDo\t\t{other}\n')
    rows = list(open_samples(path).read(0, 2))
    assert [row.messages[1]["content"][0]["text"] for row in rows if isinstance(row, Sample)] == [
        '"""hi"" she"',
        other,
    ]
    assert not any(isinstance(row, Sample) and QUOTED & set(row.notes) for row in rows)


def test_quotes_around_fields_with_commas_alone_may_be_a_spreadsheets_or_the_texts(tmp_path: Path) -> None:
    """As Excel writes a table parted by tabs, and as a sentence that is a quotation stands in Common Voice's."""
    head = "instruction\tinput\toutput\n"

    def read(*answers: str, name: str = "rows.tsv") -> list[str]:
        path = tmp_path / name
        path.write_text(head + "".join(f"Do\t\t{answer}\n" for answer in answers))
        samples = open_samples(path)
        rows = list(samples.read(0, len(samples)))
        return [row.messages[1]["content"][0]["text"] if isinstance(row, Sample) else row.message for row in rows]

    plain, doubtful = read("plain", '"Yes, it is"')
    assert plain == "plain" and '"Yes, it is"' in doubtful and ".csv" in doubtful
    assert read("plain", '"Yes, it is"', name="rows.csv") == ["plain", "Yes, it is"]
    assert read("well, plain", '"Yes, it is"') == ["well, plain", '"Yes, it is"']  # a spreadsheet quotes the first, too
    assert read("plain", '"Yes, it is"', '"say ""so"""') == ["plain", "Yes, it is", 'say "so"']
    assert read("plain", '"""Yes, it is"""') == ["plain", '"Yes, it is"']
