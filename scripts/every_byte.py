"""Change every byte of every file of small stores, one at a time, and see what becomes of it: `make bytes`.

For each payload and each form of store (ingested, tokenized, compressed, packed by rank, as an index, as tars): every
byte of every file is changed once, and the manifest and each shard are cut at every length (shards: within 4 KiB of
either end). Each time `verify` must name the file and `ShardDataset(verify=True)` must refuse. Without `verify` nothing
may crash: a read gives the right rows, an error, or, where only a checksum can tell, other rows, which are counted.

Readers run in forked processes, whose death by a signal is a crash. With --forge the manifest is written again after
each change of a shard with the checksums of what is there now, as whoever means harm would: `verify` cannot notice, and
still nothing may crash.

How a processor's pixels become bytes and back is found when a dataset makes its first; that takes a hundred times as
long as all else of a change, and depends on the processor's record alone. So it is found once in a process, and at each
499th change anew: what becomes of the change must be the same. (Measured on 352,000 changes: 4.7 hours, then 0.4.)
"""

from __future__ import annotations

import argparse
import mmap
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import orjson
from PIL import Image

from vlm_prep.core.errors import VlmPrepError
from vlm_prep.core.fingerprint import digest_file
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import IngestConfig, TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.shards.heads import head_digests
from vlm_prep.shards.manifest import read_manifest, write_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.store_check import damaged_files, wrong_accounts
from vlm_prep.stream import ShardDataset
from vlm_prep.stream import dataset as dataset_module
from vlm_prep.stream.restore import TensorMaker, tensor_makers
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"
ENDS = 4096
ANEW = 499
RIGHT, ERROR, OTHER, CRASH = 1, 2, 3, 9
_UNNAMED, _TAKEN, _WORDLESS = 0x10, 0x20, 0x40
Change = Literal["flip", "cut"]
Probe = Callable[[Path], Any]


@dataclass(frozen=True)
class Case:
    """One change of one file."""

    file: str
    change: Change
    place: int

    def __str__(self) -> str:
        return f"{self.file}: {'byte' if self.change == 'flip' else 'cut to'} {self.place}"


def make_stores(base: Path) -> dict[str, Path]:
    """Make a small store of each form: three rows, two of them with tiny pictures."""
    base.mkdir(parents=True)
    draws, rows = np.random.default_rng(0), []
    for number in range(2):
        Image.fromarray(draws.integers(0, 256, (28, 28, 3), np.uint8)).save(base / f"{number}.png")
        turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Noise."}]
        rows.append({"messages": turns, "images": [f"{number}.png"]})
    rows.append({"messages": [{"role": "user", "content": "Hé?"}, {"role": "assistant", "content": "Hm."}]})
    rows.append({"messages": [{"role": "user", "content": "<image>?"}], "images": ["none.png"]})
    (base / "rows.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    samples, stores = open_samples(base / "rows.jsonl"), {}

    def options(name: str) -> RunOptions:
        stores[name] = base / name
        return RunOptions(out=base / name, workers=0, progress=False, max_reject_rate=1.0, say=lambda line: None)

    ingest(samples, IngestConfig(), options("ingested"))
    for media in ("reference", "encoded", "pixels"):
        tokenize(samples, PROCESSOR, TokenizeConfig(media=media, max_image_pixels=10**6), options(media))
    for how in ("lz4", "zstd"):
        tokenize(samples, PROCESSOR, TokenizeConfig(media="reference", compress=how), options(how))
    packed = PackConfig(pack_length=64, world_size=2)
    pack(base / "encoded", packed, options("ranks"))
    pack(base / "encoded", replace(packed, layout="index"), options("index"))
    pack(base / "encoded", replace(packed, format="webdataset"), options("tars"))
    return stores


_KEPT: dict[bytes, tuple[TensorMaker | None, TensorMaker | None]] = {}


def _kept_makers(
    runtime: Any, pixels: Any, *, trust_remote_code: bool
) -> tuple[TensorMaker | None, TensorMaker | None]:
    """`tensor_makers`, the same ones for the same record of a processor."""
    key = orjson.dumps([runtime, pixels, trust_remote_code])
    if key not in _KEPT:
        if len(_KEPT) == 32:
            _KEPT.clear()
        _KEPT[key] = tensor_makers(runtime, pixels, trust_remote_code=trust_remote_code)
    return _KEPT[key]


def content(store: Path, *, anew: bool = False) -> Any:
    """Return all that a reader makes of a store, pixels included, in a form that compares.

    Args:
        store: the folder.
        anew: with nothing kept of earlier readers.
    """
    if not anew:
        with mock.patch.object(dataset_module, "tensor_makers", _kept_makers):
            return content(store, anew=True)
    if read_manifest(store).stage == "ingest":
        return [list(row.items()) for row in Store(store).rows()]
    dataset = ShardDataset(store, shuffle=False)
    return [sorted((name, _plain(value)) for name, value in dataset[index].items()) for index in range(len(dataset))]


def _plain(value: Any) -> Any:
    array = np.asarray(value) if hasattr(value, "shape") else None
    return value if array is None else (array.dtype.str, array.shape, array.tobytes())


def verify(store: Path) -> list[str]:
    """Return what `vlm-prep verify` names."""
    try:
        manifest = read_manifest(store)
        return damaged_files(store, manifest) + wrong_accounts(store, manifest)
    except VlmPrepError as error:
        return [error.message]


def refuses(store: Path) -> bool:
    """Whether a reader with verify=True refuses the store."""
    try:
        if read_manifest(store).stage == "ingest" or read_manifest(store).extra.get("format") == "webdataset":
            Store(store, verify=True)
        else:
            ShardDataset(store, verify=True)
    except VlmPrepError:
        return True
    return False


def cases_of(store: Path, every: int) -> Iterator[Case]:
    """Yield the changes of a store's files; of an index the files of its own, its source is another store."""
    for path in sorted(each for each in store.rglob("*") if each.is_file()):
        name, size = path.relative_to(store).as_posix(), path.stat().st_size
        for place in range(0, size, every):
            yield Case(name, "flip", place)
        if path.name == "manifest.json":
            lengths: Sequence[int] = range(0, size, every)
        elif path.suffix in (".arrow", ".tar"):
            lengths = sorted({*range(0, min(ENDS, size), every), *range(max(0, size - ENDS), size, every)})
        else:
            lengths = ()
        for length in lengths:
            yield Case(name, "cut", length)


def apply(store: Path, case: Case) -> Callable[[], None]:
    """Change a file in place; return what undoes it."""
    path = store / case.file
    whole = path.read_bytes()
    with open(path, "r+b") as file:
        if case.change == "cut":
            file.truncate(case.place)
        else:
            file.seek(case.place)
            file.write(bytes([whole[case.place] ^ (1 << case.place % 8)]))

    def undo() -> None:
        with open(path, "r+b") as file:
            file.write(whole)
            file.truncate(len(whole))

    return undo


def forge(store: Path, case: Case) -> None:
    """Make the manifest agree with a shard that was changed, as far as that can be."""
    manifest = read_manifest(store)
    split, _, name = case.file.partition("/")
    path = store / case.file

    def agreed(info: ShardInfo) -> ShardInfo:
        try:
            heads = head_digests(path, [offset for offset, _ in info.batches])
        except (OSError, ValueError):
            heads = ()
        return replace(info, heads=heads, xxh3=digest_file(path), bytes=path.stat().st_size)

    infos = [agreed(info) if info.name == name else info for info in manifest.splits[split]]
    write_manifest(store, replace(manifest, splits={**manifest.splits, split: infos}))


def read(store: Path, case: Case, right: Any, *, anew: bool) -> int:
    """Return what becomes of a reader that compares no checksums."""
    try:
        return RIGHT if content(store, anew=anew) == right else OTHER
    except VlmPrepError:
        return ERROR
    except Exception as error:  # an error without words of ours is a fault of its own, and is said
        print(f"{store.name}/{case}: {type(error).__name__}: {error}", flush=True)
        return ERROR | _WORDLESS


def look(store: Path, case: Case, right: Any, *, forged: bool, anew: bool = False) -> int:
    """Return what becomes of one change; with `anew` also of a reader for which nothing was kept.

    Raises:
        RuntimeError: the two readers differ.
    """
    manifest = (store / "manifest.json").read_bytes()
    undo = apply(store, case)
    try:
        if forged:
            forge(store, case)
        outcome = 0 if any(case.file in line for line in verify(store)) else _UNNAMED
        outcome |= 0 if refuses(store) else _TAKEN
        outcome = 0 if forged else outcome
        found = read(store, case, right, anew=False)
        if anew and read(store, case, right, anew=True) != found:
            raise RuntimeError(f"{store.name}/{case}: a reader of its own finds something else")
        return outcome | found
    finally:
        undo()
        if forged:
            (store / "manifest.json").write_bytes(manifest)


def survey(store: Path, cases: Sequence[Case], *, forged: bool) -> bytes:
    """Return the outcome of each change; a reader that dies of one is begun again after it."""
    outcomes = mmap.mmap(-1, len(cases))
    right = content(store) if not list(store.glob("*/*.tar")) else None
    originals = {name: (store / name).read_bytes() for name in {"manifest.json", *(case.file for case in cases)}}
    first = 0
    while first < len(cases):
        child = os.fork()
        if child == 0:
            try:
                for number in range(first, len(cases)):
                    outcomes[number] = look(store, cases[number], right, forged=forged, anew=number % ANEW == 0)
            except BaseException as error:
                print(f"{store.name}: the survey itself failed: {error!r}", flush=True)
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        first = next(number for number in range(first, len(cases)) if outcomes[number] == 0)
        if not os.WIFSIGNALED(status):
            raise SystemExit(f"{store.name}/{cases[first]}: the survey failed")
        print(f"{store.name}/{cases[first]}: signal {os.WTERMSIG(status)}", flush=True)
        outcomes[first] = CRASH
        for name, data in originals.items():
            (store / name).write_bytes(data)
        first += 1
    return bytes(outcomes)


def main() -> None:
    """Survey the stores and print the table; fail on a crash or on a change that nobody notices."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="look at each n-th byte only")
    parser.add_argument("--folder", type=Path, default=Path("out/bytes"))
    parser.add_argument("--stores", help="only these, with commas between them")
    parser.add_argument("--forge", action="store_true", help="change shards only, and let the manifest agree")
    given = parser.parse_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    begun, bad = time.monotonic(), 0
    stores = make_stores(given.folder.absolute())
    print(f"{'store':<11}{'changes':>9}{'verify':>9}{'refused':>9}{'error':>9}{'right':>9}{'other':>9}{'crash':>7}")
    for name, store in stores.items():
        if given.stores and name not in given.stores.split(","):
            continue
        cases = list(cases_of(store, given.every))
        if given.forge:
            cases = [case for case in cases if case.file.endswith(".arrow")]
        outcomes = survey(store, cases, forged=given.forge)
        kinds = Counter(each & 0x0F for each in outcomes)
        unnamed = [case for case, each in zip(cases, outcomes, strict=True) if each & _UNNAMED or each == CRASH]
        taken = [case for case, each in zip(cases, outcomes, strict=True) if each & _TAKEN]
        wordless = sum(bool(each & _WORDLESS) for each in outcomes)
        print(
            f"{name:<11}{len(cases):>9,}{len(cases) - len(unnamed):>9,}{len(cases) - len(taken):>9,}"
            f"{kinds[ERROR]:>9,}{kinds[RIGHT]:>9,}{kinds[OTHER]:>9,}{kinds[CRASH]:>7,}",
            flush=True,
        )
        for case in [*unnamed[:5], *taken[:5]]:
            print(f"  not noticed: {case}", flush=True)
        bad += len(unnamed) + len(taken) + kinds[CRASH] + wordless
    print(f"{time.monotonic() - begun:.0f} s, {sum(os.times()[:4]):.0f} s of a core")
    if bad:
        sys.exit(f"{bad} changes crashed a reader, were not noticed, or ended without a message")


if __name__ == "__main__":
    main()
