"""A push or pull killed at any instant is completed by the same command, and never leaves half a store that reads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from deaths import deaths
from fsspec.implementations.local import LocalFileSystem

from vlm_prep.core.errors import OutputError, StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.run_options import RunOptions
from vlm_prep.ingest.gather.gather_run import gather
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.shards.elsewhere import said_of_media_elsewhere
from vlm_prep.shards.reader import Store
from vlm_prep.shards.transfer import pull, push
from vlm_prep.tokenize.tokenize_run import tokenize

Tree = Callable[[Path], dict[str, str]]


def silent(line: str) -> None:
    """The tests look at files."""


@pytest.fixture(autouse=True)
def _makes_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket has no folders to make first."""
    monkeypatch.setitem(fsspec.config.conf, "file", {"auto_mkdir": True})


@pytest.fixture
def there(ingested: Path, tmp_path: Path) -> str:
    """A store in a folder that stands for a bucket."""
    url = f"file://{tmp_path}/bucket/store"
    push(ingested, url, silent)
    return url


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_pull_killed_at_any_change_is_completed(
    there: str, ingested: Path, tmp_path: Path, tree: Tree, when: str
) -> None:
    names, count = ("replace", "unlink", "rmdir", "mkdir"), 0
    for out in deaths(lambda out: pull(there, out, silent), tmp_path, when, os, names):
        if not (out / "manifest.json").exists():
            with pytest.raises(StoreError):
                Store(out)
        pull(there, out, silent)
        assert tree(out) == tree(ingested)
        assert not (out / "_work").exists()
        count += 1
    assert count > 12


@pytest.mark.parametrize("when", ["before", "after", "in"])
def test_a_pull_killed_while_it_fetches_is_completed(
    there: str, ingested: Path, tmp_path: Path, tree: Tree, when: str
) -> None:
    for out in deaths(lambda out: pull(there, out, silent), tmp_path, when, LocalFileSystem, ("get_file",)):
        pull(there, out, silent)
        assert tree(out) == tree(ingested)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_push_killed_at_any_file_is_completed(ingested: Path, tmp_path: Path, tree: Tree, when: str) -> None:
    def work(out: Path) -> None:
        push(ingested, f"file://{out}", silent)

    for out in deaths(work, tmp_path, when, LocalFileSystem, ("put_file",)):
        assert not (out / "manifest.json").exists() or tree(out) == tree(ingested)
        work(out)
        assert tree(out) == tree(ingested)


def test_two_pulls_into_one_folder_do_not_meet(there: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    child = os.fork()
    if child == 0:
        real = LocalFileSystem.get_file

        def slow(*arguments: object, **settings: object) -> object:
            (tmp_path / "fetching").touch()
            while not (tmp_path / "go on").exists():
                os.sched_yield()
            return real(*arguments, **settings)

        LocalFileSystem.get_file = slow
        pull(there, out, silent)
        os._exit(0)
    while not (tmp_path / "fetching").exists():
        os.sched_yield()
    with pytest.raises(OutputError, match="being fetched by another process"):
        pull(there, out, silent)
    (tmp_path / "go on").touch()
    assert os.waitpid(child, 0)[1] == 0
    pull(there, out, silent)


def test_a_run_that_is_being_made_is_not_pulled_over(there: str, tmp_path: Path) -> None:
    (tmp_path / "out" / "_work").mkdir(parents=True)
    (tmp_path / "out" / "_work" / "plan.json").write_text("{}")
    with pytest.raises(OutputError, match="being made by a run"):
        pull(there, tmp_path / "out", silent)


def test_nothing_is_pulled_through_a_link(there: str, ingested: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train").symlink_to(tmp_path / "outside")
    with pytest.raises((OutputError, StoreError)):
        pull(there, tmp_path / "out", silent)
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("size", [0, -1])
def test_a_cut_copy_is_fetched_again(there: str, ingested: Path, tmp_path: Path, tree: Tree, size: int) -> None:
    out = tmp_path / "out"
    pull(there, out, silent)
    shard = next((out / "train").glob("*.arrow"))
    os.truncate(shard, max(size, shard.stat().st_size + size if size else 0))
    pull(there, out, silent)
    assert tree(out) == tree(ingested)


def test_a_store_pulled_from_an_earlier_version_needs_no_checksums_of_other_files(
    ingested: Path, tmp_path: Path
) -> None:
    import json

    old = Path(shutil.copytree(ingested, tmp_path / "old"))
    manifest = json.loads((old / "manifest.json").read_bytes())
    for key in ("files", "checksum"):
        manifest.pop(key)
    for shard in manifest["splits"]["train"]:
        shard.pop("heads")
    (old / "manifest.json").write_text(json.dumps(manifest))
    push(old, f"file://{tmp_path}/bucket/old", silent)
    pull(f"file://{tmp_path}/bucket/old", tmp_path / "out", silent)
    assert len(Store(tmp_path / "out", verify=True)) == 40


def test_who_copies_a_store_is_told_that_its_media_are_elsewhere(
    ingested: Path, tokenized: Path, packed: Path, tmp_path: Path, options: Callable[..., RunOptions]
) -> None:
    gather([ingested], options(tmp_path / "media"))
    samples = open_samples(ingested)
    for name, config in (
        ("named", TokenizeConfig(media="reference", verify_fraction=0.0)),
        ("gathered", TokenizeConfig(media="reference", verify_fraction=0.0, media_store=[str(tmp_path / "media")])),
    ):
        tokenize(samples, "builtin:qwen2.5-vl-mini", config, options(tmp_path / name))
    pack(tmp_path / "gathered", PackConfig(pack_length=2048), options(tmp_path / "packs"))
    for whole in (tokenized, packed, tmp_path / "media"):
        assert said_of_media_elsewhere(whole) is None
    assert "chelsea.jpg" in str(said_of_media_elsewhere(tmp_path / "named"))
    assert "chelsea.jpg" in str(said_of_media_elsewhere(ingested))
    for name in ("gathered", "packs"):
        assert f"such as {tmp_path / 'media'}, " in str(said_of_media_elsewhere(tmp_path / name))


def test_nothing_is_fetched_through_a_link_in_the_work_folder(
    there: str, ingested: Path, tmp_path: Path, tree: Tree
) -> None:
    """Of a folder that somebody passed on as the half of a pull."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out" / "_work").mkdir(parents=True)
    (tmp_path / "out" / "_work" / "fetched").symlink_to(tmp_path / "mine")
    pull(there, tmp_path / "out", silent)
    assert (tmp_path / "mine").read_text() == "mine"
    assert tree(tmp_path / "out") == tree(ingested)
