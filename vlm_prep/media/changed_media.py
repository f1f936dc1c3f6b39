"""Media that are no longer what a finished store says of them: compared by the digests that stand beside their places.

A store knows each media by the digest of its ends, or of all its bytes where it holds these. What lies in a data file
of the source is not looked at here: the file's own digest is in the store's fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from vlm_prep.core.errors import Reject
from vlm_prep.core.fingerprint import digest_bytes
from vlm_prep.media.files import digest_ends, is_of_ends, read_bytes, read_ends, split_uri
from vlm_prep.media.mock_media import is_made
from vlm_prep.media.row_media import rows_kind
from vlm_prep.shards.reader import Store
from vlm_prep.shards.row_texts import media_of

FEW: Final = 256
"""Rows that are looked at where nobody asked."""
MANY: Final = 4096


def changed_media(store: Store, rows: int | None) -> list[str]:
    """Return a line for each media that is gone or has other contents, in the order of the store.

    Args:
        store: of rows with media, ingested or tokenized.
        rows: how many rows are looked at, evenly spread over the store; None for all.
    """
    count = len(store)
    numbers = range(count) if rows is None or count <= rows else np.linspace(0, count - 1, rows).astype(int).tolist()
    known: dict[str, str | None] = {}
    for number in numbers:
        for uri, digest in _files(store.row(int(number))):
            if uri not in known and _is_own(uri):
                known[uri] = _change(uri, digest)
    return [f"{uri}: {what}" for uri, what in known.items() if what is not None]


def said_of_changes(store: Store) -> str | None:
    """Return what to say where media of some rows of a store have changed, None where they have not."""
    found = changed_media(store, FEW)
    if not found:
        return None
    many = "some" if len(store) > FEW else f"{len(found):,}"
    return (
        f"note: {many} media have changed since the store was made, e.g. {found[0]}; `vlm-prep why` names them, and "
        "`fresh` makes the store again"
    )


def _files(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (uri, digest) of the media of a row, of either kind of store."""
    media = row["media"]
    if isinstance(media, str):
        for item in media_of(row):
            yield from zip(item["uris"], (item.get("header") or {}).get("digests", ()), strict=False)
        return
    for item in media:
        yield from ((file["uri"], file["digest"]) for file in item["files"])


def _is_own(uri: str) -> bool:
    """Whether a media is a file, or lies in one that is no data file."""
    if is_made(uri):
        return False
    path, key = split_uri(uri)
    try:
        return key is None or rows_kind(path) is None
    except Reject:
        return True  # which reading it says


def _change(uri: str, digest: str) -> str | None:
    try:
        found = digest_ends(read_ends(uri)) if is_of_ends(digest) else digest_bytes(read_bytes(uri))
    except Reject as reject:
        return reject.reason.value
    return None if found == digest else "changed"
