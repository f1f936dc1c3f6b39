"""`diff`, `merge` and `pack A B`: stores compared, put together, and refused where they were not made alike."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vlm_prep.builtin import builtin_data
from vlm_prep.cli.main import app
from vlm_prep.core.errors import InputError, StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.report.differences import differences
from vlm_prep.report.found_rows import all_rows
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.shards.store_check import damaged_files, wrong_accounts
from vlm_prep.stream import ShardDataset
from vlm_prep.tokenize.merge_run import merge
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"
Options = Callable[..., RunOptions]
Tree = Callable[[Path], dict[str, str]]
PHOTOS = builtin_data().parent / "photos"


def write(path: Path, numbers: range, answer: str = "Thing", photo: str = "coffee.jpg") -> Path:
    lines = []
    for number in numbers:
        said = "<image>What?", f"{answer} {number}."
        turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), said, strict=True)]
        images = [str(PHOTOS / (photo if number % 7 else "no.jpg"))]
        lines.append(json.dumps({"id": number, "messages": turns, "images": images}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two data files of rows; the second once more with another answer, and with other settings."""
    folder = tmp_path_factory.mktemp("stores")
    write(folder / "one.jsonl", range(1, 20))
    write(folder / "two.jsonl", range(20, 33))
    (folder / "new").mkdir()
    write(folder / "new" / "two.jsonl", range(20, 34), "Thing", "rocket.jpg")
    plan = {
        "one": (folder / "one.jsonl", TokenizeConfig()),
        "two": (folder / "two.jsonl", TokenizeConfig(verify_fraction=0.5)),
        "other": (folder / "two.jsonl", TokenizeConfig(train_end="none")),
        "new": (folder / "new" / "two.jsonl", TokenizeConfig()),
    }
    found = {}
    for name, (source, config) in plan.items():
        found[name] = folder / name if name != "new" else folder / "newer"
        run = RunOptions(out=found[name], workers=0, progress=False, say=lambda line: None, max_reject_rate=1.0)
        tokenize(open_samples(source), PROCESSOR, config, run)
    return found


# ---- diff ----


def test_a_store_is_the_same_as_itself(stores: dict[str, Path]) -> None:
    found = differences(Store(stores["one"]), Store(stores["one"]))
    assert found.same and found.settings == [] and found.rows[0] == found.rows[1] > 0


def test_rows_that_differ_are_named_with_what_differs(stores: dict[str, Path]) -> None:
    found = differences(Store(stores["two"]), Store(stores["other"]))
    assert {what for _, what in found.differing} == {("labels",)} and len(found.differing) == found.rows[0]
    assert any("train_end" in line for line in found.settings) and not found.same
    newer = differences(Store(stores["two"]), Store(stores["new"]))
    assert newer.only_a == [] and newer.only_b == ["two/13"]
    assert all("media" in what and "image_grid_thw" in what and "input_ids" in what for _, what in newer.differing)


def test_diff_says_it_and_its_status(stores: dict[str, Path]) -> None:
    run = CliRunner()
    same = run.invoke(app, ["diff", str(stores["one"]), str(stores["one"])])
    assert same.exit_code == 0 and "the same rows" in same.output
    other = run.invoke(app, ["diff", str(stores["two"]), str(stores["new"])])
    assert other.exit_code == 1 and "only in B  1: two/13" in other.output
    told = json.loads(run.invoke(app, ["diff", str(stores["two"]), str(stores["other"]), "--json"]).output)
    assert told["differing_in"] == {"labels": told["rows"][0]}


def test_packs_are_compared_by_their_documents(stores: dict[str, Path], tmp_path: Path, options: Options) -> None:
    for name, length in (("short", 512), ("long", 2048)):
        pack(stores["one"], PackConfig(pack_length=length), options(tmp_path / name))
    found = differences(Store(tmp_path / "short"), Store(tmp_path / "long"))
    assert found.only_a == found.only_b == [] and found.differing == []
    tok = differences(Store(stores["one"]), Store(tmp_path / "short"))
    assert {each for _, what in tok.differing for each in what} <= {"conversation", "dataset", "image_grid_thw"}


# ---- merge ----


def test_merged_rows_are_those_of_the_parts_in_order(stores: dict[str, Path], tmp_path: Path, options: Options) -> None:
    out = tmp_path / "out"
    manifest = merge([stores["one"], stores["two"]], options(out))
    parts = [Store(stores[name]) for name in ("one", "two")]
    ids = [row["sample_id"] for part in parts for row in part.rows()]
    assert [row["sample_id"] for row in Store(out).rows()] == ids
    for name in ("rows_in", "rows_written", "rows_rejected", "tokens", "images"):
        assert manifest.totals[name] == sum(part.manifest.totals[name] for part in parts)
    rejects = [each["sample_id"] for part in parts for each in read_rejects(part.folder)]
    assert [each["sample_id"] for each in read_rejects(out)] == rejects and rejects
    assert manifest.proof["rows"]["image"] == sum(part.manifest.proof["rows"]["image"] for part in parts)
    assert damaged_files(out, manifest) + wrong_accounts(out, manifest) == []
    assert len(ShardDataset(out)) == len(ids)


def test_stores_of_other_settings_are_refused_with_what_differs(
    stores: dict[str, Path], tmp_path: Path, options: Options
) -> None:
    for both in (["one", "other"], ["other", "one"]):
        with pytest.raises(StoreError, match="train_end"):
            merge([stores[name] for name in both], options(tmp_path / "out"))
        with pytest.raises(StoreError, match="train_end"):
            pack([stores[name] for name in both], PackConfig(pack_length=1024), options(tmp_path / "out"))
    with pytest.raises(InputError, match="nothing to merge"):
        merge([stores["one"]], options(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_rows_of_the_same_names_are_told(stores: dict[str, Path], tmp_path: Path, options: Options) -> None:
    said: list[str] = []
    merge([stores["two"], stores["new"]], options(tmp_path / "out", say=said.append))
    assert any("sample_ids stand more than once" in line for line in said)
    assert differences(Store(tmp_path / "out"), Store(tmp_path / "out")).same


class Killed(BaseException):
    """A kill, as far as this process goes."""


def test_a_merge_that_was_killed_continues(
    stores: dict[str, Path], tmp_path: Path, options: Options, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge([stores["one"], stores["two"]], options(tmp_path / "whole"))
    replace = os.replace
    for kill_at in range(1, 12):
        calls = iter(range(1, 1000))

        def dying(source: Path, target: Path, at: int = kill_at, calls: Iterator[int] = calls) -> None:
            if next(calls) == at:
                raise Killed
            replace(source, target)

        out = tmp_path / f"killed-{kill_at}"
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dying)
            try:
                merge([stores["one"], stores["two"]], options(out))
            except Killed:
                with pytest.raises(StoreError):
                    read_manifest(out)
        merge([stores["one"], stores["two"]], options(out))
        assert tree(out) == tree(tmp_path / "whole")


def test_a_damaged_source_is_found(stores: dict[str, Path], tmp_path: Path, options: Options) -> None:
    import shutil

    bad = Path(shutil.copytree(stores["two"], tmp_path / "bad"))
    (shard,) = bad.glob("train/*.arrow")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"):
        merge([stores["one"], bad], options(tmp_path / "out"))


# ---- packs of several stores ----


@pytest.mark.parametrize("layout", ["ranks", "index"])
def test_packs_of_several_stores_are_those_of_the_merged_one(
    stores: dict[str, Path], tmp_path: Path, options: Options, layout: str
) -> None:
    merge([stores["one"], stores["two"]], options(tmp_path / "merged"))
    config = PackConfig(pack_length=1024, world_size=2, layout=layout)  # type: ignore[arg-type]
    pack(tmp_path / "merged", config, options(tmp_path / "a"))
    pack([stores["one"], stores["two"]], config, options(tmp_path / "b", workers=1))
    assert [each.row["sample_id"] for each in all_rows(Store(tmp_path / "a"))] == [
        each.row["sample_id"] for each in all_rows(Store(tmp_path / "b"))
    ]
    a, b = ShardDataset(tmp_path / "a", shuffle=False), ShardDataset(tmp_path / "b", shuffle=False)
    assert len(a) == len(b) > 1
    for number in range(len(a)):
        assert all(np.array_equal(a[number][name], b[number][name]) for name in ("input_ids", "labels", "position_ids"))
    manifest = read_manifest(tmp_path / "b")
    assert manifest.extra["sources"] == ["../" + os.path.relpath(stores[n], tmp_path) for n in ("one", "two")]
    assert damaged_files(tmp_path / "b", manifest) + wrong_accounts(tmp_path / "b", manifest) == []
    assert sum(each["rows_rejected"] for each in manifest.totals["earlier"]) == len(read_rejects(tmp_path / "b"))


def test_the_command_packs_several_stores_and_its_run_file_again(stores: dict[str, Path], tmp_path: Path) -> None:
    run = CliRunner()
    words = ["pack", str(stores["one"]), str(stores["two"]), "--pack-length", "1024"]
    first = run.invoke(app, [*words, "--out", str(tmp_path / "a")], catch_exceptions=False)
    again = run.invoke(
        app,
        ["pack", "--config", str(tmp_path / "a" / "run.yaml"), "--out", str(tmp_path / "b")],
        catch_exceptions=False,
    )
    assert first.exit_code == again.exit_code == 0
    assert read_manifest(tmp_path / "a").fingerprint == read_manifest(tmp_path / "b").fingerprint
    assert run.invoke(app, ["why", str(tmp_path / "a")], catch_exceptions=False).exit_code == 0
