"""What the statistics say of rows: media with their times, characters, tokens of text and of media apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vlm_prep.builtin import builtin_data
from vlm_prep.core.settings import IngestConfig, TokenizeConfig
from vlm_prep.engine.accounts import sum_counts, sum_datasets
from vlm_prep.engine.tasks import Record
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.report.statistics import collect, render
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"


def test_of_an_ingested_store_by_row(options: Callable[..., Any], tmp_path: Path) -> None:
    samples = open_samples("mock:rows=5,images=2,size=16,audio=3,words=10,seed=1")
    ingest(samples, IngestConfig(), options(tmp_path / "a"))
    stats = collect(tmp_path / "a")
    assert stats["images_per_row"]["p0"] == stats["images_per_row"]["p100"] == 2
    assert stats["seconds_per_row"]["p50"] == 3
    rows: list[Any] = list(samples.read(0, 5))
    texts = [sum(len(part.get("text", "")) for message in row.messages for part in message["content"]) for row in rows]
    assert stats["characters_per_row"]["mean"] == np.mean(texts)
    shown = render(stats)
    assert "images/row  min 2, median 2" in shown and "10 images; 5 audios, 15.0 s" in shown


def test_of_a_tokenized_store_by_dataset(options: Callable[..., Any], tmp_path: Path) -> None:
    config = TokenizeConfig(fps=2.0, media="reference", verify_fraction=0.0)
    manifest = tokenize(open_samples(builtin_data()), PROCESSOR, config, options(tmp_path / "a", max_reject_rate=1.0))
    assert manifest is not None
    totals, counted = manifest.totals, 0
    for row in Store(tmp_path / "a").rows():
        grids = [*row["image_grid_thw"], *row["video_grid_thw"]]
        counted += sum(int(np.prod(grid)) // 4 for grid in grids)
    assert totals["media_tokens"] == counted > 0
    by_set = totals["datasets"].values()
    for name in ("tokens", "media_tokens", "images", "videos", "video_seconds"):
        assert np.isclose(sum(counts.get(name, 0) for counts in by_set), totals[name])
    assert totals["video_seconds"] > 0
    shown = render(collect(tmp_path / "a"))
    assert f"({totals['tokens'] - counted:,} text, {counted:,} media)" in shown
    assert shown.count(" media)") == 1 + sum(counts["media_tokens"] > 0 for counts in by_set)


def test_times_add_up_to_the_millisecond() -> None:
    counts: dict[str, int] = {"rows_in": 1, "rows_written": 1, "rows_rejected": 0, "audio_ms": 1500}
    records = [
        Record(task=task, split="train", shards=(), counts=counts, facts={"datasets": {"a": counts}}) for task in (0, 1)
    ]
    assert sum_counts(records)["audio_seconds"] == sum_datasets(records)["a"]["audio_seconds"] == 3.0
    assert "audio_ms" not in sum_counts(records)
