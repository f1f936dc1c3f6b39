"""Text files with comments between their rows, of two compressions, or with fields parted otherwise."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.core.errors import InputError
from vlm_prep.core.records import Rejected, Sample
from vlm_prep.ingest.source import open_samples

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
    path.write_text('messages;image\n"[""a""]";a.png\n')
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
