"""load_source reads a meta JSON or a data file, and says what to fix where it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import vlm_prep
from vlm_prep.core.errors import InputError
from vlm_prep.ingest import load_source

KIT = Path(vlm_prep.__file__).parents[2] / "shared" / "kit" / "data"
CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
FROM_VALUE = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}
ALPACA = {"instruction": "hi", "input": "", "output": "hello"}


def write(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def meta(folder: Path, /, **datasets: Any) -> Path:
    return write(folder / "meta.json", datasets)


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_source(path, **options)
    return str(caught.value)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", CHAT)


# ---- what is read ----


def test_the_kits_meta_file_is_resolved() -> None:
    if not KIT.exists():
        pytest.skip(f"the test kit is not at {KIT}")
    specs = {spec.name: spec for spec in load_source(KIT / "meta.json")}
    assert list(specs) == sorted(specs) and len(specs) == 6
    assert specs["mllm_image"].media_dir == KIT / "llamafactory"
    assert specs["alpaca_zh"].sample_ratio == 0.25 and specs["alpaca_zh"].format == "alpaca"
    assert specs["toolcall_en"].roles["observation"] == "tool"


def test_paths_start_from_the_meta_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "deep" / "data" / "rows.jsonl", CHAT)
    path = meta(tmp_path / "deep", a={"file_name": "data/rows.jsonl", "media_dir": "pictures"})
    monkeypatch.chdir(tmp_path)
    (spec,) = load_source("deep/meta.json")
    assert spec.file == tmp_path / "deep" / "data" / "rows.jsonl"
    assert spec.media_dir == tmp_path / "deep" / "pictures"
    assert spec.file_name == "data/rows.jsonl"
    assert load_source(path) == [spec]


def test_media_starts_from_the_data_files_folder_by_default(tmp_path: Path) -> None:
    write(tmp_path / "data" / "rows.jsonl", CHAT)
    (spec,) = load_source(meta(tmp_path, a={"file_name": "data/rows.jsonl"}))
    assert spec.media_dir == tmp_path / "data"


def test_absolute_paths_stay(tmp_path: Path, data: Path) -> None:
    entry = {"file_name": str(data), "media_dir": "/media"}
    (spec,) = load_source(meta(tmp_path / "elsewhere", a=entry))
    assert (spec.file, spec.media_dir, spec.file_name) == (data, Path("/media"), str(data))


@pytest.mark.usefixtures("data")
def test_datasets_come_in_name_order_whatever_was_asked(tmp_path: Path) -> None:
    path = meta(tmp_path, b={"file_name": "rows.jsonl"}, c={"file_name": "none"}, a={"file_name": "rows.jsonl"})
    assert [spec.name for spec in load_source(path, datasets=["b", "a", "b"])] == ["a", "b"]


def test_a_data_file_can_be_given_directly(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data.parent)
    (spec,) = load_source("rows.jsonl", media_dir="pics", sample_ratio=2)
    assert (spec.name, spec.file_name, spec.file) == ("rows", "rows.jsonl", data)
    assert (spec.media_dir, spec.sample_ratio) == (data.parent / "pics", 2.0)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize("array", [True, False])
def test_arrays_and_lines_are_told_apart_by_content(tmp_path: Path, name: str, array: bool) -> None:
    path = write(tmp_path / name, [CHAT, CHAT]) if array else write(tmp_path / name, CHAT, CHAT)
    assert load_source(path)[0].name == "rows"


def test_a_json_file_of_one_row_is_not_a_meta_file(tmp_path: Path) -> None:
    assert load_source(write(tmp_path / "rows.json", CHAT))[0].format == "sharegpt"


def test_a_meta_file_may_begin_with_a_bom(tmp_path: Path, data: Path) -> None:
    path = meta(tmp_path, a={"file_name": data.name})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_source(path)[0].name == "a"


# ---- what is detected ----


def test_role_content_messages_are_detected(data: Path) -> None:
    (spec,) = load_source(data)
    assert (spec.format, spec.columns) == ("sharegpt", {"messages": "messages"})
    assert (spec.tags["role_tag"], spec.tags["user_tag"]) == ("role", "user")


def test_from_value_messages_are_detected(tmp_path: Path) -> None:
    (spec,) = load_source(write(tmp_path / "a.jsonl", FROM_VALUE))
    assert spec.columns["messages"] == "conversations"
    assert (spec.tags["role_tag"], spec.tags["content_tag"]) == ("from", "value")
    assert (spec.roles["human"], spec.roles["gpt"], spec.roles["observation"]) == (
        "user",
        "assistant",
        "tool",
    )


def test_from_value_keys_may_carry_the_other_role_names(tmp_path: Path) -> None:
    turns = [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]
    (spec,) = load_source(write(tmp_path / "a.jsonl", {"conversations": turns}))
    assert (spec.tags["role_tag"], spec.roles["user"]) == ("from", "user")


def test_content_lists_are_detected_as_messages(tmp_path: Path) -> None:
    row = {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "a"}]}]}
    assert load_source(write(tmp_path / "a.jsonl", row))[0].format == "messages"


def test_alpaca_is_detected(tmp_path: Path) -> None:
    assert load_source(write(tmp_path / "a.json", [ALPACA]))[0].format == "alpaca"


def test_the_first_readable_row_decides(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{broken\n" + json.dumps(FROM_VALUE) + "\n" + json.dumps(CHAT))
    assert load_source(path)[0].tags["role_tag"] == "from"


def test_what_the_user_wrote_wins(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", FROM_VALUE)
    (spec,) = load_source(path, format="messages", tags={"user_tag": "person", "observation_tag": "out"})
    assert (spec.format, spec.tags["user_tag"], spec.tags["assistant_tag"]) == ("messages", "person", "gpt")
    assert spec.roles["out"] == "tool" and "tool" not in spec.roles


def test_a_column_that_only_later_rows_have_is_accepted(tmp_path: Path) -> None:
    rows = [CHAT] * 100 + [CHAT | {"pics": ["a.jpg"]}]
    path = write(tmp_path / "a.jsonl", *rows)
    assert load_source(path, columns={"images": "pics"})[0].columns["images"] == "pics"


def test_the_usual_column_names_may_be_written_for_rows_without_them(data: Path) -> None:
    assert load_source(data, columns={"images": "images", "videos": "videos", "messages": "messages"})


# ---- what is refused ----


def test_a_missing_meta_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.json")


def test_malformed_json_is_shown_with_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    path.write_text('{\n  "a": {"file_name": "x"},\n  "b": {"file_name" "y"}\n}')
    message = refused(path)
    assert "line 3, column 21" in message and '"b": {"file_name" "y"}' in message


@pytest.mark.parametrize("text", ["42", '"text"', "null", "a,b\n1,2"])
def test_a_file_that_holds_no_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "meta.json"
    path.write_text(text)
    assert "neither" in refused(path)


@pytest.mark.parametrize(
    "value", ['{"a":' * 100_000 + '"file_name"' + "}" * 100_000, '{"file_name": ' + "9" * 5000 + "}"]
)
def test_json_beyond_the_parsers_limits_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "meta.json"
    path.write_text("{\n" + value[1:])
    assert "cannot be read" in refused(path)


def test_a_meta_file_without_datasets_is_refused(tmp_path: Path) -> None:
    assert "no datasets" in refused(meta(tmp_path))


def test_a_dataset_written_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    path.write_text('{"a": {"file_name": "x"}, "a": {"file_name": "y"}}')
    assert "'a' is written twice" in refused(path)


@pytest.mark.usefixtures("data")
def test_an_unknown_dataset_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    path = meta(tmp_path, captions={"file_name": "rows.jsonl"}, vqa={"file_name": "rows.jsonl"})
    message = refused(path, datasets=["caption"])
    assert "'caption'" in message and "captions, vqa" in message and "Did you mean 'captions'" in message


def test_the_name_of_a_data_file_is_its_only_dataset(data: Path) -> None:
    assert "no dataset 'x'" in refused(data, datasets=["x"])


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ({"file": "rows.jsonl"}, ["file_name is missing"]),
        ({"file_name": "rows.jsonl", "colums": {}}, ["'colums'", "sample_ratio", "Did you mean 'columns'"]),
        ({"file_name": "row.jsonl"}, ["no data file 'row.jsonl'"]),
        ({"file_name": 3}, ["file_name", "3"]),
        ({"file_name": "rows.jsonl", "columns": ["images"]}, ["columns"]),
        ({"file_name": "rows.jsonl", "columns": {"images": 1}}, ["columns.images"]),
        ({"file_name": "rows.jsonl", "sample_ratio": 0}, ["sample_ratio is 0"]),
        ({"file_name": "rows.jsonl", "sample_ratio": -1.5}, ["sample_ratio is -1.5"]),
        ({"file_name": "rows.jsonl", "sample_ratio": float("nan")}, ["sample_ratio is nan"]),
        ({"file_name": "rows.jsonl", "sample_ratio": float("inf")}, ["sample_ratio is inf"]),
        ({"file_name": "rows.jsonl", "sample_ratio": "1"}, ["sample_ratio"]),
        ({"file_name": "rows.jsonl", "sample_ratio": True}, ["sample_ratio"]),
        ({"file_name": "rows.jsonl", "format": "sharegtp"}, ["'sharegtp'", "Did you mean 'sharegpt'"]),
        ({"file_name": "rows.jsonl", "columns": {"image": "x"}}, ["'image'", "Did you mean 'images'"]),
        ({"file_name": "rows.jsonl", "tags": {"rol_tag": "x"}}, ["'rol_tag'", "Did you mean 'role_tag'"]),
        ({"file_name": "rows.jsonl", "tags": {"tool_tag": "a", "observation_tag": "b"}}, ["another name"]),
        ({"file_name": "rows.jsonl", "tags": {"user_tag": "a", "system_tag": "a"}}, ["both 'a'"]),
        ({"file_name": "rows.jsonl", "tags": {"user_tag": "assistant"}}, ["both 'assistant'"]),
        ({"file_name": "rows.jsonl", "columns": {"messages": ""}}, ["'messages' is empty"]),
        ({"file_name": "rows.jsonl", "columns": {"messages": "mesages"}}, ["'mesages'", "'messages'"]),
        ({"file_name": "rows.jsonl", "columns": {"images": "pics"}}, ["'pics'", "columns.images"]),
        ({"file_name": "rows.jsonl", "tags": {"role_tag": "rol"}}, ["'rol'", "Did you mean 'role'"]),
        ({"file_name": "."}, ["folder"]),
        (3, ["is 3, not an object"]),
        (None, ["not an object"]),
    ],
)
@pytest.mark.usefixtures("data")
def test_an_entry_that_cannot_be_used_is_refused(tmp_path: Path, entry: Any, parts: list[str]) -> None:
    # what has no entry with a file_name is a row
    others = {} if isinstance(entry, dict) else {"other": {"file_name": "rows.jsonl"}}
    message = refused(meta(tmp_path, mine=entry, **others))
    assert all(part in message for part in [*parts, "mine" if entry != {"file_name": "."} else ""]), message


@pytest.mark.usefixtures("data")
def test_entries_that_were_not_asked_for_are_not_checked(tmp_path: Path) -> None:
    path = meta(tmp_path, good={"file_name": "rows.jsonl"}, bad={"nonsense": 1})
    assert [spec.name for spec in load_source(path, datasets=["good"])] == ["good"]


@pytest.mark.parametrize(
    "flag", [{"format": "alpaca"}, {"columns": {}}, {"tags": {}}, {"media_dir": "x"}, {"sample_ratio": 1}]
)
def test_flags_of_a_data_file_are_refused_for_a_meta_file(tmp_path: Path, data: Path, flag: Any) -> None:
    assert "cannot be given" in refused(meta(tmp_path, a={"file_name": data.name}), **flag)


def test_a_parquet_file_is_refused_with_the_formats_that_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1\x00\x00PAR1")
    message = refused(path)
    assert "Parquet" in message and ".jsonl" in message
    assert "Parquet" in refused(meta(tmp_path, a={"file_name": "rows.parquet"}))


def test_a_misspelt_column_names_the_columns_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", FROM_VALUE | {"image": "a.jpg"})
    message = refused(path, columns={"messages": "convs"})
    assert "'conversations', 'image'" in message and "Did you mean 'conversations'" in message


def test_no_error_shows_a_traceback_of_its_cause(tmp_path: Path) -> None:
    assert "Traceback" not in refused(tmp_path) and "folder" in refused(tmp_path)
