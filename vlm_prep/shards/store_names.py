"""The names that the files of a store have, and no others.

A store comes from a bucket, an archive or a colleague: what its manifest, its lists and the listing of its place call a
file is somebody else's word. Whoever makes a path of such a name makes it of a `StoreName`, which is `name` or
`split/name` of the forms below: no `..`, no absolute path, no `_work/`, nothing hidden. All names are checked before
the first file is written, and nothing is written through a link.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NewType

from vlm_prep.core.errors import StoreError

StoreName = NewType("StoreName", str)
"""A path in a store that was checked, see `store_name`."""

MANIFEST = "manifest.json"
WORK = "_work"
STAGED_LIST = f"{WORK}/staged.json"
"""The files of a finished store that are being replaced, see `engine.publish`."""
OUTDATED_LIST = f"{WORK}/outdated.json"
"""The shards that are deleted then."""
CARD = "README.md"
DATASET_DICT = "dataset_dict.json"
REJECTS_FILE = "rejects.parquet"
PLAN_FILE = "plan.parquet"
ORIGIN_FILE = "origin.json"
"""Where the rows came from: the paths and settings that `vlm-prep retry` and `why` open the source with."""
RUN_FILE = "run.yaml"
"""The settings that made the store, see `core.run_yaml`; like the origin it has paths and is in no digest."""
ROWS_FILE = "rows.parquet"
"""What each row was made of, for updates, see `shards.row_ledger`; like the origin it is of this machine."""
SPLIT_FILES = ("dataset_info.json", "state.json")
ROOT_FILES = frozenset((MANIFEST, CARD, DATASET_DICT, REJECTS_FILE, PLAN_FILE, ORIGIN_FILE, RUN_FILE, ROWS_FILE))
_SPLIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_SHARD = re.compile(r"data-((?:retry|update)[0-9]{1,9}-)?[0-9]{1,9}-of-[0-9]{1,9}\.(arrow|tar)")
_UNFINISHED = re.compile(r"task-[0-9]{1,9}-[0-9]{1,9}\.(arrow|tar)")
# cache-*.arrow: what `datasets` leaves beside the shards when a store opened with load_from_disk is mapped
_BESIDE = re.compile(r"cache-\w+\.arrow")


def is_split(name: object) -> bool:
    """Whether a folder of shards may have this name."""
    return isinstance(name, str) and _SPLIT.fullmatch(name) is not None


def is_shard(name: object) -> bool:
    """Whether a shard of a finished store may have this name."""
    return isinstance(name, str) and _SHARD.fullmatch(name) is not None


def is_unfinished_shard(name: object) -> bool:
    """Whether a shard of a task, in the work folder, may have this name."""
    return isinstance(name, str) and _UNFINISHED.fullmatch(name) is not None


def is_store_name(name: object) -> bool:
    """Whether a file of a store may have this path in it."""
    if not isinstance(name, str):
        return False
    split, slash, inside = name.rpartition("/")
    if not slash:
        return inside in ROOT_FILES
    return is_split(split) and (is_shard(inside) or inside in SPLIT_FILES)


def store_names(names: Iterable[object], where: object) -> list[StoreName]:
    """Return names that were read somewhere as paths in a store, all of them checked.

    Args:
        names: as they were read.
        where: where they stood, for the message.

    Raises:
        StoreError: one is no name that a file of a store has; nothing may be done with the others either.
    """
    found = list(names)
    if strangers := [name for name in found if not is_store_name(name)]:
        shown = ", ".join(repr(name)[:80] for name in strangers[:5])
        raise StoreError(
            f"{where} names {shown}: no file of a store has such a name",
            "whoever made it can say why; nothing was read from there and nothing was written",
        )
    return [StoreName(name) for name in found if isinstance(name, str)]


def must_be_plain(folder: Path, names: Iterable[StoreName]) -> None:
    """Make sure that what these names lead to, as far as it is there, are files in the folder itself.

    Raises:
        StoreError: one is a link, or lies behind one, or is no file.
    """
    for name in names:
        path = folder / name
        for each in (path.parent, path) if path.parent != folder else (path,):
            if each.is_symlink():
                raise StoreError(f"{each} is a link", "replace it by what it points to: a store holds its own files")
        if path.exists() and not path.is_file():
            raise StoreError(f"{path} is no file", "move it away")


def is_store_entry(path: Path) -> bool:
    """Return whether an entry of a store's folder is by its name one that a run makes."""
    if path.is_symlink() or not path.is_dir():
        return path.name.removesuffix(".tmp") in ROOT_FILES
    return path.name == WORK or all(_is_inside(inside.name.removesuffix(".tmp")) for inside in path.iterdir())


def _is_inside(name: str) -> bool:
    return is_shard(name) or name in SPLIT_FILES or _BESIDE.fullmatch(name) is not None
