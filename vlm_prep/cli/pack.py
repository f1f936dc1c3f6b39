"""`vlm-prep pack`: documents into packs, packs to ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_doc import Doc

from vlm_prep.cli import flags, options
from vlm_prep.cli.place import CacheBytes, CacheDir, ProcessorNow, Work, cache_of, place_for
from vlm_prep.core.fields import IsPath, Positional
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.run_settings import RunConfig
from vlm_prep.core.settings import TrustRemoteCode


@flags.command
def command(
    source: Annotated[
        str,
        Positional(),
        IsPath(),
        Doc("The output of `vlm-prep tokenize`: a folder, s3://..., or a mix file (.yaml)."),
    ],
    config: PackConfig,
    run: RunConfig,
    sources: Annotated[
        list[str] | None, Positional(), IsPath(), Doc("Further stores of the same processor and settings.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    processor: ProcessorNow = None,
    cache_dir: CacheDir = None,
    cache_bytes: CacheBytes = None,
    dry_run: Annotated[bool, Doc("Plan and show the fill; write nothing.")] = False,
    as_json: flags.AsJson = False,
    quiet: flags.Quiet = False,
) -> None:
    """Pack documents into sequences of exact length, per rank, with positions."""
    work(source, config, run, sources, trust_remote_code, processor, cache_dir, cache_bytes, quiet).do_and_show(
        as_json, dry_run=dry_run
    )


def work(
    source: str,
    config: PackConfig,
    run: RunConfig,
    sources: list[str] | None,
    trust_remote_code: bool,
    processor: str | None,
    cache_dir: Path | None,
    cache_bytes: str | None,
    quiet: bool,
) -> Work:
    """Return what is to be done."""
    from vlm_prep.pack.mix_file import is_mix
    from vlm_prep.pack.pack_run import dry_run, pack, pack_identity
    from vlm_prep.pack.pack_source import open_packable
    from vlm_prep.shards.object_store import store_path

    # a store's own run.yaml names the first among all
    places = [source, *(each for each in sources or () if each != source)]
    cache = cache_of(cache_dir, cache_bytes)
    stores = [place if is_mix(place) else store_path(place, cache) for place in places]
    place = place_for(source, run, ".packed")
    how = options.run_options(place.folder, run, quiet)
    return Work(
        place=place,
        say=how.say,
        run=lambda: pack(stores, config, how, trust_remote_code=trust_remote_code, processor=processor),
        preview=lambda: dry_run(stores, config),
        identity=lambda: pack_identity(open_packable(stores), config),
    )
