"""`vlm-prep retry`: do rejected rows again, after their files were repaired."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_doc import Doc

from vlm_prep.cli import flags, options
from vlm_prep.cli.place import Local, ProcessorNow, SourceNow, TrustPlaces, local
from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import Flag
from vlm_prep.core.run_settings import WorkerConfig
from vlm_prep.core.settings import RowHookName, TokenHookName, TokenizeConfig, TrustRemoteCode
from vlm_prep.core.stored_settings import must_name_the_processor, stored_settings


@flags.command
def command(
    store: Annotated[Local, Doc("A finished folder made by ingest or tokenize.")],
    reasons: Annotated[list[str], Flag("--reason"), Doc("Rows rejected for this reason; may be repeated.")],
    workers: WorkerConfig,
    source: SourceNow = None,
    processor: ProcessorNow = None,
    trust_places: TrustPlaces = False,
    trust_remote_code: TrustRemoteCode = False,
    row_hook: RowHookName = None,
    token_hook: TokenHookName = None,
    as_json: flags.AsJson = False,
    quiet: flags.Quiet = False,
) -> None:
    """Do rows again that were rejected for a reason; what succeeds is added to the store as new shards."""
    from vlm_prep.engine.retry_rejects import settle
    from vlm_prep.shards.manifest import must_hold_rows, read_manifest

    folder = local(store)
    run = options.run_options(folder, workers, quiet)
    manifest = read_manifest(folder)
    stage = manifest.stage
    must_hold_rows(store, stage)
    if stage == "pack":
        raise InputError(f"{store}: nothing can be repaired in packs", "retry the tokenized store, then pack it again")
    code: dict[str, Any] = {"trust_remote_code": trust_remote_code, "token_hook": token_hook}
    must_name_the_processor(trust_remote_code, processor, store)
    if stage == "tokenize":
        stored_settings(TokenizeConfig, manifest.config, folder, **code)
    elif token_hook is not None:
        raise InputError(f"`token_hook={token_hook}`: {store} is the output of {stage}", "it is for tokenized stores")
    if not settle(folder, run.say):
        origin = options.origin_of(folder, source, processor, trust_places, row_hook)
        if stage == "ingest":
            from vlm_prep.ingest.ingest_run import retry_ingest

            retry_ingest(origin.samples(), reasons, run)
        else:
            from vlm_prep.tokenize.tokenize_run import retry_tokenize

            retry_tokenize(origin.samples(), origin.processor, reasons, run, **code)
    options.show_store(folder, as_json)
