"""Rows whose files were repaired come into the store as new shards; a kill at any instant of it costs nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vlm_prep.builtin import builtin_data
from vlm_prep.core.errors import InputError, OutputError, StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import IngestConfig, TokenizeConfig
from vlm_prep.engine.retry_rejects import settle
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import ingest, retry_ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.shards.store_check import damaged_files, wrong_accounts
from vlm_prep.stream import ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"
Options = Callable[..., RunOptions]
Tree = Callable[[Path], dict[str, str]]
Command = Callable[..., subprocess.CompletedProcess[str]]
PHOTOS = builtin_data().parent / "photos"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six rows; the files of rows 1, 2 and 4 are missing, row 5 holds text for a picture."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("0.jpg", "3.jpg"):
        shutil.copy(PHOTOS / "coffee.jpg", folder / name)
    (folder / "5.jpg").write_text("no picture")
    messages = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A thing."}]
    rows = [json.dumps({"messages": messages, "images": [f"{number}.jpg"]}) for number in range(6)]
    (folder / "rows.jsonl").write_text("".join(f"{row}\n" for row in rows))
    return folder / "rows.jsonl"


@pytest.fixture
def store(source: Path, tmp_path: Path, options: Options) -> Path:
    """The rows ingested, before the repair."""
    out = tmp_path / "out"
    ingest(open_samples(source), IngestConfig(), options(out, max_reject_rate=1.0))
    return out


def repair(source: Path) -> None:
    """Bring the files of rows 1 and 2 back."""
    for name in ("1.jpg", "2.jpg"):
        shutil.copy(PHOTOS / "rocket.jpg", source.parent / name)


def ids(store: Path) -> list[str]:
    return [row["sample_id"] for row in Store(store, verify=True).rows()]


def assert_sound(store: Path) -> None:
    manifest = read_manifest(store)
    assert damaged_files(store, manifest) + wrong_accounts(store, manifest) == []


def test_repaired_rows_become_new_shards_and_the_accounts_hold(source: Path, store: Path, options: Options) -> None:
    before, shards = read_manifest(store), {path: path.read_bytes() for path in store.glob("train/*.arrow")}
    repair(source)
    manifest = retry_ingest(open_samples(source), ["missing_file"], options(store))
    assert ids(store) == ["rows/0", "rows/3", "rows/1", "rows/2"]
    assert [(each["sample_id"], each["reason"]) for each in read_rejects(store)] == [
        ("rows/4", "missing_file"),
        ("rows/5", "unreadable_image"),
    ]
    totals = manifest.totals
    assert (totals["rows_in"], totals["rows_written"], totals["rows_rejected"]) == (6, 4, 2)
    assert totals["rejects"] == {"missing_file": 1, "unreadable_image": 1}
    counts = {"rows_in": 6, "rows_written": 4, "rows_rejected": 2, "images": 4, "characters": 4 * 13}
    assert totals["datasets"]["rows"] == counts
    assert manifest.fingerprint != before.fingerprint
    assert {path: path.read_bytes() for path in shards} == shards
    assert not (store / "_work").exists()
    assert_sound(store)


def test_a_store_that_was_retried_opens_with_datasets_alone(source: Path, store: Path, options: Options) -> None:
    import datasets

    repair(source)
    retry_ingest(open_samples(source), ["missing_file"], options(store))
    assert list(datasets.load_from_disk(store)["train"]["sample_id"]) == ids(store)
    assert list(datasets.load_dataset(str(store), split="train", streaming=True))[-1]["sample_id"] == "rows/2"


def test_rows_can_be_retried_again_and_the_first_command_still_knows_its_store(
    source: Path, store: Path, options: Options, tree: Tree
) -> None:
    repair(source)
    retry_ingest(open_samples(source), ["missing_file"], options(store))
    for name in ("4.jpg", "5.jpg"):
        shutil.copy(PHOTOS / "rocket.jpg", source.parent / name)
    retry_ingest(open_samples(source), ["missing_file", "unreadable_image"], options(store))
    assert ids(store) == [f"rows/{number}" for number in (0, 3, 1, 2, 4, 5)]
    assert_sound(store)
    before = tree(store)
    lines: list[str] = []
    ingest(open_samples(source), IngestConfig(), options(store, say=lines.append))
    assert any("complete already" in line for line in lines)
    for path in store.glob("train/data-*.arrow"):
        path.unlink()
    ingest(open_samples(source), IngestConfig(), options(store, workers=1))
    assert tree(store) == before


def test_a_retry_that_repairs_nothing_changes_nothing(source: Path, store: Path, options: Options, tree: Tree) -> None:
    before = tree(store)
    retry_ingest(open_samples(source), ["missing_file"], options(store))
    assert tree(store) == before


def test_a_reason_that_no_row_has_is_refused_with_those_there_are(source: Path, store: Path, options: Options) -> None:
    with pytest.raises(InputError) as caught:
        retry_ingest(open_samples(source), ["missing_fiel"], options(store))
    assert "missing_file, unreadable_image" in str(caught.value.hint)


def test_a_changed_data_file_is_refused(source: Path, store: Path, options: Options) -> None:
    source.write_text(source.read_text().replace("A thing", "Another thing"))
    with pytest.raises(OutputError, match=r"samples\.datasets\.0\.xxh3"):
        retry_ingest(open_samples(source), ["missing_file"], options(store))


def each_death(work: Callable[[Path], object], copies: Callable[[], Path]) -> Iterator[Path]:
    """Yield a store for each change of a file's name that `work` makes, killed right after it."""
    number = 1
    while True:
        out, child = copies(), os.fork()
        if child == 0:
            seen = 0

            def dying(real: Callable[..., None]) -> Callable[..., None]:
                def call(*arguments: object, **settings: object) -> None:
                    nonlocal seen
                    real(*arguments, **settings)
                    seen += 1
                    if seen == number:  # noqa: B023
                        os.kill(os.getpid(), signal.SIGKILL)

                return call

            for name in ("replace", "rename", "unlink", "rmdir"):
                setattr(os, name, dying(getattr(os, name)))
            work(out)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        yield out
        if not os.WIFSIGNALED(status):
            return
        number += 1


def test_a_retry_killed_at_any_change_ends_like_an_undisturbed_one_and_is_readable_at_each(
    source: Path, store: Path, tmp_path: Path, options: Options, tree: Tree
) -> None:
    def work(out: Path) -> None:
        if not settle(out, lambda line: None):
            retry_ingest(open_samples(source), ["missing_file"], options(out))

    repair(source)
    old = ids(store)
    whole = Path(shutil.copytree(store, tmp_path / "whole"))
    work(whole)
    copies = (Path(shutil.copytree(store, tmp_path / f"copy{number}")) for number in range(10_000))
    killed = 0
    for out in each_death(work, lambda: next(copies)):
        assert ids(out) in (old, ids(whole))
        work(out)
        assert tree(out) == tree(whole)
        killed += 1
    assert killed > 12


def test_a_tokenized_store_is_retried_by_the_command_and_its_packs_notice(
    source: Path, tmp_path: Path, options: Options, call: Command
) -> None:
    out, packed = tmp_path / "tok", tmp_path / "packed"
    tokenize(open_samples(source), PROCESSOR, TokenizeConfig(), options(out, max_reject_rate=1.0))
    config = PackConfig(pack_length=4096, layout="index")
    pack(out, config, options(packed))
    repair(source)
    result = call("retry", out, "--reason", "missing_file")
    assert result.returncode == 0, result.stderr
    assert ids(out) == ["rows/0", "rows/3", "rows/1", "rows/2"]
    assert read_manifest(out).proof["rows"] == {"image": 4}
    assert len(ShardDataset(out)) == 4
    assert_sound(out)
    with pytest.raises(StoreError, match="over another store"):
        ShardDataset(packed)
    with pytest.raises(OutputError, match="source: "):
        pack(out, config, options(packed))


def test_retry_gives_the_same_bytes_for_any_way_of_running_it(
    source: Path, store: Path, tmp_path: Path, options: Options, tree: Tree
) -> None:
    repair(source)
    trees = []
    for workers in (0, 1, 2):
        out = Path(shutil.copytree(store, tmp_path / f"w{workers}"))
        retry_ingest(open_samples(source), ["missing_file"], options(out, workers=workers))
        trees.append(tree(out))
    assert trees[0] == trees[1] == trees[2]


def test_the_numbers_of_repeated_rows_are_found(tmp_path: Path) -> None:
    shutil.copy(builtin_data().parent / "tool_talk.json", tmp_path / "a.json")
    samples = open_samples(tmp_path / "a.json", sample_ratio=2.5)
    names = [item.sample_id for item in samples.read(0, len(samples))]
    assert samples.numbers([names[-1], names[3], "a/999", "b/1", "a/x"]) == {names[3]: 3, names[-1]: len(names) - 1}
