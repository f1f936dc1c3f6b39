"""`vlm-prep merge`: stores that were made alike become one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_doc import Doc

from vlm_prep.cli import flags, options
from vlm_prep.core.fields import Flag, Positional
from vlm_prep.core.run_settings import WorkerConfig


@flags.command
def command(
    stores: Annotated[list[str], Positional(), Doc("Stores of ingest, or of tokenize, of the same settings.")],
    out: Annotated[Path, Flag(short="-o"), Doc("Folder to write; a rerun continues.")],
    workers: WorkerConfig,
    as_json: flags.AsJson = False,
    quiet: flags.Quiet = False,
) -> None:
    """Copy the rows of several stores of the same processor and settings into one, in the order given."""
    from vlm_prep.tokenize.merge_run import merge

    for store in stores:
        options.must_differ(store, out)
    merge(stores, options.run_options(out, workers, quiet))
    options.show_store(out, as_json)
