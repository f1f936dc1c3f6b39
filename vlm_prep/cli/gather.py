"""`vlm-prep gather`: media files by content in shards, once for any number of stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_doc import Doc

from vlm_prep.cli import flags, options
from vlm_prep.core.fields import Flag, Positional
from vlm_prep.core.run_settings import WorkerConfig


@flags.command
def command(
    stores: Annotated[list[str], Positional(), Doc("Stores made by `vlm-prep ingest`.")],
    out: Annotated[Path, Flag(short="-o"), Doc("Folder to write; a rerun continues.")],
    workers: WorkerConfig,
    known: Annotated[list[str] | None, Doc("Leave out what this media store has; may be repeated.")] = None,
    as_json: flags.AsJson = False,
    quiet: flags.Quiet = False,
) -> None:
    """Copy the media files that ingested rows name into shards, each content once, for `--media-store`."""
    from vlm_prep.ingest.gather.gather_run import gather
    from vlm_prep.shards.object_store import store_path

    for store in stores:
        options.must_differ(store, out)
    gather([store_path(store) for store in stores], options.run_options(out, workers, quiet), known=known or ())
    options.show_store(out, as_json)
