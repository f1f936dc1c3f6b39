"""A fault that stops a run is one message and what to do about it: exit status 2, no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vlm_prep.builtin import builtin_data, builtin_processor
from vlm_prep.core.settings import IngestConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples

PROCESSOR = "builtin:qwen2.5-vl-mini"
META = builtin_data()
ROWS = META.parent / "photo_talk.jsonl"
Options = Callable[..., RunOptions]
Command = Callable[..., subprocess.CompletedProcess[str]]


def assert_says(ended: subprocess.CompletedProcess[str], *words: str) -> None:
    """Assert an error message of at least two lines, the second of which says what to do."""
    lines = ended.stderr.splitlines()
    assert ended.returncode == 2
    assert [line for line in lines if line.startswith("error: ")]
    assert lines[-1].startswith("  ")
    assert "Traceback" not in ended.stderr
    assert not ended.stdout
    for word in words:
        assert word in ended.stderr


@pytest.fixture(params=["ingest", "tokenize"])
def read(request: pytest.FixtureRequest, call: Command, tmp_path: Path) -> Command:
    """`read(source, ...)`: one of the two commands that read raw rows."""
    more = ("--processor", PROCESSOR) if request.param == "tokenize" else ()
    return lambda *arguments: call(request.param, *arguments, *more, "--out", tmp_path / "out")


# ---- the source ----


def test_a_meta_file_that_does_not_exist(read: Command, tmp_path: Path) -> None:
    assert_says(read(tmp_path / "gone.json"), str(tmp_path / "gone.json"))


def test_a_meta_file_that_is_not_json_is_shown_at_the_line(read: Command, tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text('{\n  "set": {\n    "file_name": "rows.jsonl",,\n  }\n}\n')
    assert_says(read(tmp_path / "meta.json"), "line 3", '"file_name": "rows.jsonl",,')


def test_a_meta_file_with_an_unknown_key(read: Command, tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text('{"set": {"file_nmae": "rows.jsonl"}}')
    assert_says(read(tmp_path / "meta.json"), "file_name")


def test_a_meta_file_whose_data_file_is_gone(read: Command, tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text('{"set": {"file_name": "rows.jsonl"}}')
    assert_says(read(tmp_path / "meta.json"), "rows.jsonl", str(tmp_path))


def test_a_dataset_the_meta_file_does_not_name(read: Command) -> None:
    assert_says(read(META, "--dataset", "photo_tlak"), "photo_tlak", "Did you mean 'photo_talk'")


def test_a_column_role_that_does_not_exist(read: Command) -> None:
    assert_says(read(ROWS, "--column", "mesages=messages"), "mesages", "messages")


def test_a_column_that_the_rows_do_not_have(read: Command) -> None:
    assert_says(read(ROWS, "--column", "messages=chat"), "chat")


@pytest.mark.parametrize("option", ["--column", "--tag"])
@pytest.mark.parametrize("value", ["messages", "=x", "messages="])
def test_a_pair_without_its_two_sides(read: Command, option: str, value: str) -> None:
    assert_says(read(ROWS, option, value), "key=value", "for example")


def test_a_format_that_does_not_exist(read: Command) -> None:
    assert_says(read(ROWS, "--format", "sharegtp"), "sharegpt")


def test_a_sample_ratio_of_zero(read: Command) -> None:
    assert_says(read(ROWS, "--sample-ratio", "0"), "sample_ratio")


@pytest.mark.parametrize("content", [b"hello\nworld\n", b"", b"\x89PNG\r\n\x1a\n", b"PAR1" + bytes(40)])
def test_a_source_that_is_not_json(read: Command, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    assert_says(read(tmp_path / "rows.jsonl"), "rows.jsonl")


def test_a_source_that_is_any_folder(read: Command, tmp_path: Path) -> None:
    assert_says(read(tmp_path), "is a folder")


# ---- settings ----


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_a_frame_rate_that_is_none(call: Command, tmp_path: Path, value: str) -> None:
    ended = call("tokenize", META, "-p", PROCESSOR, "--out", tmp_path / "out", "--fps", value)
    assert ended.returncode == 2
    assert "--fps" in ended.stderr


def test_fewest_frames_above_most_frames(call: Command, tmp_path: Path) -> None:
    frames = ("--min-frames", 9, "--max-frames", 2)
    assert_says(call("tokenize", META, "-p", PROCESSOR, "--out", tmp_path / "out", *frames), "--max-frames 2")


@pytest.mark.parametrize(
    "arguments",
    [
        ("tokenize", META, "-p", PROCESSOR, "--media", "frames"),
        ("tokenize", META, "-p", PROCESSOR, "--workers", "0"),
        ("tokenize", META),
        ("pack", "store"),
        ("ingest", META, "--max-reject-rate", "nan"),
        ("unknown",),
    ],
    ids=lambda arguments: " ".join(map(str, arguments[-2:])),
)
def test_a_command_line_that_is_wrong(call: Command, arguments: tuple[object, ...]) -> None:
    ended = call(*arguments)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


# ---- the processor ----


def test_a_processor_folder_that_does_not_exist(call: Command, tmp_path: Path) -> None:
    ended = call("tokenize", META, "-p", tmp_path / "gone", "--out", tmp_path / "out")
    assert_says(ended, f"{tmp_path / 'gone'}: no such folder")


def test_a_builtin_processor_that_does_not_exist(call: Command, tmp_path: Path) -> None:
    ended = call("tokenize", META, "-p", "builtin:gone", "--out", tmp_path / "out")
    assert ended.returncode == 2
    assert "known: qwen2.5-vl-mini" in ended.stderr


@pytest.mark.parametrize("files", [(), ("tokenizer.json", "tokenizer_config.json")], ids=["empty", "tokenizer only"])
def test_a_folder_that_holds_no_processor(call: Command, tmp_path: Path, files: tuple[str, ...]) -> None:
    folder = tmp_path / "processor"
    folder.mkdir()
    for name in files:
        shutil.copy(builtin_processor("qwen2.5-vl-mini") / name, folder)
    ended = call("tokenize", META, "-p", folder, "--out", tmp_path / "out", "--workers", 1)
    assert_says(ended, str(folder), ", ".join(files) or "nothing")


def test_a_processor_whose_tokenizer_is_damaged(call: Command, tmp_path: Path) -> None:
    folder = tmp_path / "processor"
    shutil.copytree(builtin_processor("qwen2.5-vl-mini"), folder)
    (folder / "tokenizer.json").write_text("{")
    ended = call("tokenize", META, "-p", folder, "--out", tmp_path / "out", "--workers", 1)
    assert_says(ended, f"cannot load the processor {folder}")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_torchvision_that_does_not_import(command: Command, tmp_path: Path, workers: int) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise ImportError('libtorch.so: cannot open')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    arguments = ("tokenize", META, "-p", PROCESSOR, "--out", tmp_path / "out", "--workers", workers)
    result = command(*arguments, env=environment)
    assert_says(result, "libtorch.so: cannot open", "torchvision==")


# ---- folders ----


def test_an_output_folder_that_holds_another_run(call: Command, ingested: Path) -> None:
    assert_says(call("ingest", META, "--out", ingested, "--check-media", "decode"), "another run", "--fresh")


def test_an_output_folder_that_holds_other_files(call: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert_says(call("ingest", META, "--out", tmp_path), "not empty", "choose another --out")


def test_an_output_folder_that_is_a_file(call: Command, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    assert_says(call("ingest", META, "--out", tmp_path / "out"), "is a file")


@pytest.mark.parametrize("command_line", [("ingest", "--check-media", "decode"), ("pack", "--pack-length", "9")])
def test_an_output_folder_that_is_the_source(call: Command, ingested: Path, command_line: tuple[str, ...]) -> None:
    name, *more = command_line
    assert_says(call(name, ingested, *more, "--out", ingested, "--fresh"), "is the source itself")


@pytest.fixture
def unfinished(tmp_path: Path, options: Options) -> Path:
    """The output of an ingest that was stopped before its manifest."""
    out = tmp_path / "unfinished"
    ingest(open_samples(META), IngestConfig(), options(out))
    (out / "manifest.json").unlink()
    (out / "_work").mkdir()
    return out


@pytest.mark.parametrize(
    "command_line", [("stats",), ("pack", "--pack-length", 9, "--out", "x"), ("tokenize", "-p", PROCESSOR)]
)
def test_a_store_that_is_unfinished(call: Command, unfinished: Path, command_line: tuple[object, ...]) -> None:
    name, *more = command_line
    assert_says(call(name, unfinished, *more), "unfinished", "run the same command again")


def test_a_store_that_does_not_exist(call: Command, tmp_path: Path) -> None:
    assert_says(call("stats", tmp_path / "gone"), "no such folder")


def test_a_folder_that_is_no_store(call: Command, tmp_path: Path) -> None:
    assert_says(call("stats", tmp_path), "not a vlm-prep store", "give a folder made by")


@pytest.mark.parametrize("name", ["stats", "status", "verify", "rejects"])
def test_the_folder_of_a_job_names_the_stores_in_it(call: Command, ingested: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "ingested").symlink_to(ingested)
    (tmp_path / "tokenized" / "_work").mkdir(parents=True)
    assert_says(call(name, tmp_path), str(tmp_path), f"{tmp_path / 'ingested'}, {tmp_path / 'tokenized'}")


def test_an_audit_of_a_store_is_no_audit_of_a_source(call: Command, tokenized: Path) -> None:
    assert_says(call("labels", tokenized, "--audit"), "--audit counts the rows of a source", "is a store")


def test_a_store_of_the_wrong_stage_for_pack(call: Command, ingested: Path, tmp_path: Path) -> None:
    ended = call("pack", ingested, "--pack-length", 2048, "--out", tmp_path / "out")
    assert_says(ended, "output of `ingest`", "`vlm-prep tokenize`")


def test_a_store_of_the_wrong_stage_for_tokenize(call: Command, tokenized: Path, tmp_path: Path) -> None:
    ended = call("tokenize", tokenized, "-p", PROCESSOR, "--out", tmp_path / "out")
    assert_says(ended, "output of `tokenize`", "`vlm-prep ingest`")


def test_a_store_with_a_damaged_shard(call: Command, packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "store")
    (tmp_path / "store" / "rank_00000" / "data-00000-of-00001.arrow").write_bytes(b"cut")
    assert_says(call("stats", tmp_path / "store"), "rank_00000", "damaged")


def test_the_real_command_ends_the_same_way(command: Command, tmp_path: Path) -> None:
    result = command("ingest", tmp_path / "gone.json", "--out", tmp_path / "out")
    assert_says(result, "gone.json")


def test_a_hub_that_does_not_answer_is_said_at_once_with_what_was_asked(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    ended = call("tokenize", META, "-p", "org/model-that-is-nowhere", "--out", tmp_path / "out")
    assert_says(ended, "http://127.0.0.1:9 does not answer", "org/model-that-is-nowhere", "not in the cache")
    assert ended.stderr.startswith("asking http://127.0.0.1:9 for the processor org/model-that-is-nowhere")
    quiet = call("tokenize", META, "-p", "org/model-that-is-nowhere", "--out", tmp_path / "out", "--quiet")
    assert quiet.stderr.startswith("error: ")


def test_an_error_is_json_where_json_is_asked_for(call: Command, tmp_path: Path) -> None:
    ended = call("stats", tmp_path / "gone", "--json")
    assert ended.returncode == 2 and not ended.stdout
    told = json.loads(ended.stderr)
    assert "no such folder" in told["error"] and told["status"] == 2
    told = json.loads(call("tokenize", META, "-p", PROCESSOR, "--fps", "0", "--json").stderr)
    assert told["error"].startswith("--fps 0")
