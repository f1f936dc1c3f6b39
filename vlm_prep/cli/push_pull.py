"""`vlm-prep push` and `vlm-prep pull`: stores to an object store and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_prep.cli import options
from vlm_prep.cli.place import check_remote, local
from vlm_prep.shards import transfer


def push(
    store: Annotated[
        Path, typer.Argument(parser=local, help="A finished folder made by ingest, tokenize or pack.")
    ],
    url: Annotated[str, typer.Argument(help="Where it goes, e.g. s3://bucket/prefix.")],
    quiet: options.Quiet = False,
) -> None:
    """Copy a finished store to an object store, the manifest last; after a kill the same command continues."""
    check_remote(url)
    transfer.push(store, url, options.sayer(quiet))


def pull(
    url: Annotated[str, typer.Argument(help="Where the store is, e.g. s3://bucket/prefix.")],
    folder: Annotated[Path, typer.Argument(help="Where it goes.")],
    quiet: options.Quiet = False,
) -> None:
    """Copy a store from an object store into a folder and check it; after a kill the same command continues."""
    check_remote(url)
    transfer.pull(url, folder, options.sayer(quiet))
