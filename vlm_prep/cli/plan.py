"""`vlm-prep plan`: what a run over a source will cost, before it is started."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_doc import Doc
from annotated_types import Ge, Gt, Le

from vlm_prep.cli import flags, options
from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import OnlyFlag
from vlm_prep.core.run_settings import WorkerConfig
from vlm_prep.core.settings import SourceConfig, TokenizeConfig


@flags.command
def command(
    source: flags.Source,
    processor: flags.Processor,
    rows_config: SourceConfig,
    config: TokenizeConfig,
    run: WorkerConfig,
    fraction: Annotated[
        float | None,
        Gt(0),
        Le(1.0),
        Doc(
            "Share of the rows to look at; 1 for all, which makes counts exact. [default: 0.01, at least 256 and at "
            "most 4096 rows]"
        ),
    ] = None,
    rows: Annotated[int | None, Ge(2), Doc("How many rows to look at, in place of `fraction`.")] = None,
    max_length: Annotated[
        list[int] | None,
        Ge(1),
        Doc("A length to show; may be repeated. [default: 2048, 4096, 8192, 16384, 32768]"),
    ] = None,
    max_pixels: Annotated[
        list[int] | None,
        Ge(1),
        OnlyFlag(),
        Doc(
            "A pixel budget to show, as `max_pixels` of tokenize sets it; may be repeated. All else is that of the "
            "processor, or of `max_pixels` in a run file. [default: those of 256, 1024 and 4096 tokens a picture]"
        ),
    ] = None,
    rows_file: Annotated[
        Path | None,
        Doc(
            "In place of the plan, list the rows that a run would reject in this file (.jsonl, .csv or .parquet), with "
            "reason, file and line, under the same settings. Of several values of `max_length`, rows longer than any "
            "are among them (`overlong=drop`). Looks at all rows, or at those of `fraction` and `rows`."
        ),
    ] = None,
    html: Annotated[Path | None, Doc("Write the plan with charts as a page, too.")] = None,
    budgets: Annotated[bool, Doc("Show pixel budgets; each one looks at the rows again.")] = True,
    as_json: flags.AsJson = False,
    quiet: flags.Quiet = False,
) -> None:
    """Look at a sample of the rows and say what tokenize and pack will make of all: disk, time, tokens, packs, rejects.

    Nothing is kept; what is written meanwhile goes to the system's folder for temporary files (TMPDIR).
    """
    from vlm_prep.ingest.source import open_samples
    from vlm_prep.report.plan.estimate import SampleSize

    if max_pixels and not budgets:
        raise InputError("--max-pixels and --no-budgets exclude each other", "leave one out")
    samples = open_samples(source, **asdict(rows_config))
    how = options.run_options(Path(), run, quiet)
    lengths = set(max_length or ())
    if rows_file is not None:
        from vlm_prep.report.plan.preflight import preflight, preflight_text

        size = SampleSize(fraction=1.0 if fraction is None and rows is None else fraction, rows=rows)
        if max_pixels and len(max_pixels) > 1:
            raise InputError(f"`rows_file` with {len(max_pixels)} values of `max_pixels`", "give one of them")
        asked = replace(config, max_pixels=max_pixels[0]) if max_pixels else config
        told = preflight(samples, processor, asked, how, sorted(lengths), size, rows_file)
        options.show(told, preflight_text, as_json)
        return
    from vlm_prep.report.plan.plan_text import render
    from vlm_prep.report.plan.planning import LENGTHS, Choices, plan

    size = SampleSize(fraction=fraction, rows=rows)
    choices = Choices(lengths=sorted(lengths or LENGTHS), budgets=max_pixels if budgets else (), size=size)
    found = plan(samples, processor, config, how, choices)
    if html is not None:
        _write_page(html, found, source)
    options.show(found, render, as_json)


def _write_page(path: Path, found: dict[str, Any], source: str) -> None:
    from vlm_prep.core.atomic_files import write_bytes_atomically
    from vlm_prep.report.view.plan_page import plan_page

    write_bytes_atomically(path, plan_page(found, f"plan for {source}").encode("utf-8", "replace"))
