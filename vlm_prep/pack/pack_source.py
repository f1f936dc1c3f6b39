"""What is packed: a tokenized store, several that were made alike, or a mix; and what a packed store says of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import InputError
from vlm_prep.pack.mix_file import is_mix
from vlm_prep.pack.mix_rows import open_mix
from vlm_prep.shards.code_place import is_own
from vlm_prep.shards.joined import (
    MIX_FILE,
    SOURCES,
    JoinedStore,
    PickedStore,
    must_be_alike,
    open_stores,
    parts_of,
    written_sources,
)
from vlm_prep.shards.object_store import RemotePath, StorePath, absolute
from vlm_prep.shards.reader import Store


def mixed(store: Store, out: Path) -> dict[str, Any]:
    """Return what the manifest says of the mix that was packed."""
    if not isinstance(store, PickedStore):
        return {}
    return {"mix": store.manifest.extra["mix"], MIX_FILE: os.path.relpath(store.file, out)}


def named(store: Store, out: Path) -> dict[str, Any]:
    """Return what run.yaml names as source."""
    if isinstance(store, PickedStore):
        return {"source": os.path.relpath(store.file, out)}
    return written_sources(store, out)


def again(store: Store, processor: str | None) -> dict[str, Any]:
    """Return what `vlm-prep finish` and `why` open the source with."""
    places = [str(absolute(part.folder)) for part in parts_of(store)]
    note = {"source": places[0], **({SOURCES: places} if len(places) > 1 else {})}
    if isinstance(store, PickedStore):
        note = {"source": os.path.abspath(store.file)}
    whole = store.manifest.processor["whole"]
    if whole and (processor or all(is_own(part.folder, str(whole["name"])) for part in parts_of(store))):
        note["processor"] = str(whole["name"])  # whose code may run is not taken on from a store of somebody else
    return note


def local_source(source: str | StorePath | Sequence[str | StorePath]) -> Store:
    """Open what is packed, see `open_packable`; one in a bucket has to fit into the cache.

    Raises:
        InputError: it does not.
    """
    store = open_packable(source)
    needed, folder = sum(store.bytes_fetched), store.folder
    if isinstance(folder, RemotePath) and needed > folder.cache.bytes:
        raise InputError(
            f"{source}: packing reads from all of its {needed:,} bytes, and the cache holds {folder.cache.bytes:,}",
            "give a larger `cache_bytes`, or `vlm-prep pull` the store into a folder",
        )
    return store


def open_packable(source: str | StorePath | Sequence[str | StorePath]) -> Store:
    """Open what is packed: a tokenized store, several that were made alike, or a mix file.

    Raises:
        StoreError: a store is unfinished, or they were not made alike, or not with one processor.
        InputError: a mix is not usable, or stands beside other stores.
    """
    places = [source] if isinstance(source, str) or not isinstance(source, Sequence) else list(source)
    mixes = [place for place in places if is_mix(place)]
    if mixes and len(places) > 1:
        raise InputError(f"{mixes[0]} is a mix file, and stands beside other stores", "name the stores in the mix file")
    if mixes:
        return open_mix(str(mixes[0]))
    parts = open_stores(places, stage="tokenize")
    must_be_alike(parts)
    return parts[0] if len(parts) == 1 else JoinedStore(parts)
