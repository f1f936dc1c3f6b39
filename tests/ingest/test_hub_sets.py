"""Datasets of the hub: downloaded from a server on loopback, and read from the cache when there is no server."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from forked_commands import forked_commands
from hub import Hub, running_hub

from vlm_prep.core.errors import InputError
from vlm_prep.ingest.hub_sets import _prepared
from vlm_prep.ingest.row_source import said_of_outside
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store


def environment(hub: Hub | None, cache: Path) -> dict[str, str]:
    base = {**os.environ, "HF_HOME": str(cache), "VLM_PREP_CACHE": str(cache / "vlm-prep")}
    names = ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT", "HF_DATASETS_CACHE")
    for name in (*names, "PYTEST_CURRENT_TEST"):  # the last one differs from test to test
        base.pop(name, None)
    return {**base, "HF_ENDPOINT": hub.url} if hub else {**base, "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def only_hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def hub(only_hub: Hub) -> Hub:
    """A hub without sets, at the same address in all tests: the libraries read it once, at their import."""
    only_hub.sets, only_hub.token = {}, None
    only_hub.asked.clear()
    return only_hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home") / "cache"


@pytest.fixture
def cache(home: Path) -> Path:
    """The libraries' cache, with nothing in it; at the same place in all tests, for the same reason."""
    shutil.rmtree(home, ignore_errors=True)
    return home


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """`command("ingest", ..., env=environment(...))`, a process for each."""
    with forked_commands(tmp_path_factory.mktemp("said")) as run:
        yield run


def described(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_manifest(out).extra["datasets"][0]
    return found


def test_a_set_comes_from_the_hub_once_and_from_its_cache_after_that(
    lookalikes: Path, tmp_path: Path, command: Callable[..., Any], tree: Callable[[Path], Any], hub: Hub, cache: Path
) -> None:
    words = ["ingest", "hf:quintend/rdr-items", "--split", "train[2:6]", "--turn", "user=<image>What?"]
    words += ["--turn", "assistant={text}", "--quiet", "--out"]
    hub.sets = {"quintend/rdr-items": lookalikes / "rdr"}
    done = command(*words, tmp_path / "a", env=environment(hub, cache))
    assert done.returncode == 0, done.stderr
    commit = hub.commit("quintend/rdr-items")
    assert described(tmp_path / "a")["commit"] == commit
    assert [row["sample_id"] for row in Store(tmp_path / "a").rows()] == [f"rdr-items/{row}" for row in range(2, 6)]
    done = command(*words, tmp_path / "b", env=environment(None, cache))
    assert done.returncode == 0, done.stderr
    assert described(tmp_path / "b") == described(tmp_path / "a")
    assert read_manifest(tmp_path / "a").fingerprint == read_manifest(tmp_path / "b").fingerprint
    shards = {name: digest for name, digest in tree(tmp_path / "a").items() if name.endswith(".arrow")}
    assert shards and shards.items() <= tree(tmp_path / "b").items()


def test_a_preset_without_a_path_and_a_subset_come_from_the_hub(
    lookalikes: Path, tmp_path: Path, command: Callable[..., Any], hub: Hub, cache: Path
) -> None:
    sets = {"medpix-dataset/medpix-dataset": lookalikes / "medpix", "me/speech": lookalikes / "ami-configs"}
    hub.sets = sets
    where = environment(hub, cache)
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
    done = command("ingest", "hf:me/other", "--out", tmp_path / "c", env=environment(None, cache))
    assert done.returncode == 2 and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["hf:", "hf:a/b/c", "hf:a b", "hf:../x/y/z"])
def test_what_is_no_name_of_a_set_is_said_before_the_network_is_asked(name: str) -> None:
    with pytest.raises(InputError, match="hf:owner/name"):
        open_samples(name)


def test_what_looks_like_a_set_of_the_hub_is_told_how_it_is_named(tmp_path: Path) -> None:
    for written in ("HF:me/talks", "https://huggingface.co/datasets/me/talks/tree/main", "me/talks"):
        with pytest.raises(InputError, match="no such file") as raised:
            open_samples(written)
        assert raised.value.hint == "A dataset of the hub is hf:me/talks."
    with pytest.raises(InputError) as raised:
        open_samples(tmp_path / "talks")
    assert "hub" not in str(raised.value.hint)


CARD = """---
configs:
- config_name: en
  default: true
  data_files: [{split: train, path: en/train-*.jsonl}, {split: test, path: en/test.jsonl}]
- {config_name: fr, data_files: fr/*.jsonl}
---
"""


def talks(folder: Path, *, mark: str) -> Path:
    """A set of two configurations; the rows of `en` say `mark`."""
    for name, count in (("en/train-00000-of-00002", 3), ("en/train-00001-of-00002", 2), ("en/test", 2), ("fr/rows", 4)):
        said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": f"{mark} {name}"}]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"messages": said}) + "\n" for _ in range(count)))
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def read(tmp_path: Path, cache: Path, command: Callable[..., Any]) -> Callable[..., list[str] | str]:
    """Return what the answers of `hf:me/talks` say, or the message where it is refused."""
    done = iter(range(100))

    def run(address: str, hub: Hub | None, *words: str) -> list[str] | str:
        out = tmp_path / f"out-{next(done)}"
        found = command("ingest", address, *words, "--quiet", "--out", out, env=environment(hub, cache))
        if found.returncode:
            assert found.returncode == 2 and "Traceback" not in found.stderr, found.stderr
            return str(found.stderr)
        assert found.stderr == "" and said_of_outside(read_manifest(out).totals) is None
        rows = Store(out).rows()
        return [json.loads(row["conversation"])["messages"][1]["content"][0]["text"] for row in rows]

    return run


def test_without_a_network_a_revision_is_itself_or_nothing(tmp_path: Path, read: Callable[..., Any], hub: Hub) -> None:
    folder = talks(tmp_path / "talks", mark="first")
    hub.sets = {"me/talks": folder}
    first = hub.commit("me/talks")
    assert len(before := read("hf:me/talks", hub)) == 5
    talks(folder, mark="second")
    after = read("hf:me/talks", hub)
    assert before != after and {each.split()[0] for each in after} == {"second"}
    assert read("hf:me/talks", None) == after
    assert read(f"hf:me/talks@{first}", None) == read(f"hf:me/talks@{first[:8]}", None) == before
    assert first in read("hf:me/talks@v1", None)
    # a hub that cannot be reached is like none
    assert read(f"hf:me/talks@{first}", Hub({}, url="http://127.0.0.1:9")) == before


def test_without_a_network_the_default_configuration_is_not_another_one(
    tmp_path: Path, read: Callable[..., Any], hub: Hub, cache: Path
) -> None:
    folder = talks(tmp_path / "talks", mark="x")
    hub.sets = {"me/talks": folder}
    assert read("hf:me/talks", hub, "--subset", "fr") == ["x fr/rows"] * 4
    assert read("hf:me/talks", None, "--subset", "fr") == ["x fr/rows"] * 4
    assert "Load it once" in read("hf:me/talks", None)
    (cache / "hub").rename(tmp_path / "gone")
    assert "--subset" in read("hf:me/talks", None)


def test_the_files_that_the_hubs_own_client_downloaded_are_read_where_they_are_whole(
    tmp_path: Path, read: Callable[..., Any], hub: Hub, cache: Path
) -> None:
    folder = talks(tmp_path / "talks", mark="x")
    hub.sets = {"me/talks": folder}
    whole = read("hf:me/talks", hub)
    shutil.rmtree(cache)
    script = "from huggingface_hub import snapshot_download as s; s('me/talks', repo_type='dataset')"
    subprocess.run([sys.executable, "-c", script], env=environment(hub, cache), check=True, capture_output=True)
    assert read("hf:me/talks", None) == whole
    assert read("hf:me/talks", None, "--split", "all") == [*whole, "x en/test", "x en/test"]
    assert read("hf:me/talks", None, "--subset", "fr") == ["x fr/rows"] * 4
    shutil.rmtree(cache / "datasets")  # what is prepared is whole
    next((cache / "hub").rglob("train-00001-of-00002.jsonl")).unlink()
    assert "1 of the 2 files en/train-...-of-00002.jsonl" in read("hf:me/talks", None)


def tarred(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def sound() -> bytes:
    data = io.BytesIO()
    soundfile.write(data, np.zeros(8000, np.float32), 8000, format="WAV", subtype="PCM_16")
    return data.getvalue()


def test_tars_of_the_hub_are_rows_as_those_of_a_folder_are(
    tmp_path: Path, read: Callable[..., Any], hub: Hub, cache: Path
) -> None:
    folder = tmp_path / "talks"
    for name, keys in (("train-2", "a"), ("train-10", "b"), ("test-0", "c")):
        said = [{"role": "user", "content": "<audio>?"}, {"role": "assistant", "content": keys}]
        tarred(folder / "data" / f"{name}.tar", {"1.wav": sound(), "1.json": json.dumps({"messages": said}).encode()})
    hub.sets = {"me/talks": folder}
    assert read("hf:me/talks", hub) == ["a", "b"]
    assert not [path for path in hub.asked if "test-0.tar" in path and path.startswith("GET")]
    assert "one whole split" in read("hf:me/talks", hub, "--split", "train[:1]")
    assert read("hf:me/talks", None) == ["a", "b"]
    assert not list(cache.rglob("*.arrow"))


def test_an_audiofolder_of_the_hub_needs_no_library_that_decodes(
    tmp_path: Path, read: Callable[..., Any], hub: Hub
) -> None:
    folder = tmp_path / "talks"
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        (folder / split / "a.wav").write_bytes(sound())
        (folder / split / "metadata.csv").write_text(f"file_name,transcription\na.wav,said in {split}\n")
    hub.sets = {"me/talks": folder}
    assert read("hf:me/talks", hub, "--split", "test") == ["said in test"]
    assert read("hf:me/talks", None, "--split", "test") == ["said in test"]


def test_a_split_without_rows_says_how_many_there_are(tmp_path: Path, read: Callable[..., Any], hub: Hub) -> None:
    folder = talks(tmp_path / "talks", mark="x")
    hub.sets = {"me/talks": folder}
    assert "train 5, test 2" in read("hf:me/talks", hub, "--split", "train[7:9]")


def test_a_gated_set_wants_a_token(tmp_path: Path, read: Callable[..., Any], hub: Hub, cache: Path) -> None:
    folder = talks(tmp_path / "talks", mark="x")
    hub.sets = {"me/talks": folder}
    hub.token = "hf_of_this_test"
    refused = read("hf:me/talks", hub)
    assert "gated" in refused and "`hf auth login`, or HF_TOKEN" in refused, refused
    cache.mkdir(exist_ok=True)
    (cache / "token").write_text(hub.token)  # as `hf auth login` leaves it
    assert len(read("hf:me/talks", hub)) == 5


def test_what_is_asked_of_the_hub_and_taken_from_the_cache_is_told(
    tmp_path: Path, command: Callable[..., Any], hub: Hub, cache: Path
) -> None:
    folder, words = talks(tmp_path / "talks", mark="x"), ("ingest", "hf:me/talks", "--out")
    hub.sets = {"me/talks": folder}
    done = command(*words, tmp_path / "a", env=environment(hub, cache))
    assert f"asking {hub.url} for the dataset me/talks" in done.stderr, done.stderr
    commit = hub.commit("me/talks")
    done = command(*words, tmp_path / "b", env=environment(None, cache))
    assert f"hf:me/talks is read from the cache of this machine, commit {commit}" in done.stderr, done.stderr


def test_what_a_set_of_the_hub_needs_and_is_not_installed_is_said() -> None:
    def load() -> None:
        try:
            raise ModuleNotFoundError("No module named 'torchcodec'")
        except ImportError as error:
            raise RuntimeError("An error occurred while generating the dataset") from error

    with pytest.raises(InputError, match="generating the dataset: No module named 'torchcodec'") as caught:
        _prepared("hf:me/speech@v1", load)
    assert "hf download --repo-type dataset me/speech --local-dir DIR" in str(caught.value.hint)
