"""Media that change after a store was made: `why` names them, and the same command says so instead of nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlm_prep.core.settings import IngestConfig, MediaMode, TokenizeConfig
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.changed_media import changed_media
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A cup."}]
    rows = [{"messages": turns, "images": [f"{number}.png"]} for number in range(4)]
    for number in range(4):
        Image.new("RGB", (56, 56), (number, 0, 0)).save(tmp_path / f"{number}.png")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["image", "video", "audio"])
def test_a_change_amid_a_file_is_seen_where_all_of_it_is_known(
    kind: str, tmp_path: Path, kit: Path, options: Callable[..., Any]
) -> None:
    shown = {"image": "images/motorcycle_left.png", "video": "videos/bigbuckbunny.mp4", "audio": "audio/jfk.flac"}[kind]
    file = tmp_path / Path(shown).name
    data = bytearray((kit / "data" / shown).read_bytes())
    assert len(data) > 2 * (64 << 10) + 1
    file.write_bytes(data)
    turns = [{"role": "user", "content": f"<{kind}>What?"}, {"role": "assistant", "content": "A cup."}]
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"messages": turns, f"{kind}s": [file.name]}))
    ingest(open_samples(rows), IngestConfig(), options(tmp_path / "header"))
    ingest(open_samples(rows), IngestConfig(check_media="full"), options(tmp_path / "full"))
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert changed_media(Store(tmp_path / "header", stage="ingest"), None) == []
    assert changed_media(Store(tmp_path / "full", stage="ingest"), None) == [f"{file}: changed"]


@pytest.mark.parametrize("payload", [None, "reference", "encoded"])
def test_what_changed_is_named(
    payload: MediaMode | None, source: Path, tmp_path: Path, options: Callable[..., Any], call: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    said: list[str] = []

    def run() -> None:
        how = options(out, say=said.append)
        if payload is None:
            ingest(open_samples(source), IngestConfig(), how)
        else:
            tokenize(open_samples(source), PROCESSOR, TokenizeConfig(media=payload), how)

    run()
    kind = "ingest" if payload is None else "tokenize"
    assert changed_media(Store(out, stage=kind), None) == []
    Image.new("RGB", (56, 56), (99, 0, 0)).save(tmp_path / "1.png")
    (tmp_path / "2.png").unlink()
    found = changed_media(Store(out, stage=kind), None)
    assert found == [f"{tmp_path / '1.png'}: changed", f"{tmp_path / '2.png'}: missing_file"]
    said.clear()
    run()
    assert any("2 media have changed since the store was made" in line and "1.png" in line for line in said), said
    done = call("why", out, "--trust-places")
    assert done.returncode == 1 and "1.png: changed" in done.stdout and "2.png: missing_file" in done.stdout, done
