"""Media stores that go with a store to a bucket and back, and are found there."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from deaths import deaths
from fsspec.implementations.local import LocalFileSystem
from s3 import Server
from typer.testing import CliRunner

from vlm_prep.cli.main import app
from vlm_prep.core import media_places
from vlm_prep.core.errors import InputError, OutputError, StoreError
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.run_options import RunOptions
from vlm_prep.ingest.gather.gather_run import gather
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.along import pull_with_media, push_with_media
from vlm_prep.media.files import read_bytes
from vlm_prep.shards.elsewhere import named_media
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize

Tree = Callable[[Path], dict[str, str]]


def silent(line: str) -> None:
    """The tests look at files."""


@pytest.fixture(autouse=True)
def _makes_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "file", {"auto_mkdir": True})


@pytest.fixture(scope="module")
def made(ingested: Path, tmp_path_factory: pytest.TempPathFactory, options: Callable[..., RunOptions]) -> Path:
    """A folder with a media store, a store that refers to it, and what it refers to is nowhere else."""
    folder = tmp_path_factory.mktemp("made")
    gather([ingested], options(folder / "media"))
    config = TokenizeConfig(media="reference", verify_fraction=0.0, media_store=[str(folder / "media")])
    tokenize(open_samples(ingested), "builtin:qwen2.5-vl-mini", config, options(folder / "tok"))
    return folder


def test_they_come_along_and_are_found(made: Path, tmp_path: Path, tree: Tree) -> None:
    before = {uri: bytes(read_bytes(uri)) for uri in named_media(made / "tok")}
    named = media_places.media_name(str(made / "media"))
    url, here = f"file://{tmp_path}/bucket/tok", tmp_path / "here"
    push_with_media(made / "tok", url, silent)
    media = tree(made / "media")
    made.rename(made.with_name("away"))
    try:
        pull_with_media(url, here / "tok", silent)
        assert {uri: bytes(read_bytes(uri)) for uri in named_media(here / "tok")} == before
        result = CliRunner().invoke(app, ["verify", str(here / "tok"), "--processor", "builtin:qwen2.5-vl-mini"])
        assert result.exit_code == 0, result.output
        push_with_media(here / "tok", f"file://{tmp_path}/second/tok", silent)  # from where it came to
    finally:
        made.with_name("away").rename(made)
    assert sorted(path.name for path in here.iterdir()) == [named, "tok"]
    assert tree(here / named) == tree(tmp_path / "second" / named) == media


def test_a_push_killed_at_any_file_is_completed(made: Path, tmp_path: Path, tree: Tree) -> None:
    named = media_places.media_name(str(made / "media"))

    def work(out: Path) -> None:
        push_with_media(made / "tok", f"file://{out}/tok", silent)

    for when in ("before", "after"):
        for out in deaths(work, tmp_path, when, LocalFileSystem, ("put_file",)):
            assert not (out / "tok" / "manifest.json").exists() or (out / named / "manifest.json").exists()
            work(out)
            assert tree(out / named) == tree(made / "media")
            assert tree(out / "tok").keys() == tree(made / "tok").keys() - {"rows.parquet"}


@pytest.mark.parametrize("when", ["before", "after", "in"])
def test_a_pull_killed_while_it_fetches_is_completed(made: Path, tmp_path: Path, tree: Tree, when: str) -> None:
    url = f"file://{tmp_path}/bucket/tok"
    push_with_media(made / "tok", url, silent)

    def work(out: Path) -> None:
        pull_with_media(url, out / "tok", silent)

    for out in deaths(work, tmp_path, when, LocalFileSystem, ("get_file",)):
        work(out)
        assert tree(out / media_places.media_name(str(made / "media"))) == tree(made / "media")


def ends(line: list[str], server: Server, request: str, after: int) -> bool:
    """Run a command and kill it once it has made some requests more; return whether it was done before."""
    before = len(re.findall(request, server.log.read_text()))
    run = subprocess.Popen([str(Path(sys.executable).with_name("vlm-prep")), *line, "--with-media", "--quiet"])
    while run.poll() is None and len(re.findall(request, server.log.read_text())) < before + after:
        time.sleep(0.002)
    run.kill()
    return run.wait() == 0


def test_commands_killed_again_and_again_complete_both_on_s3(
    made: Path, bucket: str, server: Server, tmp_path: Path, tree: Tree
) -> None:
    named, here = media_places.media_name(str(made / "media")), tmp_path / "here"
    key, kills = bucket.removeprefix("s3://"), 0
    while not ends(["push", str(made / "tok"), f"{bucket}/tok"], server, f"PUT /{key}/", 7):
        kills += 1
        there = {name.partition("/")[2] for name in server.files.find(key)}
        assert "tok/manifest.json" not in there or f"{named}/manifest.json" in there
        if "tok/manifest.json" not in there:
            with pytest.raises(StoreError, match="no finished store"):
                pull_with_media(f"{bucket}/tok", tmp_path / "none" / "tok", silent)
    assert kills >= 2
    # a file of a kill may have come whole without being told: sent twice, never less than once
    sent = {*re.findall(f"PUT /{key}/(\\S+)", server.log.read_text())}
    assert {name for name in sent if name.startswith(named)} == {f"{named}/{name}" for name in tree(made / "media")}
    kills = 0
    while not ends(["pull", f"{bucket}/tok", str(here / "tok")], server, f"GET /{key}/", 9):
        kills += 1
        for name in ("tok", named):  # what has a manifest is whole
            if (here / name / "manifest.json").exists():
                Store(here / name, verify=True)
    assert kills >= 2
    assert tree(here / named) == tree(made / "media")
    assert tree(here / "tok").keys() == tree(made / "tok").keys() - {"rows.parquet"}
    assert all(read_bytes(uri) for uri in named_media(here / "tok"))


def test_what_cannot_go_along_is_said(made: Path, tokenized: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/bucket/tok"
    with pytest.raises(InputError, match="refer to no media store"):
        push_with_media(tokenized, url, silent)
    push_with_media(made / "tok", url, silent)
    beside = tmp_path / "bucket" / media_places.media_name(str(made / "media"))
    foreign = beside.parent / "elsewhere"
    beside.rename(foreign)
    with pytest.raises(StoreError, match="no finished store"):
        pull_with_media(url, tmp_path / "here" / "tok", silent)
    beside.mkdir()
    (beside / "something").touch()
    with pytest.raises(OutputError, match="holds what this store does not"):
        push_with_media(made / "tok", url, silent)


def test_rows_of_somebody_elses_store_do_not_say_what_is_sent(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "somebody"))
    url = f"file://{tmp_path}/bucket/tok"
    said: list[str] = []
    with pytest.raises(InputError, match="was not made here, and its rows name media stores") as refused:
        push_with_media(made / "tok", url, said.append)
    assert str(made / "media") in str(refused.value) and not (tmp_path / "bucket").exists()
    push_with_media(made / "tok", url, said.append, trust_places=True)
    assert f"{made / 'media'} goes along" in said[0]
    pull_with_media(url, tmp_path / "here" / "tok", silent)  # what came with it goes with it
    push_with_media(tmp_path / "here" / "tok", f"file://{tmp_path}/second/tok", silent)
