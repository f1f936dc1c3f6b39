"""A run killed at any instant ends, after a rerun, as if it had not been."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine.killed_runs import PROCESSOR, RENAMES, VLM_PREP, Do, Options, Tree, killed_at, wait_for

from vlm_prep.builtin import builtin_data
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import IngestConfig, TokenizeConfig
from vlm_prep.engine.array_parts import Part
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.tokenize.tokenize_run import tokenize

CHANGES = ("replace", "unlink", "rmdir")


def every_death(when: str, work: Do, base: Path, calls: tuple[str, ...] = RENAMES) -> Iterator[Path]:
    """Yield an output folder for each rename of a run, killed at that rename and not rerun yet."""
    number = 1
    while killed_at(number, when, work, base / f"{number}", calls):
        yield base / f"{number}"
        number += 1


@pytest.fixture(scope="module")
def three_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 520 short chats, as few as are three tasks: a run of them is its renames, and hardly its rows."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    path.write_text("".join(json.dumps({"messages": turns, "id": number}) + "\n" for number in range(520)))
    return path


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_ingest_killed_at_any_rename_ends_like_an_undisturbed_one(
    tmp_path: Path, three_tasks: Path, options: Options, tree: Tree, when: str
) -> None:
    samples = open_samples(three_tasks)
    ingest(samples, IngestConfig(), options(tmp_path / "whole"))
    killed = 0
    for out in every_death(when, lambda out: ingest(samples, IngestConfig(), options(out)), tmp_path):
        ingest(samples, IngestConfig(), options(out))
        assert tree(out) == tree(tmp_path / "whole")
        killed += 1
    assert killed > 12  # 3 tasks: shard, record, final name; and the files around them


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("layout", ["ranks", "index"])
def test_a_pack_killed_at_any_change_ends_like_an_undisturbed_one(
    tmp_path: Path, tokenized: Path, options: Options, tree: Tree, when: str, layout: str
) -> None:
    config = PackConfig(pack_length=1024, world_size=2, layout=layout)  # type: ignore[arg-type]
    run = {"max_reject_rate": 1.0}
    pack(tokenized, config, options(tmp_path / "whole", **run))
    for out in every_death(when, lambda out: pack(tokenized, config, options(out, **run)), tmp_path, CHANGES):
        pack(tokenized, config, options(out, **run))
        assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_finishing_of_parts_killed_at_any_change_ends_like_an_undisturbed_one(
    tmp_path: Path, three_tasks: Path, options: Options, tree: Tree, when: str
) -> None:
    samples, parts = open_samples(three_tasks), tmp_path / "parts"
    for number in (1, 2):
        ingest(samples, IngestConfig(), options(parts, part=Part(number=number, count=2)))

    def finish(out: Path) -> None:  # what `vlm-prep finish` calls
        if not out.exists():
            shutil.copytree(parts, out)
        ingest(samples, IngestConfig(), options(out))

    finish(tmp_path / "whole")
    for out in every_death(when, finish, tmp_path, CHANGES):
        finish(out)
        assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_tokenize_killed_at_any_rename_ends_like_an_undisturbed_one(
    tmp_path: Path, options: Options, tree: Tree, when: str
) -> None:
    samples, config = open_samples(builtin_data(), datasets=["tool_talk"]), TokenizeConfig()
    tokenize(samples, PROCESSOR, config, options(tmp_path / "whole"))
    for out in every_death(when, lambda out: tokenize(samples, PROCESSOR, config, options(out)), tmp_path):
        tokenize(samples, PROCESSOR, config, options(out))
        assert tree(out) == tree(tmp_path / "whole")


def test_a_fresh_run_killed_at_any_change_leaves_nothing_that_reads_as_complete(
    tmp_path: Path, tokenized: Path, options: Options, tree: Tree
) -> None:
    def work(out: Path) -> None:
        if not out.exists():
            shutil.copytree(tmp_path / "old", out)
        pack(tokenized, PackConfig(pack_length=2048), options(out, fresh=True))

    pack(tokenized, PackConfig(pack_length=4096), options(tmp_path / "old"))
    pack(tokenized, PackConfig(pack_length=2048), options(tmp_path / "whole"))
    old, whole = tree(tmp_path / "old"), tree(tmp_path / "whole")
    for out in every_death("after", work, tmp_path, CHANGES):
        if (out / "manifest.json").exists():
            left = {name: digest for name, digest in tree(out).items() if not name.startswith("_work")}
            assert left in (old, whole)
        # what was being discarded is nobody's; a whole store is discarded by `fresh` alone
        pack(tokenized, PackConfig(pack_length=2048), options(out, fresh=(out / "manifest.json").exists()))
        assert tree(out) == whole


@pytest.mark.parametrize("seed", [0, 1])
def test_a_command_killed_at_random_instants_ends_like_an_undisturbed_one(
    tmp_path: Path, many_rows: Path, options: Options, tree: Tree, seed: int
) -> None:
    instants = random.Random(seed)
    out = tmp_path / "killed"
    line = [VLM_PREP, "ingest", str(many_rows), "--out", str(out), "--workers", "2", "--quiet"]
    killed = 0
    for _ in range(6):
        run = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(out, run)
        time.sleep(instants.uniform(0, 0.25))
        run.kill()
        killed += run.wait() != 0
    assert killed
    ingest(open_samples(many_rows), IngestConfig(), options(out))
    ingest(open_samples(many_rows), IngestConfig(), options(tmp_path / "whole"))
    assert tree(out) == tree(tmp_path / "whole")
