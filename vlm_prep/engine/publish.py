"""Replace several files of a finished store so that a kill in between is made good.

    OUT/_work/staged/    the new files, by their path in the store
    OUT/_work/staged.json    their list, the manifest last; written when all of them are whole

From the moment the list exists the change is decided: whoever works on the folder next moves the rest into place.
Until the manifest is replaced, readers see the old store, all of whose shards are still there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import orjson

from vlm_prep.core.atomic_files import sync_folder, write_bytes_atomically
from vlm_prep.core.errors import StoreError
from vlm_prep.core.regular_files import read_regular
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.store_names import (
    OUTDATED_LIST,
    STAGED_LIST,
    WORK,
    StoreName,
    is_shard,
    must_be_plain,
    store_names,
)


def staging(folder: Path) -> Path:
    """Return the folder where new files of the store `folder` are gathered."""
    return folder / WORK / "staged"


def decide(folder: Path, names: Sequence[str], outdated: Sequence[str] = ()) -> None:
    """Decide that the gathered files replace those of the store.

    Args:
        folder: the store.
        names: of the files, paths in the store, in this order.
        outdated: shards that are deleted when all are in place, if the manifest then names them no more.
    """
    if outdated:
        write_bytes_atomically(folder / OUTDATED_LIST, orjson.dumps(list(outdated)))
    write_bytes_atomically(_list(folder), orjson.dumps(list(names)))


def publish_staged(folder: Path) -> None:
    """Move the gathered files into place, if that was decided.

    Raises:
        StoreError: the list names what no file of a store is called, or something is a link; nothing was moved.
    """
    if not _list(folder).exists():
        return
    names = _listed(_list(folder))
    must_be_plain(staging(folder), names)
    must_be_plain(folder, names)
    for name in names:
        source, target = staging(folder) / name, folder / name
        if source.exists():
            target.parent.mkdir(exist_ok=True)
            os.replace(source, target)
            sync_folder(target.parent)
    _drop_outdated(folder)
    _list(folder).unlink()


def _drop_outdated(folder: Path) -> None:
    if not (folder / OUTDATED_LIST).exists():
        return
    names = _listed(folder / OUTDATED_LIST)
    must_be_plain(folder, names)
    needed = {name for name, _ in read_manifest(folder).shards()}
    for name in names:
        if name not in needed and is_shard(name.rpartition("/")[2]):
            (folder / name).unlink(missing_ok=True)
    (folder / OUTDATED_LIST).unlink()


def _listed(path: Path) -> list[StoreName]:
    try:
        found = orjson.loads(read_regular(path))
        if not isinstance(found, list):
            raise ValueError("it is no list")
    except ValueError as error:
        raise StoreError(f"{path} is damaged: {error}", "delete the folder, and make the store again") from error
    return store_names(found, path)


def _list(folder: Path) -> Path:
    return folder / STAGED_LIST
