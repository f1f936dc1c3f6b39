"""What other tools call a data set: their rows and descriptions as they are, or a sentence about what is not read."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from vlm_prep.core.errors import InputError
from vlm_prep.core.records import Sample
from vlm_prep.ingest.source import open_samples


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_PREP_CACHE", str(tmp_path / "cache"))


def rows(source: object, **how: Any) -> list[Any]:
    found = open_samples(str(source), **how)
    return list(found.read(0, len(found)))


def said(sample: Any) -> list[tuple[str, list[str]]]:
    assert isinstance(sample, Sample), sample
    return [
        (each["role"], [part.get("text", f"<{part['type']}>") for part in each["content"]]) for each in sample.messages
    ]


def lines(path: Path, *values: Any) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def test_queries_and_responses_of_ms_swift_with_their_history(tmp_path: Path) -> None:
    row = {"system": "Be brief.", "query": "<image>c?", "response": "d", "history": [["a?", "b"]], "images": ["1.png"]}
    (sample,) = rows(lines(tmp_path / "a.jsonl", row))
    turns = [("system", ["Be brief."]), ("user", ["a?"]), ("assistant", ["b"])]
    assert said(sample) == [*turns, ("user", ["<image>", "c?"]), ("assistant", ["d"])]
    assert [each.uris for each in sample.media] == [(str(tmp_path / "1.png"),)] and not sample.unread


def test_a_message_of_nemo_that_is_a_sound_is_a_sound(tmp_path: Path) -> None:
    turns = [
        {"from": "User", "value": "What is said?", "type": "text"},
        {"from": "User", "value": "a.wav", "type": "audio", "offset": 1.0, "duration": 2.0},
        {"from": "Assistant", "value": "Yes.", "type": "text"},
    ]
    (sample,) = rows(lines(tmp_path / "a.jsonl", {"id": "1", "conversations": turns}))
    assert said(sample) == [("user", ["What is said?"]), ("user", ["<audio>"]), ("assistant", ["Yes."])]
    assert [(each.uris, each.start, each.end) for each in sample.media] == [((str(tmp_path / "a.wav"),), 1.0, 3.0)]
    assert not sample.unread


AXOLOTL = """
base_model: some/model
sequence_len: 4096
datasets:
  - path: talks.jsonl
    type: chat_template
    field_messages: chats
    message_property_mappings: {role: who, content: says}
    roles: {assistant: [gpt, robot], user: [human]}
    roles_to_train: [robot]
  - path: pairs.jsonl
    ds_type: json
    type: alpaca
"""


def test_sets_of_an_axolotl_configuration(tmp_path: Path) -> None:
    lines(tmp_path / "talks.jsonl", {"chats": [{"who": "human", "says": "a"}, {"who": "robot", "says": "b"}]})
    lines(tmp_path / "pairs.jsonl", {"instruction": "c", "input": "", "output": "d"})
    (tmp_path / "job.yml").write_text(AXOLOTL)
    pair, talk = rows(tmp_path / "job.yml")
    assert said(pair) == [("user", ["c"]), ("assistant", ["d"])]
    assert said(talk) == [("user", ["a"]), ("assistant", ["b"])]


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("type: input_output", "type input_output is"),
        ("type: chat_template.argilla", "type chat_template.argilla is preference data"),
        ("train_on_eos: all", "train_on_eos"),
        ("message_field_training: weight", "message_field_training"),
        ("chat_template: chatml", "chat_template"),
        ("drop_system_message: true", "drop_system_message"),
        ("roles_to_train: [user]", "roles_to_train"),
        ("roles: {user: [a, b]}", "roles of user"),
        ("data_files: [a.json, b.json]", "several data_files"),
        ("message_property_mappings: {weight: w}", "message_property_mappings of weight"),
        ("message_property_mappings: [a]", "message_property_mappings is"),
        ("roles: {user: {a: b}}", "roles is"),
        ("roles_to_train: [[a]]", "roles_to_train is"),
        ("split: 2024-01-01", "split is"),
        ("split: 2024-99-99", "cannot be read as YAML"),
    ],
)
def test_what_axolotl_says_and_is_not_read_stops(more: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "job.yml").write_text(f"datasets:\n  - path: a.jsonl\n    {more}\n")
    with pytest.raises(InputError, match=f"'a.jsonl'.*{what}|{what}"):
        rows(tmp_path / "job.yml")


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("completion", "a text without turns"),
        ("input_output", "without a chat template"),
        ("chatml.intel", "preference data"),
        ("orpo.chat_template", "preference data"),
        ("stepwise_supervised", "single steps"),
        ("alpaca_chat.load_qa", "a prompt of its own"),
        ("context_qa.load_v2", "a prompt of its own"),
        ("my_module.strategy", "code of its own"),
        ("nonsense", "type 'nonsense'"),
        ("{format: '{instruction}', field_output: output}", r"a prompt of its own \(format, field_output\)"),
        ("''", "tokenized already"),
    ],
)
def test_each_type_of_axolotl_that_is_not_read_says_what_it_is(kind: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "job.yml").write_text(f"datasets:\n  - {{path: a.jsonl, type: {kind}}}\n")
    with pytest.raises(InputError, match=f"'a.jsonl': .*{what}"):
        rows(tmp_path / "job.yml")


def shard(path: Path, key: str) -> None:
    chat = [{"from": "human", "value": key}, {"from": "gpt", "value": "b"}]
    data = json.dumps({"conversations": chat}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo(f"{key}.json")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))


def test_energons_own_list_of_splits_says_which_tars(tmp_path: Path) -> None:
    for number in range(4):
        shard(tmp_path / "shards" / f"s-{number}.tar", f"q{number}")
    meta = tmp_path / ".nv-meta"
    meta.mkdir()
    parts = "split_parts:\n  train: ['shards/s-{0..2}.tar']\n  val: [shards/s-3.tar]\n"
    (meta / "split.yaml").write_text(f"exclude: [shards/s-1.tar]\n{parts}")
    assert [said(each)[0][1] for each in rows(tmp_path)] == [["q0"], ["q2"]]
    assert [said(each)[0][1] for each in rows(tmp_path, split="val")] == [["q3"]]
    with pytest.raises(InputError, match="Did you mean 'val'"):
        rows(tmp_path, split="vall")
    (meta / "split.yaml").write_text(f"exclude: [shards/s-1.tar/0001]\n{parts}")
    with pytest.raises(InputError, match="single samples"):
        rows(tmp_path)


def test_a_lance_table_without_its_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.lance" / "_versions").mkdir(parents=True)
    (tmp_path / "a.lance" / "_versions" / "1.manifest").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(InputError, match=r"pip install 'vlm-prep\[lance\]'"):
        rows(tmp_path / "a.lance")


def test_a_lance_table_is_a_table_with_its_blobs(tmp_path: Path) -> None:
    lance = pytest.importorskip("lance", reason="pip install 'vlm-prep[lance]'")
    blob = pa.field("image", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    schema = pa.schema([blob, pa.field("text", pa.string())])
    picture = b"\x89PNG\r\n\x1a\n-a"
    for number in range(2):
        table = pa.table({"image": [picture] * 2, "text": [f"{number}a", f"{number}b"]}, schema=schema)
        lance.write_dataset(table, str(tmp_path / "a.lance"), mode="append" if number else "create")
    found = rows(tmp_path / "a.lance", turns=["user=<image>What?", "assistant={text}"])
    assert [said(each)[1][1] for each in found] == [["0a"], ["0b"], ["1a"], ["1b"]]
    assert all(len(each.media) == 1 for each in found)
    lance.write_dataset(table, str(tmp_path / "a.lance"), mode="append")
    assert len(rows(tmp_path / "a.lance", turns=["user=<image>What?", "assistant={text}"])) == 6


def test_llama_factorys_openai_is_turns_under_the_tags_that_it_says(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (tmp_path / "a.json").write_text(json.dumps([{"messages": turns}]))
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    entry = {"file_name": "a.json", "formatting": "openai", "columns": {"messages": "messages"}, "tags": tags}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"a": entry}))
    assert [said(each) for each in rows(tmp_path / "dataset_info.json")] == [[("user", ["a"]), ("assistant", ["b"])]]
