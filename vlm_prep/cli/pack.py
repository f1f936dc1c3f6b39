"""`vlm-prep pack`: documents into packs, packs to ranks."""

from __future__ import annotations

from typing import Annotated

from annotated_doc import Doc

from vlm_prep.cli import flags, options
from vlm_prep.cli.place import CacheBytes, CacheDir, cache_of, place_for, run_and_show
from vlm_prep.core.fields import IsPath, Positional
from vlm_prep.core.run_settings import RunConfig
from vlm_prep.core.settings import PackConfig, TrustRemoteCode


@flags.command
def command(
    source: Annotated[
        str, Positional(), IsPath(), Doc("The output of `vlm-prep tokenize`: a folder, or s3://bucket/prefix.")
    ],
    config: PackConfig,
    run: RunConfig,
    trust_remote_code: TrustRemoteCode = False,
    cache_dir: CacheDir = None,
    cache_bytes: CacheBytes = None,
    dry_run: Annotated[bool, Doc("Plan and show the fill; write nothing.")] = False,
    as_json: flags.AsJson = False,
    quiet: flags.Quiet = False,
) -> None:
    """Pack documents into sequences of exact length, per rank, with positions."""
    from vlm_prep.pack.pack_run import dry_run as preview
    from vlm_prep.pack.pack_run import pack
    from vlm_prep.shards.object_store import store_path

    store = store_path(source, cache_of(cache_dir, cache_bytes))
    if dry_run:
        options.show_json(preview(store, config))
        return
    place = place_for(source, run, ".packed")
    how = options.run_options(place.folder, run, quiet)
    run_and_show(lambda: pack(store, config, how, trust_remote_code=trust_remote_code), place, as_json, how.say)
