"""`vlm-prep verify`: is a finished store what it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from annotated_doc import Doc
from annotated_types import Ge, Le

from vlm_prep.cli import flags, options, terminal
from vlm_prep.cli.place import AnyStore
from vlm_prep.core.errors import ExactnessError, StoreError
from vlm_prep.core.fields import Flag, IsPath
from vlm_prep.core.remote import is_remote
from vlm_prep.core.settings import TokenHookName, TrustRemoteCode

if TYPE_CHECKING:
    from vlm_prep.certify.store_packs import PacksCertificate
    from vlm_prep.tokenize.verify.store import Findings


@flags.command
def command(
    store: AnyStore,
    processor: Annotated[
        str | None, Flag(short="-p"), Doc("Compare rows of a tokenized store with this processor, too.")
    ] = None,
    packs: Annotated[
        bool,
        Doc(
            "Of a packed store: compare some packs with their documents alone by what a tiny random model of the same "
            "kinds of layers computes, in each form of attention."
        ),
    ] = False,
    model: Annotated[
        str | None,
        IsPath(only_existing=True),
        Doc("With packs: the model's folder or config.json. [default: the one that the packs were made for]"),
    ] = None,
    fraction: Annotated[float, Ge(0.0), Le(1.0), Doc("Share of rows compared with the processor.")] = 1.0,
    trust_remote_code: TrustRemoteCode = False,
    token_hook: TokenHookName = None,
    as_json: flags.AsJson = False,
    quiet: flags.Quiet = False,
) -> None:
    """Check every shard's checksum, the accounts, and rows against the real processor; fail on a difference."""
    code = {"trust_remote_code": trust_remote_code, "token_hook": token_hook}
    found = _compared(store, processor, fraction, code, quiet)
    certificate = _certified(store, model, trust_remote_code) if packs and not found.damaged else None
    told = found.to_json() | ({"certificate": certificate.to_json()} if certificate is not None else {})
    options.show(told, lambda _: _text(store, found, certificate), as_json)
    _judge(store, processor, found, certificate)
    if not as_json:
        terminal.echo("  sound")


def _compared(store: str, processor: str | None, fraction: float, code: dict[str, Any], quiet: bool) -> Findings:
    from vlm_prep.engine.progress import ProgressBar
    from vlm_prep.shards.manifest import read_manifest
    from vlm_prep.tokenize.verify.store import check_store

    rows = read_manifest(store).totals.get("rows_written", 0)
    with ProgressBar(rows if processor else 0, "verify", show=False if quiet or not processor else None) as progress:
        return check_store(store, processor, fraction, progress, **code)


def _certified(store: str, model: str | None, trust_remote_code: bool) -> PacksCertificate:
    from vlm_prep.certify.store_packs import certify_packs
    from vlm_prep.processors.model_config import read_config

    data = read_config(model) if model is not None else None
    return certify_packs(store, model=data, trust_remote_code=trust_remote_code)


def _text(store: str, found: Findings, certificate: PacksCertificate | None) -> str:
    from vlm_prep.report.statistics import packs_certificate_lines

    lines = [
        *(f"damaged    {line}" for line in found.damaged),
        *(f"processor  {line}" for line in found.identity),
        *([f"{'kind':<14}{'rows':>10}{'checked':>10}{'differing':>10}{'unread':>10}"] if found.kinds else []),
        *(
            f"{kind:<14}{counts['rows']:>10,}{counts['checked']:>10,}{counts['differing']:>10,}{counts['unread']:>10,}"
            for kind, counts in found.kinds.items()
        ),
        *(f"{'differs' if found.differing else 'not read':<11}{line}" for line in found.differences),
        *(packs_certificate_lines(certificate.to_json()) if certificate is not None else []),
    ]
    return "\n  ".join([f"{store}: {found.shards} shard(s), {found.rows:,} rows", *lines])


def _judge(store: str, processor: str | None, found: Findings, certificate: PacksCertificate | None) -> None:
    """Raise what is wrong with a store.

    Raises:
        StoreError: shards are damaged.
        ExactnessError: rows, or packs, differ.
    """
    if found.damaged:
        raise StoreError(
            f"{store} is damaged",
            "`vlm-prep push` the store there again: it sends what differs"
            if is_remote(store)
            else "delete the shards named above and run the command that made the store: it makes exactly these again "
            "(other files than shards need --fresh)",
        )
    if found.differing:
        raise ExactnessError(f"{store} differs from {processor}", "do not train on it with this processor")
    if found.unread:
        raise ExactnessError(
            f"{store}: the media of {found.unread:,} row(s) are gone or were changed, so these were not compared; its "
            "shards are as they were written",
            "put the media back where they were, or run `tokenize` with --update, which rejects such rows",
        )
    if certificate is not None and not certificate.passed:
        raise ExactnessError(
            f"{store}: a tiny {certificate.model} does not compute on packs what it does on their documents alone",
            "do not train it in the forms that differ; see docs/training.md",
        )
