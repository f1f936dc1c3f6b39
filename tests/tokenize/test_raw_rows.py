"""The proof starts from the row's own words and media: rows of the usual forms are read a second way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlm_prep.core.errors import ExactnessError
from vlm_prep.core.records import Sample
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.row_source import RowSource
from vlm_prep.ingest.source import open_samples
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.tokenize.verify.raw_rows import plain_row


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


ANSWER = message("assistant", " Hello. ")
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "x"}}}
TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}},
}
PLAIN: list[dict[str, Any]] = [
    {"messages": [message("user", "Hi"), ANSWER]},
    {"messages": [message("user", [text("Hi"), text(" there")]), message("assistant", "Hello.")], "id": "7"},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},
    {"messages": [message("system", ""), message("user", "x"), message("assistant", "Hello.")]},
    {"messages": [message("user", "<image>Hi <image>"), ANSWER], "images": ["a.png", "b.png"]},
    {"messages": [message("user", [{"type": "image", "image": "b.png"}, text("Hi")]), ANSWER]},
    {"messages": [message("user", [text("Hi"), {"type": "image"}]), ANSWER], "image": {"path": "a.png"}},
    {"messages": [message("user", "Hi"), message("assistant", "", tool_calls=[CALL]), message("tool", "5"), ANSWER],
     "tools": [TOOL]},
]  # fmt: skip
OTHERS: list[Any] = [
    {"messages": [message("user", "<image>Hi"), ANSWER]},
    {"messages": [message("user", "<image>Hi"), ANSWER], "images": ["a.png", "b.png"]},
    {"messages": [message("user", "Hi"), message("assistant", "<image>")], "images": ["a.png"]},
    {"messages": [message("user", "Hi"), message("assistant", "Hello.", weight=0.5)]},
    {"messages": [message("User", "Hi")]},
    {"messages": [message("user", [{"type": "image"}])]},
    {"messages": [message("user", "<img>a.png</img>"), ANSWER]},
    ["no object"],
    None,
]


def test_only_usual_forms_are_judged() -> None:
    assert [plain_row(row) is not None for row in PLAIN] == [True] * len(PLAIN)
    assert [plain_row(row) for row in OTHERS] == [None] * len(OTHERS)
    two = plain_row(PLAIN[4])
    assert two is not None and two.media == [("image", "a.png"), ("image", "b.png")]
    assert two.messages[0]["content"] == [{"type": "image"}, text("Hi "), {"type": "image"}]


def written(folder: Path, row: dict[str, Any], kind: str = "jsonl") -> Path:
    for name, colour in (("a.png", (200, 30, 10)), ("b.png", (10, 30, 200))):
        Image.new("RGB", (56, 56), colour).save(folder / name)
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join([json.dumps(row)] * 3))
    else:
        if any(isinstance(each.get("content"), list) for each in row.get("messages", ())):
            row = {**row, "messages": [{**each, "content": as_parts(each["content"])} for each in row["messages"]]}
        pq.write_table(pa.Table.from_pylist([row] * 3), path)
    return path


def as_parts(content: Any) -> Any:
    """A column of a table holds lists or texts."""
    return [text(content)] if isinstance(content, str) else content


def careless(monkeypatch: pytest.MonkeyPatch, lost: str, instead: str = "") -> None:
    """Make ingest lose words of conversations, and take other media."""
    read = RowSource.read

    def reads(self: RowSource, start: int, stop: int) -> Any:
        for sample in read(self, start, stop):
            assert isinstance(sample, Sample)
            messages = json.loads(json.dumps(sample.messages).replace(lost, instead))
            media = tuple(
                replace(each, uris=tuple(uri.replace(lost, instead) for uri in each.uris)) for each in sample.media
            )
            yield replace(sample, messages=messages, media=media)

    monkeypatch.setattr(RowSource, "read", reads)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_usual_rows_are_stored_with_their_own_words(tmp_path: Path, options: Any, kind: str) -> None:
    for number, row in enumerate(PLAIN):
        samples = open_samples(written(tmp_path, row, kind))
        manifest = tokenize(samples, "builtin:qwen2.5-vl-mini", TokenizeConfig(), options(tmp_path / str(number)))
        assert manifest is not None
        assert manifest.totals["rows_written"] == 3, row


@pytest.mark.parametrize(
    ("row", "lost", "instead", "kind"),
    [
        (1, " there", "", "jsonl"),
        (1, "Hello", "", "jsonl"),
        (4, "b.png", "a.png", "jsonl"),
        (4, "Hi", "", "jsonl"),
        (5, "Hi", "", "parquet"),
        (6, "a.png", "b.png", "parquet"),
    ],
)
def test_words_and_media_that_are_lost_in_reading_stop_the_run(
    tmp_path: Path, options: Any, monkeypatch: pytest.MonkeyPatch, row: int, lost: str, instead: str, kind: str
) -> None:
    careless(monkeypatch, lost, instead)
    samples = open_samples(written(tmp_path, PLAIN[row], kind))
    with pytest.raises(ExactnessError, match="not what its row says"):
        tokenize(samples, "builtin:qwen2.5-vl-mini", TokenizeConfig(), options(tmp_path / "out"))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_arguments_of_calls_that_are_lost_stop_the_run(
    processors: Path, tmp_path: Path, options: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    processor = str(processors / "qwen3_vl")
    samples = open_samples(written(tmp_path, PLAIN[7], kind))
    manifest = tokenize(samples, processor, TokenizeConfig(), options(tmp_path / "whole"))
    assert manifest is not None and manifest.totals["rows_written"] == 3
    careless(monkeypatch, '"at": "x"')
    with pytest.raises(ExactnessError, match="not what its row says"):
        tokenize(samples, processor, TokenizeConfig(), options(tmp_path / "o"))
