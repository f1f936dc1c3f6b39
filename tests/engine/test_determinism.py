"""The output does not depend on how many processes made it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import IngestConfig, MediaMode, TokenizeConfig
from vlm_prep.engine.local import start_forkserver
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_job import TokenizeJob
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"
Options = Callable[..., RunOptions]
Tree = Callable[[Path], dict[str, str]]
Run = Callable[[MediaMode, int], Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, many_rows: Path, options: Options) -> Run:
    """Tokenize `many_rows` with a media mode and a number of workers, once for each."""
    base = tmp_path_factory.mktemp("runs")
    made: dict[tuple[MediaMode, int], Path] = {}

    def once(media: MediaMode, workers: int) -> Path:
        if (media, workers) not in made:
            out = base / f"{media}-{workers}" / "tok"  # one name, since a packed store says what it came from
            config = TokenizeConfig(fps=2.0, media=media)
            start_forkserver(TokenizeJob(open_samples(many_rows), PROCESSOR, config), workers)
            tokenize(open_samples(many_rows), PROCESSOR, config, options(out, workers=workers))
            made[media, workers] = out
        return made[media, workers]

    return once


def test_the_source_is_several_tasks(run: Run) -> None:
    store = Store(run("reference", 1))
    assert len(store) == 640
    assert len(store.shards) == 3


@pytest.mark.parametrize(("media", "workers"), [("reference", 2), ("encoded", 3)])
def test_tokenize_writes_the_same_bytes_with_any_number_of_workers(
    run: Run, tree: Tree, media: MediaMode, workers: int
) -> None:
    assert tree(run(media, workers)) == tree(run(media, 1))


def test_ingest_writes_the_same_bytes_with_any_number_of_workers(
    tmp_path: Path, many_rows: Path, options: Options, tree: Tree
) -> None:
    for workers in (1, 2, 3):
        ingest(open_samples(many_rows), IngestConfig(), options(tmp_path / str(workers), workers=workers))
        assert tree(tmp_path / str(workers)) == tree(tmp_path / "1")
    assert len(Store(tmp_path / "1").shards) == 3


@pytest.mark.parametrize(("layout", "workers"), [("ranks", 2), ("index", 3)])
def test_pack_writes_the_same_bytes_with_any_number_of_workers(
    run: Run, tmp_path: Path, options: Options, tree: Tree, layout: str, workers: int
) -> None:
    config = PackConfig(pack_length=2048, world_size=3, layout=layout)  # type: ignore[arg-type]
    for count in (1, workers):
        pack(run("reference", 1), config, options(tmp_path / str(count), workers=count))
    assert tree(tmp_path / str(workers)) == tree(tmp_path / "1")


def test_packing_stores_made_by_different_workers_gives_the_same_bytes(run: Run, options: Options, tree: Tree) -> None:
    outs = []
    for workers in (1, 3):
        source = run("encoded", workers)
        outs.append(source.with_name("packed"))
        pack(source, PackConfig(pack_length=2048), options(outs[-1]))
    one, other = (tree(out) for out in outs)
    assert one.pop("origin.json") != other.pop("origin.json")  # says which of the two was packed
    assert one == other


@pytest.mark.parametrize("media", ["reference", "encoded"])
def test_an_ingested_store_gives_the_same_rows_as_its_source(
    run: Run, tmp_path: Path, many_rows: Path, options: Options, tree: Tree, media: MediaMode
) -> None:
    ingest(open_samples(many_rows), IngestConfig(), options(tmp_path / "samples"))
    out = tmp_path / "tok"
    tokenize(open_samples(tmp_path / "samples"), PROCESSOR, TokenizeConfig(fps=2.0, media=media), options(out))
    shards = {name: digest for name, digest in tree(out).items() if name.endswith(".arrow")}
    source = {name: digest for name, digest in tree(run(media, 1)).items() if name.endswith(".arrow")}
    assert shards == source


def test_a_run_does_not_depend_on_where_it_is_written(
    run: Run, tmp_path: Path, many_rows: Path, options: Options, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("deep") / "er"
    tokenize(open_samples(many_rows), PROCESSOR, TokenizeConfig(fps=2.0, media="reference"), options(out))
    assert tree(out) == tree(run("reference", 1))
