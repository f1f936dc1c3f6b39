"""What another run does with a store between an update's look at it and its work is not lost, and nothing is taken for
what it was: rows are known by their numbers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from changing_rows import CONFIG, PHOTOS, PROCESSOR, Source, assert_as_from_scratch, bring_up, row, rows_of

from vlm_prep.core.errors import OutputError
from vlm_prep.core.settings import IngestConfig
from vlm_prep.engine.retry_rejects import open_retry, run_retry
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import IngestJob, ingest, retry_ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.tokenize.tokenize_run import retry_tokenize
from vlm_prep.tokenize.update_run import update

Options = Callable[..., RunOptions]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "data").mkdir()
    return Source(tmp_path / "data")


class Meanwhile:
    """Does something when an update has looked and said what it will do."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.work: Callable[[], object] | None = work
        self.said: list[str] = []

    def __call__(self, line: str) -> None:
        self.said.append(line)
        if "rows added" in line and self.work is not None:
            work, self.work = self.work, None
            work()


@pytest.mark.parametrize("other", ["the same update", "another update", "a retry", "nothing"])
def test_a_store_that_another_run_changed_meanwhile_is_looked_at_again(
    source: Source, tmp_path: Path, options: Options, other: str
) -> None:
    out = tmp_path / "out"
    source.write(rows_of(range(100)))
    bring_up(source, out, options)
    wanted = [row(-1), *rows_of(range(2, 60)), *rows_of(range(62, 110))]
    source.write(wanted)
    samples = open_samples(source.path, keep_columns=["score"])

    def another() -> None:
        source.write(rows_of(range(50, 70)))
        bring_up(source, out, options)
        source.write(wanted)

    def retry() -> None:
        source.write(rows_of(range(100)))
        shutil.copy(PHOTOS / "coffee.jpg", source.folder / "gone.jpg")
        before = open_samples(source.path, keep_columns=["score"])
        retry_tokenize(before, PROCESSOR, ["missing_file"], options(out, max_reject_rate=1.0))
        source.write(wanted)

    works = {"the same update": lambda: bring_up(source, out, options), "another update": another, "a retry": retry}
    meanwhile = Meanwhile(works.get(other, lambda: None))
    update(samples, PROCESSOR, CONFIG, options(out, max_reject_rate=1.0, say=meanwhile))
    assert_as_from_scratch(source, out, tmp_path, options)
    assert any("another run changed" in line for line in meanwhile.said) == (other != "nothing")


def test_a_retry_of_a_store_that_another_run_changed_meanwhile_says_so(
    source: Source, tmp_path: Path, options: Options
) -> None:
    rows, out = rows_of(range(100)), tmp_path / "out"
    (source.folder / "text.jpg").write_text("no picture")
    rows[0] = {**rows[0], "images": ["text.jpg"]}
    source.write(rows)
    run = options(out, max_reject_rate=1.0)
    ingest(open_samples(source.path), IngestConfig(), run)
    for name in ("gone.jpg", "text.jpg"):
        shutil.copy(PHOTOS / "coffee.jpg", source.folder / name)
    samples = open_samples(source.path)
    looked = open_retry(out, ["unreadable_image"], read_manifest(out).identity, samples.numbers)
    retry_ingest(samples, ["missing_file"], run)
    with pytest.raises(OutputError, match="another run changed"):
        run_retry(looked, run, IngestJob(samples, IngestConfig()), lambda manifest, *rest: (manifest, ""))
    assert not (out / "_work").exists()
    retry_ingest(samples, ["unreadable_image"], run)
    assert {each["reason"] for each in read_rejects(out)} & {"missing_file", "unreadable_image"} == set()
