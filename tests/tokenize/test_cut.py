"""Rows cut inside a turn, and rows of exactly so many tokens: the beginning of what the processor makes, no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlm_prep.core.errors import InputError
from vlm_prep.core.records import Sample
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.reader import Store
from vlm_prep.stream import PadCollate, ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.tokenize.verify.store import check_store

PROCESSOR = "builtin:qwen2.5-vl-mini"
MOCK = "mock:rows=6,images=1,size=56-112,words=40-400,seed=3"


def made(source: str, out: Path, options: Callable[..., Any], **config: Any) -> tuple[Any, list[dict[str, Any]]]:
    settings = TokenizeConfig(verify_fraction=1.0, **config)
    manifest = tokenize(open_samples(source), PROCESSOR, settings, options(out, max_reject_rate=1.0))
    return manifest, list(Store(out).rows())


def test_every_made_row_has_exactly_so_many_tokens(options: Callable[..., Any], tmp_path: Path) -> None:
    source = MOCK.replace("words=40-400", "tokens=256")
    manifest, rows = made(source, tmp_path / "a", options, exact_length=256, media="reference")
    assert [len(row["input_ids"]) for row in rows] == [256] * 6
    assert manifest.totals["cut_inside"] == 6 and manifest.totals["rows_rejected"] == 0
    whole, full = made(source, tmp_path / "b", options)
    for row, longer in zip(rows, full, strict=True):
        for name in ("input_ids", "labels"):
            assert np.array_equal(row[name], longer[name][:256])
    assert whole.totals.get("cut_inside") is None
    assert check_store(tmp_path / "a", PROCESSOR).sound


def test_made_media_are_read_again_where_they_are_trained(options: Callable[..., Any], tmp_path: Path) -> None:
    made(MOCK, tmp_path / "a", options, media="reference")
    dataset = ShardDataset(tmp_path / "a", seed=1)
    batch = PadCollate.for_store(dataset)([dataset[0], dataset[1]])
    assert batch["pixel_values"].shape[0] == int(batch["image_grid_thw"].prod(1).sum())
    assert sum(path.stat().st_size for path in (tmp_path / "a").rglob("*.arrow")) < 64_000


def test_shorter_rows_are_rejects(options: Callable[..., Any], tmp_path: Path) -> None:
    _, rows = made(MOCK, tmp_path / "a", options, exact_length=200)
    rejects = read_rejects(tmp_path / "a")
    assert {len(row["input_ids"]) for row in rows} == {200} and len(rows) + len(rejects) == 6
    assert {each["reason"] for each in rejects} == {"too_short"}


@pytest.mark.parametrize("limit", [60, 100])
def test_a_limit_inside_a_picture_rejects_the_row(limit: int, options: Callable[..., Any], tmp_path: Path) -> None:
    samples = open_samples("mock:rows=2,images=1,size=280x280,words=50")
    config = TokenizeConfig(max_length=limit, overlong="cut")
    try:
        tokenize(samples, PROCESSOR, config, options(tmp_path / "a", max_reject_rate=1.0))
    except InputError:
        return  # every row is one
    assert {each["reason"] for each in read_rejects(tmp_path / "a")} == {"overlong"}


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(InputError, match="leave one out"):
        TokenizeConfig(max_length=5, exact_length=6)


def test_a_made_row_is_the_same_by_itself_and_everywhere() -> None:
    samples = open_samples("mock:rows=9,images=2,size=32-64,audio=0.1-0.5,frames=2,words=3-9,look=chart")
    whole = list(samples.read(0, 9))
    assert [next(iter(samples.read(row, row + 1))) for row in range(9)] == whole
    made = [row for row in whole if isinstance(row, Sample)]
    assert [media.kind for media in made[0].media] == ["image", "image", "video", "audio"]
    assert len({media.uris for row in made for media in row.media}) == 36


WRONG = ["mock:row=3", "mock:rows=x", "mock:size=3-", "mock:look=blue", "mock:words=0", "mock:rows"]


@pytest.mark.parametrize("text", WRONG)
def test_what_a_mock_does_not_know_is_said(text: str) -> None:
    with pytest.raises(InputError, match="mock:"):
        open_samples(text)
