"""What a stage rejected stands in the accounts of all that follow, and a row's own id and columns travel with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vlm_prep.core.errors import InputError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import IngestConfig, TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.report import statistics
from vlm_prep.report.view.viewing import overview, view
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.shards.store_check import damaged_files, wrong_accounts
from vlm_prep.stream import ShardDataset
from vlm_prep.tokenize.tokenize_run import retry_tokenize, tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"
Options = Callable[..., RunOptions]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Rows 0 to 9 with ids and scores: row 3 is no JSON, row 4 has no answer, row 7 is long."""
    lines = []
    for number in range(10):
        turns = [
            {"role": "user", "content": f"What is {number}?"},
            {"role": "assistant", "content": f"It is {number}."},
        ]
        if number == 4:
            turns.pop()
        if number == 7:
            turns[1]["content"] = "many words " * 100
        row = {"id": f"own-{number}", "messages": turns, "score": number / 2}
        lines.append("{no" if number == 3 else json.dumps(row))
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def chain(source: Path, tmp_path: Path, options: Options) -> tuple[Path, Path, Path]:
    """The rows ingested, tokenized and packed."""
    folders = tmp_path / "in", tmp_path / "tok", tmp_path / "packed"
    samples = open_samples(source, keep_columns=["score"])
    ingest(samples, IngestConfig(), options(folders[0], max_reject_rate=1.0))
    config = TokenizeConfig(max_length=64)
    tokenize(open_samples(folders[0]), PROCESSOR, config, options(folders[1], max_reject_rate=1.0))
    pack(folders[1], PackConfig(pack_length=40), options(folders[2], max_reject_rate=1.0))
    return folders


def test_what_ingest_rejected_stands_in_all_that_follows(chain: tuple[Path, Path, Path]) -> None:
    first, tok, packed = chain
    assert [each["sample_id"] for each in read_rejects(first)] == ["rows/3", "rows/4"]
    assert [(each["sample_id"], each["stage"]) for each in read_rejects(tok)] == [
        ("rows/3", "ingest"),
        ("rows/4", "ingest"),
        ("rows/7", "tokenize"),
    ]
    totals = read_manifest(tok).totals
    assert (totals["rows_in"], totals["rows_written"], totals["rows_rejected"]) == (8, 7, 1)
    (earlier,) = totals["earlier"]
    assert (earlier["stage"], earlier["rows_in"], earlier["rows_rejected"]) == ("ingest", 10, 2)
    assert [(each["stage"], each["rows_rejected"]) for each in read_manifest(packed).totals["earlier"]] == [
        ("ingest", 2),
        ("tokenize", 1),
    ]
    assert len(read_rejects(packed)) == 3
    assert "ingest: 10 in = 8 written + 2 rejected" in statistics.render(statistics.collect(packed))
    assert "7 written + 1 rejected; ingest before it rejected 2; " in overview(tok)
    for store in chain:
        manifest = read_manifest(store)
        assert damaged_files(store, manifest) + wrong_accounts(store, manifest) == []


def test_a_reject_too_many_or_too_few_is_told(chain: tuple[Path, Path, Path]) -> None:
    manifest = read_manifest(chain[1])
    manifest.totals["earlier"][0]["rows_rejected"] = 1
    assert any("rejects.parquet: 3 rows, the manifest says 2" in line for line in wrong_accounts(chain[1], manifest))


def test_a_retry_does_not_take_earlier_rejects_for_its_own(chain: tuple[Path, Path, Path], options: Options) -> None:
    with pytest.raises(InputError, match="earlier stage"):
        retry_tokenize(open_samples(chain[0]), PROCESSOR, ["bad_json"], options(chain[1]))


def test_ids_and_kept_columns_travel_to_shards_rejects_and_pages(chain: tuple[Path, Path, Path]) -> None:
    first, tok, packed = chain
    for store in (first, tok):
        row = Store(store).row(1)
        assert json.loads(row["kept"]) == {"id": "own-1", "score": 0.5}
    (pack_row, *_) = Store(packed).rows()
    assert [json.loads(each)["id"].removeprefix("own-") for each in pack_row["kept"]] == [
        each.removeprefix("rows/") for each in pack_row["sample_ids"]
    ]
    kept = {each["sample_id"]: each["kept"] for each in read_rejects(tok)}
    assert kept["rows/3"] == ""  # what cannot be read has no id
    assert json.loads(kept["rows/4"])["id"] == "own-4" and json.loads(kept["rows/7"])["score"] == 3.5
    assert "own-1" in view(tok, rows=20, seed=0)
    assert "unread_keys" not in read_manifest(tok).totals


def test_batches_hold_no_kept_columns(chain: tuple[Path, Path, Path]) -> None:
    for store in chain[1:]:
        assert "kept" not in ShardDataset(store)[0]


def test_a_source_without_ids_has_no_such_column(tmp_path: Path, options: Options) -> None:
    path = tmp_path / "plain.jsonl"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    path.write_text(json.dumps({"messages": turns}) + "\n")
    tokenize(open_samples(path), PROCESSOR, TokenizeConfig(), options(tmp_path / "out"))
    assert "kept" not in Store(tmp_path / "out").shards[0].schema.names


def test_a_misspelt_column_is_told_before_the_run(source: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'score'"):
        open_samples(source, keep_columns=["scores"])
