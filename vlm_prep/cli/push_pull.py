"""`vlm-prep push` and `vlm-prep pull`: stores to an object store and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_doc import Doc

from vlm_prep.cli import flags, options
from vlm_prep.cli.place import Local, check_remote, local
from vlm_prep.core.fields import Positional
from vlm_prep.shards import transfer


@flags.command
def push(
    store: Annotated[Local, Doc("A finished folder made by ingest, tokenize or pack.")],
    url: Annotated[str, Positional(), Doc("Where it goes, e.g. s3://bucket/prefix.")],
    quiet: flags.Quiet = False,
) -> None:
    """Copy a finished store to an object store, the manifest last; after a kill the same command continues."""
    check_remote(url)
    transfer.push(local(store), url, options.sayer(quiet))


@flags.command
def pull(
    url: Annotated[str, Positional(), Doc("Where the store is, e.g. s3://bucket/prefix.")],
    folder: Annotated[Path, Positional(), Doc("Where it goes.")],
    quiet: flags.Quiet = False,
) -> None:
    """Copy a store from an object store into a folder and check it; after a kill the same command continues."""
    check_remote(url)
    transfer.pull(url, folder, options.sayer(quiet))
