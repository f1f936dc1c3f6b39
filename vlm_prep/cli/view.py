"""`vlm-prep view`: rows with their media, what is trained, packs and rejects, as a page for the browser."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

from annotated_doc import Doc
from annotated_types import Ge

from vlm_prep.cli import flags, terminal
from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import Flag, IsPath, OnlyFlag, Positional
from vlm_prep.core.remote import is_remote
from vlm_prep.core.settings import PayloadConfig, ProofConfig, SourceConfig, TokenizeConfig
from vlm_prep.pack.mix_file import is_mix

MANIFEST = "manifest.json"


@flags.command
def command(
    source: Annotated[
        str, Positional(), IsPath(), Doc("A finished store, or with `processor` a source that is not tokenized yet.")
    ],
    rows_config: SourceConfig,
    config: Annotated[TokenizeConfig, flags.Without(PayloadConfig, ProofConfig)],
    processor: Annotated[
        str | None,
        Flag(short="-p"),
        IsPath(only_existing=True),
        Doc(
            "The processor whose tokenizer writes the ids out; a source needs it. [default: that of the store, if it "
            "is on this machine, else conversations are shown]"
        ),
    ] = None,
    out: Annotated[
        Path | None, Flag(short="-o"), OnlyFlag(), Doc("The page. [default: the store's name with .html]")
    ] = None,
    rows: Annotated[int, Ge(1), Doc("Most rows to show.")] = 200,
    seed: Annotated[int, Doc("Of the random sample among them.")] = 0,
    quiet: flags.Quiet = False,
) -> None:
    """Write a page to look at a store, or at what would become of a source: one file, opened from disk."""
    from vlm_prep.core.atomic_files import write_bytes_atomically

    target = out or Path(f"{Path(source.rstrip('/')).name}.html")
    if not target.parent.is_dir():
        raise InputError(f"`out`: there is no folder {target.parent}")
    is_store = is_mix(source) or is_remote(source) or (Path(source) / MANIFEST).exists()
    if processor is None and not is_store:
        raise InputError(f"{source} is no finished store", "give `processor` to see what would become of a source")
    page = (
        _of_store(source, processor, config, rows, seed)
        if is_store
        else _of_source(source, str(processor), rows_config, config, rows, seed)
    )
    write_bytes_atomically(target, page.encode("utf-8", "replace"))
    if not quiet:
        terminal.echo(f"{target}: {len(page) / 2**20:.1f} MiB, open it in a browser")


def _of_store(store: str, processor: str | None, config: TokenizeConfig, rows: int, seed: int) -> str:
    from vlm_prep.cli.store_reader import reader_for
    from vlm_prep.report.view.viewing import opened, view

    return view(store, rows=rows, seed=seed, reader=reader_for(opened(store), processor, config.processor))


def _of_source(
    source: str, processor: str, rows_config: SourceConfig, config: TokenizeConfig, rows: int, seed: int
) -> str:
    """Tokenize rows from all over the source into a folder that is thrown away, and show that."""
    from vlm_prep.engine.stage import RunOptions
    from vlm_prep.ingest.some_samples import SomeSamples
    from vlm_prep.ingest.source import open_samples
    from vlm_prep.report.plan.estimate import choose_rows
    from vlm_prep.report.view.shown_rows import Reader
    from vlm_prep.report.view.viewing import view
    from vlm_prep.tokenize.tokenize_run import tokenize

    whole = open_samples(source, **asdict(rows_config))
    samples = SomeSamples(whole, tuple(choose_rows(len(whole), rows)))
    settings = replace(config, media="reference", verify_fraction=0.0)
    with tempfile.TemporaryDirectory(prefix="vlm-prep-view-") as folder:
        out = Path(folder) / "store"
        run = RunOptions(out=out, workers=0, max_reject_rate=1.0, progress=False, say=_silent)
        tokenize(samples, processor, settings, run)
        from vlm_prep.processors.families.table import adapter_for
        from vlm_prep.processors.load import load_processor

        adapter = adapter_for(load_processor(processor, config.processor))
        reader = Reader(tokenizer=adapter.hf.tokenizer, media_ids=frozenset(adapter.run_ids))
        return view(str(out), rows=rows, seed=seed, reader=reader, title=f"{source} by {processor}")


def _silent(line: str) -> None:
    """Notes of the throw-away store would name its folder."""
