"""Targets of `fuzz.py`: what is read of a store, of a bucket and of an unfinished run."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import orjson
from every_byte import content, verify
from fuzz_target import STORES, files_of, target

from vlm_prep.core.errors import VlmPrepError
from vlm_prep.core.fingerprint import digest_file
from vlm_prep.engine.claim import take_over
from vlm_prep.engine.ownership import RunPlan, read_plan
from vlm_prep.engine.publish import publish_staged, staging
from vlm_prep.engine.tasks import Task
from vlm_prep.shards.heads import head_digests
from vlm_prep.shards.layout import read_origin, read_rejects
from vlm_prep.shards.manifest import parse_manifest, read_manifest, sealed, write_manifest
from vlm_prep.shards.transfer import pull
from vlm_prep.stream import ShardDataset
from vlm_prep.stream.run_state import State

_NO_DIGEST = "xxh3:" + "0" * 32
_SHARD = {"name": "task-000000-000.arrow", "rows": 0, "tokens": 0, "bytes": 0, "xxh3": _NO_DIGEST, "batches": []}
_RECORD = orjson.dumps(
    {"task": 0, "split": "train", "shards": [_SHARD], "rejects": [], "counts": {}, "facts": {}, "poison": []}
)
_PLAN = b'{"stage":"ingest","fingerprint":"xxh3:0","identity":{},"tasks":1,"again":{}}'
_POISON = b'{"row": 0, "reason": "timeout", "message": ""}'
_MOST_BYTES = 1 << 20


def _copy(form: str, folder: Path) -> Path:
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)
    return Path(shutil.copytree(STORES[form], store))


@target("manifest", lambda: files_of("manifest.json", "ingested", "reference", "pixels", "ranks", "tars"))
def manifest(data: bytes, folder: Path) -> None:
    """Read a manifest, its own checksum made right again, and what its store holds."""
    try:
        table = orjson.loads(data)
        table.pop("checksum", None)
        data = sealed(table)
    except (ValueError, TypeError, AttributeError):
        pass
    stage = parse_manifest(data, "store")
    form = {"ingest": "ingested", "tokenize": "reference"}.get(stage.stage, "ranks")
    store = _copy(form, folder)
    (store / "manifest.json").write_bytes(data)
    verify(store)
    content(store)


def _agree(store: Path, path: Path) -> None:
    """Make the manifest say of a shard what is there now."""
    found = read_manifest(store)
    split = path.parent.name

    def agreed(info: Any) -> Any:
        with contextlib.suppress(OSError, ValueError):
            info = replace(info, heads=head_digests(path, [offset for offset, _ in info.batches]))
        return replace(info, xxh3=digest_file(path), bytes=path.stat().st_size)

    infos = [agreed(info) if info.name == path.name else info for info in found.splits[split]]
    write_manifest(store, replace(found, splits={**found.splits, split: infos}))


@target("shard", lambda: files_of("*/*.arrow", "ingested", "reference", "encoded", "pixels", "ranks"))
def shard(data: bytes, folder: Path) -> None:
    """Read a shard whose manifest says that it is right."""
    form = min(STORES, key=lambda name: abs(sum(map(len, files_of("*/*.arrow", name))) - len(data)))
    store = _copy(form if form != "tars" else "ranks", folder)
    path = sorted(store.glob("*/*.arrow"))[0]
    path.write_bytes(data)
    _agree(store, path)
    verify(store)
    content(store)


@target("tar", lambda: files_of("*/*.tar", "tars"))
def tar(data: bytes, folder: Path) -> None:
    """Verify a tar of packs whose manifest says that it is right."""
    store = _copy("tars", folder)
    path = sorted(store.glob("*/*.tar"))[0]
    path.write_bytes(data)
    with contextlib.suppress(ValueError):
        _agree(store, path)
    verify(store)


@target("rejects", lambda: files_of("rejects.parquet", "ingested"))
def rejects(data: bytes, folder: Path) -> None:
    """Read rejects.parquet."""
    (folder / "rejects.parquet").write_bytes(data)
    read_rejects(folder)


@target("origin", lambda: files_of("origin.json", "ingested", "reference"))
def origin(data: bytes, folder: Path) -> None:
    """Read origin.json."""
    (folder / "origin.json").write_bytes(data)
    read_origin(folder)


@target("staged", lambda: [b'["train/data-00000-of-00001.arrow","README.md","manifest.json"]', b'["../../evil.txt"]'])
def staged(data: bytes, folder: Path) -> None:
    """Complete a change of a store that a list decides."""
    store = _copy("ingested", folder)
    staging(store).mkdir(parents=True)
    for name in ("README.md", "manifest.json"):
        shutil.copy(store / name, staging(store) / name)
    (store / "_work" / "staged.json").write_bytes(data)
    publish_staged(store)


@target("notes", lambda: [_RECORD, _PLAN, _POISON, b'{"host": "here", "pid": 12}'])
def notes(data: bytes, folder: Path) -> None:
    """Continue a run whose notes are these."""
    work = folder / "run" / "_work"
    shutil.rmtree(folder / "run", ignore_errors=True)
    for name in ("done/task-000000.json", "poison/row-000000000000.json", "lock", "plan.json"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(data)
    with contextlib.suppress(VlmPrepError):
        read_plan(folder / "run")
    (work / "plan.json").write_bytes(_PLAN)
    workspace = take_over(folder / "run", RunPlan(stage="ingest", fingerprint="xxh3:0", identity={}))
    try:
        with contextlib.suppress(VlmPrepError):
            workspace.poison()
        workspace.recall(workspace.records([Task(index=0, start=0, stop=1)]))
    finally:
        workspace.release()


def _pulled(folder: Path, add: Callable[[dict[str, Any], list[bytes]], None]) -> None:
    files = fsspec.filesystem("memory")
    files.store.clear()
    for path in STORES["ingested"].rglob("*"):
        if path.is_file():
            files.pipe_file(f"/store/{path.relative_to(STORES['ingested']).as_posix()}", path.read_bytes())
    add(files.store, list(files.store))
    shutil.rmtree(folder / "pulled", ignore_errors=True)
    pull("memory://store", folder / "pulled", lambda line: None)


@target("bucket", lambda: [b"train/data-00000-of-00001.arrow\n../evil.txt\n/evil.txt\na\\..\\b\n_work/x"])
def bucket(data: bytes, folder: Path) -> None:
    """Pull from a bucket with objects of such names beside a store's own."""

    def add(there: dict[str, Any], names: list[bytes]) -> None:
        for line in data.decode("utf-8", "surrogateescape").splitlines()[:8]:
            there[f"/store/{line}"] = next(iter(there.values()))

    _pulled(folder, add)


def _listing() -> list[bytes]:
    store = STORES["ingested"]
    paths = [path for path in sorted(store.rglob("*")) if path.is_file()]
    return [orjson.dumps([[path.relative_to(store).as_posix(), path.stat().st_size] for path in paths])]


@target("listing", _listing)
def listing(data: bytes, folder: Path) -> None:
    """Pull from a bucket that lists these names and sizes."""
    try:
        pairs = [(str(name), int(size)) for name, size in orjson.loads(data)]
    except (ValueError, TypeError, OverflowError):
        return
    memory = type(fsspec.filesystem("memory"))
    from fsspec.implementations.memory import MemoryFile

    def add(there: dict[str, Any], names: list[bytes]) -> None:
        whole = dict(there)
        there.clear()
        for name, size in pairs:
            path = f"/store/{name}"
            if path in whole and len(whole[path].getvalue()) == size:
                there[path] = whole[path]
            else:
                there[path] = MemoryFile(memory(), path, b"\0" * min(max(size, 0), _MOST_BYTES))

    _pulled(folder, add)


def _states() -> list[bytes]:
    state = ShardDataset(STORES["encoded"]).state(1).to_json()
    return [orjson.dumps(state), orjson.dumps({"_snapshot": {"main": {"sampler": state}}, "_steps_since_snapshot": 0})]


@target("state", _states)
def state(data: bytes, folder: Path) -> None:
    """Go on from a saved position."""
    try:
        given = orjson.loads(data)
    except ValueError:
        return  # whoever gives a state has read its JSON
    if not isinstance(given, dict):
        return
    found = State.from_loader(given)
    dataset = ShardDataset(STORES["encoded"])
    dataset.resume(found)
    for index in list(dataset.sampler())[:2]:
        dataset[index]
