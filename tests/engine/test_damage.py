"""What was done to a finished store is found, named, and made good by the command that made it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vlm_prep.builtin import builtin_data
from vlm_prep.core.errors import StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import IngestConfig, TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.store_check import damaged_files, wrong_accounts
from vlm_prep.stream import ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"
CONFIG = TokenizeConfig(fps=2.0, media="reference")
Options = Callable[..., RunOptions]
Tree = Callable[[Path], dict[str, str]]
Command = Callable[..., subprocess.CompletedProcess[str]]
Damage = Callable[[Path], set[str]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, many_rows: Path, options: Options) -> Path:
    """640 rows in three shards."""
    out = tmp_path_factory.mktemp("damage") / "tok"
    tokenize(open_samples(many_rows), PROCESSOR, CONFIG, options(out))
    return out


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "tok"))


def shard(store: Path, number: int) -> Path:
    return store / "train" / f"data-{number:05d}-of-00003.arrow"


def truncated(store: Path) -> set[str]:
    os.truncate(shard(store, 1), shard(store, 1).stat().st_size // 2)
    return {shard(store, 1).name}


def cut_by_a_byte(store: Path) -> set[str]:
    os.truncate(shard(store, 2), shard(store, 2).stat().st_size - 1)
    return {shard(store, 2).name}


def deleted(store: Path) -> set[str]:
    shard(store, 0).unlink()
    return {shard(store, 0).name}


def renamed(store: Path) -> set[str]:
    shard(store, 1).rename(shard(store, 1).with_name("data-00009-of-00003.arrow"))
    return {shard(store, 1).name, "data-00009-of-00003.arrow"}


def swapped(store: Path) -> set[str]:
    first, second = shard(store, 0).read_bytes(), shard(store, 2).read_bytes()
    shard(store, 0).write_bytes(second)
    shard(store, 2).write_bytes(first)
    return {shard(store, 0).name, shard(store, 2).name}


def end_overwritten(store: Path) -> set[str]:
    """As a disk leaves it that lost the last block: the size is right, the content is zeros."""
    data = shard(store, 1).read_bytes()
    shard(store, 1).write_bytes(data[:-4096] + bytes(4096))
    return {shard(store, 1).name}


def bit_flipped(store: Path) -> set[str]:
    data = bytearray(shard(store, 1).read_bytes())
    data[len(data) // 2] ^= 1
    shard(store, 1).write_bytes(data)
    return {shard(store, 1).name}


CHEAP = [truncated, cut_by_a_byte, deleted, renamed, swapped, end_overwritten]


@pytest.mark.parametrize("damage", [*CHEAP, bit_flipped])
def test_verify_names_the_damaged_shard_and_no_other(store: Path, damage: Damage) -> None:
    names = damage(store)
    lines = damaged_files(store, read_manifest(store))
    named = {name for line in lines for name in os.listdir(store / "train") + list(names) if name in line}
    assert named == names


def read_all(store: Path) -> None:
    """Open a store and read its rows: a shard's end is looked at when it is read first."""
    dataset = ShardDataset(store, pixels=False)
    for index in range(len(dataset)):
        dataset[index]


@pytest.mark.parametrize("damage", CHEAP)
def test_the_reader_refuses_what_is_cheap_to_see(store: Path, damage: Damage) -> None:
    damage(store)
    with pytest.raises(StoreError) as caught:
        read_all(store)
    assert "again" in str(caught.value.hint)


def test_the_reader_refuses_a_flipped_bit_with_verify(store: Path) -> None:
    (name,) = bit_flipped(store)
    with pytest.raises(StoreError, match=name):
        ShardDataset(store, verify=True)


@pytest.mark.parametrize("damage", [truncated, deleted, swapped, end_overwritten])
def test_the_same_command_makes_exactly_the_lost_shards_again(
    store: Path, whole: Path, many_rows: Path, options: Options, tree: Tree, damage: Damage
) -> None:
    names = damage(store)
    lines: list[str] = []
    kept = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file() and path.name not in names}
    tokenize(open_samples(many_rows), PROCESSOR, CONFIG, options(store, say=lines.append))
    assert any(line.startswith(f"making {len(names)} ") for line in lines)
    assert tree(store) == tree(whole)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_lost_shards_of_the_other_stages_are_made_again(
    tmp_path: Path, tokenized: Path, many_rows: Path, options: Options, tree: Tree
) -> None:
    def do() -> None:
        ingest(open_samples(many_rows), IngestConfig(), options(tmp_path / "samples", workers=2))
        pack(tokenized, PackConfig(pack_length=2048, world_size=2), options(tmp_path / "ranks"))
        pack(tokenized, PackConfig(pack_length=2048, layout="index"), options(tmp_path / "index"))

    do()
    before = tree(tmp_path)
    for path in tmp_path.glob("*/*/data-00000-*.arrow"):
        path.unlink()
    assert tree(tmp_path) != before
    do()
    assert tree(tmp_path) == before


def test_a_shard_that_cannot_be_made_as_it_was_is_not_replaced_by_another(tmp_path: Path, options: Options) -> None:
    data = builtin_data().parent
    shutil.copy(data / "photos" / "coffee.jpg", tmp_path / "a.jpg")
    messages = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "Coffee."}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": messages, "images": ["a.jpg"]}) + "\n")
    out = tmp_path / "out"
    ingest(open_samples(tmp_path / "rows.jsonl"), IngestConfig(), options(out))
    next((out / "train").glob("*.arrow")).unlink()
    shutil.copy(data / "photos" / "rocket.jpg", tmp_path / "a.jpg")
    with pytest.raises(StoreError, match="media or libraries changed"):
        ingest(open_samples(tmp_path / "rows.jsonl"), IngestConfig(), options(out))
    assert not list((out / "train").glob("*.arrow"))


@pytest.mark.parametrize("edit", ["tokens", "identity", "rows_rejected", "bytes"])
def test_a_manifest_that_does_not_match_is_found(store: Path, edit: str) -> None:
    path = store / "manifest.json"
    manifest = json.loads(path.read_bytes())
    if edit == "identity":
        manifest["identity"]["config"]["fps"] = 4.0
    elif edit == "bytes":
        manifest["splits"]["train"][1]["bytes"] += 1
    else:
        manifest["totals"][edit] += 1
    path.write_text(json.dumps(manifest))
    if edit == "rows_rejected":  # its sums are looked at by whoever reads it
        with pytest.raises(StoreError, match="rows in"):
            read_manifest(store)
        return
    found = read_manifest(store)
    assert damaged_files(store, found) + wrong_accounts(store, found)


@pytest.mark.parametrize("name", ["rejects.parquet", "train/state.json", "dataset_dict.json", "README.md"])
def test_a_deleted_file_beside_the_shards_is_named(store: Path, name: str) -> None:
    (store / name).unlink()
    manifest = read_manifest(store)
    assert any(name in line for line in damaged_files(store, manifest) + wrong_accounts(store, manifest))


def test_the_command_ends_with_a_message_and_status_2(store: Path, call: Command) -> None:
    (name,) = deleted(store)
    result = call("verify", store)
    assert result.returncode == 2
    assert name in result.stdout
    assert "makes exactly these again" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_sound_store_has_nothing_to_say(store: Path) -> None:
    manifest = read_manifest(store)
    assert damaged_files(store, manifest) + wrong_accounts(store, manifest) == []
