"""Rows of several forms in one file, as ms-swift's users write them; each is read as what it alone can be."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from vlm_prep.core.errors import InputError
from vlm_prep.core.records import Rejected
from vlm_prep.ingest.source import open_samples

CHAT = [{"role": "user", "content": "<image>q"}, {"role": "assistant", "content": "r"}]
PARTS = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]}, CHAT[1]]
FORMS: list[dict[str, Any]] = [
    {"query": "<image>q", "response": "r", "images": ["a.png"]},
    {"messages": CHAT, "images": ["a.png"]},
    {"messages": PARTS, "images": ["a.png"]},
    {"conversations": [{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": "r"}], "image": "a.png"},
    {"conversation": [{"human": "<image>q", "assistant": "r"}], "images": ["a.png"]},
    {"conversation": [{"input": "<image>q", "output": "r"}], "images": ["a.png"]},
    {"instruction": "<image>q", "input": "", "output": "r", "image": "a.png"},
]


def read(folder: Path, *rows: Any, **options: Any) -> list[Any]:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    samples = open_samples(path, **options)
    return list(samples.read(0, len(samples)))


@pytest.mark.parametrize(("first", "then"), itertools.permutations(range(len(FORMS)), 2))
def test_each_row_is_read_in_its_own_form(first: int, then: int, tmp_path: Path) -> None:
    for row in read(tmp_path, FORMS[first], FORMS[then]):
        turns = [(each["role"], [part.get("text", part["type"]) for part in each["content"]]) for each in row.messages]
        assert turns == [("user", ["image", "q"]), ("assistant", ["r"])]
        assert [Path(each.uris[0]).name for each in row.media] == ["a.png"]


def test_columns_of_all_forms_with_nulls_are_as_if_they_were_not_there(tmp_path: Path) -> None:
    nothing = dict.fromkeys(itertools.chain.from_iterable(FORMS))
    rows = read(tmp_path, *({**nothing, **row} for row in FORMS))
    assert [getattr(row, "message", "") for row in rows] == [""] * len(FORMS)
    assert sum("read_other_format" in row.notes for row in rows) == 2  # the questions


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"query": "q", "response": "r", "instruction": "i", "output": "o"}, "missing_column"),  # which of both?
        ({"query": "q", "response": None}, "missing_column"),
        ({"response": "r"}, "missing_column"),
        ({"query": "q", "response": "r", "rejected_response": "z"}, "unread_key"),
        ({"messages": [{"human": "q", "assistant": "r", "weight": 1}]}, "bad_type"),
    ],
)
def test_what_may_mean_two_things_or_nothing_is_a_reject(row: Any, reason: str, tmp_path: Path) -> None:
    found = read(tmp_path, {"messages": CHAT[1:]}, row)[1]
    assert isinstance(found, Rejected) and found.reason == reason


@pytest.mark.parametrize("options", [{"format": "sharegpt"}, {"columns": {"messages": "messages"}}])
def test_a_form_that_the_user_named_is_the_only_one(options: Any, tmp_path: Path) -> None:
    assert read(tmp_path, {"messages": CHAT[1:]}, FORMS[0], **options)[1].reason == "missing_column"


def test_pairs_with_a_system_prompt(tmp_path: Path) -> None:
    pairs = [{"system": "s", "input": "a", "output": "b"}, {"input": "c", "output": "d"}]
    (row,) = read(tmp_path, {"conversation": pairs})
    assert [each["role"] for each in row.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert row.notes == ("read_pairs",)


def test_turns_as_lists_side_by_side(tmp_path: Path) -> None:
    turns = {"role": ["user", "assistant"], "content": ["<image>q", "r"], "weight": [None, 0]}
    row, other = read(tmp_path, {"messages": turns, "image": "a.png"}, {"messages": {"role": ["user"], "content": []}})
    assert [each["content"][-1]["text"] for each in row.messages] == ["q", "r"] and not row.messages[1]["train"]
    assert row.notes == ("read_turns_by_key",) and other.reason == "bad_type"


def test_the_data_folder_of_llama_factory_is_its_description(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": "q", "output": "r"}]))
    info = {"a": {"file_name": "a.json"}, "b": {"file_name": "a.json", "ranking": True}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    assert [row.sample_id for row in open_samples(tmp_path, datasets=["a"]).read(0, 1)] == ["a/0"]
    with pytest.raises(InputError, match="'b' is preference data"):
        open_samples(tmp_path)
    saved = datasets.Dataset.from_list([{"instruction": "q", "output": "r"}])
    saved.save_to_disk(str(tmp_path / "saved"))  # holds a file of this name
    assert len(open_samples(tmp_path / "saved")) == 1


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"chat": CHAT}, "`columns=messages=chat`"),
        ({"chat": json.dumps(CHAT)}, '"turns":[{"conversation":"chat"}]'),
        ({"data": {"messages": CHAT}}, '"turns":[{"conversation":"data.messages"}]'),
        ({"image": "a.png", "question": "q", "answer": "a"}, "'user=<image>{question}' and 'assistant={answer}'"),
        ({"image": "a.png", "captions": ["a", "b"]}, '{"pick":"captions"}'),
        ({"instruction": "q", "context": "c", "response": "a"}, "`columns=output=response`"),
        ({"Question": "q", "Answer": "a"}, '{"assistant":"{Answer}"}'),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "chosen"),
        ({"inputs": "q", "targets": "b"}, None),
    ],
)
def test_rows_of_another_shape_are_told_what_reads_them(row: Any, hint: str | None, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row))
    with pytest.raises(InputError) as caught:
        open_samples(path)
    said = str(caught.value.hint)
    assert hint in said if hint else said.endswith("'b').")
