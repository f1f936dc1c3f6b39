"""Datasets of the hub: downloaded from a server on loopback, and read from the cache when there is no server."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub import Hub, running_hub

from vlm_prep.core.errors import InputError
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store


def environment(hub: Hub | None, cache: Path) -> dict[str, str]:
    base = {**os.environ, "HF_HOME": str(cache), "VLM_PREP_CACHE": str(cache / "vlm-prep")}
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT", "HF_DATASETS_CACHE"):
        base.pop(name, None)
    return {**base, "HF_ENDPOINT": hub.url} if hub else {**base, "HF_HUB_OFFLINE": "1"}


def described(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_manifest(out).extra["datasets"][0]
    return found


def test_a_set_comes_from_the_hub_once_and_from_its_cache_after_that(
    lookalikes: Path, tmp_path: Path, command: Callable[..., Any], tree: Callable[[Path], Any]
) -> None:
    words = ["ingest", "hf:quintend/rdr-items", "--split", "train[2:6]", "--turn", "user=<image>What?"]
    words += ["--turn", "assistant={text}", "--quiet", "--out"]
    with running_hub({"quintend/rdr-items": lookalikes / "rdr"}) as hub:
        done = command(*words, tmp_path / "a", env=environment(hub, tmp_path / "cache"))
        assert done.returncode == 0, done.stderr
        commit = hub.commit("quintend/rdr-items")
    assert described(tmp_path / "a")["commit"] == commit
    assert [row["sample_id"] for row in Store(tmp_path / "a").rows()] == [f"rdr-items/{row}" for row in range(2, 6)]
    done = command(*words, tmp_path / "b", env=environment(None, tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert described(tmp_path / "b") == described(tmp_path / "a")
    assert read_manifest(tmp_path / "a").fingerprint == read_manifest(tmp_path / "b").fingerprint
    shards = {name: digest for name, digest in tree(tmp_path / "a").items() if name.endswith(".arrow")}
    assert shards and shards.items() <= tree(tmp_path / "b").items()


def test_a_preset_without_a_path_and_a_subset_come_from_the_hub(
    lookalikes: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    sets = {"medpix-dataset/medpix-dataset": lookalikes / "medpix", "me/speech": lookalikes / "ami-configs"}
    with running_hub(sets) as hub:
        where = environment(hub, tmp_path / "cache")
        done = command("ingest", "preset:medpix", "--split", "validation", "--json", "--out", tmp_path / "a", env=where)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["totals"]["rows_written"] == 8
        done = command("ingest", "hf:me/speech", "--subset", "sdm", "--json", "--out", tmp_path / "b", env=where)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["totals"]["rows_written"] == 2
        done = command("ingest", "hf:me/speech", "--out", tmp_path / "c", env=where)
        assert done.returncode == 2 and "ihm" in done.stderr and "--subset" in done.stderr, done.stderr
        done = command("ingest", "hf:me/nothing", "--out", tmp_path / "c", env=where)
        assert done.returncode == 2 and "hf:me/nothing" in done.stderr and "Traceback" not in done.stderr
    done = command("ingest", "hf:me/other", "--out", tmp_path / "c", env=environment(None, tmp_path / "cache"))
    assert done.returncode == 2 and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["hf:", "hf:a/b/c", "hf:a b", "hf:../x/y/z"])
def test_what_is_no_name_of_a_set_is_said_before_the_network_is_asked(name: str) -> None:
    with pytest.raises(InputError, match="hf:owner/name"):
        open_samples(name)
