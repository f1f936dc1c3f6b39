"""Rejects as the page shows them: how far over the limit, and what their pictures show."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import Reject, StoreError
from vlm_prep.media.files import read_bytes
from vlm_prep.media.image import load_rgb
from vlm_prep.report.view.shown_media import thumbnail
from vlm_prep.shards.layout import read_origin
from vlm_prep.shards.reader import Store
from vlm_prep.shards.row_ledger import read_ledger

_OVERLONG = re.compile(r"(\d{1,12}) tokens, --max-length is (\d{1,12})")
_ROWS = "rows"
"""Where origin.json says what the record of a store's rows is."""
MOST_FILES = 4
"""Of a row."""


def shown_rejects(store: Store, rejects: Sequence[dict[str, Any]], pictures: int) -> list[dict[str, Any]]:
    """Return rejects as JSON-ready data.

    Args:
        store: that they are of.
        rejects: rows of rejects.parquet.
        pictures: of how many rejects the pictures are shown; the store's record of rows knows their files.
    """
    files = _files(store)
    found = []
    for reject in rejects:
        shown = dict(reject)
        if over := _OVERLONG.match(reject["message"]):
            shown["over"] = int(over[1]) - int(over[2])
        uris = files.get(reject["sample_id"], ())
        if uris and pictures > 0:
            pictures -= 1
            shown["media"] = [_shown(uri) for uri in uris[:MOST_FILES]]
        found.append(shown)
    return found


def _files(store: Store) -> Mapping[str, Sequence[str]]:
    """Return the media files of each rejected row; none where the store has no record of its rows."""
    if store.manifest.stage != "tokenize" or not isinstance(store.folder, Path):
        return {}
    try:
        ledger = read_ledger(store.folder, store.manifest, (read_origin(store.folder) or {}).get(_ROWS))
    except StoreError:  # an older store, or one that was pulled: it has none
        return {}
    return {name: uris for name, uris in zip(ledger.sample_ids, ledger.files, strict=True) if uris}


def _shown(uri: str) -> dict[str, str]:
    name = uri.rpartition("/")[2]
    try:
        return {"name": name, "picture": thumbnail(load_rgb(read_bytes(uri), uri))}
    except Reject as reject:  # what was wrong with it may be just this; videos and sounds are no pictures either
        return {"name": name, "note": f"{name}: {reject.reason}"}
