"""Any table, by a mapping: what it makes of a row, what it refuses, and that nothing is lost on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlm_prep.core.errors import InputError
from vlm_prep.core.records import Rejected, Sample
from vlm_prep.ingest.mapping.compiled import canonical, compiled
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.row_media import read_cell

PNG = b"\x89PNG\r\n\x1a\n-a"
CELL = {"bytes": PNG, "path": "a.png"}


def read(path: Path, **options: Any) -> list[Any]:
    found = open_samples(path, **options)
    return list(found.read(0, len(found)))


def rows(path: Path, *values: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in values))
    return path


def shape(sample: Sample | Rejected) -> Any:
    if isinstance(sample, Rejected):
        return sample.reason
    return [
        (message["role"], [part.get("text", "<" + part["type"] + ">") for part in message["content"]])
        for message in sample.messages
    ]


def said(row: dict[str, Any], value: Any, draws: str = "a/0") -> Any:
    """The text that a value makes of a row."""
    mapping = compiled(canonical({"turns": [{"assistant": value}]}))
    (turn,) = mapping.apply(row, draws).turns
    return "".join(part["text"] for part in turn["content"])


def test_a_table_of_cells_by_flags(tmp_path: Path) -> None:
    schema = pa.schema([("photo", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("n", pa.int64())])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"photo": CELL, "n": 3}], schema=schema), path)
    turns = ["user=How many?<image>", "assistant={n} of {{them}}"]
    (sample,) = read(path, turns=turns, columns={"images": "photo"})
    assert shape(sample) == [("user", ["How many?", "<image>"]), ("assistant", ["3 of {them}"])]
    file, _, key = sample.media[0].uris[0].partition("::")
    assert read_cell(file, "parquet", key) == PNG


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("{a.b.1}", "y"),
        ("{gt.answer}", "JSON in a text"),
        ("{dotted.name}", "dots"),
        ({"column": "a.t"}, "t"),
        ({"text": "{} <image>"}, "{} <image>"),
        ({"first": ["{nothing}", "{blank}", "{a.t}"]}, "t"),
        ({"join": ["{a.t}", "{blank}", "{blank2}", "u"], "with": ", "}, "t, u"),
        ({"strip": "  {spaced} "}, "s"),
        ({"json": "a.b"}, '["x","y"]'),
        ({"json2token": "tree"}, "<s_c>1<sep/>2</s_c><s_b>None</s_b><s_a><s_z>True</s_z></s_a>"),
        ({"json2token": "sequence"}, "whole"),
        ({"lines": "cells", "say": {"first": ["{t}", "{h}"]}, "by": "k", "with": "|"}, "one|two"),
    ],
)
def test_values(value: Any, text: str) -> None:
    row = {
        "a": {"b": ["x", "y"], "t": "t"},
        "gt": '{"answer": "JSON in a text"}',
        "dotted.name": "dots",
        "blank": " ",
        "blank2": None,
        "spaced": "s\n",
        "tree": {"a": {"z": True}, "b": None, "c": [1, 2]},
        "sequence": {"text_sequence": "whole"},
        "cells": [{"k": 2, "h": "two", "t": ""}, {"k": 3}, {"k": 1, "t": "one"}],
    }
    assert said(row, value) == text


def test_what_is_drawn_for_a_row_is_the_same_each_time_and_differs_between_rows() -> None:
    prompts = {"choice": [f"prompt {n}" for n in range(4)]}
    drawn = [said({}, prompts, f"a/{row}") for row in range(200)]
    assert drawn == [said({}, prompts, f"a/{row}") for row in range(200)]
    assert {drawn.count(each) > 30 for each in set(drawn)} == {True} and len(set(drawn)) == 4
    assert said({"captions": ["a", "b"]}, {"pick": "captions"}) in ("a", "b")


def test_pairs_of_columns_lists_of_pairs_and_lists_side_by_side(tmp_path: Path) -> None:
    path = rows(
        tmp_path / "a.jsonl",
        {"image": "a.png", "q": "Q", "a": "A", "q2": None, "qa": [{"q": "1", "a": 2}], "qs": ["3"], "as": ["4"]},
        {"image": "a.png", "q": "Q", "a": "A", "q2": "R", "a2": "B", "qa": [], "qs": [], "as": ["4"]},
    )
    turns: list[Any] = [{"user": ["image", "{q}"]}, {"assistant": "{a}"}]
    turns += [{"user": "{q2}", "optional": True}, {"assistant": "{a2}", "optional": True}]
    turns += [{"each": "qa", "turns": [{"user": "{q}"}, {"assistant": "{a}"}]}]
    turns += [{"each": ["qs", "as"], "turns": [{"user": "{qs}"}, {"assistant": "{as}"}]}]
    first, second = read(path, mapping={"turns": turns})
    texts = [text for _, content in shape(first) for text in content]
    assert texts == ["<image>", "Q", "A", "1", "2", "3", "4"] and not first.unread
    assert second.reason == "bad_row" and "side by side" in second.message


CHAT = [{"from": "human", "value": "a <image > b\n<IMAGE>"}, {"from": "gpt", "value": " c "}]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tags": "spaced"}, [("user", ["a ", "<image>", " b\n", "<image>"]), ("assistant", [" c "])]),
        ({"tags": "spaced", "strip": True}, [("user", ["a", "<image>", "b", "<image>"]), ("assistant", ["c"])]),
        ({"media_first": True}, [("user", ["<image>", "a <image > b"]), ("assistant", [" c "])]),
        ({"max_turns": 1}, "not_wanted"),
        ({"min_turns": 3}, "not_wanted"),
        ({"roles": {"human": "user"}}, "unknown_role"),
        ({"roles": {"human": "user"}, "other_roles": "skip"}, "no_assistant_turn"),
        (
            {"tags": "spaced", "tags_as": {"image": "video"}},
            [("user", ["a ", "<video>", " b\n", "<video>"]), ("assistant", [" c "])],
        ),
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_a_column_that_holds_a_conversation(tmp_path: Path, options: Any, expected: Any, as_text: bool) -> None:
    kind = "video" if "tags_as" in options else "image"
    path = rows(tmp_path / "a.jsonl", {kind: "a.png", "chat": json.dumps(CHAT) if as_text else CHAT})
    (found,) = read(path, mapping={"shared": True, "turns": [{"conversation": "chat", **options}]})
    assert shape(found) == expected


def test_one_picture_stands_for_several_tags_only_when_it_is_shared(tmp_path: Path) -> None:
    path = rows(tmp_path / "a.jsonl", {"image": "a.png", "t": "b"})
    turns = [{"user": ["image", "image", "?"]}, {"assistant": "{t}"}]
    assert [each.reason for each in read(path, mapping={"turns": turns})] == ["media_count_mismatch"]
    (found,) = read(path, mapping={"shared": True, "turns": turns})
    assert [media.uris for media in found.media] == [(str(tmp_path / "a.png"),)] * 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"image": "a.png", "t": 1.5}, "bad_type"),
        ({"image": "a.png", "t": None}, "bad_type"),
        ({"image": "a.png"}, "missing_column"),
        ({"image": None, "t": "x"}, "missing_media"),
        ({"image": ["a.png", "b.png"], "t": "x"}, "media_count_mismatch"),
        ({"image": "https://x/a.png", "t": "x"}, "unsupported_media"),
        ({"image": "a.png", "t": "x", "r": " "}, "not_wanted"),
        ({"image": "a.png", "t": "\ud800"}, "bad_json"),
    ],
)
def test_a_row_that_has_not_what_the_mapping_says_is_a_reject(tmp_path: Path, row: Any, reason: str) -> None:
    good = {"image": "a.png", "t": "x", "r": "r"}
    path = rows(tmp_path / "a.jsonl", good, {"r": "r", **row})
    mapping = {"require": "r", "turns": [{"user": ["image", "?"]}, {"assistant": "{t}"}]}
    first, second = read(path, mapping=mapping)
    assert isinstance(first, Sample) and second.reason == reason, second.message


def test_columns_that_a_mapping_does_not_read_are_counted_and_seconds_of_its_file_are_applied(tmp_path: Path) -> None:
    mapping: Any = {"audios": "clip", "turns": [{"user": ["audio", "?"]}, {"assistant": "{t}"}]}
    path = rows(tmp_path / "a.jsonl", {"clip": "a.wav", "t": "x", "score": 3}, {"clip": "a.wav", "t": "x", "start": 1})
    first, second = read(path, mapping=mapping)
    assert first.unread == {"row.score": 3} and second.unread == {} and second.media[0].start == 1.0
    mapping["audios"] = {"path": "clip", "start": "start", "end": "end"}
    path = rows(tmp_path / "b.jsonl", {"clip": "a.wav", "t": "x", "start": 1, "end": 2.5})
    (found,) = read(path, mapping=mapping)
    assert (found.media[0].start, found.media[0].end) == (1.0, 2.5)


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ("turns: [{user: '{a'}]", "a brace stands alone"),
        ("turns: [{usr: a}]", "has no role"),
        ("turns: [{user: {joined: [a]}}]", "Did you mean 'join'"),
        ("turn: []", "Did you mean 'turns'"),
        ("turns: []", "not a list of turns"),
        ("- a", "not an object"),
        ("a: [", "no YAML"),
        ("turns: [{conversation: a, empty: none}]", "keep, skip, media"),
        ("turns: [{assistant: '{answr}'}]", "Did you mean 'answer'"),
    ],
)
def test_a_mapping_that_cannot_be_used_says_what_to_write(tmp_path: Path, mapping: str, words: str) -> None:
    path = rows(tmp_path / "a.jsonl", {"answer": "b", "a": []})
    with pytest.raises(InputError) as error:
        open_samples(path, mapping=mapping)
    assert words in str(error.value)


def test_a_meta_file_names_a_mapping_or_holds_it(tmp_path: Path) -> None:
    rows(tmp_path / "a.jsonl", {"t": "b"})
    turns = [{"user": "?"}, {"assistant": "{t}"}]
    (tmp_path / "how.yaml").write_text("mapping:\n  turns: [{user: '?'}, {assistant: '{t}'}]\n")
    meta = {
        "a": {"file_name": "a.jsonl", "mapping": {"turns": turns}},
        "b": {"file_name": "a.jsonl", "mapping": "how.yaml"},
    }
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    samples = open_samples(tmp_path / "meta.json")
    first, second = samples.read(0, 2)
    assert shape(first) == shape(second) == [("user", ["?"]), ("assistant", ["b"])]
    said = [each["mapping"] for each in samples.describe()]
    assert said[0] == said[1]  # the same meaning is the same fingerprint
