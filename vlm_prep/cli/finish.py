"""`vlm-prep finish`: a run that was done in parts becomes a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_doc import Doc

from vlm_prep.cli import flags, options
from vlm_prep.cli.place import (
    CacheBytes,
    CacheDir,
    Local,
    Place,
    ProcessorNow,
    SourceNow,
    TrustPlaces,
    Work,
    cache_of,
    local,
)
from vlm_prep.core.fields import Flag
from vlm_prep.core.run_settings import FinishConfig
from vlm_prep.core.settings import RowHookName, TokenHookName, TrustRemoteCode
from vlm_prep.core.stored_settings import Group, must_name_the_processor, stored_settings
from vlm_prep.engine.array_parts import must_be_complete
from vlm_prep.engine.claim import take_over
from vlm_prep.engine.ownership import RunPlan, plan_of, read_plan
from vlm_prep.engine.stage import RunOptions
from vlm_prep.shards.cache import ShardCache
from vlm_prep.shards.manifest import MANIFEST, WORK, must_hold_rows, read_manifest
from vlm_prep.shards.object_store import store_path


@flags.command
def command(
    store: Annotated[Local, Flag(metavar="OUT"), Doc("The folder that ingest, tokenize or pack wrote with `part`.")],
    how: FinishConfig,
    source: SourceNow = None,
    processor: ProcessorNow = None,
    trust_places: TrustPlaces = False,
    trust_remote_code: TrustRemoteCode = False,
    row_hook: RowHookName = None,
    token_hook: TokenHookName = None,
    cache_dir: CacheDir = None,
    cache_bytes: CacheBytes = None,
    as_json: flags.AsJson = False,
    quiet: flags.Quiet = False,
) -> None:
    """Merge the parts of a run into a finished store; refused while tasks are missing, whose parts are named.

    The output of tokenize is compared with the real processor once more where parts saw few rows of a kind of media,
    so source and processor must be here.
    """
    out = local(store)
    run = options.run_options(out, how, quiet)
    if (out / MANIFEST).exists() or not (out / WORK).is_dir():
        manifest = read_manifest(out)
        # a kill between the manifest and the end leaves the work folder behind; this removes it
        take_over(out, plan_of(manifest), say=run.say).release()
        run.say(f"{out} is complete already: nothing to do")
        options.show_store(out, as_json)
        return
    must_name_the_processor(trust_remote_code, processor, store)
    must_be_complete(out)
    plan = read_plan(out)
    must_hold_rows(out, plan.stage)
    place = Place(folder=out)
    cache = cache_of(cache_dir, cache_bytes)
    now = _Now(
        source=source,
        processor=processor,
        cache=cache,
        trust_places=trust_places,
        trust_remote_code=trust_remote_code,
        row_hook=row_hook,
        token_hook=token_hook,
    )
    work = Work(
        place=place,
        say=run.say,
        run=lambda: _finish(plan, run, now),
        preview=lambda: None,
        identity=lambda: plan.identity,
    )
    work.do_and_show(as_json)


@dataclass(frozen=True, kw_only=True)
class _Now:
    """What the user says of this machine."""

    source: str | None
    processor: str | None
    cache: ShardCache
    trust_places: bool
    trust_remote_code: bool
    row_hook: str | None
    token_hook: str | None


def _finish(plan: RunPlan, run: RunOptions, now: _Now) -> object:
    """Call the stage again, which finds all tasks done."""

    def settings(kind: type[Group]) -> Group:
        stored = plan.identity.get("config", {})
        return stored_settings(
            kind, stored, run.out, trust_remote_code=now.trust_remote_code, token_hook=now.token_hook
        )

    if plan.stage == "pack":
        from vlm_prep.core.pack_settings import PackConfig
        from vlm_prep.pack.mix_file import is_mix
        from vlm_prep.pack.pack_run import pack

        packing = settings(PackConfig)
        places = options.packed_from(run.out, plan.again, now.source, now.trust_places)
        stores = [place if is_mix(place) else store_path(place, now.cache) for place in places]
        return pack(stores, packing, run)
    from vlm_prep.core.settings import IngestConfig, TokenizeConfig

    # code first: whoever trusts the places of a store does not yet trust its code
    config = settings(IngestConfig) if plan.stage == "ingest" else settings(TokenizeConfig)
    origin = options.origin_in(run.out, plan.again, now.source, now.processor, now.trust_places, now.row_hook)
    if isinstance(config, IngestConfig):
        from vlm_prep.ingest.ingest_run import ingest

        return ingest(origin.samples(), config, run)
    from vlm_prep.tokenize.tokenize_run import tokenize

    return tokenize(origin.samples(), origin.processor, config, run)
