"""Stores made once for all tests: the built-in data through every stage, with the built-in processor."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from s3 import Server, running
from sharing_out import pytest_collection_modifyitems, pytest_xdist_make_scheduler  # noqa: F401  # hooks

from vlm_prep.builtin import builtin_data
from vlm_prep.cli import main as cli
from vlm_prep.cli import options as cli_options
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import IngestConfig, ProcessorConfig, TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.engine.worker import ONE_THREAD
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.processors.load import LoadedProcessor, load_processor, resolve
from vlm_prep.processors.template_date import today
from vlm_prep.tokenize import recipe, tokenize_job
from vlm_prep.tokenize import text as text_encoder
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"
Options = Callable[..., RunOptions]
Loader = Callable[..., LoadedProcessor]
Tree = Callable[[Path], dict[str, str]]
Command = Callable[..., subprocess.CompletedProcess[str]]


def pytest_configure(config: pytest.Config) -> None:
    """The key of this user's stores is made in a folder that goes with the tests. They compute as workers do: threads
    of one test would wait for those of another, at a third of the suite's CPU time."""
    folder = tempfile.TemporaryDirectory(prefix="vlm-prep-config-")
    config.add_cleanup(folder.cleanup)
    os.environ["XDG_CONFIG_HOME"] = folder.name
    os.environ.update(ONE_THREAD)


MAKE_TABLES = text_encoder._gigatoken


@pytest.fixture
def own_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gigatoken's tables are made in this test, whatever `load_once` keeps: it puts another package in its place."""
    monkeypatch.setattr(text_encoder, "_gigatoken", MAKE_TABLES)


@pytest.fixture(scope="session", autouse=True)
def load_once() -> Iterator[Loader]:
    """`load_once(name, config)`: a processor from memory while neither its files nor its settings change, as runs in
    this process take it: tests run hundreds of times with the same few, and a large vocabulary takes seconds to load
    and 200 MB to hold. So do gigatoken's tables. Tests must leave it as it is."""
    load, make_tables = load_processor, MAKE_TABLES
    kept: dict[object, tuple[LoadedProcessor, list[Any]]] = {}

    def once(name: str, config: ProcessorConfig | None = None) -> LoadedProcessor:
        config = config or ProcessorConfig()
        config = replace(config, template_date=config.template_date or today())  # as runs ask for it
        files = sorted(Path(resolve(name)).rglob("*"))
        key = name, repr(config), tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
        kept[key] = kept.pop(key) if key in kept else (load(name, config), [])  # the last one was asked for last
        if len(kept) > 4:
            del kept[next(iter(kept))]
        return kept[key][0]

    def tables_once(tokenizer: Any) -> Any:
        for loaded, tables in kept.values():
            if loaded.hf.tokenizer is tokenizer:
                if not tables:
                    tables.append(make_tables(tokenizer))
                return tables[0]
        return make_tables(tokenizer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "load_processor", once)
        patch.setattr(text_encoder, "_gigatoken", tables_once)
        yield once


@pytest.fixture(scope="session", autouse=True)
def no_workers_unasked() -> Iterator[None]:
    """Commands that a test runs in this process do their work in it, too, unless they are given `--workers`: a worker
    would load the processor anew. What workers do, and what commands tell of them, has tests that ask for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli_options, "DEFAULT_WORKERS", 0)
        yield


@pytest.fixture(scope="module")
def gigatoken() -> Iterator[None]:
    """Runs in this process use gigatoken for any number of rows, as long runs do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenize_job, "FEW_ROWS", 0)
        yield


def _options(out: Path, **settings: Any) -> RunOptions:
    # in this process unless a test asks for workers: most tests are about what is written
    return RunOptions(out=out, **{"workers": 0, "progress": False, "say": _silent, **settings})


def _silent(line: str) -> None:
    """The tests look at files."""


@pytest.fixture(scope="session")
def options() -> Options:
    """How a stage runs in a test: `options(out, workers=2, ...)`, silent."""
    return _options


@pytest.fixture(scope="session")
def tree() -> Tree:
    """`tree(folder)`: the digest of every file below a folder, by relative path."""
    return lambda folder: {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def command() -> Command:
    """`command("stats", folder)`: the real command in a process of its own, with as many threads as a user's; `env=`
    and `cwd=` go to it."""

    def run(
        *arguments: object, env: Mapping[str, str] = os.environ, **settings: Any
    ) -> subprocess.CompletedProcess[str]:
        line = [str(Path(sys.executable).with_name("vlm-prep")), *(str(each) for each in arguments)]
        env = {name: value for name, value in env.items() if name not in ONE_THREAD}
        return subprocess.run(line, capture_output=True, text=True, timeout=120, env=env, **settings)

    return run


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Command:
    """`call("stats", folder)`: the same in this process, where none of its own is what is tested: a new one imports for
    a second, and its workers for six."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        line = ["vlm-prep", *(str(each) for each in arguments)]
        out, err, status = io.StringIO(), io.StringIO(), 0
        with monkeypatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", line)
            patch.setattr(sys, "excepthook", sys.excepthook)
            try:
                cli.main()
            except SystemExit as ended:
                status = int(ended.code or 0)
        return subprocess.CompletedProcess(line, status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def many_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A meta JSON of 640 rows (three tasks): the built-in data, each row 16 times."""
    data = builtin_data()
    meta = json.loads(data.read_bytes())
    for entry in meta.values():
        entry["file_name"] = str(data.parent / entry["file_name"])
        entry["sample_ratio"] = 16
        if "media_dir" in entry:
            entry["media_dir"] = str(data.parent)
    path = tmp_path_factory.mktemp("many") / "meta.json"
    path.write_text(json.dumps(meta))
    return path


@pytest.fixture(scope="session")
def tokenized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in data tokenized: 40 rows with pictures, video and tools."""
    out = tmp_path_factory.mktemp("stores") / "tok"
    tokenize(open_samples(builtin_data()), PROCESSOR, TokenizeConfig(fps=2.0), _options(out))
    return out


@pytest.fixture(scope="session")
def packed(tokenized: Path) -> Path:
    """`tokenized` in packs of 2048 for two ranks."""
    out = tokenized.with_name("packed")
    pack(tokenized, PackConfig(pack_length=2048, world_size=2), _options(out))
    return out


@pytest.fixture(scope="session")
def compressed(tokenized: Path) -> Path:
    """`tokenized` with compressed shards."""
    out = tokenized.with_name("compressed")
    config = TokenizeConfig(fps=2.0, compress="zstd", verify_fraction=0.0)
    tokenize(open_samples(builtin_data()), PROCESSOR, config, _options(out))
    return out


@pytest.fixture(scope="session")
def compressed_packs(compressed: Path) -> Path:
    """The packs of `packed`, from compressed shards and compressed otherwise."""
    out = compressed.with_name("compressed_packs")
    pack(compressed, PackConfig(pack_length=2048, world_size=2, compress="lz4"), _options(out))
    return out


@pytest.fixture(scope="session")
def packed_index(tokenized: Path) -> Path:
    """The plan of the same packs, layout "index"."""
    out = tokenized.with_name("index")
    pack(tokenized, PackConfig(pack_length=2048, world_size=2, layout="index"), _options(out))
    return out


@pytest.fixture(scope="session")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in data ingested."""
    out = tmp_path_factory.mktemp("ingested") / "samples"
    ingest(open_samples(builtin_data()), IngestConfig(), _options(out))
    return out


@pytest.fixture(scope="session")
def kit() -> Path:
    """The test kit: real processors and real samples (`../shared/kit`)."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "kit"
    if not folder.is_dir():
        pytest.skip(f"the test kit is not here: {folder}")
    return folder


@pytest.fixture(scope="session")
def lookalikes(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small data sets with the true columns of well-known ones."""
    folder = tmp_path_factory.mktemp("lookalikes")
    subprocess.run([sys.executable, str(kit / "lookalikes.py"), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def processors(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the kit's Qwen processors; each pytest-xdist worker assembles its own (3 s)."""
    folder = tmp_path_factory.mktemp("processors")
    names = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
    script = str(kit / "processors" / "assemble.py")
    subprocess.run([sys.executable, script, str(folder), *names], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def loaded(processors: Path, load_once: Loader) -> Callable[[str], LoadedProcessor]:
    """`loaded("qwen3_vl")` or `loaded("builtin")`: a processor, loaded once; tests must leave it as it is."""
    return lambda name: load_once(PROCESSOR if name == "builtin" else str(processors / name))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running S3 server; skips where moto is not installed."""
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def bucket(server: Server, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`s3://...`: an empty bucket."""
    monkeypatch.setenv("VLM_PREP_CACHE", str(tmp_path / "cache"))
    name = "b" + re.sub(r"[^a-z0-9]", "", request.node.name.lower())[-50:]
    server.files.mkdir(name)
    return f"s3://{name}"
