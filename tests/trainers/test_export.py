"""`vlm-prep export`: whole or not there, and read by what it is written for."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset, load_from_disk
from PIL import Image
from typer.testing import CliRunner

from vlm_prep.builtin import builtin_data
from vlm_prep.cli import main
from vlm_prep.core.errors import InputError, OutputError
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.image import load_rgb
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.trainers import export_formats
from vlm_prep.trainers.exporting import export

PROCESSOR = "builtin:qwen2.5-vl-mini"


def made(options: Any, out: Path, *datasets: str) -> Path:
    tokenize(open_samples(builtin_data(), datasets=list(datasets)), PROCESSOR, TokenizeConfig(), options(out))
    return out


@pytest.fixture(scope="module")
def texts(options: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(options, tmp_path_factory.mktemp("texts") / "tok", "tool_talk")


@pytest.fixture(scope="module")
def photos(options: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("photos") / "tok"
    tokenize(
        open_samples(builtin_data().parent / "photo_talk.jsonl", limit=6), PROCESSOR, TokenizeConfig(), options(out)
    )
    return out


def bare(media: Any) -> list[Any]:
    return [bytes(file["bytes"]) for item in media for file in item["files"]]


@pytest.mark.parametrize("name", ["tokenized", "packed"])
def test_parquet_holds_every_row_with_its_media(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(name)
    found = export(folder, "parquet", tmp_path / "out")
    rows = list(Store(folder).rows())
    assert found.rows == len(rows)
    read = [row for file in sorted((tmp_path / "out").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    for ours, theirs in zip(rows, read, strict=True):
        assert theirs["input_ids"] == ours["input_ids"].tolist() and theirs["labels"] == ours["labels"].tolist()
        assert bare(theirs["media"]) == bare(ours["media"])
        assert np.array_equal(np.array(theirs["image_grid_thw"]).reshape(-1, 3), ours["image_grid_thw"])
    shuffled = load_dataset("parquet", data_files=str(tmp_path / "out" / "*.parquet"), split="train").shuffle(seed=1)
    assert all(file["bytes"] for row in shuffled for item in row["media"] for file in item["files"])


def test_llamafactorys_rows_open_with_datasets_upright(photos: Path, tmp_path: Path, options: Any) -> None:
    export(photos, "llamafactory", tmp_path / "out")
    rows = load_from_disk(str(tmp_path / "out"))["train"]
    for ours, theirs in zip(Store(photos).rows(), rows, strict=True):
        assert theirs["input_ids"] == ours["input_ids"].tolist() and theirs["labels"] == ours["labels"].tolist()
        for file, data in zip(theirs["images"], bare(ours["media"]), strict=True):
            seen = Image.open(io.BytesIO(file["bytes"])).convert("RGB")
            assert np.array_equal(np.asarray(seen), np.asarray(load_rgb(data)))
    turned = Image.new("RGB", (112, 56), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    upright = export_formats._upright((tmp_path / "turned.jpg").read_bytes(), "turned.jpg")
    (tmp_path / "upright").write_bytes(upright)
    assert Image.open(tmp_path / "upright").size == (56, 112)


def test_megatrons_index_is_what_its_writer_makes(texts: Path, tmp_path: Path) -> None:
    export(texts, "megatron-indexed", tmp_path / "out")
    rows = [row["input_ids"] for row in Store(texts).rows()]
    data = np.fromfile(tmp_path / "out" / "tokens.bin", np.int32)
    index = (tmp_path / "out" / "tokens.idx").read_bytes()
    version, code, sequences, documents = struct.unpack("<QBQQ", index[9:34])
    assert (index[:9], version, code, sequences, documents) == (b"MMIDIDX\x00\x00", 1, 4, len(rows), len(rows) + 1)
    assert np.array_equal(data, np.concatenate(rows))
    if importlib.util.find_spec("megatron") is not None:  # its own reader, where it is installed
        from megatron.core.datasets.indexed_dataset import IndexedDataset

        read = IndexedDataset(str(tmp_path / "out" / "tokens"))
        assert all(np.array_equal(read[number], row) for number, row in enumerate(rows))


def test_what_a_form_has_no_place_for_is_refused(
    photos: Path, tokenized: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, options: Any
) -> None:
    videos = tmp_path_factory.mktemp("videos") / "tok"
    samples = open_samples(builtin_data(), datasets=["parts_talk"])
    tokenize(samples, PROCESSOR, TokenizeConfig(fps=2.0), options(videos))
    for store, to, words in (
        (photos, "megatron-indexed", "tokens alone"),
        (tokenized, "llamafactory", "has video"),
        (videos, "llamafactory", "has video"),
        (videos, "ms-swift", "has video"),
    ):
        with pytest.raises(InputError, match=words):
            export(store, to, tmp_path / "out")  # type: ignore[arg-type]
        assert list(tmp_path.iterdir()) == []


ANSWER = {"role": "assistant", "content": "A cat."}


@pytest.mark.parametrize(
    ("answer", "forms", "words"),
    [
        ({**ANSWER, "weight": 0.5}, ("llamafactory", "ms-swift", "megatron-indexed"), "has weights of tokens"),
        ({**ANSWER, "reasoning_content": "It has whiskers."}, ("ms-swift",), "has reasoning_content"),
        ({**ANSWER, "train": False}, ("ms-swift",), "has an answer that is not trained"),
        (
            {**ANSWER, "content": [{"type": "text", "text": "A", "train": False}, {"type": "text", "text": " cat."}]},
            ("ms-swift",),
            "has a part that is not trained",
        ),
    ],
)
def test_what_a_form_would_train_otherwise_is_refused(
    answer: dict[str, Any], forms: tuple[Any, ...], words: str, tmp_path: Path, options: Any
) -> None:
    asked = {"role": "user", "content": "What is it?"}
    chats = [[asked, ANSWER], [asked, answer, asked, ANSWER]]
    data = tmp_path / "data.jsonl"
    data.write_bytes(b"\n".join(orjson.dumps({"messages": chat}) for chat in chats))
    own = (builtin_data().parent.parent / "processors" / "qwen2.5-vl-mini" / "chat_template.jinja").read_text()
    turn = "{{- turn(message['role'], message['content']) -}}"
    thought = "{%- if message.reasoning_content -%}{{- turn('thought', message.reasoning_content) -}}{%- endif -%}"
    assert turn in own
    config = TokenizeConfig(loss_weights=True, chat_template=own.replace(turn, thought + turn))
    tokenize(open_samples(data), PROCESSOR, config, options(tmp_path / "tok"))
    tokenize(open_samples(data, limit=1), PROCESSOR, config, options(tmp_path / "plain"))
    for to in forms:
        with pytest.raises(InputError, match=words):
            export(tmp_path / "tok", to, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert export(tmp_path / "plain", to, tmp_path / to).rows == 1  # weights of 1 say what labels say


def test_rows_that_were_cut_inside_a_turn_are_refused_as_chats(tmp_path: Path, options: Any) -> None:
    data = tmp_path / "data.jsonl"
    answer = {"role": "assistant", "content": "A cat, " * 40}
    data.write_bytes(orjson.dumps({"messages": [{"role": "user", "content": "What is it?"}, answer]}))
    config = TokenizeConfig(max_length=40, overlong="cut")
    tokenize(open_samples(data), PROCESSOR, config, options(tmp_path / "tok"))
    with pytest.raises(InputError, match="1 rows were cut inside a turn"):
        export(tmp_path / "tok", "ms-swift", tmp_path / "out")
    export(tmp_path / "tok", "llamafactory", tmp_path / "out")
    (row,) = load_from_disk(str(tmp_path / "out"))["train"]
    assert len(row["input_ids"]) == 40


def test_packs_and_places_that_are_taken_are_refused(
    photos: Path, packed: Path, packed_index: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="is a store of pack"):
        export(packed, "llamafactory", tmp_path / "out")
    with pytest.raises(InputError, match="index of packs"):
        export(packed_index, "parquet", tmp_path / "out")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="there already"):
        export(photos, "parquet", tmp_path / "taken")


def test_a_killed_export_leaves_no_destination_and_its_rest_goes_with_the_next(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: Any
) -> None:
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as after kill -9

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        export(photos, "llamafactory", tmp_path / "out")
    monkeypatch.undo()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.") and left.name.endswith(".partial")
    gone = left.with_name(left.name.replace(f"-{os.getpid()}.", "-999999999."))
    left.rename(gone)
    export(photos, "llamafactory", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    export(photos, "llamafactory", tmp_path / "again")
    assert tree(tmp_path / "out") == tree(tmp_path / "again")


def test_the_command_says_what_it_wrote(texts: Path, tmp_path: Path) -> None:
    words = ["export", str(texts), str(tmp_path / "out"), "--to", "parquet"]
    result = CliRunner().invoke(main.app, words)
    assert result.exit_code == 0 and "rows" in result.output
    assert CliRunner().invoke(main.app, words).exit_code != 0


def test_without_energon_it_says_what_to_install(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "megatron", None)
    with pytest.raises(InputError, match="Megatron-Energon is not installed"):
        export(texts, "energon", tmp_path / "out")
    assert not list(tmp_path.iterdir())
