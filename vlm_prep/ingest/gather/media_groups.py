"""The files that ingested stores name, in the order of their first use; those with one digest stand together.

A digest of an ingested store covers a file's size and ends. Files with different digests are different; those with one
may be the same, which is decided on all of their bytes, by the task that has them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from vlm_prep.core.errors import InputError
from vlm_prep.media.mock_media import is_made
from vlm_prep.shards.object_store import StorePath
from vlm_prep.shards.reader import Store
from vlm_prep.shards.row_texts import media_of


def media_groups(stores: Sequence[StorePath]) -> pa.Table:
    """Return the files that the rows of ingested stores name: columns digest (string), uris (list<string>).

    Media that are made when they are read have no file and are left out. Memory: of the names of the files.

    Raises:
        StoreError: a store is not finished, or no ingested one.
        InputError: two stores say that one file has different contents.
    """
    groups: dict[str, list[str]] = {}
    known: dict[str, str] = {}
    for folder in stores:
        for uri, digest in _files(Store(folder, stage="ingest")):
            seen = known.get(uri)
            if seen is None:
                known[uri] = digest
                groups.setdefault(digest, []).append(uri)
            elif seen != digest:
                raise InputError(
                    f"{folder}: {uri} changed between two of its rows, or since another of the stores was made",
                    "ingest again, then gather",
                )
    return pa.table({"digest": pa.array(groups, pa.string()), "uris": pa.array(groups.values(), pa.list_(pa.string()))})


def _files(store: Store) -> Iterator[tuple[str, str]]:
    for shard in store.shards:
        for chunk in shard.column("media").chunks:
            for text in chunk.to_pylist():
                for media in media_of({"media": text}):
                    for uri, digest in zip(media["uris"], (media.get("header") or {}).get("digests", ()), strict=False):
                        if not is_made(uri):
                            yield uri, digest
