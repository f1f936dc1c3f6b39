"""Change inputs at random and see that each ends as written, a named reject or a refusal: `make fuzz`.

A target reads one kind of input that somebody else wrote: manifests, shards, rejects, notes of the work folder, names
in a bucket, data files, meta files, pictures. From real seeds the mutator makes others (flipped, cut, doubled
and spliced bytes; leaves of JSON replaced by what does not belong there). A traceback, a death by a signal, more than
20 s, more than 4 GiB, or a file written outside of the target's folder is a fault: its input is kept, and is made again
from the printed seed.

Add a target with `@target("name", seeds)`: a function of (bytes, folder) that may raise VlmPrepError or Reject.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import mmap
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import orjson
from every_byte import content, make_stores, verify
from PIL import Image

from vlm_prep.builtin import builtin_data
from vlm_prep.core.errors import Reject, VlmPrepError
from vlm_prep.core.fingerprint import digest_file
from vlm_prep.engine.ownership import read_plan
from vlm_prep.engine.publish import publish_staged, staging
from vlm_prep.engine.tasks import Task
from vlm_prep.engine.workspace import Workspace
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.heads import head_digests
from vlm_prep.shards.layout import read_origin, read_rejects
from vlm_prep.shards.manifest import parse_manifest, read_manifest, sealed, write_manifest
from vlm_prep.shards.transfer import pull

SECONDS = 20
MEMORY = 4 << 30
Check = Callable[[bytes, Path], object]
_NO_DIGEST = "xxh3:" + "0" * 32
_SHARD = {"name": "task-000000-000.arrow", "rows": 0, "tokens": 0, "bytes": 0, "xxh3": _NO_DIGEST, "batches": []}
_RECORD = orjson.dumps(
    {"task": 0, "split": "train", "shards": [_SHARD], "rejects": [], "counts": {}, "facts": {}, "poison": []}
)
_PLAN = b'{"stage":"ingest","fingerprint":"xxh3:0","identity":{},"tasks":1,"again":{}}'
_POISON = b'{"row": 0, "reason": "timeout", "message": ""}'
_LINES = ("parts_talk", "photo_talk")


@dataclass(frozen=True)
class Target:
    """Reads one kind of input."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    check: Check


TARGETS: dict[str, Target] = {}
STORES: dict[str, Path] = {}
"""Small stores of each form, made once."""


def target(name: str, seeds: Callable[[], Sequence[bytes]]) -> Callable[[Check], Check]:
    """Register a target."""

    def register(check: Check) -> Check:
        TARGETS[name] = Target(name, seeds, check)
        return check

    return register


def _copy(form: str, folder: Path) -> Path:
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)
    return Path(shutil.copytree(STORES[form], store))


def _read(name: str, *forms: str) -> list[bytes]:
    return [path.read_bytes() for form in forms for path in sorted(STORES[form].glob(name))]


# ---- stores ----


@target("manifest", lambda: _read("manifest.json", "ingested", "reference", "pixels", "ranks", "tars"))
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


@target("shard", lambda: _read("*/*.arrow", "ingested", "reference", "encoded", "pixels", "ranks"))
def shard(data: bytes, folder: Path) -> None:
    """Read a shard whose manifest says that it is right."""
    form = min(STORES, key=lambda name: abs(sum(map(len, _read("*/*.arrow", name))) - len(data)))
    form = form if form != "tars" else "ranks"
    store = _copy(form, folder)
    path = sorted(store.glob("*/*.arrow"))[0]
    path.write_bytes(data)
    found = read_manifest(store)
    split = path.parent.name

    def agreed(info: Any) -> Any:
        with contextlib.suppress(OSError, ValueError):
            info = replace(info, heads=head_digests(path, [offset for offset, _ in info.batches]))
        return replace(info, xxh3=digest_file(path), bytes=len(data))

    infos = [agreed(info) if info.name == path.name else info for info in found.splits[split]]
    write_manifest(store, replace(found, splits={**found.splits, split: infos}))
    verify(store)
    content(store)


@target("rejects", lambda: _read("rejects.parquet", "ingested"))
def rejects(data: bytes, folder: Path) -> None:
    """Read rejects.parquet."""
    (folder / "rejects.parquet").write_bytes(data)
    read_rejects(folder)


@target("origin", lambda: _read("origin.json", "ingested", "reference"))
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
    workspace = Workspace(folder / "run", "xxh3:0", stage="ingest")
    try:
        with contextlib.suppress(VlmPrepError):
            workspace.poison()
        workspace.recall(workspace.records([Task(index=0, start=0, stop=1)]))
    finally:
        workspace.release()


@target("bucket", lambda: [b"train/data-00000-of-00001.arrow\n../evil.txt\n/evil.txt\na\\..\\b\n_work/x"])
def bucket(data: bytes, folder: Path) -> None:
    """Pull from a bucket with objects of such names beside a store's own."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    for path in STORES["ingested"].rglob("*"):
        if path.is_file():
            files.pipe_file(f"/store/{path.relative_to(STORES['ingested']).as_posix()}", path.read_bytes())
    for line in data.decode("utf-8", "surrogateescape").splitlines()[:8]:
        files.store[f"/store/{line}"] = next(iter(files.store.values()))
    shutil.rmtree(folder / "pulled", ignore_errors=True)
    pull("memory://store", folder / "pulled", lambda line: None)


# ---- inputs ----


def _rows(data: bytes, folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(data)
    samples = open_samples(path)
    list(samples.read(0, min(len(samples), 50)))


@target("lines", lambda: [(builtin_data().parent / f"{name}.jsonl").read_bytes()[:4096] for name in _LINES])
def lines(data: bytes, folder: Path) -> None:
    """Read rows of JSON lines."""
    _rows(data, folder, "rows.jsonl")


@target("array", lambda: [(builtin_data().parent / "tool_talk.json").read_bytes()])
def array(data: bytes, folder: Path) -> None:
    """Read rows of a JSON array."""
    _rows(data, folder, "rows.json")


@target("meta", lambda: [builtin_data().read_bytes()])
def meta(data: bytes, folder: Path) -> None:
    """Read a meta JSON."""
    _rows(data, folder, "meta.json")


def _pictures() -> list[bytes]:
    found = []
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        buffer = io.BytesIO()
        Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(buffer, kind)
        found.append(buffer.getvalue())
    return found


@target("picture", _pictures)
def picture(data: bytes, folder: Path) -> None:
    """Probe and decode a picture."""
    from vlm_prep.core.records import Media
    from vlm_prep.media.probe import probe

    path = folder / "picture"
    path.write_bytes(data)
    probe(Media(kind="image", uris=(str(path),)))


# ---- changing ----

_NASTY: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**53, 2**63 - 1, -(2**63), 1e308, 1.5, "", "../../x", "/etc/passwd", "\x1b"),
    *([], {}, [[]], {"": {}}, "x" * 10_000, "\ud83d\ude00", "xxh3:" + "f" * 32),
)
_WORDS = (b"\x00", b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x80", b"../", b"\n", b'"', b"\\u0000", b"[" * 200, b"-", b"1e9")


def mutated(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """Return another input, made of the seeds."""
    data = chance.choice(seeds)
    if data[:1] in (b"{", b"[") and chance.random() < 0.7:
        with contextlib.suppress(ValueError, TypeError):
            return orjson.dumps(_other_leaf(orjson.loads(data), chance), option=orjson.OPT_INDENT_2)
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        place = chance.randrange(len(found) + 1)
        match chance.randrange(6):
            case 0 if found:
                found[place % len(found)] ^= 1 << chance.randrange(8)
            case 1:
                del found[place:]
            case 2:
                del found[place : place + chance.choice((1, 8, 100))]
            case 3:
                found[place:place] = chance.choice(_WORDS)
            case 4:
                word = chance.choice(_WORDS)
                found[place : place + len(word)] = word
            case _:
                other = chance.choice(seeds)
                start = chance.randrange(len(other) + 1)
                found[place : place + 64] = other[start : start + 64]
    return bytes(found)


def _other_leaf(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        if chance.random() < 0.1:
            return {name: each for name, each in value.items() if name != key}
        return {**value, key: _other_leaf(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        place = chance.randrange(len(value))
        return [*value[:place], _other_leaf(value[place], chance), *value[place + (chance.random() < 0.9) :]]
    if isinstance(value, int) and chance.random() < 0.5:
        return value + chance.choice((-1, 1, 8, -8, 2**31))
    return chance.choice(_NASTY)


# ---- running ----


def attempt(each: Target, data: bytes, folder: Path) -> str | None:
    """Return what is wrong with how an input ends; None where it ends as it should."""
    shutil.rmtree(folder.parent.parent, ignore_errors=True)
    folder.mkdir(parents=True)
    signal.alarm(SECONDS)
    try:
        each.check(data, folder)
    except (VlmPrepError, Reject) as error:
        if "\n" in error.message and "what differs" not in error.message:
            return f"a message of several lines: {error.message[:200]!r}"
    except OSError as error:
        # one that names its file is a line to who gives a command; so a name that is too long
        return None if error.filename is not None else traceback.format_exc()[-2000:]
    except BaseException:
        return traceback.format_exc()[-2000:]
    finally:
        signal.alarm(0)
    outside = [path for path in folder.parent.parent.rglob("*") if folder not in (path, *path.parents)]
    strange = [path for path in outside if path != folder.parent]
    return f"written outside: {strange}" if strange else None


def run(each: Target, seed: int, seconds: float, base: Path) -> tuple[int, list[int]]:
    """Run a target for some time; return how many inputs it was given and the numbers of those with a fault."""
    counter, faults = mmap.mmap(-1, 8), []
    seeds, over, number = each.seeds(), time.monotonic() + seconds, 0
    while time.monotonic() < over:
        child = os.fork()
        if child == 0:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            while time.monotonic() < over:
                counter[:] = number.to_bytes(8, "little")
                data = mutated(seeds, random.Random(f"{each.name} {seed} {number}"))
                if fault := attempt(each, data, base / "sandbox" / "a" / "b"):
                    print(f"{each.name} {number}: {fault}", flush=True)
                    os._exit(3)
                number += 1
            counter[:] = number.to_bytes(8, "little")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        number = int.from_bytes(counter[:], "little")
        if status:
            if os.WIFSIGNALED(status):
                print(f"{each.name} {number}: signal {os.WTERMSIG(status)}", flush=True)
            faults.append(number)
            data = mutated(seeds, random.Random(f"{each.name} {seed} {number}"))
            (base / f"{each.name}-{seed}-{number}").write_bytes(data)
            number += 1
    return number, faults


def main() -> None:
    """Run the targets in turn and print a table; fail on a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", help="only these, with commas between them")
    parser.add_argument("--folder", type=Path, default=Path("out/fuzz"))
    given = parser.parse_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    base = given.folder.absolute()
    STORES.update(make_stores(base / "stores"))
    chosen = [each for each in TARGETS.values() if not given.targets or each.name in given.targets.split(",")]
    seconds = 60 * given.minutes / len(chosen)
    found = [(each.name, *run(each, given.seed, seconds, base)) for each in chosen]
    print(f"{'target':<12}{'inputs':>10}{'faults':>8}")
    for name, count, faults in found:
        print(f"{name:<12}{count:>10,}{len(faults):>8}")
    if any(faults for _, _, faults in found):
        sys.exit(f"faults: their inputs are in {given.folder}")


if __name__ == "__main__":
    main()
