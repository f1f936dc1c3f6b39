"""`vlm-prep push` and `vlm-prep pull`: stores to an object store and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_doc import Doc

from vlm_prep.cli import flags, options
from vlm_prep.cli.place import Local, check_remote, local
from vlm_prep.core.fields import Positional
from vlm_prep.media.along import pull_with_media, push_with_media
from vlm_prep.shards import transfer
from vlm_prep.shards.elsewhere import said_of_media_elsewhere

WithMedia = Annotated[bool, Doc("Take the media stores along that its rows refer to: beside it, as media-....")]


@flags.command
def push(
    store: Annotated[Local, Doc("A finished folder made by ingest, tokenize or pack.")],
    url: Annotated[str, Positional(), Doc("Where it goes, e.g. s3://bucket/prefix.")],
    with_media: WithMedia = False,
    trust_places: Annotated[
        bool, Doc("Take media stores along that a store names which you did not make here.")
    ] = False,
    quiet: flags.Quiet = False,
) -> None:
    """Copy a finished store to an object store, the manifest last; after a kill the same command continues."""
    check_remote(url)
    say = options.sayer(quiet)
    if with_media:
        push_with_media(local(store), url, say, trust_places=trust_places)
        return
    transfer.push(local(store), url, say)
    if note := said_of_media_elsewhere(local(store)):
        say(note)


@flags.command
def pull(
    url: Annotated[str, Positional(), Doc("Where the store is, e.g. s3://bucket/prefix.")],
    folder: Annotated[Path, Positional(), Doc("Where it goes.")],
    with_media: WithMedia = False,
    quiet: flags.Quiet = False,
) -> None:
    """Copy a store from an object store into a folder and check it; after a kill the same command continues."""
    check_remote(url)
    say = options.sayer(quiet)
    (pull_with_media if with_media else transfer.pull)(url, folder, say)
    if not with_media and (note := said_of_media_elsewhere(folder)):
        say(note)
