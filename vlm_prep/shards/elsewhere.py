"""Media that a store's rows name and its shards do not hold: what does not come along when the store is copied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from vlm_prep.shards.manifest import GATHERED, read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.shards.row_texts import media_of

_ROWS = 64
"""With media, that are looked at: a store holds its media or names them, by a setting."""


def said_of_media_elsewhere(folder: Path) -> str | None:
    """Return what to tell who copies a store whose rows name media; None where its shards hold them, as tars and media
    stores do."""
    manifest = read_manifest(folder)
    shards = (shard for split in manifest.splits.values() for shard in split)
    if manifest.stage == GATHERED or any(shard.name.endswith(".tar") for shard in shards):
        return None
    rows = (row for row in Store(folder).rows() if row.get("media"))
    return next((_said(uri) for row in islice(rows, _ROWS) for uri in _named(row)), None)


def named_media(folder: Path) -> Iterator[str]:
    """Yield the uris of all media of a store that are not in it."""
    return (uri for row in Store(folder).rows() if row.get("media") for uri in _named(row))


def _named(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the uris of a row's media that are not in it."""
    media = row["media"]
    if isinstance(media, str):  # of an ingested store
        yield from (uri for item in media_of(row) for uri in item["uris"])
        return
    for item in media:
        if item["tensors"] is None and item["same_as"] is None:
            yield from (str(file["uri"]) for file in item["files"] if file["bytes"] is None)


def _said(uri: str) -> str:
    shard, cell, _ = uri.partition(".arrow::")
    if cell:
        return (
            f"note: rows refer to media stores, such as {Path(shard).parent.parent}, which are not part of this store: "
            "`with_media` of push and pull takes them along; VLM_PREP_MEDIA_STORES=FOLDER says where others lie"
        )
    return (
        f"note: rows name their media, such as {uri}, and do not hold them: they are read from there; `media=encoded` "
        "of tokenize holds their bytes, and `vlm-prep gather` makes a media store that can be copied"
    )
