"""What a killed run leaves, another run's folder, and folders that are not ours, which are left alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from engine.killed_runs import PROCESSOR, Options, Tree, killed_at, killed_ingest

from vlm_prep.builtin import builtin_data
from vlm_prep.core.errors import OutputError, StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import IngestConfig, TokenizeConfig
from vlm_prep.engine.ownership import RunPlan
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_unfinished_files_of_a_killed_run_are_removed(tmp_path: Path, options: Options) -> None:
    out = tmp_path / "out"
    killed_ingest(out, options, 1)
    (out / "_work" / "shards" / "task-000099-000.arrow.tmp").write_bytes(b"half")
    (out / "manifest.json.tmp").write_bytes(b"half")
    ingest(open_samples(builtin_data()), IngestConfig(), options(out))
    assert not list(out.rglob("*.tmp"))


def test_a_finishing_that_stopped_between_two_renames_is_completed(
    tmp_path: Path, many_rows: Path, options: Options, tree: Tree
) -> None:
    samples, config = open_samples(many_rows), TokenizeConfig(media="reference", fps=2.0)

    def run(out: Path) -> None:
        tokenize(samples, PROCESSOR, config, options(out))

    # the plan and what the first rows are; shard and record of 3 tasks; rows.parquet; then the final names of which 2
    # are given
    assert killed_at(11, "after", run, tmp_path / "out")
    assert len(list((tmp_path / "out" / "train").iterdir())) == 2
    run(tmp_path / "out")
    run(tmp_path / "whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_reader_refuses_a_folder_whose_run_was_killed(tmp_path: Path, options: Options) -> None:
    killed_ingest(tmp_path / "out", options, 5)
    with pytest.raises(StoreError, match="unfinished") as caught:
        Store(tmp_path / "out")
    assert caught.value.hint
    assert "again" in caught.value.hint


def test_a_committed_shard_that_was_cut_since_is_found(tmp_path: Path, many_rows: Path, options: Options) -> None:
    samples, out = open_samples(many_rows), tmp_path / "out"
    assert killed_at(4, "after", lambda out: ingest(samples, IngestConfig(), options(out)), out)
    (shard,) = (out / "_work" / "shards").glob("*.arrow")
    os.truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(StoreError, match="missing or damaged"):
        ingest(samples, IngestConfig(), options(out))
    ingest(samples, IngestConfig(), options(out, fresh=True))


def test_a_finished_run_is_not_done_again(tmp_path: Path, options: Options) -> None:
    out = tmp_path / "out"
    lines: list[str] = []
    ingest(open_samples(builtin_data()), IngestConfig(), options(out))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    ingest(open_samples(builtin_data()), IngestConfig(), options(out, say=lines.append))
    assert any("is complete already" in line for line in lines)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


# ---- another run's folder ----


def test_other_settings_are_refused(tmp_path: Path, options: Options, tree: Tree) -> None:
    samples, out = open_samples(builtin_data()), tmp_path / "out"
    ingest(samples, IngestConfig(), options(out))
    before = tree(out)
    with pytest.raises(OutputError, match="holds another run") as caught:
        ingest(samples, IngestConfig(check_media="decode"), options(out))
    assert "`fresh`" in str(caught.value.hint)
    assert tree(out) == before


def test_other_settings_are_refused_while_the_run_is_unfinished(tmp_path: Path, options: Options) -> None:
    killed_ingest(tmp_path / "out", options, 2)
    with pytest.raises(OutputError, match="holds another run"):
        ingest(open_samples(builtin_data()), IngestConfig(check_media="decode"), options(tmp_path / "out"))


def test_a_folder_of_another_stage_is_named_as_such(tmp_path: Path, options: Options) -> None:
    """And not by some of the hundreds of settings that two stages do not share."""
    ingest(open_samples(builtin_data()), IngestConfig(), options(tmp_path / "out"))
    manifest = read_manifest(tmp_path / "out")
    packs = RunPlan(stage="pack", fingerprint="other", identity={"stage": "pack"})
    with pytest.raises(OutputError, match="holds another run: the output of `ingest`, not of `pack`"):
        packs.must_be(tmp_path / "out", manifest.fingerprint, manifest.identity)


def test_a_changed_input_file_is_another_run(tmp_path: Path, options: Options) -> None:
    source = tmp_path / "rows.jsonl"
    rows = (builtin_data().parent / "tool_talk.json").read_bytes()
    source.write_bytes(rows)
    ingest(open_samples(source), IngestConfig(), options(tmp_path / "out"))
    source.write_bytes(rows.replace(b"Porto", b"Lyon!"))
    with pytest.raises(OutputError, match="holds another run"):
        ingest(open_samples(source), IngestConfig(), options(tmp_path / "out"))


@pytest.mark.parametrize("finished", [True, False])
def test_fresh_starts_over(tmp_path: Path, options: Options, tree: Tree, finished: bool) -> None:
    samples, out = open_samples(builtin_data()), tmp_path / "out"
    if finished:
        ingest(samples, IngestConfig(check_media="decode"), options(out))
    else:
        killed_ingest(out, options, 3)
    ingest(samples, IngestConfig(max_image_pixels=10_000_000), options(out, fresh=True))
    ingest(samples, IngestConfig(max_image_pixels=10_000_000), options(tmp_path / "whole"))
    assert tree(out) == tree(tmp_path / "whole")


def test_fresh_starts_over_where_another_version_wrote(tmp_path: Path, options: Options, tree: Tree) -> None:
    samples, out = open_samples(builtin_data()), tmp_path / "out"
    ingest(samples, IngestConfig(), options(out))
    before = tree(out)
    manifest = orjson.loads((out / "manifest.json").read_bytes())
    (out / "manifest.json").write_bytes(orjson.dumps({**manifest, "schema_version": 1, "of_then": []}))
    with pytest.raises(StoreError, match="schema version 1") as caught:
        ingest(samples, IngestConfig(), options(out))
    assert "`fresh`" in str(caught.value.hint)
    ingest(samples, IngestConfig(), options(out, fresh=True))
    assert tree(out) == before


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", "manifest.json", "_work/mine.txt", "train/picture.png"])
def test_a_folder_with_foreign_files_is_refused_and_left_alone(
    tmp_path: Path, options: Options, tree: Tree, name: str, fresh: bool
) -> None:
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text('{"manifest_version": 3}')
    before = tree(tmp_path / "out")
    with pytest.raises((OutputError, StoreError)) as caught:
        ingest(open_samples(builtin_data()), IngestConfig(), options(tmp_path / "out", fresh=fresh))
    assert caught.value.hint
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["notes.txt", "train/picture.png", "mine/notes.txt"])
def test_fresh_does_not_delete_what_was_put_beside_a_store(
    tmp_path: Path, options: Options, tree: Tree, name: str
) -> None:
    samples, out = open_samples(builtin_data()), tmp_path / "out"
    ingest(samples, IngestConfig(), options(out))
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    before = tree(out)
    with pytest.raises(OutputError, match="no run of vlm-prep made"):
        ingest(samples, IngestConfig(check_media="decode"), options(out, fresh=True))
    assert tree(out) == before


def test_fresh_does_not_delete_the_store_it_reads(
    tmp_path: Path, tokenized: Path, options: Options, tree: Tree
) -> None:
    before = tree(tokenized)
    with pytest.raises(OutputError, match="output of `tokenize`"):
        pack(tokenized, PackConfig(pack_length=2048), options(tokenized, fresh=True))
    assert tree(tokenized) == before


def test_fresh_does_not_delete_the_ingested_store_it_ingests(
    ingested: Path, tmp_path: Path, call: Command, tree: Tree
) -> None:
    out = tmp_path / "samples"
    shutil.copytree(ingested, out)
    before = tree(out)
    result = call("ingest", out, "--out", out, "--fresh")
    assert result.returncode == 2
    assert tree(out) == before


# ---- folders that cannot be written ----


def test_an_output_that_is_a_file_is_refused(tmp_path: Path, options: Options) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        ingest(open_samples(builtin_data()), IngestConfig(), options(tmp_path / "out"))


def test_an_output_that_is_a_link_to_nothing_is_refused(tmp_path: Path, options: Options) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="is a link to"):
        ingest(open_samples(builtin_data()), IngestConfig(), options(tmp_path / "out"))


def test_an_output_below_a_file_is_refused(tmp_path: Path, options: Options) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="cannot write"):
        ingest(open_samples(builtin_data()), IngestConfig(), options(tmp_path / "file" / "out"))


def test_an_output_that_may_not_be_written_is_refused(tmp_path: Path, options: Options) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    if os.geteuid() == 0:
        out = Path("/proc/vlm-prep")  # root may write to any folder but not to this one
    with pytest.raises(OutputError, match="cannot write"):
        ingest(open_samples(builtin_data()), IngestConfig(), options(out))


def test_another_run_in_the_folder_is_refused_and_what_differs_is_said(tmp_path: Path, options: Any) -> None:
    out = tmp_path / "out"
    samples = open_samples(builtin_data())
    ingest(samples, IngestConfig(), options(out))
    with pytest.raises(OutputError, match=r"config\.check_media: 'header' then, 'decode' now"):
        ingest(samples, IngestConfig(check_media="decode"), options(out))
