"""Payload `pixels` while tokenizing: what cannot be made into tensors rejects its row, whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize import tokenize_job as job
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"


def row(*pictures: Path) -> dict[str, Any]:
    """A conversation with a turn for each picture."""
    messages = []
    for number, _ in enumerate(pictures):
        messages += [
            {"role": "user", "content": f"<image>What is number {number}?"},
            {"role": "assistant", "content": f"It is {number}."},
        ]
    return {"messages": messages, "images": [str(picture) for picture in pictures]}


def run(tmp_path: Path, rows: list[dict[str, Any]], **settings: Any) -> tuple[Store, dict[str, str]]:
    (tmp_path / "rows.json").write_bytes(orjson.dumps(rows))
    options = RunOptions(out=tmp_path / "out", workers=0, progress=False, say=lambda line: None, max_reject_rate=1.0)
    tokenize(open_samples(str(tmp_path / "rows.json")), PROCESSOR, TokenizeConfig(**settings), options)
    return Store(tmp_path / "out"), {each["sample_id"]: each["reason"] for each in read_rejects(tmp_path / "out")}


@pytest.fixture
def damaged(kit: Path, tmp_path: Path) -> Path:
    """A PNG whose header and end are sound and whose pixels are not."""
    data = bytearray((kit / "data" / "images" / "coffee.png").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    (tmp_path / "damaged.png").write_bytes(data)
    return tmp_path / "damaged.png"


def test_a_picture_that_does_not_decode_rejects_its_row(kit: Path, damaged: Path, tmp_path: Path) -> None:
    good = kit / "data" / "images" / "chelsea.png"
    rows = [row(good), row(good, damaged), row(damaged)]
    store, rejects = run(tmp_path, rows, media="pixels")
    assert [each["sample_id"] for each in store.rows()] == ["rows/0"]
    assert rejects.keys() == {"rows/1", "rows/2"}
    assert set(rejects.values()) <= {"unreadable_image", "truncated_image"}
    totals = store.manifest.totals
    assert (totals["rows_in"], totals["rows_written"], totals["rows_rejected"]) == (3, 1, 2)


@pytest.mark.parametrize("media", ["encoded", "pixels"])
def test_media_that_no_cell_holds_reject_their_row(
    kit: Path, tmp_path: Path, media: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "MOST_BYTES", 100_000)
    small, large = kit / "data" / "images" / "china_6x5.png", kit / "data" / "images" / "coffee.png"
    store, rejects = run(tmp_path, [row(small), row(large), row(small, large)], media=media)
    assert rejects == {"rows/1": "payload_too_large", "rows/2": "payload_too_large"}
    assert [each["sample_id"] for each in store.rows()] == ["rows/0"]
    assert store.manifest.totals["rows_in"] == 3
