"""Media stores that go along with a store whose rows refer to them: pushed and pulled as stores, beside it.

They come first where they are pushed, so that whoever finds the store finds its media. Where they are pulled the rows
say which they are: a kill between leaves the store alone, and the same command completes it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vlm_prep.core.errors import InputError
from vlm_prep.core.made_here import is_ours
from vlm_prep.core.media_places import media_name, store_of
from vlm_prep.media.files import SEPARATOR, moved
from vlm_prep.shards.elsewhere import named_media
from vlm_prep.shards.layout import read_origin
from vlm_prep.shards.manifest import GATHERED, MANIFEST, read_manifest
from vlm_prep.shards.transfer import pull, push

Say = Callable[[str], None]


def push_with_media(folder: Path, url: str, say: Say, *, trust_places: bool = False) -> None:
    """Copy a finished store to `url` and the media stores that its rows refer to beside it, see `transfer.push`.

    Raises:
        InputError: its rows refer to none; or to some that did not come with it, and it was not made here: rows of
            somebody else would say what of this machine is sent. Not with `trust_places`.
        StoreError: one is not finished.
        OutputError: something else is at one of the places.
    """
    parent = _parent(url)
    stores = {named: _media_store(moved(shard)) for named, shard in _shards_of(folder).items()}
    if not (trust_places or is_ours(read_origin(folder) or {})):
        beside = {named: folder.absolute().parent / media_name(named) for named in stores}
        if apart := [str(stores[named]) for named, media in beside.items() if not (media / MANIFEST).is_file()]:
            raise InputError(
                f"{folder} was not made here, and its rows name media stores of this machine: {', '.join(apart)}",
                "if they are to be sent, give `trust_places`; a store that was made here says so in its origin.json",
            )
        stores = beside
    for named, media in stores.items():
        say(f"{media} goes along, which rows of {folder} refer to")
        push(media, f"{parent}/{media_name(named)}", say)
    push(folder, url, say)


def pull_with_media(url: str, folder: Path, say: Say) -> None:
    """Copy a store from `url` into `folder` and what was pushed with it beside it, see `transfer.pull`.

    Raises:
        InputError: its rows refer to no media store.
        StoreError: a media store did not come along, or one is not what its manifest states.
        OutputError: a folder holds something else.
    """
    parent = _parent(url)
    pull(url, folder, say)
    for named in _shards_of(folder):
        pull(f"{parent}/{media_name(named)}", folder.absolute().parent / media_name(named), say)


def _shards_of(folder: Path) -> dict[str, str]:
    """Return {media store, as rows name it: a shard of it}."""
    found: dict[str, str] = {}
    for uri in named_media(folder):
        path = uri.partition(SEPARATOR)[0]
        if (named := store_of(path)) is not None:
            found.setdefault(named[0], path)
    if not found:
        raise InputError(f"{folder}: its rows refer to no media store", "leave `with_media` out")
    return found


def _media_store(shard: str) -> Path:
    folder = Path(shard).parent.parent
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder}: rows refer to it, and no media store is there", "say where it is now, see gather")
    read_manifest(folder, stage=GATHERED)
    return folder


def _parent(url: str) -> str:
    parent, _, name = url.rstrip("/").rpartition("/")
    if not name or parent.endswith((":", ":/", "/")):
        raise InputError(f"{url}: media stores go beside it", "give a place below a bucket, such as s3://bucket/store")
    return parent
