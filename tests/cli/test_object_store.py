"""Commands on stores that lie on an object store, against a real S3 server in its own process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3 import Server

from vlm_prep.cli.main import main
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.transfer import push
from vlm_prep.stream import ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"
Options = Callable[..., RunOptions]
Tree = Callable[[Path], dict[str, str]]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: `run("stats", url)` returns (status, output, messages)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vlm-prep", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        return int(end.value.code or 0), shown.out, shown.err

    return call


@pytest.fixture
def tok(bucket: str, tokenized: Path) -> str:
    """The address of the built-in data, tokenized."""
    push(tokenized, f"{bucket}/tok", print)
    return f"{bucket}/tok"


def shards(tree: dict[str, str]) -> dict[str, str]:
    """The files that do not say where the source was."""
    return {name: digest for name, digest in tree.items() if name not in ("manifest.json", "origin.json", "run.yaml")}


def test_packing_in_place_gives_the_bytes_of_packing_the_folder(
    tok: str, packed: Path, tmp_path: Path, tree: Tree, command: Any, run: Run, server: Server
) -> None:
    line = ["pack", tok, "--pack-length", 2048, "--world-size", 2, "--out", tmp_path / "out", "--workers", 2]
    result = command(*line, "--cache-dir", tmp_path / "shards")
    assert result.returncode == 0, result.stderr
    assert shards(tree(tmp_path / "out")) == shards(tree(packed))
    assert read_manifest(tmp_path / "out").extra["source"] == tok
    assert "nothing changed" in run("why", tmp_path / "out")[1]
    assert server.log.read_text().count(f"GET /{tok.removeprefix('s3://')}/train/data-00000") == 1


def test_a_cache_that_does_not_hold_the_store_is_refused_before_packing(tok: str, tmp_path: Path, run: Run) -> None:
    line = ["pack", tok, "--pack-length", 2048, "--out", tmp_path / "out", "--cache-bytes"]
    status, _, err = run(*line, "100K")
    assert (status, "cache_bytes is 102,400" in err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_plan_in_a_folder_over_a_store_on_s3(
    tok: str, packed_index: Path, tmp_path: Path, options: Options, tree: Tree
) -> None:
    config = PackConfig(pack_length=2048, world_size=2, layout="index")
    pack(tok, config, options(tmp_path / "out"))
    assert shards(tree(tmp_path / "out")) == shards(tree(packed_index))
    here = ShardDataset(packed_index, pixels=False)
    there = ShardDataset(tmp_path / "out", pixels=False, cache_dir=tmp_path / "shards")
    assert there.lengths().tolist() == here.lengths().tolist()
    assert [item["sample_ids"] for item in map(there.__getitem__, range(len(there)))] == [
        item["sample_ids"] for item in map(here.__getitem__, range(len(here)))
    ]


def test_an_ingested_store_is_tokenized_in_place(
    bucket: str, ingested: Path, tmp_path: Path, options: Options, tree: Tree
) -> None:
    push(ingested, f"{bucket}/all.samples", print)
    config = TokenizeConfig(fps=2.0)
    for name, source in {"here": str(ingested), "there": f"{bucket}/all.samples"}.items():
        tokenize(open_samples(source), PROCESSOR, config, options(tmp_path / name))
    other = {"origin.json": "", "run.yaml": ""}
    assert tree(tmp_path / "there") | other == tree(tmp_path / "here") | other
    assert json.loads((tmp_path / "there" / "origin.json").read_bytes())["source"]["path"] == f"{bucket}/all.samples"


def test_stats_and_rejects_say_what_they_say_of_the_folder(tok: str, tokenized: Path, run: Run) -> None:
    here, there = (json.loads(run("stats", place, "--json")[1]) for place in (tokenized, tok))
    assert {**here, "folder": tok} == {**there, "length": here["length"]}
    assert "vlm-prep pull" in run("stats", tok)[1]
    assert run("rejects", tok)[:2] == (0, "")


def test_verify_reads_the_objects_themselves(tok: str, tokenized: Path, server: Server, run: Run) -> None:
    assert run("verify", tok)[:2] == (0, f"{tok}: 1 shard(s), 40 rows\n  sound\n")
    (shard,) = (tokenized / "train").glob("*.arrow")
    ShardDataset(tok)[0]  # a copy is in the cache
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    server.files.pipe(f"{tok}/train/{shard.name}", bytes(data))
    server.files.pipe(f"{tok}/train/data-00001-of-00002.arrow", b"")
    server.files.rm(f"{tok}/dataset_dict.json")
    status, out, err = run("verify", tok)
    assert status == 2 and "is damaged" in err
    for line in (f"{shard.name}: checksum", "data-00001-of-00002.arrow: not in the manifest", "dataset_dict.json"):
        assert line in out
    server.files.rm(f"{tok}/train/{shard.name}")
    assert f"{tok}/train/{shard.name}: the manifest names this shard and it is missing" in run("verify", tok)[1]


def test_verify_compares_rows_with_the_processor(tok: str, run: Run) -> None:
    found = json.loads(run("verify", tok, "-p", PROCESSOR, "--fraction", 0.2, "--json", "-q")[1])
    assert found["sound"] and sum(counts["rows"] for counts in found["kinds"].values()) == 40


@pytest.mark.parametrize(
    "line", [["retry", "--reason", "missing_file"], ["finish"], ["why"], ["push", "s3://elsewhere/tok"]]
)
def test_what_works_in_folders_alone_says_so(line: list[str], run: Run) -> None:
    status, _, err = run(line[0], "s3://bucket/tok", *line[1:])
    assert status == 2 and "vlm-prep pull s3://bucket/tok" in err


def test_a_position_is_compared_with_a_store_in_place(tok: str, tmp_path: Path, run: Run) -> None:
    state = ShardDataset(tok, pixels=False).state(4)
    (tmp_path / "state.json").write_text(json.dumps(state.to_json()))
    shown = json.loads(run("state", "show", tmp_path / "state.json", "--store", tok, "--json")[1])
    assert (shown["of_this_store"], shown["rows_left"]) == (True, 36)
