"""A table's rows as Parquet in the cache (`$VLM_PREP_CACHE`): written whole or not at all, and once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from vlm_prep.core.fingerprint import digest_json
from vlm_prep.core.remote import cache_folder


def table_copy(key: object, stem: str, write: Callable[[Path], None]) -> Path:
    """Return the Parquet file of a table, which `write` makes where it is not there.

    Args:
        key: what the table is: its place, and the sizes and times of its files.
        stem: the file's name.
        write: writes the rows to a path.
    """
    target = cache_folder() / "rows" / digest_json(key).removeprefix("xxh3:")[:16] / f"{stem}.parquet"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".rows-") as folder:
            write(Path(folder) / target.name)
            os.replace(Path(folder) / target.name, target)
    return target
