"""rows in = rows written + rows rejected, per dataset and reason, whatever the rows hold."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlm_prep.builtin import builtin_data
from vlm_prep.core.errors import InputError, RejectRateError, VlmPrepError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import IngestConfig, MediaMode, TokenizeConfig
from vlm_prep.engine.accounts import sum_counts
from vlm_prep.engine.stage import RunOptions
from vlm_prep.engine.tasks import Record
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"
Options = Callable[..., RunOptions]
Command = Callable[..., subprocess.CompletedProcess[str]]


def chat(user: object = "<image>What is it?", answer: object = "A cat.", **columns: object) -> str:
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages, **columns})


def turns(*messages: object) -> str:
    return json.dumps({"messages": messages})


GOOD = chat(images=["good.jpg"])
USER = {"role": "user", "content": "hi"}
BAD: dict[str, tuple[str, str, str]] = {
    # what is wrong: (the row, the stage that finds it, the reason)
    "not JSON": ('{"messages": [', "ingest", "bad_json"),
    "a list": ("[1]", "ingest", "bad_row"),
    "null": ("null", "ingest", "bad_row"),
    "no messages column": ('{"text": "hi"}', "ingest", "missing_column"),
    "messages are text": ('{"messages": "hi"}', "ingest", "bad_type"),
    "a message is null": (turns(None), "ingest", "bad_type"),
    "content is a number": (chat(5), "ingest", "bad_type"),
    "a message without content": (turns({"role": "user"}, USER), "ingest", "bad_type"),
    "empty conversation": (turns(), "ingest", "empty_conversation"),
    "no assistant": (turns(USER), "ingest", "no_assistant_turn"),
    "unknown role": (turns({"role": "wizard", "content": "hi"}), "ingest", "unknown_role"),
    "too few images": (chat("<image><image>?", images=["good.jpg"]), "ingest", "media_count_mismatch"),
    "too many images": (chat("What?", images=["good.jpg"]), "ingest", "media_count_mismatch"),
    "an image that is a number": (chat(images=[3]), "ingest", "bad_media_entry"),
    "an image that is a URL": (chat(images=["http://localhost/a.jpg"]), "ingest", "unsupported_media"),
    "broken tools": (chat("hi", tools="[{"), "ingest", "bad_tools"),
    "missing image": (chat(images=["gone.jpg"]), "media", "missing_file"),
    "truncated image": (chat(images=["cut.jpg"]), "media", "truncated_image"),
    "zero-byte image": (chat(images=["zero.jpg"]), "media", "empty_file"),
    "absurdly large image": (chat(images=["huge.png"]), "media", "image_too_large"),
    "text for an image": (chat(images=["text.jpg"]), "media", "unreadable_image"),
    "a folder for an image": (chat(images=["."]), "media", "unreadable_file"),
    "unreadable video": (chat("<video>?", videos=["broken.mp4"]), "media", "unreadable_video"),
    "truncated video": (chat("<video>?", videos=["cut.mp4"]), "media", "unreadable_video"),
    "missing video": (chat("<video>?", videos=["gone.mp4"]), "media", "missing_file"),
    "too thin an image": (chat(images=["thin.png"]), "tokenize", "aspect_ratio"),
    "overlong": (chat("word " * 3000), "tokenize", "overlong"),
}


def png_header_of(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of bad row, each followed by a good one."""
    folder = tmp_path_factory.mktemp("bad")
    data = builtin_data().parent
    shutil.copy(data / "photos" / "chelsea.jpg", folder / "good.jpg")
    whole = (folder / "good.jpg").read_bytes()
    video = (data / "clips" / "ball.mp4").read_bytes()
    files = {
        "cut.jpg": whole[: len(whole) // 2],
        "zero.jpg": b"",
        "text.jpg": b"no picture",
        "huge.png": png_header_of(100_000, 100_000),
        "broken.mp4": video[:24] + bytes(500),
        "cut.mp4": video[: len(video) // 3],
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    Image.new("RGB", (4000, 4)).save(folder / "thin.png")
    rows = [line for bad, _, _ in BAD.values() for line in (bad, GOOD)]
    (folder / "rows.jsonl").write_text("".join(f"{row}\n" for row in rows))
    return folder / "rows.jsonl"


@pytest.fixture(scope="module", params=["encoded", "reference"])
def store(source: Path, request: pytest.FixtureRequest, options: Options, tmp_path_factory: Any) -> Path:
    """The bad rows tokenized."""
    out: Path = tmp_path_factory.mktemp("out") / "tok"
    media: MediaMode = request.param
    config = TokenizeConfig(media=media, max_length=1024, fps=2.0)
    tokenize(open_samples(source), PROCESSOR, config, options(out, max_reject_rate=1.0))
    return out


@pytest.mark.parametrize("what", BAD)
def test_a_bad_row_is_one_reject_with_its_reason_source_and_line(store: Path, what: str) -> None:
    place = list(BAD).index(what)
    _, stage, reason = BAD[what]
    found = [reject for reject in read_rejects(store) if reject["line"] == 2 * place + 1]
    assert [(each["reason"], each["source"], each["sample_id"], each["stage"]) for each in found] == [
        (reason, "rows.jsonl", f"rows/{2 * place}", "ingest" if stage == "ingest" else "tokenize")
    ]
    assert found[0]["message"]


def test_the_rows_after_a_bad_one_are_written(store: Path) -> None:
    ids = [row["sample_id"] for row in Store(store).rows()]
    assert ids == [f"rows/{2 * place + 1}" for place in range(len(BAD))]


def test_the_accounts_name_every_row(store: Path) -> None:
    totals = read_manifest(store).totals
    assert (totals["rows_in"], totals["rows_written"], totals["rows_rejected"]) == (2 * len(BAD), len(BAD), len(BAD))
    assert totals["rejects"] == Counter(reason for _, _, reason in BAD.values())


def test_ingest_rejects_what_it_can_see_and_tokenize_the_rest(source: Path, tmp_path: Path, options: Options) -> None:
    anyway = {"max_reject_rate": 1.0}
    ingest(open_samples(source), IngestConfig(), options(tmp_path / "samples", **anyway))
    tokenize(
        open_samples(tmp_path / "samples"),
        PROCESSOR,
        TokenizeConfig(max_length=1024, fps=2.0),
        options(tmp_path / "tok", **anyway),
    )
    first, second = (read_manifest(tmp_path / name).totals for name in ("samples", "tok"))
    late = sum(stage == "tokenize" for _, stage, _ in BAD.values())
    assert first["rows_rejected"] == len(BAD) - late
    assert second["rows_in"] == first["rows_written"]
    assert second["rejects"] == {"aspect_ratio": 1, "overlong": 1}


def test_the_accounts_hold_for_each_dataset(source: Path, tmp_path: Path, options: Options) -> None:
    data = builtin_data().parent
    meta = {
        "bad": {"file_name": str(source), "media_dir": str(source.parent)},
        "photo": {"file_name": str(data / "photo_talk.jsonl"), "media_dir": str(data), "sample_ratio": 2.5},
        "text": {"file_name": str(data / "tool_talk.json"), "sample_ratio": 0.5},
    }
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    manifest = ingest(
        open_samples(tmp_path / "meta.json"), IngestConfig(), options(tmp_path / "out", max_reject_rate=1.0)
    )
    assert manifest
    found = manifest.totals["datasets"]
    assert {name: counts["rows_in"] for name, counts in found.items()} == {"bad": 2 * len(BAD), "photo": 50, "text": 2}
    written = Counter(row["dataset"] for row in Store(tmp_path / "out").rows())
    rejected = Counter(reject["dataset"] for reject in read_rejects(tmp_path / "out"))
    for name, counts in found.items():
        assert (counts["rows_written"], counts["rows_rejected"]) == (written[name], rejected[name])
        assert counts["rows_in"] == counts["rows_written"] + counts["rows_rejected"]


def test_pack_counts_every_document(store: Path, tmp_path: Path, options: Options) -> None:
    pack(store, PackConfig(pack_length=1024), options(tmp_path / "packed", max_reject_rate=1.0))
    totals = read_manifest(tmp_path / "packed").totals
    assert (totals["rows_in"], totals["rows_written"]) == (len(BAD), len(BAD))


# ---- the limit ----


def test_too_many_rejects_end_with_status_3_and_a_complete_store(source: Path, tmp_path: Path, call: Command) -> None:
    result = call("ingest", source, "--out", tmp_path / "out", "--max-reject-rate", "0.1")
    assert result.returncode == 3
    assert "rows were rejected" in result.stderr
    assert f"vlm-prep rejects {tmp_path / 'out'}" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(Store(tmp_path / "out", verify=True)) == read_manifest(tmp_path / "out").totals["rows_written"]


def test_few_enough_rejects_end_with_status_0(source: Path, tmp_path: Path, call: Command) -> None:
    result = call("ingest", source, "--out", tmp_path / "out", "--max-reject-rate", "0.9")
    assert result.returncode == 0


def test_a_rerun_of_a_run_with_too_many_rejects_says_so_again(source: Path, tmp_path: Path, options: Options) -> None:
    for _ in range(2):
        with pytest.raises(RejectRateError):
            ingest(open_samples(source), IngestConfig(), options(tmp_path / "out"))


def test_a_source_whose_rows_are_all_rejected_still_gives_a_store(tmp_path: Path, options: Options) -> None:
    (tmp_path / "rows.jsonl").write_text(f"{GOOD}\n" * 3)
    ingest(open_samples(tmp_path / "rows.jsonl"), IngestConfig(), options(tmp_path / "out", max_reject_rate=1.0))
    assert len(Store(tmp_path / "out")) == 0
    assert len(read_rejects(tmp_path / "out")) == 3


def test_a_store_without_rejects_has_an_empty_table_of_them(tokenized: Path) -> None:
    assert read_rejects(tokenized) == []


def test_overlong_error_stops_the_run_at_the_row(tmp_path: Path, options: Options) -> None:
    (tmp_path / "rows.jsonl").write_text(chat("hi") + "\n" + chat("word " * 3000) + "\n")
    config = TokenizeConfig(max_length=1024, overlong="error")
    with pytest.raises(InputError, match="rows/1"):
        tokenize(open_samples(tmp_path / "rows.jsonl"), PROCESSOR, config, options(tmp_path / "out"))
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    "counts", [{"rows_in": 3, "rows_written": 1, "rows_rejected": 1}, {"rows_in": 2, "rows_written": 2}]
)
def test_a_lost_row_stops_the_run(counts: dict[str, int]) -> None:
    record = Record(task=0, split="train", shards=(), counts=counts)
    with pytest.raises(VlmPrepError, match="do not add up"):
        sum_counts([record], rows=3)
