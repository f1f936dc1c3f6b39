"""An updated store holds, row for row and in order, what one made from scratch holds; only what changed is done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from changing_rows import (
    CONFIG,
    PHOTOS,
    PROCESSOR,
    Rows,
    Source,
    assert_as_from_scratch,
    bring_up,
    done_rows,
    killed_at_each_step,
    row,
    rows_of,
)

from vlm_prep.builtin import builtin_data
from vlm_prep.core.errors import OutputError, StoreError
from vlm_prep.engine.claim import open_finished, reopen
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.shards.store_check import damaged_files
from vlm_prep.tokenize.merge_run import merge
from vlm_prep.tokenize.tokenize_run import begin, retry_tokenize, tokenize
from vlm_prep.tokenize.update_job import UpdateJob
from vlm_prep.tokenize.update_run import update

Options = Callable[..., RunOptions]
Tree = Callable[[Path], dict[str, str]]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "data").mkdir()
    return Source(tmp_path / "data")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Path]:
    """530 rows, tokenized: three tasks."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "data").mkdir()
    made = Source(folder / "data")
    made.write(rows_of(range(530)))
    run = RunOptions(out=folder / "out", workers=0, progress=False, say=lambda line: None, max_reject_rate=1.0)
    tokenize(open_samples(made.path, keep_columns=["score"]), PROCESSOR, CONFIG, run)
    return made, folder / "out"


@pytest.fixture
def store(first: tuple[Source, Path], tmp_path: Path) -> tuple[Source, Path]:
    """A copy of them, its source in the same place with the same rows."""
    made, out = first
    made.write(rows_of(range(530)))
    return made, Path(shutil.copytree(out, tmp_path / "store"))


CHANGES: dict[str, Callable[[Rows], Rows]] = {
    "rows at the end": lambda rows: rows + rows_of(range(1000, 1020)),
    "a row in front": lambda rows: [row(5000), *rows],
    "rows in the middle": lambda rows: rows[:300] + rows_of(range(2000, 2030)) + rows[300:],
    "rows gone": lambda rows: rows[:100] + rows[110:520],
    "another text": lambda rows: [*rows[:400], row(-1), *rows[401:]],
    "another order": lambda rows: rows[250:] + rows[:250],
    "the same row again": lambda rows: rows[:10] + [rows[3]] * 3 + rows[10:],
    "all others": lambda rows: rows_of(range(3000, 3300)),
    "scattered": lambda rows: [each if n % 60 else {**each, "score": -n} for n, each in enumerate(rows)],
    "nothing left but one": lambda rows: rows[5:7],
}


@pytest.mark.parametrize("change", CHANGES)
def test_rows_that_came_changed_or_went(
    store: tuple[Source, Path], tmp_path: Path, options: Options, change: str
) -> None:
    made, out = store
    made.write(CHANGES[change](rows_of(range(530))))
    said = bring_up(made, out, options)
    assert any("rows added" in line for line in said)
    assert_as_from_scratch(made, out, tmp_path, options)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    bring_up(made, out, options)  # and once more there is nothing to do
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize("fraction", [0.0, 0.005, 1.0])
def test_rows_with_videos_are_copied(source: Source, tmp_path: Path, options: Options, fraction: float) -> None:
    """Their frames are read back as an array."""
    clip = str(builtin_data().parent / "clips" / "ball.mp4")
    turns = [{"role": "user", "content": "<video>And <video>?"}, {"role": "assistant", "content": "A ball."}]
    two: dict[str, Any] = {"id": "two", "messages": turns, "videos": [clip, clip], "score": 1}
    one = {**two, "id": "one", "videos": [clip], "messages": [{"role": "user", "content": "<video>?"}, turns[1]]}
    rows, config = [one, two, *rows_of(range(8))], replace(CONFIG, fps=2.0, max_length=4096, verify_fraction=fraction)
    source.write(rows)
    samples = open_samples(source.path, keep_columns=["score"])
    tokenize(samples, PROCESSOR, config, options(tmp_path / "out", max_reject_rate=1.0))
    source.write([*rows[:-1], row(-1)])
    said = bring_up(source, tmp_path / "out", options, config)
    assert any("are copied into new ones" in line for line in said)
    assert_as_from_scratch(source, tmp_path / "out", tmp_path, options, config)


@pytest.mark.parametrize(("limit", "done"), [(4096, 6), (None, 6), (512, 12), (200, 45), (1023, 12)])
def test_another_limit_does_the_rows_that_it_lets_in_or_keeps_out(
    store: tuple[Source, Path],
    tmp_path: Path,
    options: Options,
    monkeypatch: pytest.MonkeyPatch,
    limit: int | None,
    done: int,
) -> None:
    """Of 530 rows 6 were too long before, and 6 lack their file; those with a picture have more than 200 tokens."""
    made, out = store
    names = done_rows(monkeypatch)
    other = replace(CONFIG, max_length=limit)
    bring_up(made, out, options, other)
    assert len(names) == done
    monkeypatch.undo()
    assert_as_from_scratch(made, out, tmp_path, options, other)
    if limit is not None:
        assert max(Store(out).lengths()) <= limit


@pytest.mark.parametrize("policy", ["truncate", "rescue", "cut"])
def test_another_policy_does_the_rows_that_are_too_long(
    store: tuple[Source, Path], tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch, policy: Any
) -> None:
    """And back again: of rows that were truncated it is not known, and all are encoded."""
    made, out = store
    changes: tuple[tuple[Any, int], ...] = ((policy, 50), ("drop", 530 if policy == "truncate" else 50))
    for overlong, most in changes:
        names = done_rows(monkeypatch)
        other = replace(CONFIG, overlong=overlong, max_length=512)
        bring_up(made, out, options, other)
        assert 0 < len(names) <= most
        monkeypatch.undo()
        assert_as_from_scratch(made, out, tmp_path, options, other)


def test_only_what_changed_is_done_and_shards_stay(
    store: tuple[Source, Path], tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, out = store
    inodes = {path.stat().st_ino for path in out.glob("train/*.arrow")}
    made.write([*rows_of(range(530)), row(9000), row(9001)])
    done = done_rows(monkeypatch)
    said = bring_up(made, out, options)
    assert done == ["rows/530", "rows/531"]
    assert any("2 rows added, 0 changed, 0 removed: 2 to do, 530 stay" in line for line in said)
    assert inodes < {path.stat().st_ino for path in out.glob("train/*.arrow")}


def test_workers_have_what_the_forkserver_made_for_them(
    store: tuple[Source, Path], options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker had loaded the processor again, since the day that its template does not write was left out."""
    made, out = store
    made.write([*rows_of(range(530)), row(9000)])
    recipes: list[Any] = []

    def noted(found: Any) -> Any:
        recipes.append((found[0] if isinstance(found, tuple) else found).recipe)
        return found

    monkeypatch.setattr("vlm_prep.tokenize.update_run.begin", lambda *args: noted(begin(*args)))
    monkeypatch.setattr(
        "vlm_prep.tokenize.update_run.UpdateJob", lambda *args, **named: noted(UpdateJob(*args, **named))
    )
    bring_up(made, out, options)
    first, second = (replace(each, payload=None) for each in recipes)
    assert first == second


def test_media_that_changed_are_read_again(
    store: tuple[Source, Path], tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, out = store
    fingerprint = read_manifest(out).fingerprint
    done = done_rows(monkeypatch)
    os.utime(made.folder / "1.jpg")  # touched: the same bytes
    said = bring_up(made, out, options)
    assert done == [] and any("0 changed" in line for line in said)
    shutil.copy(PHOTOS / "rocket.jpg", made.folder / "2.jpg")
    try:
        said = bring_up(made, out, options)
        assert done and {int(name.removeprefix("rows/")) % 5 for name in done} == {2}
        assert any(f"{len(done)} changed" in line for line in said), said
        assert_as_from_scratch(made, out, tmp_path, options)
        assert read_manifest(out).fingerprint != fingerprint  # packs planned on the old one notice
    finally:
        shutil.copy(PHOTOS / "coffee.jpg", made.folder / "2.jpg")


def test_files_that_were_missing_are_found(store: tuple[Source, Path], tmp_path: Path, options: Options) -> None:
    made, out = store
    missing = [each["sample_id"] for each in read_rejects(out) if each["reason"] == "missing_file"]
    shutil.copy(PHOTOS / "coffee.jpg", made.folder / "gone.jpg")
    try:
        said = bring_up(made, out, options)
        assert missing and any(f"{len(missing)} changed" in line for line in said), said
        assert_as_from_scratch(made, out, tmp_path, options)
    finally:
        (made.folder / "gone.jpg").unlink()


def test_updates_follow_each_other(store: tuple[Source, Path], tmp_path: Path, options: Options) -> None:
    made, out = store
    rows = rows_of(range(530))
    for number in range(2):
        rows = [*rows[: 200 * number], row(10000 + number), *rows[200 * number : -3]]
        made.write(rows)
        bring_up(made, out, options, workers=number)
    assert read_manifest(out).extra["updates"] == 2
    assert_as_from_scratch(made, out, tmp_path, options)


def test_a_compressed_store_stays_compressed(source: Source, tmp_path: Path, options: Options) -> None:
    """Updated, of rows that are copied, and merged, of shards that are."""
    out, config = tmp_path / "out", replace(CONFIG, compress="zstd")
    rows = [row(number) for number in range(300)]
    source.write(rows)
    bring_up(source, out, options, config)
    source.write([*rows[:270], row(-5), *rows[275:]])
    bring_up(source, out, options, config)
    assert_as_from_scratch(source, out, tmp_path, options, config)
    merge([out, tmp_path / "scratch"], options(tmp_path / "both"))
    assert len({info.compressed for each in (out, tmp_path / "both") for _, info in read_manifest(each).shards()}) == 1
    assert sum(1 for _ in Store(tmp_path / "both").rows()) == 2 * 296
    with pytest.raises(OutputError, match="compress"):
        bring_up(source, out, options, replace(config, compress="lz4"))


def test_a_lost_shard_of_an_updated_store_is_made_again(
    store: tuple[Source, Path], tmp_path: Path, options: Options, tree: Tree
) -> None:
    made, out = store
    made.write([*rows_of(range(530))[:300], row(-5), *rows_of(range(530))[300:]])
    bring_up(made, out, options)
    before = tree(out)
    for name in ("train/" + info.name for _, info in read_manifest(out).shards()):
        (out / name).unlink()
        samples = open_samples(made.path, keep_columns=["score"])
        tokenize(samples, PROCESSOR, CONFIG, options(out, max_reject_rate=1.0))
        assert tree(out) == before


def test_a_store_that_was_retried_is_put_in_order(store: tuple[Source, Path], tmp_path: Path, options: Options) -> None:
    made, out = store
    shutil.copy(PHOTOS / "coffee.jpg", made.folder / "gone.jpg")
    try:
        samples = open_samples(made.path, keep_columns=["score"])
        retry_tokenize(samples, PROCESSOR, ["missing_file"], options(out))
        bring_up(made, out, options)
        assert_as_from_scratch(made, out, tmp_path, options)
    finally:
        (made.folder / "gone.jpg").unlink()


def test_other_settings_are_refused_with_what_differs(store: tuple[Source, Path], options: Options) -> None:
    made, out = store
    with pytest.raises(OutputError, match="check_media: 'header' then, 'decode' now"):
        update(open_samples(made.path), PROCESSOR, replace(CONFIG, check_media="decode"), options(out))


@pytest.mark.parametrize("damage", ["gone", "cut", "of another store"])
def test_a_record_of_rows_that_is_not_the_stores_is_not_believed(
    store: tuple[Source, Path], tmp_path: Path, options: Options, damage: str
) -> None:
    made, out = store
    record = out / "rows.parquet"
    if damage == "gone":
        record.unlink()
    elif damage == "cut":
        record.write_bytes(record.read_bytes()[:-7])
    else:
        data = Source(tmp_path)
        data.write(rows_of(range(50)))
        tokenize(open_samples(data.path), PROCESSOR, CONFIG, options(tmp_path / "other", max_reject_rate=1.0))
        for name in ("rows.parquet", "origin.json"):
            shutil.copy(tmp_path / "other" / name, out / name)
    with pytest.raises(StoreError, match=r"rows.parquet"):
        bring_up(made, out, options)
    assert (damage == "cut") == any("rows.parquet" in line for line in damaged_files(out, read_manifest(out)))


def test_a_kill_at_any_instant_leaves_the_old_store_or_the_new_one(
    source: Source, tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch, tree: Tree
) -> None:
    def files(folder: Path) -> dict[str, str]:
        return {name: digest for name, digest in tree(folder).items() if not name.startswith("_work")}

    def shown(folder: Path) -> dict[str, str]:
        """What a reader sees: the manifest, and the shards that it names."""
        named = {f"train/{info.name}" for _, info in read_manifest(folder).shards()} | {"manifest.json"}
        return {name: digest for name, digest in tree(folder).items() if name in named}

    old, whole = tmp_path / "old", tmp_path / "whole"
    rows = [row(number) for number in range(300)]
    source.write(rows)
    bring_up(source, old, options)  # there is none: it is made
    source.write([*rows[:270], row(-5), *rows[275:]])
    shutil.copytree(old, whole)
    bring_up(source, whole, options)
    seen, kills, at = set(), 0, tmp_path / "killed"
    for _ in killed_at_each_step(monkeypatch, old, at, lambda at: bring_up(source, at, options)):
        kills += 1
        same = [name for name, other in (("old", old), ("new", whole)) if shown(at) == shown(other)]
        assert len(same) == 1
        seen.update(same)
        if kills % 4 == 0 or "new" in same:
            bring_up(source, at, options)
            assert tree(at) == files(whole)
    assert seen == {"old", "new"} and kills > 15


def test_a_kill_while_what_a_kill_left_is_cleared_away_leaves_nothing(source: Source, options: Options) -> None:
    source.write(rows_of(range(3)))
    out = source.path.parent / "out"
    tokenize(open_samples(source.path), PROCESSOR, CONFIG, options(out))
    space = open_finished(out, read_manifest(out), say=print)
    reopen(space, read_manifest(out))  # as an update does that finds a store which a killed one has completed
    space.release()
    assert (out / "_work" / "plan.json").exists()
    update(open_samples(source.path), PROCESSOR, CONFIG, options(out))
    assert not (out / "_work").exists()
