"""Tables as they lie on the hub: their own layouts, structs filled up with nulls, and every kind of list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlm_prep.core.records import Rejected, Sample
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.row_media import read_cell

PNG = b"\x89PNG\r\n\x1a\n-a"
PICTURE = {"bytes": PNG, "path": "a.png"}


def samples(path: Path, **options: Any) -> list[Any]:
    found = open_samples(path, **options)
    return list(found.read(0, len(found)))


def parquet(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def shape(sample: Sample) -> list[Any]:
    return [
        (message["role"], message.get("train"), [part.get("text", part["type"]) for part in message["content"]])
        for message in sample.messages
    ]


def test_pairs_of_texts_have_their_pictures_first(tmp_path: Path) -> None:
    texts = [
        {"user": "What?", "assistant": "A cup.", "source": "s"},
        {"user": "Red?", "assistant": "No.", "source": "s"},
    ]
    path = parquet(tmp_path / "a.parquet", [{"images": [PICTURE, PICTURE], "texts": texts}])
    (sample,) = samples(path)
    assert shape(sample) == [
        ("user", None, ["image", "image", "What?"]),
        ("assistant", None, ["A cup."]),
        ("user", None, ["Red?"]),
        ("assistant", None, ["No."]),
    ]
    assert sample.notes == ("read_media_first",) and sample.unread == {"text.source": "s"}
    file, _, key = sample.media[1].uris[0].partition("::")
    assert read_cell(file, "parquet", key) == PNG


def test_prompts_are_not_trained_and_completions_are(tmp_path: Path) -> None:
    row = {
        "prompt": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        "completion": [{"role": "assistant", "content": "d"}],
        "images": ["a.png"],
    }
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row))
    (sample,) = samples(path)
    trained = [
        ("user", None, ["image", "a"]),
        ("assistant", False, ["b"]),
        ("user", None, ["c"]),
        ("assistant", None, ["d"]),
    ]
    assert shape(sample) == trained and sample.unread == {}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "completion": "b"},
        {"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]},
        {"prompt": [{"role": "user", "content": "a"}], "completion": "b"},
        {"prompt": {"role": "user", "content": "a"}, "completion": {"role": "assistant", "content": "b"}},
    ],
)
def test_prompts_and_completions_may_be_texts(tmp_path: Path, row: dict[str, Any]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row))
    (sample,) = samples(path)
    assert shape(sample) == [("user", None, ["a"]), ("assistant", None, ["b"])]
    assert sample.strings == (0, 1)
    assert sample.notes == (("read_completion_text",) if str in map(type, row.values()) else ())


@pytest.mark.parametrize("value", [None, 3, True])
def test_a_prompt_that_is_neither_is_a_reject_with_its_words(tmp_path: Path, value: object) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": each, "completion": "b"}) for each in ("a", value)))
    found = list(open_samples(path).read(0, 2))
    assert isinstance(found[1], Rejected) and found[1].reason == "bad_type"
    assert "not a list of messages or a text" in found[1].message


def test_structs_filled_up_with_nulls_are_what_was_filled_in(tmp_path: Path) -> None:
    part = pa.struct([("type", pa.string()), ("text", pa.string()), ("image", pa.string()), ("index", pa.int64())])
    message = pa.struct([("role", pa.string()), ("content", pa.list_(part)), ("tool_calls", pa.list_(pa.string()))])
    content = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "hi"}]
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": "ho"}]},
    ]
    schema = pa.schema([("messages", pa.list_(message)), ("images", pa.list_(pa.string())), ("label", pa.string())])
    (sample,) = samples(parquet(tmp_path / "a.parquet", [{"messages": messages}], schema))
    assert shape(sample) == [("user", None, ["image", "hi"]), ("assistant", None, ["ho"])]
    assert sample.unread == {} and sample.notes == ()


LISTS = {
    "list": pa.list_,
    "large list": pa.large_list,
    "fixed list": lambda kind: pa.list_(kind, 2),
    "list view": pa.list_view,
    "large list view": pa.large_list_view,
}


@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
@pytest.mark.parametrize("lists", LISTS)
def test_lists_and_texts_of_every_kind_are_read(tmp_path: Path, lists: str, text: pa.DataType) -> None:
    kind = LISTS[lists]
    message = pa.struct([("role", text), ("content", text)])
    picture = pa.struct([("bytes", pa.binary()), ("path", text)])
    schema = pa.schema([("messages", kind(message)), ("images", kind(picture))])
    row = {
        "messages": [{"role": "user", "content": "<image><image>hi"}, {"role": "assistant", "content": "ho"}],
        "images": [PICTURE, {"bytes": PNG + b"2", "path": None}],
    }
    arrays = [pa.array([row[name]], field.type) for name, field in zip(schema.names, schema, strict=True)]
    path = tmp_path / "a.arrow"
    with pa.ipc.new_file(str(path), schema) as writer:
        writer.write(pa.record_batch(arrays, schema=schema))
    (sample,) = samples(path)
    assert shape(sample) == [("user", None, ["image", "image", "hi"]), ("assistant", None, ["ho"])]
    file, _, key = sample.media[1].uris[0].partition("::")
    assert read_cell(file, "arrow", key) == PNG + b"2"


def test_not_a_number_in_a_table_is_missing_where_media_are_meant_and_no_argument_of_a_call(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    nan = float("nan")
    assert samples(parquet(tmp_path / "a.parquet", [{"messages": messages, "image": nan, "score": nan}]))[0].media == ()
    call = {"function": {"name": "f", "arguments": {"a": nan}}}
    called: list[Any] = [messages[0], {**messages[1], "tool_calls": [call]}]
    rows = [{"messages": called}, {"messages": messages}]
    assert samples(parquet(tmp_path / "b.parquet", rows))[0].reason == "bad_type"
