"""What of a media store nothing refers to, and giving it back.

Stores name media by shard and row, so rows stay where they are: of a content that nobody names the bytes become null,
and the uris that led to it are forgotten. Shards are written anew under their names, and replaced together with the
manifest (`engine.publish`); a kill in between is made good by the same command.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vlm_prep.core.errors import InputError
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.engine.claim import open_finished, reopen, settle
from vlm_prep.engine.ownership import PLAN, read_plan
from vlm_prep.engine.publish import decide, publish_staged, staging
from vlm_prep.ingest.gather.gather_run import CARD, SCHEMA
from vlm_prep.media.gathered import open_media_store
from vlm_prep.shards.layout import file_digests, write_dataset_files
from vlm_prep.shards.manifest import MANIFEST, WORK, Manifest, read_manifest, write_manifest
from vlm_prep.shards.object_store import StorePath
from vlm_prep.shards.reader import ShardReader, Store
from vlm_prep.shards.row_texts import media_of
from vlm_prep.shards.schema import has_media
from vlm_prep.shards.store_check import fingerprint_of
from vlm_prep.shards.writer import ShardWriter


@dataclass(frozen=True)
class Unused:
    """What nothing refers to: row numbers by shard, and its bytes."""

    rows: dict[str, list[int]]
    contents: int
    bytes: int
    all_bytes: int


def unused(folder: Path, used_by: Sequence[StorePath]) -> Unused:
    """Find the contents of a media store that some stores do not refer to.

    Args:
        folder: the media store.
        used_by: all stores that may refer to it: ingested, tokenized or packed.

    Raises:
        StoreError: a store is not finished.
        OutputError: another process writes the folder.
        InputError: none is named, or one is an index of packs, which refers to nothing by itself.
    """
    if not used_by:
        raise InputError("no store is named that may refer to the media", "name all of them with `used_by`")
    _complete(folder)
    store = open_media_store(folder)
    used = _used(folder, used_by)
    rows: dict[str, list[int]] = {}
    freed = whole = 0
    for shard in store.shards:
        sizes = _sizes(shard)
        whole += int(sizes.sum())
        name = os.path.realpath(str(shard.path))
        unread = [row for row in np.flatnonzero(sizes >= 0).tolist() if (name, row) not in used and sizes[row]]
        if unread:
            rows[shard.path.name] = unread
            freed += int(sizes[unread].sum())
    return Unused(rows, sum(map(len, rows.values())), freed, whole)


def _complete(folder: Path) -> None:
    """Put in place what a `free` had decided before it was killed, and remove what it left."""
    if (folder / WORK / PLAN).exists() and (folder / MANIFEST).exists() and not read_plan(folder).identity:
        settle(folder, lambda line: None)


def free(folder: Path, found: Unused) -> Manifest:
    """Give back what nothing refers to.

    Args:
        folder: the media store.
        found: see `unused`.

    Raises:
        OutputError: the folder is in use, or cannot be written.
    """
    store = open_media_store(folder)
    before = store.manifest
    space = open_finished(folder, before)
    try:
        reopen(space, before)
        staged = staging(folder) / "train"
        staged.mkdir(parents=True)
        infos = []
        for shard in store.shards:
            dropped = found.rows.get(shard.path.name)
            infos.append(shard.info if dropped is None else _rewritten(shard, set(dropped), staged / shard.path.name))
        manifest = _manifest(before, infos, found)
        card = CARD.format(contents=manifest.totals["contents"], files=manifest.totals["files"])
        write_dataset_files(staging(folder), manifest.splits, card=card, fingerprint=manifest.fingerprint)
        beside = {**before.files, **file_digests(staging(folder), ["train"])}
        manifest = replace(manifest, files=beside)
        write_manifest(staging(folder), manifest)
        names = [path.relative_to(staging(folder)).as_posix() for path in sorted(staging(folder).rglob("*"))]
        names = [name for name in names if (staging(folder) / name).is_file() and name != MANIFEST]
        decide(folder, [*names, MANIFEST])
        publish_staged(folder)
        space.close()
    finally:
        space.release()
    return read_manifest(folder)


def _manifest(before: Manifest, infos: Sequence[Any], found: Unused) -> Manifest:
    shards = digest_json([info.xxh3 for info in infos])
    totals = {**before.totals}
    totals["contents"] -= found.contents
    totals["media_bytes"] -= found.bytes
    return replace(
        before,
        splits={"train": list(infos)},
        totals=totals,
        fingerprint=fingerprint_of(before.identity, [], shards),
        extra={**before.extra, "updated": shards},
    )


def _rewritten(shard: ShardReader, dropped: set[int], path: Path) -> Any:
    with ShardWriter(path, SCHEMA) as writer:
        for number in range(len(shard)):
            row = shard.row(number)
            if number in dropped:
                row |= {"uris": [], "uri_hashes": np.empty(0, np.uint64), "size": 0, "bytes": None}
            data = row["bytes"]
            content = None if data is None else data.tobytes()
            writer.write({**row, "bytes": content}, size=256 + len(content or b""), tokens=0)
        return writer.commit()


def _sizes(shard: ShardReader) -> Any:
    return shard.column("size").combine_chunks().to_numpy()


def _used(folder: Path, stores: Sequence[StorePath]) -> set[tuple[str, int]]:
    """Return (shard's real path, row) of all that the rows of some stores name in a media store."""
    inside = os.path.realpath(folder / "train")
    found = set()
    for uri in {uri for each in stores for uri in _uris(each)}:
        path, _, key = uri.rpartition("::")
        if key.endswith("/bytes") and os.path.realpath(os.path.dirname(path)) == inside:
            found.add((os.path.join(inside, os.path.basename(path)), int(key.partition("/")[0])))
    return found


def _uris(folder: StorePath) -> Iterator[str]:
    store = Store(folder)
    if store.manifest.stage == "ingest":
        for row in store.rows():
            yield from (uri for media in media_of(row) for uri in media["uris"])
        return
    if not store.shards or not has_media(store.shards[0].schema):
        raise InputError(f"{folder}: its rows hold no media", "name the store that it was made of")
    for shard in store.shards:
        for number in range(len(shard)):
            for media in _media(shard, number):
                yield from (file["uri"] for file in media["files"])


def _media(shard: ShardReader, number: int) -> Iterable[Any]:
    others = [name for name in shard.schema.names if name != "media"]
    found: Iterable[Any] = shard.row(number, without=others)["media"]
    return found
