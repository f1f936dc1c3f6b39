"""Where media stores lie that came along with a store (`push --with-media`): beside it, named by where they were made.

    bucket/tok, bucket/media-5f0c...    a token store, and the media store that its rows name by the path it was made at

A digest beside each reference tells another file from the one that is meant, wherever it is read.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeVar

import xxhash

Folder = TypeVar("Folder")
_beside: dict[str, None] = {}
"""The folders that hold stores which this process has opened, in order."""
_SHARD = re.compile(r"(?P<folder>/.+)/(?P<shard>[A-Za-z0-9][\w.-]*/data-[\w-]+\.arrow)")


def media_name(folder: str) -> str:
    """Return the name under which a media store goes along.

    Args:
        folder: absolute path at which it was made, as rows name it.
    """
    return f"media-{xxhash.xxh3_64_hexdigest(folder.encode(errors='surrogateescape'))}"


def store_of(path: str) -> tuple[str, str] | None:
    """Return (media store, `split/shard` in it) of a shard's path; None for a path that is none."""
    found = _SHARD.fullmatch(path)
    return None if found is None else (found["folder"], found["shard"])


def opened(folder: Folder) -> Folder:
    """Note that a store in this folder is read: what lies beside it is looked for there."""
    if isinstance(folder, Path):
        _beside[os.path.dirname(os.path.abspath(folder))] = None
    return folder


def found_beside(path: str) -> str | None:
    """Return where a shard of a media store lies beside one of the stores that are read; None where it does not."""
    named = store_of(path)
    if named is None:
        return None
    places = (os.path.join(parent, media_name(named[0]), named[1]) for parent in _beside)
    return next((place for place in places if os.path.exists(place)), None)
